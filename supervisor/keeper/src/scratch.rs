//! Where masks and laid-over files come from: a tmpfs that ends up under the sandbox's `/proc`, out of sight.
//!
//! A bind mount needs an attached source before Linux 6.15. This one is attached at `/proc`, used by descriptor,
//! and covered when the procfs is mounted over it; should a plan have no procfs, root alone can enter it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};
use skep_kernel::SyscallError;
use skep_kernel::mount::{
    Attributes, Change, Depth, Resolve, attach, change, copy_tree, new_filesystem, open_at,
};
use skep_policy::launch::{ObjectKind, Stage};

use crate::failure::{At, Failure};
use crate::place::{self, Ground};

/// A tmpfs with one unreadable directory, one unreadable file, and the files of the launch.
#[derive(Debug)]
pub struct Scratch {
    /// Holds the two masks and the mount point for the other.
    masks: OwnedFd,
    /// Holds the files of this launch: the same, but in a template's copy one of the launch's own, made when
    /// the first file is.
    files: Option<OwnedFd>,
    count: u32,
}

impl Scratch {
    /// Makes one in a new root.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn new(ground: &Ground) -> Result<Self, Failure> {
        let target = place::target(ground, Path::new("/proc"), ObjectKind::Directory)?;
        let masks = make(target.as_fd())?;
        for name in ["d", FILES] {
            mkdirat(&masks, name, Mode::empty())
                .map_err(|errno| SyscallError::from_nix("mkdirat", name, errno))
                .at(Stage::Root)?;
        }
        drop(create(masks.as_fd(), Path::new("f"), 0)?);
        let files = masks.try_clone().map_err(|error| failed("dup", &error))?;
        Ok(Self { masks, files: Some(files), count: 0 })
    }

    /// Finds the one of a template that the caller has entered.
    ///
    /// # Errors
    /// ENOENT when the root is no template.
    pub fn of_template(ground: &Ground) -> Result<Self, Failure> {
        let masks = place::existing(ground, Path::new("/proc"))?;
        Ok(Self { masks, files: None, count: 0 })
    }

    /// A detached mount of nothing, unreadable.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn mask(&self, kind: ObjectKind) -> Result<OwnedFd, Failure> {
        let name = match kind {
            ObjectKind::Directory => "d",
            ObjectKind::File => "f",
        };
        bind(self.masks.as_fd(), Path::new(name))
    }

    /// A detached, read-only mount of a new file.
    ///
    /// # Errors
    /// When it cannot be written or mounted.
    pub fn file(&mut self, bytes: &[u8], mode: u32) -> Result<OwnedFd, Failure> {
        let files = match self.files.take() {
            Some(files) => files,
            None => self.own_files()?,
        };
        let name = self.count.to_string();
        self.count += 1;
        create(files.as_fd(), Path::new(&name), mode)?
            .write_all(bytes)
            .map_err(|error| failed("write", &error))?;
        let mount = bind(files.as_fd(), Path::new(&name));
        self.files = Some(files);
        mount
    }

    fn own_files(&self) -> Result<OwnedFd, Failure> {
        let at = Path::new(FILES);
        let target = open_at(self.masks.as_fd(), at, libc::O_PATH, 0, Resolve::Inside).at(Stage::Root)?;
        make(target.as_fd())
    }
}

/// Mount point for the files of a launch that has entered a template. They go there and not to `/proc` itself,
/// for that may have been mounted by the time they are needed.
const FILES: &str = "files";

/// A tmpfs that only root enters, attached to a directory.
fn make(target: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let settings = [("size", "16m"), ("mode", "0700")];
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);
    let mount = new_filesystem("tmpfs", &settings, attributes).at(Stage::Root)?;
    attach(mount.as_fd(), target, Path::new("/proc")).at(Stage::Root)?;
    Ok(mount)
}

fn create(directory: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<File, Failure> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    open_at(directory, name, flags, mode & 0o7777, Resolve::Inside).at(Stage::Root).map(File::from)
}

fn bind(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Failure> {
    let object = open_at(directory, name, libc::O_PATH, 0, Resolve::Inside).at(Stage::Root)?;
    let mount = copy_tree(object.as_fd(), Depth::One, name).at(Stage::Root)?;
    let read_only = Change { add: Attributes::READ_ONLY, idmap: None };
    change(mount.as_fd(), Depth::One, &read_only, name).at(Stage::Root)?;
    Ok(mount)
}

fn failed(call: &'static str, error: &std::io::Error) -> Failure {
    let errno = SyscallError::from_io(call, "", error).errno;
    Failure::new(Stage::Root, call, Errno::from_raw(errno))
}
