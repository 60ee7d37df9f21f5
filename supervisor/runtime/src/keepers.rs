//! Keepers started ahead: each waits for its plan, so that no launch waits for a process to start.
//!
//! A waiting keeper holds nothing but its channel and ends with it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use skep_kernel::spawn::SpawnError;

use crate::helper::Helper;

/// How many wait: enough for launches that follow each other closely.
const WAITING: usize = 2;

/// Waiting keepers.
#[derive(Debug)]
pub struct Keepers {
    program: PathBuf,
    waiting: Mutex<Vec<Helper>>,
    /// Held by whoever refills: two at once would start one keeper too many each.
    refilling: Mutex<()>,
}

impl Keepers {
    /// None yet; `program` is skep-keeper.
    #[must_use]
    pub fn new(program: PathBuf) -> Arc<Self> {
        let keepers = Arc::new(Self { program, waiting: Mutex::default(), refilling: Mutex::default() });
        keepers.refill();
        keepers
    }

    /// A keeper that has heard nothing yet.
    ///
    /// # Errors
    /// When none waits and none can be started.
    pub fn take(self: &Arc<Self>) -> Result<Helper, SpawnError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Somebody may have ended it meanwhile; then a new one is started here.
        if waiting.as_mut().is_some_and(Helper::has_ended) {
            waiting = None;
        }
        self.refill();
        waiting.map_or_else(|| Helper::start(&self.program, &[]), Ok)
    }

    /// Starts keepers in the background until enough wait.
    fn refill(self: &Arc<Self>) {
        let keepers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _alone = keepers.refilling.lock().unwrap_or_else(PoisonError::into_inner);
            while keepers.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() < WAITING {
                match Helper::start(&keepers.program, &[]) {
                    Ok(keeper) => {
                        keepers.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
                    }
                    // The launch that needs one tries again and tells its user.
                    Err(error) => return tracing::warn!(%error, "no keeper could be started ahead"),
                }
            }
        });
    }

    /// Ends those that wait.
    pub fn clear(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
