//! The sandbox's `/dev`: six harmless devices, terminals of its own, shared memory of its own.
//!
//! The nodes are made on a tmpfs that is read-only afterwards, the only mount of the sandbox but its devpts on
//! which devices open. Nobody inside can make another: that takes CAP_MKNOD in the initial user namespace.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::symlinkat;
use skep_kernel::mount::{Attributes, Change, Depth, Resolve, attach, change, new_filesystem, open_at};
use skep_policy::launch::{ObjectKind, Stage};

use crate::failure::{At, Failure};
use crate::place::{self, Ground};
use crate::root::inodes;

/// Character devices: name, major, minor.
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The half that can be shared: nodes, links and mount points.
///
/// # Errors
/// EPERM without CAP_MKNOD.
pub fn nodes(ground: &Ground) -> Result<(), Failure> {
    let at = Path::new("/dev");
    let settings = [("size", "64k"), ("mode", "0755")];
    let mount =
        new_filesystem("tmpfs", &settings, Attributes::NO_SUID.and(Attributes::NO_EXEC)).at(Stage::Root)?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&mount, name, SFlag::S_IFCHR, mode, makedev(major, minor))
            .map_err(|errno| call("mknodat", name, errno))?;
    }
    for (name, text) in LINKS {
        symlinkat(text, &mount, name).map_err(|errno| call("symlinkat", name, errno))?;
    }
    for name in ["pts", "shm"] {
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&mount, name, mode).map_err(|errno| call("mkdirat", name, errno))?;
    }
    let read_only = Change { add: Attributes::READ_ONLY, idmap: None };
    change(mount.as_fd(), Depth::One, &read_only, at).at(Stage::Root)?;
    let target = place::target(ground, at, ObjectKind::Directory)?;
    attach(mount.as_fd(), target.as_fd(), at).at(Stage::Root)
}

/// The half that belongs to one sandbox: terminals and shared memory.
///
/// # Errors
/// When a mount is refused.
pub fn instances(ground: &Ground, devpts: BorrowedFd<'_>, shm_bytes: u64) -> Result<(), Failure> {
    attach_at(ground.root(), devpts, "/dev/pts")?;
    let [size, inodes] = [shm_bytes, inodes(shm_bytes)].map(|number| number.to_string());
    let settings = [("size", size.as_str()), ("nr_inodes", inodes.as_str()), ("mode", "1777")];
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);
    let shm = new_filesystem("tmpfs", &settings, attributes).at(Stage::Root)?;
    attach_at(ground.root(), shm.as_fd(), "/dev/shm")
}

fn attach_at(root: BorrowedFd<'_>, mount: BorrowedFd<'_>, at: &str) -> Result<(), Failure> {
    let at = Path::new(at);
    let target = open_at(root, at, libc::O_PATH, 0, Resolve::Inside).at(Stage::Root)?;
    attach(mount, target.as_fd(), at).at(Stage::Root)
}

fn call(name: &str, object: &str, errno: Errno) -> Failure {
    Failure::new(Stage::Root, format!("{name}(/dev/{object})"), errno)
}
