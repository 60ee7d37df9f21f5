//! User namespaces and their maps: of the agent, and of mounts that show one owner as another.

// UNSAFETY: a namespace needs a process to be born in.
#![expect(unsafe_code, reason = "forks a child that only waits")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use skep_policy::launch::Ids;

use crate::clone::{Side, fork};
use crate::error::SyscallError;
use crate::pseudo;

/// Writes the maps of a process that was just cloned into a user namespace: `inside` is what its one user and
/// group are called there, `outside` what they are in ours.
///
/// `proc` is a procfs whose PID namespace knows the process as `pid`.
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID over the ids outside.
pub fn write_maps(
    proc: BorrowedFd<'_>,
    pid: libc::pid_t,
    inside: Ids,
    outside: Ids,
) -> Result<(), SyscallError> {
    pseudo::write(proc, &format!("{pid}/gid_map"), &format!("{} {} 1\n", inside.gid, outside.gid))?;
    pseudo::write(proc, &format!("{pid}/uid_map"), &format!("{} {} 1\n", inside.uid, outside.uid))
}

/// A user namespace for an idmapped mount that shows `owner` (on disk) as `shown`; everybody else on it shows
/// as the overflow id and cannot create.
///
/// # Errors
/// When the namespace or its maps are refused.
///
/// # Safety
/// As for [`fork`]: the process has one thread.
pub unsafe fn mount_map(owner: Ids, shown: Ids) -> Result<OwnedFd, SyscallError> {
    // SAFETY: the one-thread rule is the caller's promise.
    let child = match unsafe { fork(CloneFlags::CLONE_NEWUSER, None) }? {
        Side::Parent(child) => child,
        Side::Child => loop {
            // SAFETY: only waits; the parent's kill ends it.
            unsafe { libc::pause() };
        },
    };
    let namespace = map_of(child.pid, owner, shown);
    child.kill()?;
    child.wait()?;
    namespace
}

fn map_of(pid: libc::pid_t, owner: Ids, shown: Ids) -> Result<OwnedFd, SyscallError> {
    let proc =
        std::fs::File::open("/proc").map_err(|error| SyscallError::from_io("open", "/proc", &error))?;
    write_maps(proc.as_fd(), pid, owner, shown)?;
    let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
    // A namespace is a magic link, so this one open follows links; the directory is procfs' own.
    std::fs::File::open(&path)
        .map(OwnedFd::from)
        .map_err(|error| SyscallError::from_io("open", path.display().to_string(), &error))
}
