//! Looking at the file system with somebody else's rights.
//!
//! `skepd` is root, and the paths it looks at come from profiles and callers. Whatever it learns about a path
//! must be what the caller could have learned himself, so these look-ups run on a thread of their own whose
//! file system ids are the caller's.

// UNSAFETY: the C library's wrappers change all threads of the process; only the raw calls change one.
#![expect(unsafe_code, reason = "raw per-thread setfsuid, setfsgid and setgroups")]

use std::path::Path;
use std::thread;

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat, getegid, geteuid};
use skep_policy::launch::Ids;

use crate::error::SyscallError;

/// Runs `look` with the file system uid, gid and (empty) groups of `ids` and returns its result.
///
/// The ids are a property of the thread, which ends here: nothing else of the process is touched. For a caller
/// other than root the kernel also takes the thread's file capabilities away (capabilities(7), "Effect of user
/// ID changes").
///
/// # Errors
/// When the ids cannot be taken, or the thread cannot be started. A panic in `look` is passed on.
pub fn with_rights_of<T: Send>(ids: Ids, look: impl FnOnce() -> T + Send) -> Result<T, SyscallError> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("view".to_owned())
            .spawn_scoped(scope, move || {
                take(ids)?;
                Ok(look())
            })
            .map_err(|error| SyscallError::from_io("clone", "view thread", &error))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The same on the calling thread, for one that looks again and again: it has the ids of the process again
/// afterwards, but gives up its supplementary groups for good.
///
/// # Errors
/// When the ids cannot be taken or given back.
pub fn briefly_with_rights_of<T>(ids: Ids, look: impl FnOnce() -> T) -> Result<T, SyscallError> {
    take(ids)?;
    let seen = look();
    take(Ids { uid: geteuid().as_raw(), gid: getegid().as_raw() })?;
    Ok(seen)
}

/// Whether the ids of [`with_rights_of`] may make and remove names in a directory.
///
/// Minimum kernel version: 5.8. Its `faccessat2` asks with the thread's own file system ids; the older call
/// would ask with the real ones, which are root's.
///
/// # Errors
/// EACCES when they may not, EROFS when nobody may.
pub fn may_change(directory: &Path) -> Result<(), SyscallError> {
    let needed = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(nix::fcntl::AT_FDCWD, directory, needed, AtFlags::AT_EACCESS)
        .map_err(|errno| SyscallError::from_nix("faccessat", directory.display().to_string(), errno))
}

/// Takes the ids for the calling thread alone.
///
/// The raw system calls are used because the C library's `setgroups` changes every thread of the process.
fn take(ids: Ids) -> Result<(), SyscallError> {
    // SAFETY: setgroups reads as many ids as its first argument says: none, so the null pointer is not read.
    if unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) } != 0 {
        return Err(SyscallError::last("setgroups", "view thread"));
    }
    // SAFETY: setfsgid takes an integer and touches no memory.
    unsafe { libc::syscall(libc::SYS_setfsgid, ids.gid) };
    // SAFETY: setfsuid takes an integer and touches no memory.
    unsafe { libc::syscall(libc::SYS_setfsuid, ids.uid) };
    // Both report the previous id whether or not they succeeded; asking again with an invalid id tells.
    // SAFETY: as above.
    let uid = unsafe { libc::syscall(libc::SYS_setfsuid, -1) };
    // SAFETY: as above.
    let gid = unsafe { libc::syscall(libc::SYS_setfsgid, -1) };
    if uid == i64::from(ids.uid) && gid == i64::from(ids.gid) {
        return Ok(());
    }
    Err(SyscallError::new("setfsuid", "view thread", libc::EPERM))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn root_only_a_private_directory_of_root_is_closed_to_another_user() {
        let nobody = Ids { uid: 65_533, gid: 65_533 };
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "x").unwrap();
        assert!(with_rights_of(nobody, || fs::read(&secret)).unwrap().is_err());
        let root = Ids { uid: 0, gid: 0 };
        let briefly = || briefly_with_rights_of(nobody, || fs::read(&secret)).unwrap().is_err();
        assert!(with_rights_of(root, || briefly() && fs::read(&secret).is_ok()).unwrap());
        assert!(with_rights_of(Ids { uid: 0, gid: 0 }, || fs::read(&secret)).unwrap().is_ok());
        let may_change = || with_rights_of(nobody, || may_change(directory.path())).unwrap();
        assert_eq!(may_change().unwrap_err().errno, libc::EACCES);
        chown(directory.path(), Some(nobody.uid), None).unwrap();
        may_change().unwrap();
        assert!(with_rights_of(nobody, || fs::read(&secret)).unwrap().is_ok());
    }
}
