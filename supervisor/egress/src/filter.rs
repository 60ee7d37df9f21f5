//! The system calls the gateway needs once it is set up. Everything else is EPERM: no file is opened, no
//! program started, no process made or looked into, no memory becomes executable, and sockets are of the two
//! Internet families.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The table does not compile, or not for this machine.
    #[error("seccomp table: {0}")]
    Table(#[from] seccompiler::BackendError),
    /// The kernel refuses it.
    #[error("seccomp filter: {0}")]
    Load(#[from] seccompiler::Error),
}

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Bytes over descriptors that exist.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_close,
    libc::SYS_fcntl,
    // Sockets; `socket` itself is below. Nothing listens.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // The event loop.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    // Memory; `mmap` and `mprotect` are below.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_futex,
    libc::SYS_getrandom,
    // Signals and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older names of the above that only this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Puts the process (of one thread) under the filter, for good.
///
/// # Errors
/// When it does not compile or the kernel refuses it.
pub(crate) fn install() -> Result<(), FilterError> {
    Ok(seccompiler::apply_filter(&program()?)?)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|number| (*number, Vec::new())).collect();
    let of_family = |family: i32| {
        let kind = SeccompCmpOp::MaskedEq(0x0f);
        [equal(0, family), equal_by(1, kind.clone(), libc::SOCK_STREAM), equal_by(1, kind, libc::SOCK_DGRAM)]
    };
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let [family, stream, datagram] = of_family(family);
        let family = family?;
        sockets.push(SeccompRule::new(vec![family.clone(), stream?])?);
        sockets.push(SeccompRule::new(vec![family, datagram?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let never_executable = equal_by(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![never_executable])?]);
    }
    let nonblocking = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::FIONBIO)?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![nonblocking])?]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture)?.try_into()
}

fn equal(argument: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    equal_by(argument, SeccompCmpOp::Eq, value)
}

fn equal_by(
    argument: u8,
    by: SeccompCmpOp,
    value: i32,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, by, u64::from(value.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_compiles() {
        assert!(super::program().unwrap().len() > super::ALLOWED.len());
    }
}
