//! Pseudo-terminals of a devpts instance of their own.

// UNSAFETY: terminal ioctls take raw pointers and return raw descriptors.
#![expect(unsafe_code, reason = "terminal ioctls are raw")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use skep_policy::launch::Ids;

use crate::error::{SyscallError, check};
use crate::mount::{Attributes, Resolve, new_filesystem, open_at};
use crate::terminal;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of whoever shows the terminal.
    pub master: OwnedFd,
    /// The end of the program in it.
    pub slave: OwnedFd,
}

/// A detached mount of a new devpts instance, whose terminals belong to the agent.
///
/// # Errors
/// When the kernel refuses the file system.
pub fn new_instance(agent: Ids) -> Result<OwnedFd, SyscallError> {
    let (uid, gid) = (agent.uid.to_string(), agent.gid.to_string());
    let settings = [("uid", uid.as_str()), ("gid", gid.as_str()), ("mode", "0620"), ("ptmxmode", "0666")];
    new_filesystem("devpts", &settings, Attributes::NO_SUID.and(Attributes::NO_EXEC))
}

/// Opens a pair in an instance, which may still be detached: the slave gets the name it has once attached.
///
/// Minimum kernel version: 4.13 (TIOCGPTPEER).
///
/// # Errors
/// ENOSPC when the instance or the host has no terminal left.
pub fn open(instance: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<Pty, SyscallError> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = open_at(instance, "ptmx".as_ref(), flags, 0, Resolve::Inside)?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlock) };
    check(result, "ioctl", || "TIOCSPTLCK".into())?;
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    let slave = check(slave, "ioctl", || "TIOCGPTPEER".into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(i32::try_from(slave).unwrap_or(-1)) };
    terminal::resize(&master, rows, columns)?;
    Ok(Pty { master, slave })
}

/// Makes the terminal the controlling one of the calling session leader.
///
/// # Errors
/// EPERM when the caller leads no session or has a terminal already.
pub fn take_control(slave: BorrowedFd<'_>) -> Result<(), SyscallError> {
    // SAFETY: TIOCSCTTY takes an integer; 0 does not steal.
    let result = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY as _, 0) };
    check(result, "ioctl", || "TIOCSCTTY".into()).map(drop)
}

/// The signals that a terminal itself sends to its foreground process group, when keys are typed.
pub const TYPED: [i32; 3] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP];

/// Sends one of the [`TYPED`] signals to the foreground process group of the terminal behind a master. The kernel
/// finds the group: its number would outlive it, and could be somebody else's by the time a signal is sent to it.
///
/// # Errors
/// EINVAL for another signal, ENOTTY when it is no master.
pub fn signal_foreground(master: BorrowedFd<'_>, signal: i32) -> Result<(), SyscallError> {
    // SAFETY: TIOCSIG takes an integer.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSIG as _, signal) };
    check(result, "ioctl", || format!("TIOCSIG {signal}")).map(drop)
}
