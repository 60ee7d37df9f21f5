//! Giving up everything before the first byte of an agent is read.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skep_kernel::{SyscallError, caps, landlock, process};
use skep_policy::launch::Ids;

use crate::filter::{self, FilterError};

/// Descriptors asked for; what the host's hard limit leaves of them is taken.
const DESCRIPTORS: u64 = 65_536;

/// Descriptors of one relayed connection: two sockets and, while both directions are blocked, two pipes.
const DESCRIPTORS_EACH: u64 = 6;

/// Why the gateway is not confined. It ends then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// The system call filter is not in force.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Root is asked to stay root.
    #[error("the gateway does not run with uid or gid 0")]
    Root,
}

/// Confines the process, which has one thread and has opened all files it needs.
///
/// There is no parent-death signal: it follows the thread that started us, and `skepd` has many. The end of
/// the control channel, which the event loop always hears, is the end of the gateway.
///
/// # Errors
/// The first thing that could not be given up.
pub fn confine(ids: Ids) -> Result<(), ConfineError> {
    if ids.uid == 0 || ids.gid == 0 {
        return Err(ConfineError::Root);
    }
    // Ids: nobody's, with no group besides. The bounding set first, for it needs what goes with the ids.
    caps::drop_bounding()?;
    caps::replace_groups(&[])?;
    caps::become_ids(ids)?;
    caps::empty_sets()?;
    // No way back, and no way in for others of these ids.
    caps::no_new_privileges()?;
    caps::not_dumpable()?;
    // 1, not 0: with 0 the kernel still runs a piped core_pattern's helper, as root.
    process::limit(libc::RLIMIT_CORE, 1)?;
    hide_files()?;
    filter::install()?;
    Ok(())
}

/// Lets the process have as many descriptors as the host grants and returns how many connections that is good
/// for: three quarters of them, the rest is for listeners, refusals and the resolver. Needs root.
///
/// # Errors
/// When the limit cannot be read.
pub fn connections() -> Result<usize, SyscallError> {
    let failed = |errno| SyscallError::from_nix("getrlimit", "RLIMIT_NOFILE", errno);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let wanted = if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_ok() {
        DESCRIPTORS
    } else {
        // Without CAP_SYS_RESOURCE the hard limit is what there is.
        let granted = hard.min(DESCRIPTORS);
        setrlimit(Resource::RLIMIT_NOFILE, granted, granted).map_err(failed)?;
        granted
    };
    Ok(usize::try_from(wanted / 4 * 3 / DESCRIPTORS_EACH).unwrap_or_default())
}

/// No file is reachable through Landlock either, where the kernel has it: the filter, the ids and this are
/// three layers, each of which denies alone.
fn hide_files() -> Result<(), SyscallError> {
    match landlock::apply(&[]) {
        Err(error) if [libc::ENOSYS, libc::EOPNOTSUPP].contains(&error.errno) => Ok(()),
        other => other,
    }
}
