//! What the grants open around a path: the question every guard starts with.

use std::path::Path;

use crate::decision::Decision;
use crate::policy::{FileOp, Grant, Policy};
use crate::profile::Granting;
use crate::tree::{depth, within};

/// Which grants matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those through which something may be read.
    Readable,
    /// Those through which something may be changed.
    Writable,
}

impl Policy {
    /// Whether the grants let the operation through at this path.
    pub(crate) fn grants_allow(&self, op: FileOp, path: &Path) -> bool {
        self.deciding_grant(op, path).is_some_and(|(decision, _)| decision == Decision::Allow)
    }

    /// Whether the path itself is opened by a grant.
    pub(crate) fn opened(&self, reach: Reach, path: &Path) -> bool {
        match reach {
            Reach::Writable => self.grants_allow(FileOp::Write, path),
            Reach::Readable => self.grants_allow(FileOp::Read, path) || self.grants_allow(FileOp::Exec, path),
        }
    }

    /// Whether a grant opens the path, or anything below it, on the host. What lies in the places every sandbox
    /// has to itself is nothing of the host's and does not outlive the sandbox.
    pub(crate) fn opened_within(&self, reach: Reach, path: &Path) -> bool {
        let below = self.openers(reach).any(|grant| !grant.is_built_in() && within(&grant.real, path));
        below || (self.opened(reach, path) && !self.is_private_place(path))
    }

    /// Whether the path is in one of the places every sandbox has to itself: what the host has there does not
    /// matter.
    pub(crate) fn is_private_place(&self, path: &Path) -> bool {
        let covering = self.grants.iter().filter(|grant| within(path, &grant.real));
        let deepest = covering.filter(|grant| grant.is_built_in() || grant.exists());
        let deepest = deepest.max_by_key(|grant| depth(&grant.real));
        // `exec` of /tmp is a grant about the sandbox's own.
        deepest.is_some_and(|grant| grant.is_built_in() || grant.real == Path::new("/tmp"))
    }

    fn openers(&self, reach: Reach) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |grant| match grant.written.kind {
            Granting::Write => true,
            Granting::Read | Granting::Exec => reach == Reach::Readable,
            Granting::Ask | Granting::Connect => false,
        })
    }
}
