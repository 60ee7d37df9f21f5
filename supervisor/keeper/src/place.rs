//! Places below a new root: found without following links, made where they are missing on a file system that was
//! made for the sandbox, and nowhere else.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::libc;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::symlinkat;
use skep_kernel::SyscallError;
use skep_kernel::mount::{Resolve, open_at};
use skep_policy::launch::{ObjectKind, Stage};

use crate::failure::{At, Failure};

const PATH: i32 = libc::O_PATH | libc::O_NOFOLLOW;

/// A root, and which file systems below it are the sandbox's own.
#[derive(Debug)]
pub struct Ground {
    root: OwnedFd,
    own: Vec<libc::dev_t>,
}

impl Ground {
    /// The root of the calling process.
    ///
    /// # Errors
    /// None while it is mounted.
    pub fn here() -> Result<Self, Failure> {
        let root =
            File::open("/").map_err(|error| SyscallError::from_io("open", "/", &error)).at(Stage::Root)?;
        Self::at(root.into())
    }

    fn at(root: OwnedFd) -> Result<Self, Failure> {
        let mut ground = Self { root, own: Vec::new() };
        let device = device(ground.root.as_fd())?;
        ground.own.push(device);
        Ok(ground)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Counts a file system made for the sandbox among its own.
    ///
    /// # Errors
    /// None for an open mount.
    pub fn add(&mut self, mount: BorrowedFd<'_>) -> Result<(), Failure> {
        self.own.push(device(mount)?);
        Ok(())
    }

    fn owns(&self, directory: BorrowedFd<'_>) -> Result<bool, Failure> {
        Ok(self.own.contains(&device(directory)?))
    }
}

fn device(fd: BorrowedFd<'_>) -> Result<libc::dev_t, Failure> {
    fstat(fd).map(|status| status.st_dev).map_err(|errno| Failure::new(Stage::Root, "fstat", errno))
}

/// The object at a path, which must be there.
///
/// # Errors
/// ENOENT, or ELOOP where a link is on the way.
pub fn existing(ground: &Ground, at: &Path) -> Result<OwnedFd, Failure> {
    open_at(ground.root(), at, PATH, 0, Resolve::Inside).at(Stage::Root)
}

/// Whether something is at a path.
///
/// # Errors
/// Anything but ENOENT, ELOOP for a link on the way among it.
pub fn exists(ground: &Ground, at: &Path) -> Result<bool, Failure> {
    match open_at(ground.root(), at, PATH, 0, Resolve::Inside) {
        Ok(_) => Ok(true),
        Err(error) if error.errno == libc::ENOENT => Ok(false),
        Err(error) => Err(error).at(Stage::Root),
    }
}

/// The mount point at a path, made with its parents where they are missing.
///
/// # Errors
/// EXDEV where something is missing on a file system of the host's.
pub fn target(ground: &Ground, at: &Path, kind: ObjectKind) -> Result<OwnedFd, Failure> {
    if !exists(ground, at)? {
        match kind {
            ObjectKind::Directory => drop(directory(ground, at)?),
            ObjectKind::File => make_file(ground, at, &[], 0)?,
        }
    }
    existing(ground, at)
}

/// The directory at a path, made with its parents where it is missing.
///
/// # Errors
/// EXDEV where it would have to be made on a file system of the host's.
pub fn directory(ground: &Ground, at: &Path) -> Result<OwnedFd, Failure> {
    if let Ok(found) = open_at(ground.root(), at, PATH | libc::O_DIRECTORY, 0, Resolve::Inside) {
        return Ok(found);
    }
    let (parent, name) = split(at)?;
    let parent = own_directory(ground, parent)?;
    make_one(parent.as_fd(), name, at, 0o755)?;
    open_at(ground.root(), at, PATH | libc::O_DIRECTORY, 0, Resolve::Inside).at(Stage::Root)
}

/// [`directory`], and it must be on a file system of the sandbox's own.
fn own_directory(ground: &Ground, at: &Path) -> Result<OwnedFd, Failure> {
    let found = directory(ground, at)?;
    if ground.owns(found.as_fd())? { Ok(found) } else { Err(call("openat2", at, Errno::EXDEV)) }
}

/// Makes a directory with a mode. One that is there is taken as it is.
///
/// # Errors
/// As for [`directory`].
pub fn make_directory(ground: &Ground, at: &Path, mode: u32) -> Result<(), Failure> {
    if exists(ground, at)? {
        return directory(ground, at).map(drop);
    }
    let (parent, name) = split(at)?;
    make_one(own_directory(ground, parent)?.as_fd(), name, at, mode)
}

fn make_one(parent: BorrowedFd<'_>, name: &Path, at: &Path, mode: u32) -> Result<(), Failure> {
    match mkdirat(parent, name, Mode::from_bits_truncate(mode)) {
        // Two launches into one template may make the same name at once.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(call("mkdirat", at, errno)),
    }
}

/// Makes a symbolic link; the same one may be there.
///
/// # Errors
/// EEXIST where something else is.
pub fn make_link(ground: &Ground, at: &Path, text: &Path) -> Result<(), Failure> {
    let (parent, name) = split(at)?;
    let parent = own_directory(ground, parent)?;
    match symlinkat(text, &parent, name) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) if readlinkat(&parent, name).is_ok_and(|there| there == text.as_os_str()) => {
            Ok(())
        }
        Err(errno) => Err(call("symlinkat", at, errno)),
    }
}

/// Makes a file with contents. An empty one may be there.
///
/// # Errors
/// As for [`directory`]; EEXIST for a file with contents.
pub fn make_file(ground: &Ground, at: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let (parent, name) = split(at)?;
    let parent = own_directory(ground, parent)?;
    let exclusive = if bytes.is_empty() { 0 } else { libc::O_EXCL };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_NOFOLLOW | exclusive;
    let file = open_at(parent.as_fd(), name, flags, mode & 0o7777, Resolve::Inside).at(Stage::Root)?;
    File::from(file)
        .write_all(bytes)
        .map_err(|error| SyscallError::from_io("write", at.display().to_string(), &error))
        .at(Stage::Root)
}

/// Parent and name of an absolute path without `.` or `..`.
fn split(at: &Path) -> Result<(&Path, &Path), Failure> {
    let plain = at.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match (at.parent(), at.file_name()) {
        (Some(parent), Some(name)) if plain && at.is_absolute() => Ok((parent, Path::new(name))),
        _ => Err(call("openat2", at, Errno::EINVAL)),
    }
}

fn call(name: &'static str, at: &Path, errno: Errno) -> Failure {
    Failure::new(Stage::Root, format!("{name}({})", at.display()), errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Ground) {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        (dir, Ground::at(root.into()).unwrap())
    }

    #[test]
    fn a_missing_target_is_made_with_its_parents() {
        let (dir, root) = root();
        target(&root, Path::new("/a/b/c"), ObjectKind::File).unwrap();
        assert!(dir.path().join("a/b/c").is_file());
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let (dir, root) = root();
        std::os::unix::fs::symlink("/tmp", dir.path().join("a")).unwrap();
        let failure = target(&root, Path::new("/a/b"), ObjectKind::Directory).unwrap_err();
        assert_eq!(failure.errno, libc::ELOOP);
    }

    #[test]
    fn a_mount_point_may_be_made_below_an_own_file_system() {
        let (dir, root) = root();
        directory(&root, Path::new("/tmp")).unwrap();
        target(&root, Path::new("/tmp/a/b"), ObjectKind::Directory).unwrap();
        assert!(dir.path().join("tmp/a/b").is_dir());
    }

    #[test]
    fn nothing_is_made_on_a_file_system_of_the_hosts() {
        let (_dir, mut root) = root();
        root.own.clear();
        assert_eq!(directory(&root, Path::new("/a")).unwrap_err().errno, libc::EXDEV);
    }

    #[test]
    fn dot_dot_is_refused() {
        let (_dir, root) = root();
        let failure = directory(&root, Path::new("/a/../b")).unwrap_err();
        assert_eq!(failure.errno, libc::EINVAL);
    }

    #[test]
    fn the_same_link_twice_is_fine_and_another_is_not() {
        let (_dir, root) = root();
        let at = Path::new("/bin");
        make_link(&root, at, Path::new("usr/bin")).unwrap();
        make_link(&root, at, Path::new("usr/bin")).unwrap();
        let failure = make_link(&root, at, Path::new("usr/sbin")).unwrap_err();
        assert_eq!(failure.errno, libc::EEXIST);
    }

    #[test]
    fn a_file_with_contents_is_not_written_over() {
        let (_dir, root) = root();
        make_file(&root, Path::new("/f"), b"one", 0o644).unwrap();
        assert_eq!(make_file(&root, Path::new("/f"), b"two", 0o644).unwrap_err().errno, libc::EEXIST);
    }
}
