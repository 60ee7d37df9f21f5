//! The places every sandbox has, whatever its profile says: grants with a built-in rule, so that the judge
//! agrees with the root that is built.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{FileOp, Grant, Verdict};
use crate::decision::Decision;
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

/// The verdict on the name of a thread, `/proc/self/task/N/comm`: runtimes name their threads there, and any thread may
/// name itself by `prctl` as well. Landlock, which knows no files that come and go, refuses it with the rest of `/proc`.
/// That takes nothing from the agent, so it is no denial.
pub(super) fn naming_a_thread(op: FileOp, path: &Path) -> Option<Verdict> {
    let names: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
    let is_name = matches!(names[..], [b"/", b"proc", _, b"comm"] | [b"/", b"proc", _, b"task", _, b"comm"]);
    (is_name && matches!(op, FileOp::Write | FileOp::Create)).then(|| Verdict {
        decision: Decision::Allow,
        rule: Some(RuleRef::built_in("place", "/proc/*/comm")),
        reason: "threads are named by their process".to_owned(),
    })
}

impl Grant {
    /// Whether this is one of the places every sandbox has.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.written.rule.line == 0
    }
}
