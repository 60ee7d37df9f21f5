//! The places every sandbox has, whatever its profile says: grants with a built-in rule, so that the judge
//! agrees with the root that is built.

use super::Grant;
use crate::launch::ObjectKind;
use crate::profile::{self, Granting};
use crate::rule::RuleRef;

/// Path, how it is granted, and why.
const PLACES: [(&str, Granting, &str); 17] = [
    ("/tmp", Granting::Write, "private to the sandbox"),
    ("/proc", Granting::Read, "of the sandbox's own processes"),
    ("/dev", Granting::Read, "a minimal set of devices"),
    ("/dev/null", Granting::Write, "harmless device"),
    ("/dev/zero", Granting::Write, "harmless device"),
    ("/dev/full", Granting::Write, "harmless device"),
    ("/dev/random", Granting::Write, "harmless device"),
    ("/dev/urandom", Granting::Write, "harmless device"),
    ("/dev/tty", Granting::Write, "the sandbox's own terminal"),
    ("/dev/pts", Granting::Write, "the sandbox's own terminals"),
    ("/dev/ptmx", Granting::Write, "the sandbox's own terminals"),
    ("/dev/shm", Granting::Write, "private to the sandbox"),
    ("/etc/resolv.conf", Granting::Read, "written by skep"),
    ("/etc/nsswitch.conf", Granting::Read, "written by skep"),
    ("/etc/hosts", Granting::Read, "written by skep"),
    ("/etc/passwd", Granting::Read, "written by skep"),
    ("/etc/group", Granting::Read, "written by skep"),
];

/// The built-in grants.
pub(super) fn built_in() -> Vec<Grant> {
    PLACES.iter().map(|(path, kind, why)| place(path, *kind, why)).collect()
}

fn place(path: &str, kind: Granting, why: &str) -> Grant {
    let written = profile::Grant {
        kind,
        path: path.to_owned(),
        ops: Vec::new(),
        reason: Some(why.to_owned()),
        best_effort: false,
        rule: RuleRef::built_in("place", path),
    };
    Grant { object: Some(ObjectKind::Directory), ..Grant::unresolved(written, path.into()) }
}

impl Grant {
    /// Whether this is one of the places every sandbox has.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.written.rule.line == 0
    }
}
