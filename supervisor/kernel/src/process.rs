//! What a new process settles before it runs somebody else's program: descriptors, limits, signals, session.

// UNSAFETY: these concern the calling process as a whole and have no safe wrapper.
#![expect(unsafe_code, reason = "close_range, sigaction, execve and rlimits are raw")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sched::{CloneFlags, unshare};

use crate::error::{SyscallError, check};

/// What [`close_from`] does to the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Close them now.
    Now,
    /// Close them at the next `execve`.
    OnExec,
}

/// Closes every descriptor from `first` up.
///
/// Minimum kernel version: 5.11.
///
/// # Errors
/// None on a kernel new enough.
pub fn close_from(first: u32, when: Close) -> Result<(), SyscallError> {
    let flags = if when == Close::OnExec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: takes integers; owners of the descriptors are the caller's to think of.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    check(result, "close_range", || first.to_string()).map(drop)
}

/// Gives the calling thread a descriptor table of its own, which holds the standard streams and a copy of `keep`, a
/// descriptor above 2, alone.
///
/// Minimum kernel version: 5.9.
///
/// # Errors
/// EBADF when `keep` is a standard stream or not open, ENOMEM without memory.
pub fn own_descriptors(keep: RawFd) -> Result<OwnedFd, SyscallError> {
    let bad = || SyscallError::new("close_range", keep.to_string(), libc::EBADF);
    let (last, first) = (keep.checked_sub(1).ok_or_else(bad)?, keep.checked_add(1).ok_or_else(bad)?);
    if keep <= 2 {
        return Err(bad());
    }
    unshare(CloneFlags::CLONE_FILES)
        .map_err(|errno| SyscallError::from_nix("unshare", "CLONE_FILES", errno))?;
    let close = |first: RawFd, last: RawFd| {
        if first > last {
            return Ok(());
        }
        // SAFETY: takes integers; what it closes is this table's copy, which nobody owns.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        check(result, "close_range", || format!("{first} to {last}")).map(drop)
    };
    close(3, last)?;
    close(first, RawFd::MAX)?;
    // SAFETY: takes integers.
    let flags = unsafe { libc::fcntl(keep, libc::F_GETFD) };
    check(flags, "fcntl", || keep.to_string())?;
    // SAFETY: it is open, and its number in this table is nobody's: its owner has it in the table of the process.
    Ok(unsafe { OwnedFd::from_raw_fd(keep) })
}

/// Closes a descriptor in a copy of the process that will never use, nor drop, its owner.
pub fn close_for_good(fd: BorrowedFd<'_>) {
    // SAFETY: takes an integer; that its owner is never dropped is what this is for.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Takes descriptor 0 of the process as an owned descriptor. It is moved above 2, and 0 becomes `/dev/null`
/// like any program's.
///
/// # Errors
/// EBADF when it is not open.
pub fn take_control_descriptor() -> Result<OwnedFd, SyscallError> {
    // SAFETY: takes integers.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    let fd = check(fd, "fcntl", || "F_DUPFD_CLOEXEC".into())?;
    // SAFETY: the descriptor was just made for us.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) };
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| SyscallError::from_io("open", "/dev/null", &error))?;
    // SAFETY: replaces descriptor 0, which nothing of ours owns.
    let result = unsafe { libc::dup2(null.as_raw_fd(), 0) };
    check(result, "dup2", || "0".into())?;
    Ok(fd)
}

/// Makes descriptors standard input, output and error of the process.
///
/// # Errors
/// None for open descriptors.
pub fn become_standard_streams(streams: &[OwnedFd; 3]) -> Result<(), SyscallError> {
    // Copies above 2 first, in case one of them is among 0, 1, 2 already.
    let mut copies = Vec::with_capacity(3);
    for stream in streams {
        copies.push(duplicate(stream)?);
    }
    for (number, copy) in (0..).zip(&copies) {
        // SAFETY: replaces a standard stream, which nothing of ours owns.
        let result = unsafe { libc::dup2(copy.as_raw_fd(), number) };
        check(result, "dup2", || number.to_string())?;
    }
    Ok(())
}

/// A close-on-exec copy of a descriptor, above 2.
///
/// # Errors
/// EMFILE when no descriptor is left.
pub fn duplicate(fd: &impl AsFd) -> Result<OwnedFd, SyscallError> {
    // SAFETY: takes integers.
    let copy = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    let copy = check(copy, "fcntl", || "F_DUPFD_CLOEXEC".into())?;
    // SAFETY: the descriptor was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(copy).unwrap_or(-1)) })
}

/// Sets the soft and the hard limit of a resource; one that is lower already stays as it is.
///
/// # Errors
/// EINVAL for an unknown resource.
pub fn limit(resource: u32, wanted: u64) -> Result<(), SyscallError> {
    let value = wanted.min(prlimit(resource, None)?.rlim_max);
    prlimit(resource, Some(&libc::rlimit64 { rlim_cur: value, rlim_max: value })).map(drop)
}

/// `RLIMIT_NOFILE`, which is of another type in each C library.
const DESCRIPTORS: u32 = 7;

/// How many descriptors a process starts with that asks for no more: `INR_OPEN_CUR` of the kernel.
const USUAL_DESCRIPTORS: u64 = 1024;

/// Raises the soft limit of descriptors to the hard one.
///
/// # Errors
/// None on Linux.
pub fn raise_descriptor_limit() -> Result<(), SyscallError> {
    soft_limit_of_descriptors(|hard| hard)
}

/// Sets the soft limit of descriptors to what the kernel gives its first process. Programs that use `select(2)` count
/// on no more; who needs more raises it himself.
///
/// # Errors
/// None on Linux.
pub fn usual_descriptor_limit() -> Result<(), SyscallError> {
    soft_limit_of_descriptors(|hard| hard.min(USUAL_DESCRIPTORS))
}

fn soft_limit_of_descriptors(of: impl Fn(u64) -> u64) -> Result<(), SyscallError> {
    let now = prlimit(DESCRIPTORS, None)?;
    prlimit(DESCRIPTORS, Some(&libc::rlimit64 { rlim_cur: of(now.rlim_max), ..now })).map(drop)
}

/// Sets a limit of this process if there is a new one, and returns what was before.
fn prlimit(resource: u32, new: Option<&libc::rlimit64>) -> Result<libc::rlimit64, SyscallError> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let mut before = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a null new limit reads, another one is whole; `before` is writable.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut before) };
    check(result, "prlimit64", || format!("RLIMIT {resource}"))?;
    Ok(before)
}

/// Gives every signal its default action and blocks none.
pub fn default_signals() {
    // The C libraries keep two or three signals to themselves, which only the raw call resets. All zeroes is the
    // kernel's sigaction with SIG_DFL, no flags and an empty mask.
    let default = [0_u64; 4];
    for number in 1..=64 {
        let previous = ptr::null_mut::<u64>();
        // SAFETY: `default` is a whole kernel sigaction; the default action runs no code of ours. SIGKILL and
        // SIGSTOP are refused, they have no other action.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const default, previous, 8) };
    }
    // SAFETY: sigset_t is plain data; it is emptied before use.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is writable.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: `none` is an initialised set, the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Ignores signals that a terminal, a service manager or a vanished reader would end us with: a keeper ends when
/// its channel does.
pub fn ignore_signals() {
    let ignored = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    for number in ignored {
        // SAFETY: ignoring runs no code of ours.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
}

/// Waits until one of several descriptors is readable or at its end, and says which are; `None` never is.
///
/// # Errors
/// None for open descriptors.
pub fn readable<const N: usize>(sources: [Option<BorrowedFd<'_>>; N]) -> Result<[bool; N], SyscallError> {
    // The kernel passes over negative descriptors.
    let mut list = sources.map(|source| libc::pollfd {
        fd: source.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: `list` has N writable entries.
        let count = unsafe { libc::poll(list.as_mut_ptr(), N as libc::nfds_t, -1) };
        match check(count, "poll", || format!("{N} descriptors")) {
            Ok(_) => return Ok(list.map(|entry| entry.revents != 0)),
            Err(error) if error.errno == libc::EINTR => {}
            Err(error) => return Err(error),
        }
    }
}

/// Blocks SIGCHLD and returns a descriptor that is readable while one is pending.
///
/// # Errors
/// When no descriptor is left.
pub fn child_events() -> Result<OwnedFd, SyscallError> {
    // SAFETY: sigset_t is plain data; it is emptied before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is an initialised set.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: as above; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: `set` is an initialised set, -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    let fd = check(fd, "signalfd", || "SIGCHLD".into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// A program with its arguments and environment, laid out before the process is confined, so that nothing is
/// left to do then but `execve`.
#[derive(Debug)]
pub struct Image {
    program: CString,
    argv: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// `program` is a path.
    #[must_use]
    pub fn new(program: CString, argv: Vec<CString>, environment: Vec<CString>) -> Self {
        Self { program, argv, environment }
    }

    /// Replaces the process by the program, and otherwise says why not.
    #[must_use]
    pub fn execute(&self) -> SyscallError {
        let argv = pointers(&self.argv);
        let environment = pointers(&self.environment);
        // SAFETY: all three are NUL-terminated (strings and vectors) and outlive the call.
        unsafe { libc::execve(self.program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
        SyscallError::last("execve", self.program.to_string_lossy())
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}
