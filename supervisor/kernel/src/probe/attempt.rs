//! The attempts, made in a process that exists for one of them, on its only thread.

// UNSAFETY: seccomp, landlock and the LSM list have no wrapper that only asks; an idmapped mount needs a
// fork.
#![expect(unsafe_code, reason = "asks the kernel by raw system calls")]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use skep_policy::launch::Ids;

use super::{ARGUMENT, Proof};
use crate::clone::{self, Ended, Side};
use crate::error::SyscallError;
use crate::filter::{self, AgentFilter};
use crate::mount::{self, Change, Depth, Resolve};
use crate::seqpacket::Channel;
use crate::{idmap, landlock, seccomp};

/// What to try.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Attempt {
    /// Confine itself with Landlock: [`LandlockAnswer`].
    Landlock,
    /// Load the agent's filter: [`SeccompAnswer`].
    Seccomp,
    /// Make a user namespace as nobody: [`Proof`].
    UserNamespace,
    /// Show the owner of a directory as somebody else: [`Proof`].
    Idmap(PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LandlockAnswer {
    pub(super) abi: u32,
    pub(super) proof: Proof,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SeccompAnswer {
    pub(super) proof: Proof,
    pub(super) listener: bool,
    pub(super) wait_killable: bool,
}

impl LandlockAnswer {
    pub(super) fn untried(why: String) -> Self {
        Self { abi: 0, proof: Proof::Untried(why) }
    }
}

impl SeccompAnswer {
    pub(super) fn untried(why: String) -> Self {
        Self { proof: Proof::Untried(why), listener: false, wait_killable: false }
    }
}

/// The whole program, where its first argument is [`ARGUMENT`]; `None` where it is not, and `main` goes on.
/// To be called before anything else, while the process has one thread.
#[must_use = "`main` must end with this code: a probe that goes on becomes the program again"]
pub fn child_main() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == ARGUMENT).then(serve)
}

/// Makes the one attempt that is asked for on standard input, and answers there.
pub(super) fn serve() -> ExitCode {
    let channel = match std::io::stdin().as_fd().try_clone_to_owned().map(Channel::from_socket) {
        Ok(Ok(channel)) => channel,
        _ => return ExitCode::FAILURE,
    };
    let Ok(Some((attempt, _))) = channel.receive() else { return ExitCode::FAILURE };
    let sent = match attempt {
        Attempt::Landlock => channel.send(&try_landlock(), &[]),
        Attempt::Seccomp => channel.send(&try_seccomp(), &[]),
        Attempt::UserNamespace => channel.send(&try_user_namespace(), &[]),
        Attempt::Idmap(directory) => channel.send(&try_idmap(&directory), &[]),
    };
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn proven(result: Result<bool, SyscallError>) -> Proof {
    match result {
        Ok(true) => Proof::Works,
        Ok(false) => Proof::Ineffective,
        Err(error) => Proof::Refused(error.errno),
    }
}

/// Under a ruleset without rules nothing opens any more, not even the process's own status.
fn try_landlock() -> LandlockAnswer {
    const OWN: &str = "/proc/self/status";
    let confine = || {
        File::open(OWN).map_err(|error| SyscallError::from_io("open", OWN, &error))?;
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| SyscallError::from_nix("prctl", "PR_SET_NO_NEW_PRIVS", errno))?;
        landlock::apply(&[])?;
        Ok(File::open(OWN).is_err_and(|error| error.raw_os_error() == Some(libc::EACCES)))
    };
    LandlockAnswer { abi: landlock_abi(), proof: proven(confine()) }
}

fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no attributes, reads no memory and makes no descriptor.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// `chroot` of no path is EFAULT for everybody and EPERM under the agent's filter.
fn try_seccomp() -> SeccompAnswer {
    let filter = match filter::agent(AgentFilter::default()) {
        Ok(filter) => filter,
        Err(error) => return SeccompAnswer::untried(error.to_string()),
    };
    let (listener, wait_killable) = (has_listener(), has_wait_killable());
    let load = || {
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| SyscallError::from_nix("prctl", "PR_SET_NO_NEW_PRIVS", errno))?;
        let before = chroot_nowhere();
        seccomp::load(&filter)?;
        Ok(before == Errno::EFAULT && chroot_nowhere() == Errno::EPERM)
    };
    SeccompAnswer { proof: proven(load()), listener, wait_killable }
}

fn chroot_nowhere() -> Errno {
    // SAFETY: the kernel answers a null path with EFAULT; nothing is read or changed.
    unsafe { libc::syscall(libc::SYS_chroot, std::ptr::null::<u8>()) };
    Errno::last()
}

fn has_listener() -> bool {
    const ACTION_AVAILABLE: u32 = 2;
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: reads the four bytes of `action`.
    unsafe { libc::syscall(libc::SYS_seccomp, ACTION_AVAILABLE, 0, &raw const action) == 0 }
}

/// A kernel that knows the flags looks for the program (EFAULT), one that does not refuses them (EINVAL).
fn has_wait_killable() -> bool {
    const NEW_LISTENER: u32 = 8;
    const WAIT_KILLABLE: u32 = 0x20;
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE);
    // SAFETY: a null program is not read; no filter is loaded.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, std::ptr::null::<u8>()) };
    result == -1 && Errno::last() == Errno::EFAULT
}

/// As PID 1 of a sandbox does, without any privilege.
fn try_user_namespace() -> Proof {
    const NOBODY: u32 = 65534;
    let failed = |call| move |errno| SyscallError::from_nix(call, "nobody", errno);
    let drop_root = || {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[]).map_err(failed("setgroups"))?;
        setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
        setresuid(uid, uid, uid).map_err(failed("setresuid"))
    };
    if Uid::effective().is_root()
        && let Err(error) = drop_root()
    {
        return Proof::Untried(error.to_string());
    }
    proven(live_in_user_namespace())
}

fn live_in_user_namespace() -> Result<bool, SyscallError> {
    // SAFETY: this process exists for this attempt and has started no thread.
    match unsafe { clone::fork(CloneFlags::CLONE_NEWUSER, None) }? {
        Side::Parent(child) => Ok(child.wait()? == Ended::Code(0)),
        // SAFETY: ends the process without running anything else of ours.
        Side::Child => unsafe { libc::_exit(0) },
    }
}

/// The owner of the directory is shown as somebody else on a mount that nobody ever sees.
fn try_idmap(directory: &Path) -> Proof {
    const SHOWN: Ids = Ids { uid: 54321, gid: 54321 };
    let show = || {
        let root = File::open("/").map_err(|error| SyscallError::from_io("open", "/", &error))?;
        let object = mount::open_at(root.as_fd(), directory, libc::O_PATH, 0, Resolve::Host)?;
        let metadata = |fd| {
            File::from(fd).metadata().map_err(|error| SyscallError::from_io("fstat", "idmapped", &error))
        };
        let tree = mount::copy_tree(object.as_fd(), Depth::One, directory)?;
        let on_disk = metadata(object)?;
        let owner = Ids { uid: on_disk.uid(), gid: on_disk.gid() };
        // SAFETY: this process exists for this attempt and has started no thread.
        let map = unsafe { idmap::mount_map(owner, SHOWN) }?;
        let change = Change { add: mount::Attributes::NONE, idmap: Some(map.as_fd()) };
        mount::change(tree.as_fd(), Depth::One, &change, directory)?;
        let shown =
            metadata(mount::open_at(tree.as_fd(), Path::new("/"), libc::O_PATH, 0, Resolve::Inside)?)?;
        Ok((shown.uid(), shown.gid()) == (SHOWN.uid, SHOWN.gid))
    };
    proven(show())
}

/// The LSM list of the kernel itself, for hosts without securityfs.
///
/// Minimum kernel version: 6.8.
pub(super) fn list_lsms() -> Option<Vec<String>> {
    const LIST_MODULES: i64 = 461;
    let mut ids = [0_u64; 32];
    let mut bytes = u32::try_from(size_of_val(&ids)).ok()?;
    // SAFETY: the kernel writes at most `bytes` bytes of ids, which is what there is, and the size it used.
    let count = unsafe { libc::syscall(LIST_MODULES, ids.as_mut_ptr(), &raw mut bytes, 0) };
    let count = usize::try_from(count).ok()?;
    Some(ids.iter().take(count).map(|id| lsm_name(*id)).collect())
}

/// The names of include/uapi/linux/lsm.h, from 100.
fn lsm_name(id: u64) -> String {
    const NAMES: [&str; 14] = [
        "capability",
        "selinux",
        "smack",
        "tomoyo",
        "apparmor",
        "yama",
        "loadpin",
        "safesetid",
        "lockdown",
        "bpf",
        "landlock",
        "ima",
        "evm",
        "ipe",
    ];
    let name = id.checked_sub(100).and_then(|at| NAMES.get(usize::try_from(at).ok()?));
    name.map_or_else(|| format!("lsm-{id}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_lsms_are_those_of_the_kernel() {
        assert_eq!(lsm_name(100), "capability");
        assert_eq!(lsm_name(109), "bpf");
        assert_eq!(lsm_name(110), "landlock");
        assert_eq!(lsm_name(99), "lsm-99");
        assert_eq!(lsm_name(200), "lsm-200");
    }
}
