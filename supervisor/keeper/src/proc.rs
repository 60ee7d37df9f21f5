//! The sandbox's `/proc`: fresh, other people's processes invisible, and what concerns the host taken away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::libc;
use skep_kernel::mount::{
    Attributes, Change, Depth, Resolve, attach, change, copy_tree, new_filesystem, open_at,
};
use skep_policy::launch::{ObjectKind, Stage};

use crate::failure::{At, Failure};
use crate::place::{self, Ground};
use crate::scratch::Scratch;

/// Files that tell about the host or act on it. Most are root's alone; being covered, they stay out of reach
/// whatever the agent's ids are.
const HIDDEN_FILES: [&str; 10] = [
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
];

/// Directories of the same kind.
const HIDDEN_DIRECTORIES: [&str; 2] = ["acpi", "scsi"];

/// Directories that are read, and through which the host is configured.
const READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

/// A detached procfs of the caller's PID namespace, in which processes that may not be traced are invisible and what
/// is dangerous is covered or locked. It is put together in the caller's root, which is to be its own and empty.
///
/// Minimum kernel version: 5.8 (`hidepid` by name).
///
/// # Errors
/// When the kernel refuses a mount.
pub fn covered() -> Result<OwnedFd, Failure> {
    let at = Path::new("/proc");
    let ground = Ground::here()?;
    let scratch = Scratch::new(&ground)?;
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);
    let proc = new_filesystem("proc", &[("hidepid", "invisible")], attributes).at(Stage::Root)?;
    let target = place::target(&ground, at, ObjectKind::Directory)?;
    attach(proc.as_fd(), target.as_fd(), at).at(Stage::Root)?;
    defuse(proc.as_fd(), &scratch)?;
    copy_tree(proc.as_fd(), Depth::All, at).at(Stage::Root)
}

/// Covers or locks the dangerous entries of an attached procfs; those this kernel lacks need nothing.
fn defuse(proc: BorrowedFd<'_>, scratch: &Scratch) -> Result<(), Failure> {
    let files = HIDDEN_FILES.iter().map(|name| (*name, ObjectKind::File));
    let directories = HIDDEN_DIRECTORIES.iter().map(|name| (*name, ObjectKind::Directory));
    for (name, kind) in files.chain(directories) {
        if let Some(entry) = entry(proc, name)? {
            let mask = scratch.mask(kind)?;
            attach(mask.as_fd(), entry.as_fd(), Path::new(name)).at(Stage::Root)?;
        }
    }
    for name in READ_ONLY {
        if let Some(entry) = entry(proc, name)? {
            lock(entry.as_fd(), Path::new(name))?;
        }
    }
    Ok(())
}

fn entry(proc: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>, Failure> {
    match open_at(proc, Path::new(name), libc::O_PATH, 0, Resolve::Inside) {
        Err(error) if error.errno == libc::ENOENT => Ok(None),
        other => other.map(Some).at(Stage::Root),
    }
}

fn lock(entry: BorrowedFd<'_>, name: &Path) -> Result<(), Failure> {
    let mount = copy_tree(entry, Depth::One, name).at(Stage::Root)?;
    let read_only = Change { add: Attributes::READ_ONLY, idmap: None };
    change(mount.as_fd(), Depth::One, &read_only, name).at(Stage::Root)?;
    attach(mount.as_fd(), entry, name).at(Stage::Root)
}
