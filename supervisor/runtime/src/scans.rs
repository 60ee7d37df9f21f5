//! Turns at reading the log. It may have a gigabyte, of which a question may want nothing, and a user may have as many
//! questions as connections: so few of his are worked on at once, and the others wait for their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads of one user's at once.
const MOST_OF_ONE: usize = 2;

/// Whose turn it is to read the log. Root's always: it must be able to see what happens.
#[derive(Debug, Default)]
pub struct Scans {
    /// Of the users who have asked: members of a group, so there are few.
    of: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl Scans {
    /// Waits on a thread of its own for the turn of one of this user's questions, in the order in which they came.
    /// It is over when what is returned is dropped, which must not wait for anybody's client.
    #[must_use]
    pub fn turn(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        Handle::current().block_on(self.wait(uid))
    }

    async fn wait(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        if uid == 0 {
            return None;
        }
        let semaphore = {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(of.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_ONE))))
        };
        // It is never closed.
        semaphore.acquire_owned().await.ok()
    }
}
