//! The rest of the kernel's surface: privileged calls, other entry points, identity and priority.

use std::ffi::CString;

use crate::report;
use crate::sys::{Answer, address, address_mut, call, call_i386, low_page};

const NOWHERE: usize = 0;

/// Calls that nobody in a sandbox needs. The arguments are such that a kernel which lets the caller through
/// answers with an error and does nothing; getting as far as that error is what is reported as done.
pub(crate) fn sweep() {
    let none = usize::MAX;
    let calls: [(&str, i64, &[usize]); 22] = [
        ("bpf", libc::SYS_bpf, &[0, NOWHERE, 48]),
        ("perf_event_open", libc::SYS_perf_event_open, &[NOWHERE, 0, 0, none, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, &[0]),
        ("kexec_load", libc::SYS_kexec_load, &[0, 0, NOWHERE, none]),
        ("kexec_file_load", libc::SYS_kexec_file_load, &[none, none, 0, NOWHERE, none]),
        ("init_module", libc::SYS_init_module, &[NOWHERE, 0, NOWHERE]),
        ("finit_module", libc::SYS_finit_module, &[none, NOWHERE, 0]),
        ("delete_module", libc::SYS_delete_module, &[NOWHERE, 0]),
        ("quotactl", libc::SYS_quotactl, &[none, NOWHERE, 0, 0]),
        ("swapon", libc::SYS_swapon, &[NOWHERE, 0]),
        ("swapoff", libc::SYS_swapoff, &[NOWHERE]),
        ("acct", libc::SYS_acct, &[1]),
        ("settimeofday", libc::SYS_settimeofday, &[NOWHERE, 1]),
        ("clock_settime", libc::SYS_clock_settime, &[0, NOWHERE]),
        ("reboot", libc::SYS_reboot, &[0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, &[1, 4]),
        ("syslog", libc::SYS_syslog, &[none, NOWHERE, 0]),
        ("ioperm", libc::SYS_ioperm, &[none, 1, 1]),
        ("add_key", libc::SYS_add_key, &[NOWHERE, NOWHERE, NOWHERE, 0, 0]),
        ("keyctl", libc::SYS_keyctl, &[none, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, 1, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, &[none, NOWHERE, 0, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        report(name, reached(call(number, arguments)));
    }
}

/// Success, or an error of somebody who got past the permission check.
fn reached(answer: Answer) -> Answer {
    match answer {
        Err(error) if !is_denial(&error) => Ok(0),
        other => other,
    }
}

fn is_denial(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
}

pub(crate) fn io_uring() {
    let parameters = [0u8; 120];
    report("io_uring_setup", call(libc::SYS_io_uring_setup, &[4, address(&parameters)]));
    report("io_uring_register", reached(call(libc::SYS_io_uring_register, &[usize::MAX, 0, NOWHERE, 0])));
}

pub(crate) fn personality() {
    const READ_IMPLIES_EXEC: usize = 0x0040_0000;
    const NO_RANDOMIZE: usize = 0x0004_0000;
    report("personality", call(libc::SYS_personality, &[READ_IMPLIES_EXEC | NO_RANDOMIZE]));
}

/// Takes more of the machine than its share.
pub(crate) fn priority() {
    let parameter = [1u32];
    report("SCHED_FIFO", call(libc::SYS_sched_setscheduler, &[0, 1, address(&parameter)]));
    report("nice -20", call(libc::SYS_setpriority, &[0, 0, (-20isize) as usize]));
    let unlimited = [u64::MAX, u64::MAX];
    for (name, resource) in [("core", libc::RLIMIT_CORE), ("nice", libc::RLIMIT_NICE)] {
        let raised = call(libc::SYS_prlimit64, &[0, resource as usize, address(&unlimited), 0]);
        report(&format!("raise the limit of {name}"), raised);
    }
    // IOPRIO_CLASS_RT for this process.
    report("real-time disk priority", call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]));
}

/// Any capability in any set.
pub(crate) fn capabilities() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("Cap")) {
        let empty = line.split_whitespace().nth(1).is_some_and(|set| set.trim_matches('0').is_empty());
        println!("{} {line}", if empty { "DENIED" } else { "DONE" });
    }
    let privileges = status.lines().any(|line| line == "NoNewPrivs:\t1");
    println!("{} new privileges", if privileges { "DENIED" } else { "DONE" });
    let filtered = status.lines().any(|line| line == "Seccomp:\t2");
    println!("{} unfiltered", if filtered { "DENIED" } else { "DONE" });
}

/// Who the kernel takes it for: installed setuid root, this tells whether that worked.
pub(crate) fn identity() {
    let root = nix::unistd::geteuid().is_root();
    println!("{} effective uid {}", if root { "DONE" } else { "DENIED" }, nix::unistd::geteuid());
}

/// A directory by the 32-bit entry point, whose numbers mean other calls (39 is mkdir there).
pub(crate) fn int80(directory: &str) {
    let made = low_page(directory.as_bytes()).and_then(|path| call_i386(39, path, 0o755));
    report("int 0x80 mkdir", made);
    report("int 0x80 getpid", call_i386(20, 0, 0));
}

/// The x32 numbers: the same entry point with bit 30 set.
pub(crate) fn x32() {
    report("x32 getpid", call(0x4000_0000 | libc::SYS_getpid, &[]));
}

/// A program that never was a file.
pub(crate) fn memfd() {
    let Ok(program) = std::fs::read("/bin/true") else { return };
    let empty = CString::default();
    let name = address(empty.as_c_str());
    let written = call(libc::SYS_memfd_create, &[name, 0]).and_then(|memfd| {
        let memfd = memfd as usize;
        call(libc::SYS_write, &[memfd, address(program.as_slice()), program.len()])?;
        Ok(memfd)
    });
    let Ok(memfd) = written else {
        report("memfd_create", written);
        return;
    };
    let executed = clone_and_execute(memfd, name);
    report("execveat of a memfd", executed);
}

/// In a child, for an exec that works ends the attempt.
fn clone_and_execute(memfd: usize, empty: usize) -> Answer {
    let child = call(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0])?;
    if child == 0 {
        let arguments = [empty, 0];
        let _ =
            call(libc::SYS_execveat, &[memfd, empty, address(&arguments), 0, libc::AT_EMPTY_PATH as usize]);
        let _ = call(libc::SYS_exit_group, &[77]);
    }
    let mut status = 0i32;
    call(libc::SYS_wait4, &[child as usize, address_mut(&mut status), 0, 0])?;
    if status == 0 { Ok(0) } else { Err(std::io::Error::from_raw_os_error(libc::EACCES)) }
}
