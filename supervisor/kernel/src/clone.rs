//! New processes: `clone3` with namespaces and a target cgroup, namespaces entered and left, and the end of
//! children.
//!
//! Minimum kernel version: 5.7 (CLONE_INTO_CGROUP).

// UNSAFETY: clone3 has no wrapper in libc, and a process that returns twice is for the caller to reason about.
#![expect(unsafe_code, reason = "clone3 and waitid are raw calls")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;

use crate::error::{SyscallError, check};

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Side {
    /// The caller goes on.
    Parent(Child),
    /// The new process.
    Child,
}

/// A child process, by pid and by descriptor.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's PID namespace.
    pub pid: libc::pid_t,
    /// Its pidfd; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By exiting with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// `struct clone_args` up to `cgroup`; gnu's libc and musl's name its fields alike but not its type.
#[derive(Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Copies the calling process into new namespaces, and into `cgroup` if one is given.
///
/// # Errors
/// When the kernel refuses a namespace, the cgroup or the process.
///
/// # Safety
/// The process must have one thread only: in the child every other thread has vanished, with whatever locks
/// (the allocator's among them) it held.
pub unsafe fn fork(namespaces: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, SyscallError> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.bits().cast_unsigned()) | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a whole clone_args whose size is given, `pidfd` outlives the call, no stack is named so
    // the child runs on a copy of ours; the one-thread rule is the caller's promise.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match check(pid, "clone3", || format!("{namespaces:?}"))? {
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: CLONE_PIDFD has stored a new close-on-exec descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Child { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd }))
        }
    }
}

impl Child {
    /// Kills it.
    ///
    /// # Errors
    /// ESRCH when it has been reaped.
    pub fn kill(&self) -> Result<(), SyscallError> {
        signal(self.pidfd.as_fd(), libc::SIGKILL)
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// ECHILD when it was reaped before.
    pub fn wait(&self) -> Result<Ended, SyscallError> {
        let id = libc::id_t::try_from(self.pidfd.as_raw_fd()).unwrap_or_default();
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: `info` is writable for the length of the call.
            let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) };
            match check(result, "waitid", || format!("pid {}", self.pid)) {
                Ok(_) => break,
                Err(error) if error.errno == libc::EINTR => {}
                Err(error) => return Err(error),
            }
        }
        // SAFETY: waitid has filled the SIGCHLD part of the union.
        let status = unsafe { info.si_status() };
        Ok(if info.si_code == libc::CLD_EXITED { Ended::Code(status) } else { Ended::Signal(status) })
    }
}

/// Reaps one child that has ended, whichever it is; `None` when there is none at the moment.
///
/// # Errors
/// None that a caller could do something about.
pub fn reap_any() -> Result<Option<(libc::pid_t, Ended)>, SyscallError> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match check(pid, "waitpid", || "any child".into()) {
        Ok(0) => Ok(None),
        Ok(_) if libc::WIFSIGNALED(status) => Ok(Some((pid, Ended::Signal(libc::WTERMSIG(status))))),
        Ok(_) => Ok(Some((pid, Ended::Code(libc::WEXITSTATUS(status))))),
        Err(error) if error.errno == libc::ECHILD => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a signal by pidfd.
///
/// # Errors
/// ESRCH when the process is gone, EPERM when it is another's.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), SyscallError> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means the one kill(2) would send.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(result, "pidfd_send_signal", || format!("signal {signal}")).map(drop)
}

/// A pidfd of the calling process.
///
/// # Errors
/// When no descriptor is left.
pub fn own_pidfd() -> Result<OwnedFd, SyscallError> {
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0) };
    let fd = check(fd, "pidfd_open", || "self".into())?;
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Enters a mount namespace: root and working directory become its root.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN and CAP_SYS_CHROOT, EINVAL for another kind of descriptor.
pub fn enter_mount_namespace(namespace: BorrowedFd<'_>) -> Result<(), SyscallError> {
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)
        .map_err(|errno| SyscallError::from_nix("setns", "mount namespace", errno))
}

/// Enters the mount namespace of a process.
///
/// Minimum kernel version: 5.8 (setns by pidfd).
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN and CAP_SYS_CHROOT, ESRCH when the process is gone.
pub fn enter_mount_namespace_of(pidfd: BorrowedFd<'_>) -> Result<(), SyscallError> {
    nix::sched::setns(pidfd, CloneFlags::CLONE_NEWNS)
        .map_err(|errno| SyscallError::from_nix("setns", "mount namespace of a process", errno))
}

/// Leaves namespaces of the parent for new ones.
///
/// # Errors
/// When the kernel refuses.
pub fn unshare(namespaces: CloneFlags) -> Result<(), SyscallError> {
    nix::sched::unshare(namespaces)
        .map_err(|errno| SyscallError::from_nix("unshare", format!("{namespaces:?}"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tests run in threads; a child of them may do nothing but system calls.
    fn child_that(act: fn() -> i32) -> Child {
        // SAFETY: the child calls only async-signal-safe functions before it exits.
        match unsafe { fork(CloneFlags::empty(), None) }.unwrap() {
            Side::Parent(child) => child,
            // SAFETY: ends the child without running anything of the parent's.
            Side::Child => unsafe { libc::_exit(act()) },
        }
    }

    #[test]
    fn the_status_of_a_child_is_told() {
        assert_eq!(child_that(|| 7).wait().unwrap(), Ended::Code(7));
    }

    #[test]
    fn a_killed_child_ends_by_the_signal_and_only_once() {
        // SAFETY: pause only waits.
        let child = child_that(|| unsafe { libc::pause() });
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Signal(libc::SIGKILL));
        assert_eq!(child.wait().unwrap_err().errno, libc::ECHILD);
    }
}
