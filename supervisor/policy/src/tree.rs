//! What exists on the host, as facts; and the walk along a path that resolves its symbolic links.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::launch::{Ids, ObjectKind};

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// `ELOOP`.
const ELOOP: i32 = 40;

/// Whether a path is `root` or lies below it.
///
/// Both are absolute and normal: no `.`, no `..`, no doubled slash, none at the end. Then their bytes can be compared,
/// which takes a tenth of what [`Path::starts_with`] does, and a launch asks ten thousand times.
#[must_use]
pub(crate) fn within(path: &Path, root: &Path) -> bool {
    let rest = path.as_os_str().as_bytes().strip_prefix(root.as_os_str().as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || root.as_os_str().len() == 1)
}

/// How many components an absolute, normal path has, the root counted.
pub(crate) fn depth(path: &Path) -> usize {
    let bytes = path.as_os_str().as_bytes();
    bytes.iter().filter(|byte| **byte == b'/').count() + usize::from(bytes.len() > 1)
}

/// What is found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A directory and its owner on disk.
    Directory(Ids),
    /// A regular file and its owner on disk.
    File(Ids),
    /// A socket, pipe or device and its owner on disk.
    Other(Ids),
    /// A symbolic link and its text.
    Symlink(PathBuf),
    /// The caller may not look there, or it failed: the errno.
    Unreachable(i32),
}

impl Found {
    /// How it is mounted; `None` when there is nothing to mount.
    #[must_use]
    pub fn kind(&self) -> Option<ObjectKind> {
        match self {
            Self::Directory(_) => Some(ObjectKind::Directory),
            Self::File(_) | Self::Other(_) => Some(ObjectKind::File),
            Self::Missing | Self::Symlink(_) | Self::Unreachable(_) => None,
        }
    }

    /// The owner on disk.
    #[must_use]
    pub fn owner(&self) -> Option<Ids> {
        match self {
            Self::Directory(owner) | Self::File(owner) | Self::Other(owner) => Some(*owner),
            Self::Missing | Self::Symlink(_) | Self::Unreachable(_) => None,
        }
    }
}

/// The facts about the host's files. Implementations look with the caller's ids.
pub trait Tree {
    /// What is at `path`, without following its last component. The path is absolute, and no directory in
    /// it is a symbolic link: each was looked at before.
    fn look(&self, path: &Path) -> Found;
}

/// A tree that answers so many looks, and then that it cannot be reached (`ELOOP`).
///
/// A walk looks once for each name, and one link may add two thousand of them: whoever may not take as long as somebody
/// else's links would have it walks in one of these.
#[derive(Debug)]
pub struct Bounded<'t, T> {
    tree: &'t T,
    left: Cell<usize>,
}

impl<'t, T> Bounded<'t, T> {
    /// The same tree for at most so many `looks`.
    pub fn new(tree: &'t T, looks: usize) -> Self {
        Self { tree, left: Cell::new(looks) }
    }
}

impl<T: Tree> Tree for Bounded<'_, T> {
    fn look(&self, path: &Path) -> Found {
        let Some(left) = self.left.get().checked_sub(1) else { return Found::Unreachable(ELOOP) };
        self.left.set(left);
        self.tree.look(path)
    }
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The path without any link; where something is missing, the rest as it was asked.
    pub real: PathBuf,
    /// The links met, in order: where each is, and its text.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// What is there; never a symbolic link.
    pub found: Found,
}

/// Follows a path. `path` is absolute.
#[must_use]
pub fn walk(tree: &dyn Tree, path: &Path) -> Walk {
    let mut walk = Walk { real: PathBuf::from("/"), links: Vec::new(), found: tree.look(Path::new("/")) };
    let mut rest = reversed(path);
    while let Some(name) = rest.pop() {
        if name.as_bytes() == b".." {
            walk.real.pop();
            continue;
        }
        let next = walk.real.join(&name);
        walk.found = tree.look(&next);
        match &walk.found {
            Found::Symlink(_) if walk.links.len() == MAX_LINKS => walk.found = Found::Unreachable(ELOOP),
            Found::Symlink(target) => {
                if target.is_absolute() {
                    walk.real = PathBuf::from("/");
                }
                rest.extend(reversed(target));
                walk.links.push((next, target.clone()));
                continue;
            }
            Found::Directory(_) => {
                walk.real = next;
                continue;
            }
            Found::File(_) | Found::Other(_) if rest.is_empty() => {}
            Found::File(_) | Found::Other(_) => walk.found = Found::Missing,
            Found::Missing | Found::Unreachable(_) => {}
        }
        walk.real = next;
        walk.real.extend(rest.drain(..).rev());
    }
    if matches!(walk.found, Found::Symlink(_)) || walk.real == Path::new("/") {
        walk.found = tree.look(&walk.real);
    }
    walk
}

fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

/// A tree in which every path is a directory without links: for checking a profile where there is no host.
#[derive(Clone, Copy, Debug)]
pub struct Imagined;

impl Tree for Imagined {
    fn look(&self, _path: &Path) -> Found {
        Found::Directory(Ids { uid: 1000, gid: 1000 })
    }
}

/// A tree held in memory, for tests.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    objects: std::collections::BTreeMap<PathBuf, Found>,
}

impl Sketch {
    /// Adds an object; missing directories above it are added with the same owner.
    #[must_use]
    pub fn with(mut self, path: &str, found: Found) -> Self {
        let owner = found.owner().unwrap_or(Ids { uid: 0, gid: 0 });
        for parent in Path::new(path).ancestors().skip(1) {
            self.objects.entry(parent.to_owned()).or_insert(Found::Directory(owner));
        }
        self.objects.insert(path.into(), found);
        self
    }
}

impl Tree for Sketch {
    fn look(&self, path: &Path) -> Found {
        self.objects.get(path).cloned().unwrap_or(Found::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ids = Ids { uid: 0, gid: 0 };

    proptest::proptest! {
        #[test]
        fn paths_compared_as_bytes_are_compared_as_paths(a in "(/[ab]{1,2}){0,4}", b in "(/[ab]{1,2}){0,3}") {
            let [a, b] = [a, b].map(|text| if text.is_empty() { "/".to_owned() } else { text });
            let (a, b) = (Path::new(&a), Path::new(&b));
            proptest::prop_assert_eq!(within(a, b), a.starts_with(b));
            proptest::prop_assert_eq!(depth(a), a.components().count());
        }
    }

    #[test]
    fn links_are_followed_wherever_they_stand() {
        let tree = Sketch::default()
            .with("/usr/bin/env", Found::File(ROOT))
            .with("/bin", Found::Symlink("usr/bin".into()))
            .with("/a/l", Found::Symlink("../bin".into()));
        let walked = walk(&tree, Path::new("/a/l/env"));
        assert_eq!((walked.real.as_path(), &walked.found), (Path::new("/usr/bin/env"), &Found::File(ROOT)));
        assert_eq!(walked.links.len(), 2);
        assert_eq!(walk(&tree, Path::new("/bin")).found, Found::Directory(ROOT));
        assert_eq!(walk(&tree, Path::new("/bin/no/such")).real, Path::new("/usr/bin/no/such"));
        assert_eq!(walk(&tree, Path::new("/bin/env/x")).found, Found::Missing);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let tree = Sketch::default().with("/l", Found::Symlink("l".into()));
        assert_eq!(walk(&tree, Path::new("/l")).found, Found::Unreachable(ELOOP));
    }

    #[test]
    fn a_walk_that_looks_too_often_is_told_that_it_goes_nowhere() {
        let tree = Sketch::default()
            .with("/x", Found::Directory(ROOT))
            .with("/l", Found::Symlink("x/../x/../x/../gone".into()));
        let found = |looks| walk(&Bounded::new(&tree, looks), Path::new("/l")).found;
        // The root, the link, three times x, and what is gone.
        assert_eq!([5, 6].map(found), [Found::Unreachable(ELOOP), Found::Missing]);
    }
}
