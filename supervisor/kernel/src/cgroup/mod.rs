//! Control groups, version 2: where ours are, and the life of one sandbox's.
//!
//! ```text
//! <mount of cgroup2>/skep/sandboxes/<id>     one per sandbox; the parent carries the sandboxes' BPF programs
//! ```
//!
//! The mount is looked up: on a hybrid host it is /sys/fs/cgroup/unified, and its controllers may all be with
//! version 1. Everything but the limits works without any controller.
//!
//! Minimum kernel version: 5.14 (`cgroup.kill`).

mod limits;
mod sandbox;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use skep_policy::launch::is_sandbox_name;

use crate::error::SyscallError;
use crate::mountinfo::{self, Mounted};
pub use limits::{Controller, Controllers, CpuTime, DeviceLimit, Limits};
pub use sandbox::SandboxCgroup;

/// What can go wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 file system is mounted.
    #[error("no cgroup2 file system is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup")]
    NoMount,
    /// The name is none of [`is_sandbox_name`].
    #[error("{0:?} is no name for a control group")]
    Name(String),
    /// A limit needs a controller that version 2 does not have here.
    #[error(
        "the limit {limit} needs the {controller} controller, which this host does not give to cgroup v2; \
         boot with systemd.unified_cgroup_hierarchy=1 or take the limit out of the profile"
    )]
    NoController {
        /// Name of the limit's file.
        limit: &'static str,
        /// The missing controller.
        controller: Controller,
    },
    /// The kernel refused a limit's value.
    #[error("the limit {limit}: {source}")]
    Limit {
        /// Name of the limit's file.
        limit: &'static str,
        /// What cgroups-rs says.
        source: cgroups_rs::fs::error::Error,
    },
    /// A call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// The state that was waited for did not come in time.
    #[error("{cgroup} was not {state} in time")]
    Late {
        /// Name of the control group.
        cgroup: String,
        /// `empty`, `frozen` or `thawed`.
        state: &'static str,
    },
}

/// Our part of the hierarchy.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    top: OwnedFd,
    sandboxes: OwnedFd,
}

impl Tree {
    /// Opens `name` (usually `skep`) below the mount of cgroup2, and makes what is missing of it.
    ///
    /// # Errors
    /// When there is no cgroup2, or the caller may not make control groups in it.
    pub fn open(name: &str) -> Result<Self, CgroupError> {
        check_name(name)?;
        let path = mount_point()?.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(SyscallError::from_io("mkdir", path.display().to_string(), &error).into());
            }
            _ => {}
        }
        let top = open_directory(&path)?;
        let sandboxes = make_directory(top.as_fd(), "sandboxes")?;
        Ok(Self { path, top, sandboxes })
    }

    /// The directory of the tree.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parent of all sandboxes: what is attached here holds for each of them.
    pub fn sandboxes(&self) -> BorrowedFd<'_> {
        self.sandboxes.as_fd()
    }

    /// The controllers that limits of sandboxes can use here.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn available(&self) -> Result<Controllers, CgroupError> {
        Ok(Controllers::parse(&read_at(self.top.as_fd(), "cgroup.controllers")?))
    }

    /// Makes the control group of a new sandbox.
    ///
    /// # Errors
    /// EEXIST when the id is in use.
    pub fn create(&self, id: &str) -> Result<SandboxCgroup, CgroupError> {
        check_name(id)?;
        mkdirat(&self.sandboxes, id, Mode::from_bits_truncate(0o755))
            .map_err(|errno| SyscallError::from_nix("mkdir", id, errno))?;
        SandboxCgroup::open(&self.sandboxes, id)
    }

    /// Opens the control group of a sandbox another process made.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn sandbox(&self, id: &str) -> Result<SandboxCgroup, CgroupError> {
        check_name(id)?;
        SandboxCgroup::open(&self.sandboxes, id)
    }

    /// The sandboxes in the tree that `owned` does not know: what a crash left.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn leftovers(&self, owned: impl Fn(&str) -> bool) -> Result<Vec<SandboxCgroup>, CgroupError> {
        let names = children(self.sandboxes.as_fd())?;
        let unknown = names.iter().filter(|name| !owned(name));
        let opened = unknown.map(|name| SandboxCgroup::open(&self.sandboxes, name));
        // One that goes away while we look is what we want of it.
        opened
            .filter(|opened| !matches!(opened, Err(CgroupError::Syscall(error)) if is_gone(error)))
            .collect()
    }

    /// Applies limits to a sandbox; enables the controllers they need, and only those, on the way down to it.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] before anything is changed, when one is missing.
    pub fn apply_limits(&self, sandbox: &SandboxCgroup, limits: &Limits) -> Result<(), CgroupError> {
        if *limits == Limits::default() {
            return Ok(());
        }
        let needed = limits.needs(&self.available()?)?;
        for directory in [self.path.parent().unwrap_or(&self.path), &self.path] {
            enable(open_directory(directory)?.as_fd(), &needed)?;
        }
        enable(self.sandboxes(), &needed)?;
        limits.write(sandbox.directory())
    }

    /// Removes the tree where nothing is left in it, so that a transient run leaves no trace. Tells whether
    /// it did.
    ///
    /// # Errors
    /// When a directory cannot be removed for another reason than being in use.
    pub fn remove_if_empty(&self) -> Result<bool, CgroupError> {
        if !remove_directory(self.top.as_fd(), "sandboxes")? {
            return Ok(false);
        }
        let Some(parent) = self.path.parent() else { return Ok(false) };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(remove_directory(open_directory(parent)?.as_fd(), &name)?)
    }
}

/// Where cgroup2 is mounted.
///
/// # Errors
/// [`CgroupError::NoMount`], or when /proc is not there.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    find_mount(mountinfo::mounted()?).ok_or(CgroupError::NoMount)
}

/// The first cgroup2, one that shows the whole hierarchy before one that shows a part.
fn find_mount(mounts: Vec<Mounted>) -> Option<PathBuf> {
    let mounts = mounts.into_iter().filter(|mount| mount.kind == "cgroup2");
    Some(mounts.min_by_key(|mount| mount.root != Path::new("/"))?.point)
}

/// Names come from requests: anything else could be a path.
fn check_name(name: &str) -> Result<(), CgroupError> {
    if is_sandbox_name(name) { Ok(()) } else { Err(CgroupError::Name(name.to_owned())) }
}

/// A control group that was removed has no files, and those that are open answer nothing.
fn is_gone(error: &SyscallError) -> bool {
    [libc::ENOENT, libc::ENODEV].contains(&error.errno)
}

/// Gives the children of a directory the controllers it does not give them yet.
fn enable(directory: BorrowedFd<'_>, needed: &Controllers) -> Result<(), CgroupError> {
    let enabled = Controllers::parse(&read_at(directory, "cgroup.subtree_control")?);
    for controller in needed.missing_in(&enabled) {
        write_at(directory, "cgroup.subtree_control", &format!("+{controller}"))?;
    }
    Ok(())
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn open_directory(path: &Path) -> Result<OwnedFd, SyscallError> {
    nix::fcntl::open(path, DIRECTORY, Mode::empty())
        .map_err(|errno| SyscallError::from_nix("open", path.display().to_string(), errno))
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, SyscallError> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(SyscallError::from_nix("mkdir", name, errno)),
    }
    openat(parent, name, DIRECTORY, Mode::empty())
        .map_err(|errno| SyscallError::from_nix("open", name, errno))
}

/// Tells whether the directory is gone; not so where somebody else still has something in it.
fn remove_directory(parent: BorrowedFd<'_>, name: &str) -> Result<bool, SyscallError> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
        Err(errno) => Err(SyscallError::from_nix("rmdir", name, errno)),
    }
}

/// The names of the directories in `directory`.
fn children(directory: BorrowedFd<'_>) -> Result<Vec<String>, SyscallError> {
    let failed = |errno| SyscallError::from_nix("readdir", "cgroup", errno);
    // A descriptor of its own, since reading moves the offset of the open file.
    let mut entries = Dir::openat(directory, ".", DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == Some(nix::dir::Type::Directory) && name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_at(directory: BorrowedFd<'_>, name: &str, flags: OFlag) -> Result<File, SyscallError> {
    openat(directory, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
        .map(File::from)
        .map_err(|errno| SyscallError::from_nix("open", name, errno))
}

fn read_at(directory: BorrowedFd<'_>, name: &str) -> Result<String, SyscallError> {
    let mut text = String::new();
    open_at(directory, name, OFlag::O_RDONLY)?
        .read_to_string(&mut text)
        .map_err(|error| SyscallError::from_io("read", name, &error))?;
    Ok(text)
}

fn write_at(directory: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), SyscallError> {
    open_at(directory, name, OFlag::O_WRONLY)?
        .write_all(value.as_bytes())
        .map_err(|error| SyscallError::from_io("write", format!("{name}: {value}"), &error))
}
