//! The table against itself, the programs against an interpreter, and the programs against the kernel.

mod interpreter;
mod kernel;

use std::collections::BTreeMap;

use libc::{EAFNOSUPPORT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT};

use super::*;
use interpreter::{Outcome, X32, run};

const FLOOR: AgentFilter = AgentFilter { nested_sandbox: false, memfd: false };
const ABOVE: u64 = 1 << 32;

fn program(options: AgentFilter) -> Program {
    Program::from_bytes(&agent(options).unwrap()).unwrap()
}

fn calls() -> impl Iterator<Item = (u32, &'static str, Verdict)> {
    table::AGENT.iter().flat_map(|group| group.calls.iter().map(|(n, name)| (*n, *name, group.verdict)))
}

fn number(name: &str) -> u32 {
    calls().find(|(_, of, _)| *of == name).unwrap_or_else(|| panic!("{name} is not in the table")).0
}

#[test]
fn the_table_has_every_number_once() {
    let numbers: BTreeMap<u32, &str> = calls().map(|(number, name, _)| (number, name)).collect();
    assert_eq!(numbers.len(), calls().count(), "a number stands twice");
    for number in 0..=table::LAST {
        let named = numbers.contains_key(&number);
        assert_eq!(named, !table::UNASSIGNED.contains(&number), "{number}");
    }
}

#[test]
fn groups_are_sorted_and_say_why() {
    for group in table::AGENT {
        assert!(group.calls.is_sorted_by(|a, b| a.0 < b.0), "{}", group.reason);
        assert!(!group.reason.is_empty());
    }
    assert!(table::INIT.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn names_and_numbers_are_those_of_libseccomp_as_far_as_it_goes() {
    let mut known = 0;
    for (number, name) in calls().map(|(number, name, _)| (number, name)).chain(table::INIT.iter().copied()) {
        if let Ok(theirs) = ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664) {
            assert_eq!(theirs, call(number), "{name}");
            known += 1;
        }
    }
    assert!(known > 390, "libseccomp knows only {known}");
}

#[test]
fn every_number_gets_the_verdict_of_the_table() {
    let program = program(FLOOR);
    for (number, name, verdict) in calls() {
        let expected = match resolve(verdict, FLOOR) {
            Answer::Allow => Outcome::Allow,
            Answer::Errno(errno) => Outcome::Errno(errno),
            Answer::GoOn(_) => continue,
        };
        assert_eq!(run(&program, number, [u64::MAX; 6]), expected, "{name}");
    }
    for unknown in table::UNASSIGNED.chain(table::LAST + 1..=2048).chain([X32 - 1]) {
        assert_eq!(run(&program, unknown, [0; 6]), Outcome::Errno(ENOSYS), "{unknown}");
    }
}

#[test]
fn another_abi_kills() {
    for program in [program(FLOOR), Program::from_bytes(&init().unwrap()).unwrap()] {
        for number in 0..=table::LAST {
            assert_eq!(run(&program, X32 | number, [0; 6]), Outcome::Kill);
            assert_eq!(interpreter::run_i386(&program, number, [0; 6]), Outcome::Kill);
        }
    }
}

#[test]
fn nested_sandbox_and_memfd_open_what_they_name_and_nothing_else() {
    let (floor, open) = (program(FLOOR), program(AgentFilter { nested_sandbox: true, memfd: true }));
    let opened: Vec<&str> = calls()
        .filter(|(n, ..)| run(&floor, *n, [u64::MAX; 6]) != run(&open, *n, [u64::MAX; 6]))
        .map(|(_, name, _)| name)
        .collect();
    let mut expected =
        vec!["clone", "unshare", "pivot_root", "chroot", "mount", "umount2", "setns", "memfd_create"];
    expected.extend(["open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"]);
    expected.extend(["open_tree_attr", "sethostname", "setdomainname"]);
    // And what a namespace of its own makes dangerous is closed.
    expected.extend(["setxattr", "lsetxattr", "fsetxattr", "setxattrat"]);
    assert_eq!(sorted(opened), sorted(expected));
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

/// Runs the floor's program on one call and compares.
fn check(name: &str, arguments: &[u64], expected: Outcome) {
    let mut registers = [0; 6];
    registers[..arguments.len()].copy_from_slice(arguments);
    assert_eq!(run(&program(FLOOR), number(name), registers), expected, "{name}({arguments:x?})");
}

#[test]
fn sockets_are_unix_tcp_udp_and_route() {
    use Outcome::{Allow, Errno};
    const STREAM: u64 = 1 | 0o4000 | 0o200_0000;
    check("socket", &[1, 5, 0], Allow);
    check("socket", &[ABOVE | 1, 1, 0], Allow);
    for family in [2, 10] {
        for (kind, protocol) in [(STREAM, 0), (STREAM, 6), (2, 0), (2, 17)] {
            check("socket", &[family, kind, protocol], Allow);
        }
        for (kind, protocol) in
            [(1, 262), (1, 256), (2, 1), (2, 58), (2, 136), (1, 132), (5, 0), (6, 0), (1, 17)]
        {
            check("socket", &[family, kind, protocol], Errno(EPROTONOSUPPORT));
        }
        check("socket", &[family, 3, 255], Errno(EPERM));
        check("socket", &[ABOVE | family, ABOVE | 3, ABOVE | 1], Errno(EPERM));
    }
    check("socket", &[16, 3, 0], Allow);
    for protocol in 1..32 {
        check("socket", &[16, 3, protocol], Errno(EAFNOSUPPORT));
    }
    for family in (0..64).filter(|family| ![1, 2, 10, 16].contains(family)) {
        check("socket", &[family, 1, 0], Errno(EAFNOSUPPORT));
        check("socket", &[ABOVE | family, 1, 0], Errno(EAFNOSUPPORT));
        check("socketpair", &[family, 1, 0], Errno(EAFNOSUPPORT));
    }
    check("socketpair", &[1, 1, 0], Allow);
    check("socketpair", &[2, 1, 0], Errno(EAFNOSUPPORT));
}

#[test]
fn no_flag_makes_a_namespace() {
    for bit in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        check("clone", &[bit | 17], Outcome::Errno(EPERM));
        check("clone", &[ABOVE | bit], Outcome::Errno(EPERM));
        check("unshare", &[bit], Outcome::Errno(EPERM));
        check("unshare", &[bit | 0x400], Outcome::Errno(EPERM));
    }
    check("unshare", &[0x80], Outcome::Errno(EPERM));
    check("unshare", &[0x600], Outcome::Allow);
    // What glibc's pthread_create, posix_spawn and fork say.
    for flags in [0x3d_0f00, 0x4111, 0x120_0011] {
        check("clone", &[flags], Outcome::Allow);
    }
}

#[test]
fn requests_and_options_are_compared_as_the_kernel_reads_them() {
    for request in [0x5412, 0x541c, 0x5423, 0x5000_9417] {
        check("ioctl", &[0, request], Outcome::Errno(EPERM));
        check("ioctl", &[0, ABOVE | request], Outcome::Errno(EPERM));
        check("ioctl", &[0, request + 0x1_0000], Outcome::Allow);
    }
    check("ioctl", &[0, 0x5413], Outcome::Allow);
    check("prctl", &[35], Outcome::Errno(EPERM));
    check("prctl", &[ABOVE | 35], Outcome::Errno(EPERM));
    check("prctl", &[59], Outcome::Errno(EINVAL));
    check("prctl", &[0x5356_4d41], Outcome::Allow);
    for (persona, expected) in [
        (0, Outcome::Allow),
        (0xffff_ffff, Outcome::Allow),
        (0x40_0000, Outcome::Errno(EPERM)),
        (0x4_0000, Outcome::Errno(EPERM)),
        (8, Outcome::Errno(EPERM)),
    ] {
        check("personality", &[persona], expected);
        check("personality", &[ABOVE | persona], expected);
    }
}

#[test]
fn the_core_limit_can_be_read_and_not_set() {
    check("setrlimit", &[4, 0x1000], Outcome::Errno(EPERM));
    check("setrlimit", &[ABOVE | 4, 0x1000], Outcome::Errno(EPERM));
    check("setrlimit", &[7, 0x1000], Outcome::Allow);
    check("prlimit64", &[0, 4, 0x1000, 0], Outcome::Errno(EPERM));
    check("prlimit64", &[0, ABOVE | 4, ABOVE, 0], Outcome::Errno(EPERM));
    check("prlimit64", &[0, 4, 0, 0x1000], Outcome::Allow);
    check("prlimit64", &[0, 7, 0x1000, 0], Outcome::Allow);
}

#[test]
fn a_nested_filter_has_no_listener_and_a_node_is_no_device() {
    check("seccomp", &[1, 0, 0x1000], Outcome::Allow);
    check("seccomp", &[1, 1, 0x1000], Outcome::Allow);
    check("seccomp", &[1, 8, 0x1000], Outcome::Errno(EPERM));
    check("seccomp", &[1, 9, 0x1000], Outcome::Errno(EPERM));
    check("seccomp", &[ABOVE | 1, ABOVE | 0x28, 0x1000], Outcome::Errno(EPERM));
    check("seccomp", &[2, 0, 0x1000], Outcome::Allow);
    check("seccomp", &[4, 0, 0], Outcome::Errno(EINVAL));
    for kind in [0, 0o10_0000, 0o1_0000, 0o14_0000] {
        check("mknod", &[0, kind | 0o644], Outcome::Allow);
        check("mknodat", &[0, 0, kind | 0o644], Outcome::Allow);
    }
    for kind in [0o2_0000, 0o6_0000, 0o4_0000, 0o12_0000, 0o17_0000] {
        check("mknod", &[0, kind | 0o644], Outcome::Errno(EPERM));
        check("mknodat", &[0, 0, kind | 0o644], Outcome::Errno(EPERM));
        check("mknodat", &[0, 0, ABOVE | kind], Outcome::Errno(EPERM));
    }
    for flags in 0..8 {
        let expected = if flags & 4 == 0 { Outcome::Allow } else { Outcome::Errno(EINVAL) };
        check("renameat2", &[0, 0, 0, 0, flags], expected);
        check("renameat2", &[0, 0, 0, 0, ABOVE | flags], expected);
    }
}

#[test]
fn no_mode_makes_a_program_its_owners() {
    use Outcome::{Allow, Errno};
    const CREATE: u64 = 0o100 | 0o2;
    const TEMPORARY: u64 = 0o2020_0000 | 0o2;
    let ways: [(&str, &[u64]); 5] =
        [("chmod", &[0]), ("fchmod", &[3]), ("fchmodat", &[0, 0]), ("fchmodat2", &[0, 0]), ("creat", &[0])];
    let made: [(&str, &[u64]); 6] = [
        ("open", &[0, CREATE]),
        ("open", &[0, TEMPORARY]),
        ("openat", &[0, 0, CREATE]),
        ("openat", &[0, 0, ABOVE | TEMPORARY]),
        ("mknod", &[0]),
        ("mknodat", &[0, 0]),
    ];
    for (name, before) in ways.into_iter().chain(made) {
        for mode in [0, 0o644, 0o777, 0o1777] {
            check(name, &[before, &[mode]].concat(), Allow);
        }
        for mode in [0o4000, 0o2000, 0o6777, 0o4755 | ABOVE] {
            check(name, &[before, &[mode]].concat(), Errno(EPERM));
        }
    }
    // Without O_CREAT there is no mode, whatever the register holds.
    check("open", &[0, 0, u64::MAX], Allow);
    check("openat", &[0, 0, 0o20_0000, u64::MAX], Allow);
    check("openat2", &[0, 0, 0, 24], Errno(ENOSYS));
}

#[test]
fn init_may_do_what_it_lists_and_nothing_else() {
    let program = Program::from_bytes(&init().unwrap()).unwrap();
    for number in 0..=table::LAST {
        let listed = table::INIT.iter().any(|(of, _)| *of == number);
        let expected = if listed { Outcome::Allow } else { Outcome::Errno(ENOSYS) };
        assert_eq!(run(&program, number, [0; 6]), expected, "{number}");
    }
}

/// What libseccomp wrote, linked but not shortened, gives the same answer to every number and, where
/// arguments decide, to arguments around everything any rule compares with.
#[test]
fn the_short_program_says_what_libseccomp_says() {
    for options in [FLOOR, AgentFilter { nested_sandbox: true, memfd: true }] {
        let mut programs = BTreeMap::from([(MAIN, compile_table(table::AGENT, options).unwrap())]);
        for stage in arguments::ALL {
            programs.insert(label(stage), compile_stage(stage).unwrap());
        }
        let long = Program::from_bytes(&link(&programs).unwrap()).unwrap();
        let short = program(options);
        println!("{} instructions, {} of libseccomp", short.0.len(), long.0.len());
        assert!(short.0.len() < long.0.len());
        let edges = [X32 - 1, X32, X32 + 1, u32::MAX - 1, u32::MAX];
        for number in (0..=70_000).chain(edges) {
            assert_eq!(run(&short, number, [0; 6]), run(&long, number, [0; 6]), "{number}");
        }
        for stage in arguments::ALL {
            same_around_every_comparison(&short, &long, &stage.rules());
        }
    }
}

fn same_around_every_comparison(short: &Program, long: &Program, rules: &arguments::Rules) {
    let mut values = vec![0, 1, u64::MAX, ABOVE];
    for test in rules.rules.iter().flat_map(|(_, tests)| tests) {
        let near =
            [test.value, test.value + 1, test.value.wrapping_sub(1), test.mask, test.value | !test.mask];
        values.extend(near.iter().flat_map(|value| [*value, value | ABOVE]));
    }
    values.sort_unstable();
    values.dedup();
    for first in &values {
        for second in &values {
            for third in values.iter().step_by(if values.len() > 40 { 7 } else { 1 }) {
                let arguments = [*first, *second, *third, *first, *second, *third];
                let [ours, theirs] = [short, long].map(|program| run(program, rules.call, arguments));
                assert_eq!(ours, theirs, "{}({arguments:x?})", rules.call);
            }
        }
    }
}

#[test]
fn programs_are_the_same_every_time() {
    assert_eq!(agent(FLOOR).unwrap(), agent(FLOOR).unwrap());
    assert_eq!(init().unwrap(), init().unwrap());
}

/// The table of docs/threat-model.md, which this test keeps true: on a mismatch it prints what should stand
/// there.
#[test]
fn the_threat_model_lists_every_call_that_is_not_simply_allowed() {
    let mut groups: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    for ruling in rulings(FLOOR).filter(|ruling| ruling.answer != "allow") {
        groups.entry((ruling.answer, ruling.reason)).or_default().push(ruling.name);
    }
    let mut table = String::new();
    for ((answer, reason), names) in groups {
        table.push_str(&format!("| {answer} | `{}` | {reason} |\n", names.join("` `")));
    }
    let document = include_str!("../../../../docs/threat-model.md");
    assert!(document.contains(&table), "docs/threat-model.md should have\n{table}");
}
