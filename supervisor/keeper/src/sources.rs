//! Objects of the host that a root shows: opened as the user they are shown to, in the host's mount namespace,
//! and kept as detached mounts until the new root is there to take them.
//!
//! The keeper opens them, which is still among the host's files, while PID 1 prepares the root they are for. So
//! nothing of the host has to be reachable from inside while the root is built.

#![expect(unsafe_code, reason = "an idmap needs a fork")]
// UNSAFETY: `mount_map` forks; the keeper has one thread.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use skep_kernel::SyscallError;
use skep_kernel::idmap;
use skep_kernel::mount::{Attributes, Change, Depth, Resolve, change, copy_tree, open_at};
use skep_kernel::view::with_rights_of;
use skep_policy::launch::{Ids, ObjectKind, Plan, RootOp, Stage};

use crate::failure::{At, Failure};

/// One detached mount for each [`RootOp::Bind`], in order, as they are used up.
pub type Sources = std::vec::IntoIter<OwnedFd>;

/// Opens the sources of `ops`: one detached mount for each [`RootOp::Bind`], in order.
///
/// # Errors
/// The first that cannot be opened, is of another kind than the plan says, or cannot be mounted.
pub fn open<'a>(
    plan: &Plan,
    ops: impl Iterator<Item = &'a RootOp> + Clone,
    maps: &mut Maps,
) -> Result<Vec<OwnedFd>, Failure> {
    let mut objects = reach(plan.lookup, ops.clone())?.into_iter();
    let mut mounts = Vec::new();
    for op in ops {
        if let RootOp::Bind { from, kind, write, exec, owner_as_agent, .. } = op
            && let Some(object) = objects.next()
        {
            let add = Attributes::NO_SUID
                .and(Attributes::NO_DEVICES)
                .and_if(!write, Attributes::READ_ONLY)
                .and_if(!exec, Attributes::NO_EXEC);
            let idmap = owner_as_agent.map(|owner| maps.of(owner, plan.agent)).transpose()?;
            check_kind(&object, from, *kind)?;
            let mount = copy_tree(object.as_fd(), Depth::All, from).at(Stage::Root)?;
            let idmap = idmap.map(|index| maps.0[index].namespace.as_fd());
            change(mount.as_fd(), Depth::All, &Change { add, idmap }, from).at(Stage::Root)?;
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

/// The objects of `ops`, in order, each of which `lookup` must be able to reach without any link. All at once: to
/// become somebody else and oneself again takes longer than opening some.
fn reach<'a>(lookup: Ids, ops: impl Iterator<Item = &'a RootOp>) -> Result<Vec<OwnedFd>, Failure> {
    let root = File::open("/").map_err(|error| SyscallError::from_io("open", "/", &error)).at(Stage::Root)?;
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let open = |from: &Path| open_at(root.as_fd(), from, flags, 0, Resolve::Host);
    let objects = ops.filter_map(|op| match op {
        RootOp::Bind { from, .. } => Some(open(from)),
        _ => None,
    });
    with_rights_of(lookup, || objects.collect()).flatten().at(Stage::Root)
}

/// The plan was made a moment ago; what is no longer of the kind it saw was exchanged since.
fn check_kind(object: &OwnedFd, path: &Path, kind: ObjectKind) -> Result<(), Failure> {
    let status = fstat(object)
        .map_err(|errno| SyscallError::from_nix("fstat", path.display().to_string(), errno))
        .at(Stage::Root)?;
    let is_directory = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    match (kind, is_directory) {
        (ObjectKind::Directory, true) | (ObjectKind::File, false) => Ok(()),
        (ObjectKind::Directory, false) => {
            Err(Failure::new(Stage::Root, path.display().to_string(), Errno::ENOTDIR))
        }
        (ObjectKind::File, true) => Err(Failure::new(Stage::Root, path.display().to_string(), Errno::EISDIR)),
    }
}

/// User namespaces for idmapped mounts.
#[derive(Debug, Default)]
pub struct Maps(Vec<Map>);

#[derive(Debug)]
struct Map {
    owner: Ids,
    shown: Ids,
    namespace: OwnedFd,
}

impl Maps {
    /// The index of the one that shows `owner` as `shown`; made if there is none yet, which takes longer than all
    /// else of a mount.
    ///
    /// # Errors
    /// When the namespace or its maps are refused.
    pub fn of(&mut self, owner: Ids, shown: Ids) -> Result<usize, Failure> {
        if let Some(index) = self.0.iter().position(|map| (map.owner, map.shown) == (owner, shown)) {
            return Ok(index);
        }
        // SAFETY: the keeper has one thread.
        let namespace = unsafe { idmap::mount_map(owner, shown) }.at(Stage::Root)?;
        self.0.push(Map { owner, shown, namespace });
        Ok(self.0.len() - 1)
    }
}
