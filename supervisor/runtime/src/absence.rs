//! Is there anything at a path that no rule grants?
//!
//! A sandbox's root holds only what was granted, so what is not granted and what is nowhere both answer ENOENT.
//! Agents look for dozens of files that hardly any host has; such a probe is no denial. The host is asked with
//! the rights of the sandbox's owner, who could read the answer between the lines of his audit, and only where
//! nobody can keep the answer waiting: on local file systems.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_kernel::mountinfo::{self, Mounted};
use skep_kernel::view::with_rights_of;
use skep_policy::launch::Ids;
use skep_policy::tree::{Found, Tree, walk};

use crate::view::look;

/// File systems on which a look-up waits for a disk at most.
const LOCAL: [&str; 14] = [
    "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "sysfs",
    "tmpfs", "xfs", "zfs",
];

/// Answers one thread, whose supplementary groups are given up.
#[derive(Debug, Default)]
pub struct Absence {
    mounts: Option<LocalTree>,
}

impl Absence {
    /// What was mounted may have changed: it is read again when it is needed next.
    pub fn refresh(&mut self) {
        self.mounts = None;
    }

    /// Is there certainly nothing at `path`, as far as this user can see? No answer is a no.
    pub fn is_certain(&mut self, user: Ids, path: &Path) -> bool {
        if self.mounts.is_none() {
            self.mounts = mountinfo::mounted().ok().map(LocalTree::new);
        }
        let Some(tree) = &self.mounts else { return false };
        match with_rights_of(user, || walk(tree, path).found == Found::Missing) {
            Ok(is_missing) => is_missing,
            Err(error) => {
                tracing::error!(%error, "what exists on the host is not known");
                false
            }
        }
    }
}

/// The local part of the host's files: where each mount is, and whether it is local.
#[derive(Debug)]
struct LocalTree(BTreeMap<PathBuf, bool>);

impl LocalTree {
    fn new(mounts: Vec<Mounted>) -> Self {
        Self(mounts.into_iter().map(|mount| (mount.point, LOCAL.contains(&mount.kind.as_str()))).collect())
    }

    fn has(&self, path: &Path) -> bool {
        path.ancestors().find_map(|above| self.0.get(above)).is_some_and(|local| *local)
    }
}

impl Tree for LocalTree {
    fn look(&self, path: &Path) -> Found {
        if self.has(path) { look(path) } else { Found::Unreachable(libc::EXDEV) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mounted(point: &str, kind: &str) -> Mounted {
        Mounted { point: point.into(), root: "/".into(), kind: kind.into() }
    }

    #[test]
    fn the_deepest_mount_decides_and_the_last_of_several_at_one_place() {
        let tree = LocalTree::new(vec![
            mounted("/", "ext4"),
            mounted("/home", "nfs4"),
            mounted("/home/u/scratch", "xfs"),
            mounted("/mnt", "ext4"),
            mounted("/mnt", "fuse.sshfs"),
        ]);
        assert!(tree.has(Path::new("/etc/x")) && tree.has(Path::new("/home/u/scratch/x")));
        assert!(!tree.has(Path::new("/home/u")) && !tree.has(Path::new("/mnt/x")));
        assert_eq!(tree.look(Path::new("/home/u/x")), Found::Unreachable(libc::EXDEV));
    }

    #[test]
    fn root_only_what_is_hidden_from_the_user_is_not_certainly_absent() {
        std::thread::spawn(|| {
            let directory = tempfile::tempdir_in("/var/tmp").unwrap();
            let (root, nobody) = (Ids { uid: 0, gid: 0 }, Ids { uid: 65_533, gid: 65_533 });
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
            let path = |name: &str| directory.path().join(name);
            symlink("nothing", path("dangling")).unwrap();
            symlink("..", path("up")).unwrap();
            let mut absence = Absence::default();
            let mut absent = |user, name: &str| absence.is_certain(user, &path(name));
            assert!(
                absent(root, "a/b") && absent(root, "dangling") && !absent(root, "up") && !absent(root, "")
            );
            assert!(!absent(nobody, "a"));
        })
        .join()
        .unwrap();
    }
}
