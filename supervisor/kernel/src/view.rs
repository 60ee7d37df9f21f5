//! Looking at the file system with somebody else's rights.
//!
//! `skepd` and its keepers are root, and the paths they look at come from profiles and callers. Whatever they learn
//! about a path must be what the caller could have learned himself, so these look-ups run on a thread whose file
//! system ids are the caller's meanwhile, and which has no capability in force.

// UNSAFETY: the C library's wrapper changes all threads of the process; only the raw call changes one.
#![expect(unsafe_code, reason = "raw per-thread setgroups")]

use std::path::Path;

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, getgroups};
use skep_policy::launch::Ids;

use crate::caps::{Capabilities, switch_file_ids};
use crate::error::SyscallError;

/// Runs `look` with the file system uid, gid and (no supplementary) groups of `ids` and returns its result.
///
/// The ids are properties of the calling thread, which has its own again afterwards, whatever `look` did: nothing
/// else of the process is touched. For a caller other than root no capability is in force meanwhile. Those over files
/// the kernel takes away by itself (capabilities(7), "Effect of user ID changes"); CAP_SYS_PTRACE, which it leaves,
/// would follow the links below `/proc` into any process.
///
/// It takes some 20 us (6.18): each change of credentials makes new ones.
///
/// # Errors
/// When the ids cannot be taken.
///
/// # Aborts
/// When the thread's own ids cannot be had back: its next work would be done as somebody else.
pub fn with_rights_of<T>(ids: Ids, look: impl FnOnce() -> T) -> Result<T, SyscallError> {
    let own = Ids { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() };
    let groups = getgroups().map_err(|errno| SyscallError::from_nix("getgroups", "", errno))?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    let capabilities = Capabilities::of_this_thread()?;
    let _own = Restored { ids: own, groups, capabilities };
    take(ids, &[])?;
    if ids.uid != 0 {
        capabilities.idle().take()?;
    }
    Ok(look())
}

/// What is the thread's own, taken back at the end, also by a panic.
struct Restored {
    ids: Ids,
    groups: Vec<u32>,
    capabilities: Capabilities,
}

impl Drop for Restored {
    fn drop(&mut self) {
        // The capabilities first: the groups need one.
        if self.capabilities.take().and_then(|()| take(self.ids, &self.groups)).is_err() {
            std::process::abort();
        }
    }
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
/// The raw system call is used because the C library's `setgroups` changes every thread of the process.
fn take(ids: Ids, groups: &[u32]) -> Result<(), SyscallError> {
    // SAFETY: setgroups reads as many ids as its first argument says.
    if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } != 0 {
        return Err(SyscallError::last("setgroups", "view"));
    }
    switch_file_ids(ids)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn root_only_a_private_directory_of_root_is_closed_to_another_user() {
        let nobody = Ids { uid: 65_533, gid: 65_533 };
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "x").unwrap();
        assert!(with_rights_of(nobody, || fs::read(&secret)).unwrap().is_err());
        // The thread is root's again.
        fs::read(&secret).unwrap();
        assert!(with_rights_of(Ids { uid: 0, gid: 0 }, || fs::read(&secret)).unwrap().is_ok());
        let may_change = || with_rights_of(nobody, || may_change(directory.path())).unwrap();
        assert_eq!(may_change().unwrap_err().errno, libc::EACCES);
        chown(directory.path(), Some(nobody.uid), None).unwrap();
        may_change().unwrap();
        assert!(with_rights_of(nobody, || fs::read(&secret)).unwrap().is_ok());
    }

    /// A process that sleeps in a directory everybody may enter.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn of(user: Ids) -> Self {
            let mut sleep = Command::new("/bin/sleep");
            sleep.arg("60").current_dir("/usr").uid(user.uid).gid(user.gid);
            Self(sleep.spawn().unwrap())
        }

        fn directory_as(&self, ids: Ids) -> bool {
            let path = format!("/proc/{}/cwd/bin", self.0.id());
            with_rights_of(ids, || fs::metadata(path)).unwrap().is_ok()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn root_only_the_links_of_a_process_lead_its_own_user_on_and_nobody_else() {
        let [root, nobody] = [0, 65_533].map(|id| Ids { uid: id, gid: id });
        let [of_root, of_nobody] = [root, nobody].map(Sleeper::of);
        assert!(of_root.directory_as(root) && of_nobody.directory_as(root) && of_nobody.directory_as(nobody));
        assert!(!of_root.directory_as(nobody));
        // The thread has its capabilities again.
        fs::metadata(format!("/proc/{}/cwd/bin", of_root.0.id())).unwrap();
        assert!(with_rights_of(nobody, Capabilities::of_this_thread).unwrap().unwrap().is_idle());
        assert!(!Capabilities::of_this_thread().unwrap().is_idle());
    }
}
