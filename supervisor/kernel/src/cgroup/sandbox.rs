//! The control group of one sandbox: pause, kill, wait, remove.
//!
//! Waiting is waiting on `cgroup.events`, which the kernel makes readable as a priority event when a line of
//! it changes. A crash leaves a sandbox to its keeper and to the next skepd, which clear it away at the same time:
//! what is gone already is done.

use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};

use super::{CgroupError, DIRECTORY, children, is_gone, open_at, remove_directory, write_at};
use crate::error::SyscallError;

/// How long a change may go unnoticed. The kernel tells of changes 10 ms apart and no closer, by a timer that dies
/// with the control group (`cgroup_file_notify`, as of 6.18): the last one before somebody else's `rmdir` is never told.
const LOST: Duration = Duration::from_millis(50);

/// A sandbox's control group. Dropping it closes descriptors and changes nothing.
#[derive(Debug)]
pub struct SandboxCgroup {
    id: String,
    directory: OwnedFd,
    parent: OwnedFd,
    number: u64,
}

impl SandboxCgroup {
    pub(super) fn open(parent: &OwnedFd, id: &str) -> Result<Self, CgroupError> {
        let directory = openat(parent, id, DIRECTORY, Mode::empty())
            .map_err(|errno| SyscallError::from_nix("open", id, errno))?;
        let number = fstat(&directory).map_err(|errno| SyscallError::from_nix("fstat", id, errno))?.st_ino;
        let parent = parent.try_clone().map_err(|error| SyscallError::from_io("dup", id, &error))?;
        Ok(Self { id: id.to_owned(), directory, parent, number })
    }

    /// The sandbox's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What BPF programs see as the cgroup id: on 64-bit kernels the inode number of the directory.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The directory, for CLONE_INTO_CGROUP.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The directory it lies in, for who has to remove it without us.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Moves a process here.
    ///
    /// # Errors
    /// ESRCH when it is gone.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        Ok(write_at(self.directory(), "cgroup.procs", &pid.to_string())?)
    }

    /// Kills everything in it and below, forks under way included. Fine if it is gone already.
    ///
    /// Minimum kernel version: 5.14.
    ///
    /// # Errors
    /// EACCES when it is not ours.
    pub fn kill(&self) -> Result<(), CgroupError> {
        match write_at(self.directory(), "cgroup.kill", "1") {
            Err(error) if !is_gone(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Is any process in it or below?
    ///
    /// # Errors
    /// When it has been removed.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        Ok(self.events()?.read()?.populated)
    }

    /// Stops everything in it and below, and returns when all of it has stopped.
    ///
    /// # Errors
    /// [`CgroupError::Late`] when it has not after `within`: a task in an uninterruptible call stops after
    /// it.
    pub fn freeze(&self, within: Duration) -> Result<(), CgroupError> {
        write_at(self.directory(), "cgroup.freeze", "1")?;
        self.wait(within, "frozen", |state| state.frozen)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`CgroupError::Late`] when it has not after `within`.
    pub fn thaw(&self, within: Duration) -> Result<(), CgroupError> {
        write_at(self.directory(), "cgroup.freeze", "0")?;
        self.wait(within, "thawed", |state| !state.frozen)
    }

    /// Waits until no process is left.
    ///
    /// # Errors
    /// [`CgroupError::Late`] when one is after `within`.
    pub fn wait_empty(&self, within: Duration) -> Result<(), CgroupError> {
        self.wait(within, "empty", |state| !state.populated)
    }

    /// Removes it, with the control groups below, as soon as its last process is gone. Fine if it is gone
    /// already.
    ///
    /// # Errors
    /// [`CgroupError::Late`] when a process is left after `within`.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + within;
        loop {
            remove_below(self.directory())?;
            if remove_directory(self.parent(), &self.id)? {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait_empty(left) {
                // Empty and yet busy: an exiting task is counted a moment longer than it is shown.
                Ok(()) if !left.is_zero() => std::thread::yield_now(),
                Ok(()) => return Err(CgroupError::Late { cgroup: self.id.clone(), state: "empty" }),
                Err(CgroupError::Syscall(error)) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens `cgroup.events`, to be watched for priority events by an event loop.
    ///
    /// # Errors
    /// When it has been removed.
    pub fn events(&self) -> Result<Events, CgroupError> {
        Ok(Events { file: open_at(self.directory(), "cgroup.events", OFlag::O_RDONLY)? })
    }

    fn wait(
        &self,
        within: Duration,
        state: &'static str,
        reached: impl Fn(State) -> bool,
    ) -> Result<(), CgroupError> {
        let deadline = Instant::now() + within;
        let mut events = self.events()?;
        while !reached(events.read()?) {
            if !events.changed_before(deadline)? {
                return Err(CgroupError::Late { cgroup: self.id.clone(), state });
            }
        }
        Ok(())
    }
}

/// An open `cgroup.events`.
#[derive(Debug)]
pub struct Events {
    file: File,
}

/// What `cgroup.events` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// A process is in the control group or below.
    pub populated: bool,
    /// Every process in it or below has stopped.
    pub frozen: bool,
}

impl Events {
    /// Reads the present state; the next change after it is an event.
    ///
    /// # Errors
    /// ENODEV when the control group has been removed.
    pub fn read(&mut self) -> Result<State, CgroupError> {
        let mut text = String::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_string(&mut text))
            .map_err(|error| SyscallError::from_io("read", "cgroup.events", &error))?;
        let set = |line: &str| text.lines().any(|of| of == line);
        Ok(State { populated: set("populated 1"), frozen: set("frozen 1") })
    }

    /// Waits for a change, or long enough to look again; tells whether there was time for either.
    fn changed_before(&self, deadline: Instant) -> Result<bool, CgroupError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a last wait of no time at all would spin.
        let timeout = PollTimeout::try_from(left.min(LOST).as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(0) => Ok(!left.is_zero()),
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(SyscallError::from_nix("poll", "cgroup.events", errno).into()),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Removes the control groups below a directory, deepest first, as far as they are not in use.
fn remove_below(directory: BorrowedFd<'_>) -> Result<(), CgroupError> {
    // A directory that has been removed reads as empty, or as ENOENT where somebody was faster.
    let names = match children(directory) {
        Err(error) if error.errno == libc::ENOENT => return Ok(()),
        names => names?,
    };
    for name in names {
        match openat(directory, name.as_str(), DIRECTORY, Mode::empty()) {
            Ok(child) => remove_below(child.as_fd())?,
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(SyscallError::from_nix("open", name, errno).into()),
        }
        remove_directory(directory, &name)?;
    }
    Ok(())
}
