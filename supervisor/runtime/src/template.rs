//! Template mount namespaces: the part of a root that launches of one profile and user share, built once.
//!
//! Building the root anew costs 320 to 390 us of every launch, entering a finished namespace 13 (prototypes, on
//! 6.18). A template belongs to the initial user namespace, like every mount namespace here, and lives as long as
//! skepd holds its descriptor.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_kernel::memfd;
use skep_policy::launch::{Ids, KeeperEvent, KeeperRequest, Plan, RootOp};
use tokio::time::timeout;

use crate::protocol::Refusal;
use crate::supervisor::Supervisor;

/// How many are kept, the most recently used first: one for each user and profile in use on a usual host.
const MOST: usize = 32;

/// How many of these one user may have, so that nobody's launches become slower by the profiles of another.
const MOST_OF_A_USER: usize = 8;

/// How many launches one serves. Each may leave names of mount points in it, of which it holds a bounded number.
const LAUNCHES: u32 = 1000;

/// How long building one may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What makes two templates the same: the same operations resolved with the same rights.
type Key = (Ids, Vec<RootOp>);

/// The templates in use.
#[derive(Debug, Default)]
pub struct Templates {
    kept: Mutex<Kept>,
}

impl Templates {
    /// The template of a plan; built if there is none yet.
    ///
    /// # Errors
    /// When the keeper cannot build it: the launch would have failed at the same step.
    pub async fn of(&self, supervisor: &Supervisor, plan: &Plan) -> Result<Arc<OwnedFd>, Refusal> {
        let key = (plan.lookup, plan.template.clone());
        let found = self.kept().take(&key);
        if let Some(found) = found {
            return Ok(found);
        }
        let namespace = Arc::new(build(supervisor, plan).await?);
        // Not while the others wait: closing the last descriptor of a namespace takes it apart.
        let removed = self.kept().add(key, Arc::clone(&namespace));
        drop(removed);
        Ok(namespace)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Template {
    key: Key,
    namespace: Arc<OwnedFd>,
    launches: u32,
}

/// The most recently used first.
#[derive(Debug, Default)]
struct Kept(VecDeque<Template>);

impl Kept {
    /// For one more launch, `None` where a new one is to be built.
    fn take(&mut self, key: &Key) -> Option<Arc<OwnedFd>> {
        let index = self.0.iter().position(|template| &template.key == key)?;
        let mut found = self.0.remove(index).filter(|template| template.launches < LAUNCHES)?;
        found.launches += 1;
        let namespace = Arc::clone(&found.namespace);
        self.0.push_front(found);
        Some(namespace)
    }

    /// Adds one that was built for a launch, in the place of one with the same key if another launch has built that
    /// meanwhile. Returns those that are kept no longer.
    fn add(&mut self, key: Key, namespace: Arc<OwnedFd>) -> Vec<Template> {
        let mut removed = Vec::new();
        let is_his = |template: &Template| template.key.0.uid == key.0.uid;
        let same = self.0.iter().position(|template| template.key == key);
        let too_many = || self.0.iter().filter(|template| is_his(template)).count() >= MOST_OF_A_USER;
        let goes = same.or_else(|| too_many().then(|| self.0.iter().rposition(is_his)).flatten());
        removed.extend(goes.and_then(|index| self.0.remove(index)));
        self.0.push_front(Template { key, namespace, launches: 1 });
        removed.extend(self.0.drain(self.0.len().min(MOST)..));
        removed
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uid: u32, profile: &str) -> Key {
        (Ids { uid, gid: uid }, vec![RootOp::Directory { at: profile.into(), mode: 0o755 }])
    }

    fn namespace() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn a_user_has_so_many_templates_and_takes_no_others_room() {
        let mut kept = Kept::default();
        kept.add(key(1, "/other"), namespace());
        for number in 0..2 * MOST {
            kept.add(key(2, &format!("/{number}")), namespace());
            assert!(kept.take(&key(2, "/0")).is_some(), "it is in use");
        }
        assert_eq!(kept.0.len(), 1 + MOST_OF_A_USER);
        assert!(kept.take(&key(1, "/other")).is_some());
        assert!(kept.take(&key(2, "/1")).is_none());
    }

    #[test]
    fn there_are_so_many_templates_in_all() {
        let mut kept = Kept::default();
        for number in 0..2 * u32::try_from(MOST).unwrap() {
            kept.add(key(number, "/"), namespace());
        }
        assert_eq!(kept.0.len(), MOST);
        assert!(kept.take(&key(0, "/")).is_none());
    }

    #[test]
    fn a_template_serves_so_many_launches() {
        let mut kept = Kept::default();
        kept.add(key(1, "/"), namespace());
        for _ in 1..LAUNCHES {
            assert!(kept.take(&key(1, "/")).is_some());
        }
        assert!(kept.take(&key(1, "/")).is_none());
        assert!(kept.0.is_empty());
    }
}
