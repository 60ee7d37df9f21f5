//! The mount API of Linux 5.2 and later: mounts are made detached, given their attributes, and moved into
//! place by descriptor, so that no path is resolved twice and no mount is ever visible half-made.
//!
//! Minimum kernel version: 5.12 (mount_setattr).

// UNSAFETY: the calls of this API have no wrapper in libc.
#![expect(unsafe_code, reason = "the mount API is raw system calls")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{SyscallError, check};

/// Attributes of a mount, the `MOUNT_ATTR_*` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// No attribute.
    pub const NONE: Self = Self(0);
    /// Read-only.
    pub const READ_ONLY: Self = Self(0x1);
    /// Set-user-ID bits and file capabilities are ignored.
    pub const NO_SUID: Self = Self(0x2);
    /// Device nodes do not open.
    pub const NO_DEVICES: Self = Self(0x4);
    /// Nothing on it is executed or mapped executable.
    pub const NO_EXEC: Self = Self(0x8);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Adds `other` if `condition` holds.
    #[must_use]
    pub const fn and_if(self, condition: bool, other: Self) -> Self {
        if condition { self.and(other) } else { self }
    }
}

const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC.cast_unsigned();
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Whether an operation concerns the mounts below as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// This mount only.
    One,
    /// This mount and all below it.
    All,
}

/// Makes a file system and a detached mount of it. `settings` are names with their values.
///
/// # Errors
/// When the kernel does not know the file system or an option, or refuses it.
pub fn new_filesystem(
    kind: &'static str,
    settings: &[(&'static str, &str)],
    attributes: Attributes,
) -> Result<OwnedFd, SyscallError> {
    let name = text(kind);
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context, "fsopen", || kind.into())?;
    for (key, value) in settings {
        fsconfig(context.as_fd(), FSCONFIG_SET_STRING, Some(key), Some(value), kind)?;
    }
    fsconfig(context.as_fd(), FSCONFIG_CMD_CREATE, None, None, kind)?;
    // SAFETY: takes three integers.
    let mount =
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes.0) };
    owned(mount, "fsmount", || kind.into())
}

fn fsconfig(
    context: BorrowedFd<'_>,
    command: u32,
    key: Option<&str>,
    value: Option<&str>,
    kind: &str,
) -> Result<(), SyscallError> {
    let [key_text, value_text] = [key, value].map(|part| part.map(text));
    let [key_at, value_at] =
        [&key_text, &value_text].map(|part| part.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()));
    let fd = context.as_raw_fd();
    // SAFETY: both pointers are null or NUL-terminated strings that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key_at, value_at, 0) };
    check(result, "fsconfig", || format!("{kind} {}={}", key.unwrap_or_default(), value.unwrap_or_default()))
        .map(drop)
}

/// A detached copy of the mount under an object (a bind mount that is not attached yet).
///
/// # Errors
/// EINVAL when the object's mount is not in the caller's mount namespace.
pub fn copy_tree(object: BorrowedFd<'_>, depth: Depth, name: &Path) -> Result<OwnedFd, SyscallError> {
    let recursive = if depth == Depth::All { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | recursive;
    // SAFETY: the path is an empty NUL-terminated string.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, object.as_raw_fd(), c"".as_ptr(), flags) };
    owned(tree, "open_tree", || name.display().to_string())
}

/// What [`change`] does to a mount.
#[derive(Debug)]
pub struct Change<'a> {
    /// Attributes to add.
    pub add: Attributes,
    /// A user namespace whose map the mount shows owners through.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// Adds attributes to a mount and takes it (and those below, by depth) out of every propagation.
///
/// # Errors
/// EINVAL when a file system below cannot be idmapped, EPERM when the mount is locked.
pub fn change(
    mount: BorrowedFd<'_>,
    depth: Depth,
    change: &Change<'_>,
    name: &Path,
) -> Result<(), SyscallError> {
    let attr = MountAttr {
        set: change.add.0 | if change.idmap.is_some() { MOUNT_ATTR_IDMAP } else { 0 },
        clear: 0,
        propagation: libc::MS_PRIVATE,
        userns: change.idmap.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let flags = AT_EMPTY_PATH | if depth == Depth::All { AT_RECURSIVE } else { 0 };
    let fd = mount.as_raw_fd();
    let size = size_of::<MountAttr>();
    // SAFETY: the path is an empty NUL-terminated string, `attr` a whole mount_attr of the size given.
    let result =
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size) };
    check(result, "mount_setattr", || name.display().to_string()).map(drop)
}

/// Attaches a detached mount on top of an object.
///
/// # Errors
/// ENOTDIR when one is a directory and the other is not.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &Path) -> Result<(), SyscallError> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to, empty) = (mount.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    // SAFETY: both paths are empty NUL-terminated strings.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) };
    check(result, "move_mount", || name.display().to_string()).map(drop)
}

/// Makes an attached mount the root of the mount namespace and of the caller, and lets go of the old root with
/// all that is mounted on it.
///
/// # Errors
/// EINVAL when the present root is the initial ramfs, which cannot be pivoted away.
pub fn replace_root(new_root: BorrowedFd<'_>) -> Result<(), SyscallError> {
    let into = |errno| SyscallError::from_nix("fchdir", "new root", errno);
    nix::unistd::fchdir(new_root).map_err(into)?;
    // The old root ends up on top of the new one, at ".", where it can be detached without a directory for it.
    // SAFETY: both arguments are NUL-terminated strings.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(result, "pivot_root", || ".".into())?;
    // SAFETY: the argument is a NUL-terminated string.
    let result = unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) };
    check(result, "umount2", || "old root".into())?;
    nix::unistd::chdir("/").map_err(|errno| SyscallError::from_nix("chdir", "/", errno))
}

/// How [`open_at`] resolves a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// From the process's root; no component may be a symbolic or magic link.
    Host,
    /// The directory counts as the root; no component may be a symbolic or magic link.
    Inside,
}

/// Opens a path, with `flags` as for `open` plus O_CLOEXEC.
///
/// # Errors
/// ELOOP when a link is on the way.
pub fn open_at(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: i32,
    mode: u32,
    resolve: Resolve,
) -> Result<OwnedFd, SyscallError> {
    let bytes = match (resolve, path.as_os_str().as_bytes()) {
        (Resolve::Inside, b"/") => b".",
        (_, bytes) => bytes,
    };
    let name = CString::new(bytes)
        .map_err(|_nul| SyscallError::new("openat2", path.display().to_string(), libc::EINVAL))?;
    let links = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
        mode: u64::from(mode),
        resolve: match resolve {
            Resolve::Host => links,
            Resolve::Inside => links | libc::RESOLVE_IN_ROOT,
        },
    };
    let fd = directory.as_raw_fd();
    let size = size_of::<OpenHow>();
    // SAFETY: `name` is NUL-terminated, `how` a whole open_how of the size given.
    let result = unsafe { libc::syscall(libc::SYS_openat2, fd, name.as_ptr(), &raw const how, size) };
    owned(result, "openat2", || path.display().to_string())
}

/// `struct open_how`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn owned(result: i64, call: &'static str, object: impl FnOnce() -> String) -> Result<OwnedFd, SyscallError> {
    let fd = check(result, call, object)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// A C string of a name or value of ours; one with a NUL inside is cut there, which the kernel then refuses.
fn text(value: &str) -> CString {
    let end = value.find('\0').unwrap_or(value.len());
    CString::new(&value[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    fn check_open(path: &str, resolve: Resolve) -> Result<OwnedFd, i32> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        open_at(root.as_fd(), Path::new(path), libc::O_RDONLY, 0, resolve).map_err(|error| error.errno)
    }

    #[test]
    fn a_plain_path_opens_inside() {
        check_open("/real/file", Resolve::Inside).unwrap();
        check_open("/", Resolve::Inside).unwrap();
    }

    #[test]
    fn no_link_is_followed() {
        assert_eq!(check_open("/link/file", Resolve::Inside).unwrap_err(), libc::ELOOP);
        assert_eq!(check_open("/link", Resolve::Inside).unwrap_err(), libc::ELOOP);
    }

    #[test]
    fn dot_dot_does_not_leave_the_inside() {
        check_open("/../../real/file", Resolve::Inside).unwrap();
        assert_eq!(check_open("/../../etc/passwd", Resolve::Inside).unwrap_err(), libc::ENOENT);
    }
}
