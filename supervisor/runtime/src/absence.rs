//! Is there anything at a path that no rule grants?
//!
//! A sandbox's root holds only what was granted, so what is not granted and what is nowhere both answer ENOENT.
//! Agents look for dozens of files that hardly any host has; such a probe is no denial. The host is asked with
//! the rights of the sandbox's owner, who could read the answer between the lines of his audit, and only where
//! nobody can keep the answer waiting: on local file systems, and with a bound on how far links may lead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_kernel::SyscallError;
use skep_kernel::mountinfo::{Mounted, Table};
use skep_kernel::view::with_rights_of;
use skep_policy::launch::Ids;
use skep_policy::tree::{Bounded, Found, Tree, walk};

use crate::view::look;

/// File systems on which a look-up waits for a disk at most.
const LOCAL: [&str; 14] = [
    "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "sysfs",
    "tmpfs", "xfs", "zfs",
];

/// Names that are looked at for one answer. Probes have a dozen; forty links may have eighty thousand, which took a
/// third of a second.
const LOOKS: usize = 64;

/// Answers one thread, whose supplementary groups are given up.
#[derive(Debug, Default)]
pub struct Absence {
    table: Option<Table>,
    mounts: LocalTree,
}

impl Absence {
    /// Is there certainly nothing at `path`, as far as this user can see? No answer is a no.
    pub fn is_certain(&mut self, user: Ids, path: &Path) -> bool {
        let is_missing = self.learn().and_then(|()| {
            let tree = Bounded::new(&self.mounts, LOOKS);
            with_rights_of(user, || walk(&tree, path).found == Found::Missing)
        });
        is_missing.unwrap_or_else(|error| {
            tracing::error!(%error, "what exists on the host is not known");
            false
        })
    }

    /// Reads what is mounted where, if that has changed.
    fn learn(&mut self) -> Result<(), SyscallError> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(Table::open()?),
        };
        if let Some(mounts) = table.changed()? {
            self.mounts = LocalTree::new(mounts);
        }
        Ok(())
    }
}

/// The local part of the host's files: where each mount is, and whether it is local.
#[derive(Debug, Default)]
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

    #[test]
    fn root_only_nobody_knows_what_is_behind_links_that_lead_to_and_fro() {
        std::thread::spawn(|| {
            let directory = tempfile::tempdir_in("/var/tmp").unwrap();
            let path = |name: &str| directory.path().join(name);
            std::fs::create_dir(path("d")).unwrap();
            for number in 0..10 {
                symlink(format!("{}{}", "d/../".repeat(10), number + 1), path(&number.to_string())).unwrap();
            }
            let root = Ids { uid: 0, gid: 0 };
            let absent = |name: &str| Absence::default().is_certain(root, &path(name));
            assert!(absent("9") && absent("6") && !absent("0"));
        })
        .join()
        .unwrap();
    }
}
