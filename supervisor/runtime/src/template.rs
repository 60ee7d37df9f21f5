//! Template mount namespaces: the part of a root that launches of one profile and user share, built once.
//!
//! Building the root anew costs 320 to 390 us of every launch, entering a finished namespace 13 (prototypes, on
//! 6.18). A template belongs to the initial user namespace, like every mount namespace here, and lives as long as
//! skepd holds its descriptor.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_kernel::memfd;
use skep_policy::launch::{Ids, KeeperEvent, KeeperRequest, Plan, RootOp};
use tokio::time::timeout;

use crate::protocol::Refusal;
use crate::supervisor::Supervisor;

/// How many are kept, the most recently used first: one for each user and profile in use on a usual host.
const MOST: usize = 32;

/// How long building one may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What makes two templates the same: the same operations resolved with the same rights.
type Key = (Ids, Vec<RootOp>);

/// The templates in use.
#[derive(Debug, Default)]
pub struct Templates {
    built: Mutex<VecDeque<(Key, Arc<OwnedFd>)>>,
}

impl Templates {
    /// The template of a plan; built if there is none yet.
    ///
    /// # Errors
    /// When the keeper cannot build it: the launch would have failed at the same step.
    pub async fn of(&self, supervisor: &Supervisor, plan: &Plan) -> Result<Arc<OwnedFd>, Refusal> {
        let key = (plan.lookup, plan.template.clone());
        if let Some(found) = self.take(&key) {
            return Ok(found);
        }
        let namespace = Arc::new(build(supervisor, plan).await?);
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        built.push_front((key, Arc::clone(&namespace)));
        built.truncate(MOST);
        Ok(namespace)
    }

    fn take(&self, key: &Key) -> Option<Arc<OwnedFd>> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let index = built.iter().position(|(other, _)| other == key)?;
        let entry = built.remove(index)?;
        let namespace = Arc::clone(&entry.1);
        built.push_front(entry);
        Some(namespace)
    }
}

/// Has a keeper of its own build it; the keeper ends, the namespace stays.
async fn build(supervisor: &Supervisor, plan: &Plan) -> Result<OwnedFd, Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::new(
            "launch",
            format!("building the root failed: {error}"),
            "skep run --plan shows each step",
        )
    };
    let bytes = postcard::to_stdvec(plan).map_err(|error| failed(&error))?;
    let body = memfd::sealed("skep-template", &bytes).map_err(|error| failed(&error))?;
    let keeper = supervisor.keeper.start().map_err(|error| failed(&error))?;
    keeper
        .channel
        .send(&KeeperRequest::BuildTemplate, &[body.as_fd()])
        .await
        .map_err(|error| failed(&error))?;
    let answer = timeout(PATIENCE, keeper.channel.receive()).await;
    let namespace = match answer {
        Ok(Ok(Some((KeeperEvent::Template, mut descriptors)))) if descriptors.len() == 1 => {
            descriptors.remove(0)
        }
        Ok(Ok(Some((KeeperEvent::Failed { stage, object, errno }, _)))) => {
            let reason = std::io::Error::from_raw_os_error(errno);
            return Err(failed(&format!("{stage:?} {}: {reason}", object.escape_debug())));
        }
        _ => return Err(failed(&"skep-keeper gave no answer")),
    };
    Ok(namespace)
}
