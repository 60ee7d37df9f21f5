//! The same programs in the kernel: a child of the test, which is the test's own binary started anew, loads a
//! program and makes the calls. Without the program the same calls must answer something else, or a refusal
//! would show nothing.

// UNSAFETY: loads filters and makes system calls no safe wrapper offers, among them 32-bit ones.
#![expect(unsafe_code, reason = "raw system calls are what is tested")]

use std::arch::asm;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::time::Instant;

use libc::{EAFNOSUPPORT, EBADF, EFAULT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT, SIGSYS};

use crate::filter::{AgentFilter, agent, init};

const CASE: &str = "SKEP_FILTER_TEST_CASE";
const LOAD: &str = "SKEP_FILTER_TEST_LOAD";
const BAD: i64 = -1;

/// A call, what the agent gets, and what it would get without the filter: `None` where that depends on the
/// host's configuration or on who runs the test, and the test prints which of these show nothing there.
type Case = (&'static str, [i64; 5], i32, Option<i32>);

/// Every call is harmless where it is let through: bad descriptors, null pointers, no effect.
#[rustfmt::skip]
const CASES: &[Case] = &[
    // Refused, and refused differently without the filter.
    ("ptrace", [BAD, 0, 0, 0, 0], EPERM, Some(libc::ESRCH)),
    ("process_vm_readv", [0, 0, 0, 0, 1], EPERM, Some(EINVAL)),
    ("process_vm_writev", [0, 0, 0, 0, 1], EPERM, Some(EINVAL)),
    ("pidfd_getfd", [BAD, 0, 0, 0, 0], EPERM, Some(EBADF)),
    ("process_madvise", [BAD, 0, 0, 0, 0], EPERM, Some(EBADF)),
    ("process_mrelease", [BAD, 0, 0, 0, 0], EPERM, Some(EBADF)),
    ("io_uring_setup", [0, 0, 0, 0, 0], ENOSYS, None),
    ("io_uring_enter", [BAD, 0, 0, 0, 0], ENOSYS, None),
    ("io_uring_register", [BAD, 0, 0, 0, 0], ENOSYS, None),
    ("bpf", [999, 0, 0, 0, 0], EPERM, None),
    ("perf_event_open", [0, 0, 0, 0, 0], EPERM, None),
    ("userfaultfd", [-1, 0, 0, 0, 0], EPERM, None),
    ("vmsplice", [BAD, 0, 0, 0, 0], EPERM, Some(EBADF)),
    ("modify_ldt", [99, 0, 0, 0, 0], EPERM, None),
    ("keyctl", [9999, 0, 0, 0, 0], EPERM, None),
    ("add_key", [0, 0, 0, 0, 0], EPERM, None),
    ("request_key", [0, 0, 0, 0, 0], EPERM, None),
    ("name_to_handle_at", [BAD, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("open_by_handle_at", [BAD, 0, 0, 0, 0], EPERM, None),
    ("fanotify_mark", [BAD, 0, 0, 0, 0], EPERM, None),
    ("fanotify_init", [-1, 0, 0, 0, 0], EPERM, None),
    ("mbind", [0, 4096, 99, 0, 0], EPERM, None),
    ("set_mempolicy", [99, 0, 0, 0, 0], EPERM, None),
    ("set_mempolicy_home_node", [0, 0, 0, 99, 0], EPERM, None),
    ("mount", [0, 0, 0, 0, 0], EPERM, None),
    ("umount2", [0, 0, 0, 0, 0], EPERM, None),
    ("pivot_root", [0, 0, 0, 0, 0], EPERM, None),
    ("chroot", [0, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("setns", [BAD, 0, 0, 0, 0], EPERM, Some(EBADF)),
    ("open_tree", [BAD, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("open_tree_attr", [BAD, 0, 0, 0, 0], EPERM, None),
    ("move_mount", [BAD, 0, BAD, 0, 0], EPERM, None),
    ("fsopen", [0, 0, 0, 0, 0], EPERM, None),
    ("fsconfig", [BAD, 0, 0, 0, 0], EPERM, None),
    ("fsmount", [BAD, 0, 0, 0, 0], EPERM, None),
    ("fspick", [BAD, 0, 0, 0, 0], EPERM, None),
    ("mount_setattr", [BAD, 0, 0, 0, 0], EPERM, None),
    ("kexec_load", [0, 0, 0, -1, 0], EPERM, None),
    ("init_module", [0, 0, 0, 0, 0], EPERM, None),
    ("finit_module", [BAD, 0, 0, 0, 0], EPERM, None),
    ("quotactl", [-1, 0, 0, 0, 0], EPERM, None),
    ("swapon", [0, 0, 0, 0, 0], EPERM, None),
    ("swapoff", [0, 0, 0, 0, 0], EPERM, None),
    ("reboot", [0, 0, 0, 0, 0], EPERM, None),
    ("settimeofday", [1, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("clock_settime", [0, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("iopl", [9, 0, 0, 0, 0], EPERM, None),
    ("lookup_dcookie", [0, 0, 0, 0, 0], EPERM, None),
    ("syslog", [99, 0, 0, 0, 0], EPERM, None),
    ("clone3", [0, 0, 0, 0, 0], ENOSYS, Some(EINVAL)),
    ("memfd_create", [0, 0, 0, 0, 0], ENOSYS, Some(EFAULT)),
    ("memfd_secret", [-1, 0, 0, 0, 0], ENOSYS, None),
    ("statmount", [0, 0, 0, 0, 0], ENOSYS, None),
    ("listmount", [0, 0, 0, 0, 0], ENOSYS, None),
    ("cachestat", [BAD, 0, 0, 0, 0], ENOSYS, None),
    ("file_setattr", [BAD, 0, 0, 0, 0], ENOSYS, None),
    ("sysfs", [99, 0, 0, 0, 0], ENOSYS, None),
    ("mknod", [0, 0o2_0644, 0, 0, 0], EPERM, Some(EFAULT)),
    ("mknodat", [BAD, 0, 0o6_0644, 0, 0], EPERM, Some(EFAULT)),
    ("mknod", [0, 0o10_4644, 0, 0, 0], EPERM, Some(EFAULT)),
    ("chmod", [0, 0o4755, 0, 0, 0], EPERM, Some(EFAULT)),
    ("fchmod", [BAD, 0o2755, 0, 0, 0], EPERM, Some(EBADF)),
    ("fchmodat", [BAD, 0, 0o4755, 0, 0], EPERM, Some(EFAULT)),
    ("creat", [0, 0o4755, 0, 0, 0], EPERM, Some(EFAULT)),
    ("open", [0, 0o102, 0o2755, 0, 0], EPERM, Some(EFAULT)),
    ("openat", [BAD, 0, 0o102, 0o4755, 0], EPERM, Some(EFAULT)),
    ("openat2", [BAD, 0, 0, 0, 0], ENOSYS, None),
    ("renameat2", [BAD, 0, BAD, 0, 4], EINVAL, Some(EFAULT)),
    // The same calls where they are harmless: the kernel is asked, with the filter and without.
    ("mknod", [0, 0o1_0644, 0, 0, 0], EFAULT, Some(EFAULT)),
    ("mknodat", [BAD, 0, 0o10_0644, 0, 0], EFAULT, Some(EFAULT)),
    ("chmod", [0, 0o755, 0, 0, 0], EFAULT, Some(EFAULT)),
    ("open", [0, 0, 0o7777, 0, 0], EFAULT, Some(EFAULT)),
    ("renameat2", [BAD, 0, BAD, 0, 2], EFAULT, Some(EFAULT)),
    // A clone that says what no clone may (CLONE_SIGHAND without CLONE_VM) fails in the kernel when let
    // through.
    ("clone", [0x1000_0800, 0, 0, 0, 0], EPERM, Some(EINVAL)),
    ("clone", [0x1_4000_0800, 0, 0, 0, 0], EPERM, Some(EINVAL)),
    ("clone", [0x800, 0, 0, 0, 0], EINVAL, Some(EINVAL)),
    ("unshare", [0x1000_0004, 0, 0, 0, 0], EPERM, Some(EINVAL)),
    ("unshare", [0x400, 0, 0, 0, 0], 0, Some(0)),
    // Sockets.
    ("socket", [1, 1, 0, 0, 0], 0, Some(0)),
    ("socket", [2, 1, 6, 0, 0], 0, Some(0)),
    ("socket", [10, 2, 17, 0, 0], 0, Some(0)),
    ("socket", [16, 3, 0, 0, 0], 0, Some(0)),
    ("socket", [16, 3, 15, 0, 0], EAFNOSUPPORT, None),
    ("socket", [2, 3, 1, 0, 0], EPERM, None),
    ("socket", [2, 2, 1, 0, 0], EPROTONOSUPPORT, None),
    ("socket", [2, 1, 262, 0, 0], EPROTONOSUPPORT, None),
    ("socket", [17, 3, 0, 0, 0], EAFNOSUPPORT, None),
    ("socket", [38, 5, 0, 0, 0], EAFNOSUPPORT, None),
    ("socket", [40, 1, 0, 0, 0], EAFNOSUPPORT, None),
    ("socket", [44, 3, 0, 0, 0], EAFNOSUPPORT, None),
    ("socket", [0x1_0000_0028, 1, 0, 0, 0], EAFNOSUPPORT, None),
    ("socketpair", [2, 1, 0, 0, 0], EAFNOSUPPORT, None),
    ("socketpair", [1, 1, 0, 0, 0], EFAULT, Some(EFAULT)),
    // Requests, options, limits. A bad descriptor shows that the kernel was asked.
    ("ioctl", [BAD, 0x5412, 0, 0, 0], EPERM, Some(EBADF)),
    ("ioctl", [BAD, 0x1_0000_5412, 0, 0, 0], EPERM, Some(EBADF)),
    ("ioctl", [BAD, 0x541c, 0, 0, 0], EPERM, Some(EBADF)),
    ("ioctl", [BAD, 0x5423, 0, 0, 0], EPERM, Some(EBADF)),
    ("ioctl", [BAD, 0x5413, 0, 0, 0], EBADF, Some(EBADF)),
    ("prctl", [35, 99, 0, 0, 0], EPERM, None),
    ("prctl", [3, 0, 0, 0, 0], 0, Some(0)),
    ("personality", [0x40_0000, 0, 0, 0, 0], EPERM, Some(0)),
    ("personality", [0xffff_ffff, 0, 0, 0, 0], 0, Some(0)),
    ("setrlimit", [4, 0, 0, 0, 0], EPERM, Some(EFAULT)),
    ("setrlimit", [7, 0, 0, 0, 0], EFAULT, Some(EFAULT)),
    ("prlimit64", [0, 4, 1, 0, 0], EPERM, Some(EFAULT)),
    ("prlimit64", [0, 4, 0, 0, 0], 0, Some(0)),
    ("prlimit64", [0, 7, 1, 0, 0], EFAULT, Some(EFAULT)),
    ("seccomp", [1, 8, 0, 0, 0], EPERM, Some(EFAULT)),
    ("seccomp", [1, 0, 0, 0, 0], EFAULT, Some(EFAULT)),
    ("flock", [BAD, 8, 0, 0, 0], EBADF, Some(EBADF)),
];

/// Numbers no table names.
const UNKNOWN: [u32; 5] = [337, 423, 470, 500, 0x3fff_ffff];

fn this_test(name: &str, case: &str, load: &str) -> Output {
    let exact = format!("filter::tests::kernel::{name}");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &exact, "--ignored", "--nocapture"])
        .env(CASE, case)
        .env(LOAD, load)
        .output()
        .unwrap()
}

/// The errno of every case, in order.
fn answers(load: &str) -> Vec<i32> {
    let output = this_test("child", "table", load);
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<i32> =
        text.lines().filter_map(|line| line.strip_prefix("answer ")).map(|n| n.parse().unwrap()).collect();
    assert_eq!(
        answers.len(),
        CASES.len() + UNKNOWN.len(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    answers
}

#[test]
fn the_kernel_answers_the_exact_errno_and_another_one_without_the_filter() {
    let (with, without) = (answers("agent"), answers("none"));
    let mut wrong = Vec::new();
    for (at, (name, arguments, expected, bare)) in CASES.iter().enumerate() {
        if with[at] != *expected || bare.is_some_and(|bare| bare != without[at]) {
            wrong.push(format!("{name}({arguments:x?}): {}, without the filter {}", with[at], without[at]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let same = CASES.iter().enumerate().filter(|(at, case)| case.3.is_none() && with[*at] == without[*at]);
    let same: Vec<String> = same.map(|(_, case)| format!("{}({:x?})", case.0, case.1)).collect();
    println!("this host answers the same without the filter: {}", same.join(" "));
    assert!(with[CASES.len()..].iter().all(|answer| *answer == ENOSYS), "unknown numbers: {with:?}");
}

#[test]
fn a_32_bit_call_kills_and_works_without_the_filter() {
    let bare = this_test("child", "int80", "none");
    // A kernel without CONFIG_IA32_EMULATION kills as well, with SIGSEGV; then there is nothing to show.
    if bare.status.signal() != Some(libc::SIGSEGV) {
        assert!(bare.status.success(), "the positive control: {bare:?}");
    }
    for load in ["agent", "init"] {
        let output = this_test("child", "int80", load);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{output:?}");
    }
}

#[test]
fn an_x32_call_kills() {
    assert!(this_test("child", "x32", "none").status.success());
    for load in ["agent", "init"] {
        let output = this_test("child", "x32", load);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{output:?}");
    }
}

#[test]
fn loading_is_measured() {
    let output = this_test("child", "time", "none");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("load ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    println!("{}", lines.join("\n"));
}

/// Not a test: what the tests above start.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let (Ok(case), Ok(load)) = (std::env::var(CASE), std::env::var(LOAD)) else { return };
    match load.as_str() {
        "agent" => install(&agent(AgentFilter::default()).unwrap()),
        "init" => install(&init().unwrap()),
        _ => {}
    }
    match case.as_str() {
        "table" => answer_table(),
        "int80" => leave(if int80_getpid() > 0 { 0 } else { 1 }),
        // Without CONFIG_X86_X32 the number is unknown; with it, it is getpid.
        "x32" => leave(if [0, ENOSYS].contains(&errno_of(39 | 0x4000_0000, [0; 5])) { 0 } else { 1 }),
        _ => time_loads(),
    }
}

fn answer_table() {
    for (name, arguments, ..) in CASES {
        println!("answer {}", errno_of(super::number(name), *arguments));
    }
    for number in UNKNOWN {
        println!("answer {}", errno_of(number, [0; 5]));
    }
}

fn time_loads() {
    let programs = [("agent", agent(AgentFilter::default()).unwrap()), ("init", init().unwrap())];
    for (name, program) in programs {
        let mut times: Vec<u128> = (0..21)
            .map(|_| {
                let program = program.clone();
                let load = move || {
                    let start = Instant::now();
                    install(&program);
                    start.elapsed().as_micros()
                };
                std::thread::spawn(load).join().unwrap()
            })
            .collect();
        times.sort_unstable();
        println!("load {name}: {} instructions, median {} us", program.len() / 8, times[times.len() / 2]);
    }
}

fn leave(code: i32) -> ! {
    // SAFETY: ends the process without running anything else, which the filter may not allow.
    unsafe { libc::_exit(code) }
}

/// Loads a program into this thread.
fn install(program: &[u8]) {
    let length = u16::try_from(program.len() / 8).unwrap();
    let pointer = program.as_ptr().cast_mut().cast();
    let description = libc::sock_fprog { len: length, filter: pointer };
    // SAFETY: a flag of the calling thread, without pointers.
    let privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `description` names `length` instructions of 8 bytes that outlive the call; the kernel copies
    // them.
    let loaded =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const description) };
    assert_eq!((privileges, loaded), (0, 0), "{}", std::io::Error::last_os_error());
}

/// The errno of a call, or 0.
fn errno_of(number: u32, [a, b, c, d, e]: [i64; 5]) -> i32 {
    // SAFETY: the cases pass no pointer the kernel could write through.
    let result = unsafe { libc::syscall(i64::from(number), a, b, c, d, e) };
    if result == -1 { nix::errno::Errno::last_raw() } else { 0 }
}

/// `getpid` of the 32-bit table, number 20.
fn int80_getpid() -> i64 {
    let result: i64;
    // SAFETY: getpid touches no memory; the entry keeps every register but rax, and r8 to r11 on older
    // kernels.
    unsafe {
        asm!("int 0x80", inlateout("rax") 20_i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}
