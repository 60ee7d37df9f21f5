//! Credentials: ids, capabilities and the switches of `prctl` that give privileges away for good.

// UNSAFETY: per-thread credential calls are made raw, for errno and because only one thread exists.
#![expect(unsafe_code, reason = "prctl, capset and setfsuid are raw system calls")]

use nix::unistd::{Gid, Uid, seteuid, setgroups, setresgid, setresuid};
use skep_policy::launch::Ids;

use crate::error::{SyscallError, check};

/// Empties the bounding set alone, for a process that still has ids to change.
///
/// It is walked until the kernel knows no further number, so that a capability younger than this code goes too.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn drop_bounding() -> Result<(), SyscallError> {
    for number in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, number, "PR_CAPBSET_DROP") {
            Err(error) if error.errno == libc::EINVAL => break,
            other => other?,
        };
    }
    Ok(())
}

/// Empties the ambient, inheritable, permitted and effective sets, which anybody may.
///
/// # Errors
/// None on a kernel of this decade.
pub fn empty_sets() -> Result<(), SyscallError> {
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, "PR_CAP_AMBIENT_CLEAR_ALL") {
        // Kernels without ambient capabilities (before 4.3) have none to clear.
        Err(error) if error.errno == libc::EINVAL => {}
        other => other?,
    }
    Capabilities::default().take()
}

/// The capability sets of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capabilities([Sets; 2]);

impl Capabilities {
    /// Those of the calling thread.
    pub(crate) fn of_this_thread() -> Result<Self, SyscallError> {
        let (header, mut sets) = (HEADER, [Sets::default(); 2]);
        // SAFETY: version 3 of the header goes with two sets, as given.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
        check(result, "capget", || "this thread".into())?;
        Ok(Self(sets))
    }

    /// The same, none of them in force. Whoever may have them can put them in force again.
    pub(crate) fn idle(self) -> Self {
        Self(self.0.map(|sets| Sets { effective: 0, ..sets }))
    }

    /// Is none of them in force?
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.0.iter().all(|sets| sets.effective == 0)
    }

    /// Makes these the calling thread's.
    pub(crate) fn take(&self) -> Result<(), SyscallError> {
        let header = HEADER;
        // SAFETY: version 3 of the header goes with two sets, as given.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, self.0.as_ptr()) };
        check(result, "capset", || "this thread".into()).map(drop)
    }
}

/// _LINUX_CAPABILITY_VERSION_3, the calling thread.
const HEADER: Header = Header { version: 0x2008_0522, pid: 0 };

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes the ids real, effective, saved and of the file system. Group first: after the user there is no right
/// to change it.
///
/// # Errors
/// EINVAL when an id is not mapped in the user namespace, EPERM without the right.
pub fn become_ids(ids: Ids) -> Result<(), SyscallError> {
    let gid = Gid::from_raw(ids.gid);
    setresgid(gid, gid, gid)
        .map_err(|errno| SyscallError::from_nix("setresgid", ids.gid.to_string(), errno))?;
    let uid = Uid::from_raw(ids.uid);
    setresuid(uid, uid, uid).map_err(|errno| SyscallError::from_nix("setresuid", ids.uid.to_string(), errno))
}

/// Changes the effective user, and that of the file system, but no capability: whoever is root otherwise can go back.
/// The signal of [`die_with_parent`] is forgotten.
///
/// # Errors
/// EPERM without CAP_SETUID.
pub fn act_as(uid: u32) -> Result<(), SyscallError> {
    // Leaving root puts all capabilities out of force; they stay permitted while another of the ids is root's.
    let held = Capabilities::of_this_thread()?;
    seteuid(Uid::from_raw(uid)).map_err(|errno| SyscallError::from_nix("seteuid", uid.to_string(), errno))?;
    held.take()
}

/// Replaces all supplementary groups.
///
/// # Errors
/// EPERM without CAP_SETGID.
pub fn replace_groups(gids: &[u32]) -> Result<(), SyscallError> {
    let groups: Vec<Gid> = gids.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(|errno| SyscallError::from_nix("setgroups", format!("{gids:?}"), errno))
}

/// Sets both file system ids of the calling thread and proves it, for the calls report no error.
pub(crate) fn switch_file_ids(ids: Ids) -> Result<(), SyscallError> {
    // The group first, while the capability for it is there; on the way back root's group needs none, as the
    // effective group is root's all the time.
    // SAFETY: takes an integer.
    unsafe { libc::setfsgid(ids.gid) };
    // SAFETY: takes an integer.
    unsafe { libc::setfsuid(ids.uid) };
    // An impossible id changes nothing and returns the one in force.
    // SAFETY: takes an integer.
    let gid = unsafe { libc::setfsgid(u32::MAX) };
    // SAFETY: takes an integer.
    let uid = unsafe { libc::setfsuid(u32::MAX) };
    if gid.cast_unsigned() == ids.gid && uid.cast_unsigned() == ids.uid {
        return Ok(());
    }
    Err(SyscallError::new("setfsuid", format!("{}:{}", ids.uid, ids.gid), libc::EPERM))
}

/// No exec of this thread or its children gains privileges any more.
///
/// # Errors
/// None on a kernel of this decade.
pub fn no_new_privileges() -> Result<(), SyscallError> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")
}

/// The process cannot be traced or looked into by its own user, and leaves no core.
///
/// # Errors
/// None on a kernel of this decade.
pub fn not_dumpable() -> Result<(), SyscallError> {
    prctl(libc::PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")
}

/// The process is killed when the thread that made it ends. A change of credentials clears this.
///
/// # Errors
/// None on a kernel of this decade.
pub fn die_with_parent() -> Result<(), SyscallError> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, "PR_SET_PDEATHSIG")
}

fn prctl(option: libc::c_int, argument: u64, name: &'static str) -> Result<(), SyscallError> {
    // SAFETY: every option used here takes plain integers.
    let result = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    check(result, "prctl", || name.into()).map(drop)
}
