//! Builds the root of a sandbox: executes [`RootOp`]s inside a mount namespace of ours.
//!
//! Targets are resolved below the new root without following any link. What is missing is made on the root's own
//! tmpfs or a private one, on the way to a target too; on what the host shows a missing target is an error.
//!
//! A **template** is a mount namespace in which the shared operations have been executed; a launch copies its
//! mounts and lays its own over them. Its root tmpfs is one file system for all these launches: they add mount
//! points to it (names that siblings of the same user and profile can see, and of which there is a bounded number),
//! never contents. What must not be shared ([`RootOp::put_off`]) is left to the launch even when it stands among the
//! template's.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use skep_kernel::SyscallError;
use skep_kernel::clone::unshare;
use skep_kernel::mount::{
    Attributes, Change, Depth, attach, change, copy_tree, new_filesystem, replace_root,
};
use skep_policy::launch::{Ids, ObjectKind, Plan, PutOff, RootOp, Stage};

use crate::devices;
use crate::failure::{At, Failure};
use crate::place::{self, Ground};
use crate::scratch::Scratch;
use crate::sources::Sources;

/// Which operations are executed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What launches share, into a template.
    Shared,
    /// What a launch adds to a template it has entered.
    Own,
    /// Everything, into a root of the launch's own.
    Whole,
}

/// A root under construction.
#[derive(Debug)]
pub struct Builder<'a> {
    ground: Ground,
    agent: Ids,
    part: Part,
    scratch: Scratch,
    /// Mounts that PID 1 has made before there was a root.
    ready: Ready<'a>,
}

/// Detached mounts of the launch that the root takes in.
#[derive(Clone, Copy, Debug)]
pub struct Ready<'a> {
    /// The sandbox's procfs, covered where it must be.
    pub proc: Option<BorrowedFd<'a>>,
    /// The sandbox's devpts.
    pub devpts: Option<BorrowedFd<'a>>,
}

/// Leaves the host's mounts for a namespace of the caller's own with an empty root, and returns that.
///
/// # Errors
/// As [`start_empty`], or when the namespace is refused.
pub fn enter_empty() -> Result<OwnedFd, Failure> {
    unshare(CloneFlags::CLONE_NEWNS).at(Stage::Namespaces)?;
    // Opened while the host's procfs is in sight; it names the new namespace already.
    let path = "/proc/self/ns/mnt";
    let namespace = File::open(path)
        .map_err(|error| SyscallError::from_io("open", path, &error))
        .at(Stage::Namespaces)?;
    start_empty()?;
    Ok(namespace.into())
}

/// Replaces the root of the caller's new mount namespace by an empty tmpfs.
///
/// # Errors
/// EINVAL where the host's root is the initial ramfs.
pub fn start_empty() -> Result<(), Failure> {
    let host = File::open("/").map_err(|error| SyscallError::from_io("open", "/", &error)).at(Stage::Root)?;
    // First of all nothing that happens here may be seen by the host, nor the other way round.
    let nothing = Change { add: Attributes::NONE, idmap: None };
    change(host.as_fd(), Depth::All, &nothing, Path::new("/")).at(Stage::Root)?;
    // Mount points are inodes alone, and those that launches make in a template stay there.
    let settings = [("size", "16m"), ("nr_inodes", "16k"), ("mode", "0755")];
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES);
    let root = new_filesystem("tmpfs", &settings, attributes).at(Stage::Root)?;
    attach(root.as_fd(), host.as_fd(), Path::new("/")).at(Stage::Root)?;
    drop(host);
    replace_root(root.as_fd()).at(Stage::Root)
}

/// Executes the part of the plan in the caller's root.
///
/// # Errors
/// The first operation that failed.
pub fn build(plan: &Plan, part: Part, sources: &mut Sources, ready: Ready<'_>) -> Result<(), Failure> {
    let ground = Ground::here()?;
    let scratch = match part {
        Part::Own => Scratch::of_template(&ground)?,
        Part::Shared | Part::Whole => Scratch::new(&ground)?,
    };
    let mut builder = Builder { ground, agent: plan.agent, part, scratch, ready };
    for op in &plan.template {
        builder.execute_shared(op, sources)?;
    }
    if part != Part::Shared {
        for op in &plan.private {
            builder.execute(op, sources)?;
        }
        builder.seal()?;
    }
    Ok(())
}

impl Builder<'_> {
    /// An operation of the template: all of it, the half that can be shared, or the half that cannot.
    fn execute_shared(&mut self, op: &RootOp, sources: &mut Sources) -> Result<(), Failure> {
        match (self.part, op.put_off()) {
            (Part::Whole, _) | (Part::Shared, None) => self.execute(op, sources),
            (Part::Shared, Some(PutOff::Mount { at })) => place::directory(&self.ground, at).map(drop),
            (Part::Shared, Some(PutOff::Devices { .. })) => devices::nodes(&self.ground),
            (Part::Own, Some(PutOff::Mount { .. })) => self.execute(op, sources),
            (Part::Own, Some(PutOff::Devices { shm_bytes })) => self.own_devices(shm_bytes),
            (Part::Own, None) => Ok(()),
        }
    }

    fn execute(&mut self, op: &RootOp, sources: &mut Sources) -> Result<(), Failure> {
        let ground = &self.ground;
        match op {
            RootOp::Directory { at, mode } => place::make_directory(ground, at, *mode),
            RootOp::Symlink { at, target } => place::make_link(ground, at, target),
            RootOp::Content { at, bytes, mode } => self.content(at, bytes, *mode),
            RootOp::Bind { at, kind, .. } => {
                let missing = || Failure::new(Stage::Root, at.display().to_string(), Errno::EBADF);
                let source = sources.next().ok_or_else(missing)?;
                let target = place::target(ground, at, *kind)?;
                attach(source.as_fd(), target.as_fd(), at).at(Stage::Root)
            }
            RootOp::Pin { at, write, exec, .. } => pin(ground, at, *write, *exec),
            RootOp::Mask { at, kind } => self.mask(at, *kind),
            RootOp::Tmpfs { at, bytes, mode, exec } => self.tmpfs(at, *bytes, *mode, *exec),
            RootOp::Proc => self.proc(),
            RootOp::Devices { shm_bytes } => {
                devices::nodes(ground)?;
                self.own_devices(*shm_bytes)
            }
        }
    }

    fn content(&mut self, at: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let ground = &self.ground;
        if self.part != Part::Own && !place::exists(ground, at)? {
            return place::make_file(ground, at, bytes, mode);
        }
        let mount = self.scratch.file(bytes, mode)?;
        let target = place::target(ground, at, ObjectKind::File)?;
        attach(mount.as_fd(), target.as_fd(), at).at(Stage::Root)
    }

    fn mask(&mut self, at: &Path, kind: ObjectKind) -> Result<(), Failure> {
        let target = place::existing(&self.ground, at)?;
        let mount = self.scratch.mask(kind)?;
        attach(mount.as_fd(), target.as_fd(), at).at(Stage::Root)
    }

    fn tmpfs(&mut self, at: &Path, bytes: u64, mode: u32, exec: bool) -> Result<(), Failure> {
        let mount = private_tmpfs(self.agent, bytes, mode, exec)?;
        let target = place::target(&self.ground, at, ObjectKind::Directory)?;
        attach(mount.as_fd(), target.as_fd(), at).at(Stage::Root)?;
        // Mount points of what comes later may be made on it.
        self.ground.add(mount.as_fd())
    }

    fn proc(&mut self) -> Result<(), Failure> {
        let at = Path::new("/proc");
        let missing = || Failure::new(Stage::Root, "/proc", Errno::EBADF);
        let mount = self.ready.proc.ok_or_else(missing)?;
        let target = place::target(&self.ground, at, ObjectKind::Directory)?;
        attach(mount, target.as_fd(), at).at(Stage::Root)
    }

    fn own_devices(&mut self, shm_bytes: u64) -> Result<(), Failure> {
        let missing = || Failure::new(Stage::Root, "/dev/pts", Errno::EBADF);
        let devpts = self.ready.devpts.ok_or_else(missing)?;
        devices::instances(&self.ground, devpts, shm_bytes)
    }

    /// From here on nothing changes on the root's own tmpfs, as far as this sandbox sees it.
    fn seal(&self) -> Result<(), Failure> {
        let read_only = Change { add: Attributes::READ_ONLY, idmap: None };
        change(self.ground.root(), Depth::One, &read_only, Path::new("/")).at(Stage::Root)
    }
}

/// Binds a place on itself.
fn pin(ground: &Ground, at: &Path, write: bool, exec: bool) -> Result<(), Failure> {
    let target = place::existing(ground, at)?;
    let mount = copy_tree(target.as_fd(), Depth::All, at).at(Stage::Root)?;
    let add = Attributes::NONE.and_if(!write, Attributes::READ_ONLY).and_if(!exec, Attributes::NO_EXEC);
    change(mount.as_fd(), Depth::All, &Change { add, idmap: None }, at).at(Stage::Root)?;
    attach(mount.as_fd(), target.as_fd(), at).at(Stage::Root)
}

/// How many inodes a tmpfs of such a size has, for the size bounds only the blocks of files.
#[must_use]
pub fn inodes(bytes: u64) -> u64 {
    (bytes / 4096).max(1024)
}

/// A tmpfs of the agent's.
fn private_tmpfs(agent: Ids, bytes: u64, mode: u32, exec: bool) -> Result<OwnedFd, Failure> {
    let [size, inodes] = [bytes, inodes(bytes)].map(|number| number.to_string());
    let (uid, gid) = (agent.uid.to_string(), agent.gid.to_string());
    let mode = format!("{:o}", mode & 0o7777);
    let settings = [
        ("size", size.as_str()),
        ("nr_inodes", inodes.as_str()),
        ("mode", mode.as_str()),
        ("uid", uid.as_str()),
        ("gid", gid.as_str()),
    ];
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and_if(!exec, Attributes::NO_EXEC);
    new_filesystem("tmpfs", &settings, attributes).at(Stage::Root)
}
