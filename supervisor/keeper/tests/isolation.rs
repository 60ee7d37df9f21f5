//! What the agent has and has not, seen from inside, as root launches it.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::io::{BufRead, BufReader};

use nix::libc;
use skep_policy::launch::{Ids, LandlockRule, Plan, RootOp};
use support::{AGENT, Run, bind, launch, output_of, plan, said, shell};

/// Runs Perl (essential on Debian), for system calls that no shell makes.
fn perl(script: &str) -> String {
    output_of(support::plan(&["perl", "-e", script]))
}

fn status(field: &str) -> String {
    said(&format!("grep '^{field}:' /proc/self/status")).split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn as_root_no_capability_is_in_any_set() {
    let sets = said("grep ^Cap /proc/self/status");
    assert_eq!(sets.lines().count(), 5);
    for set in sets.lines() {
        assert!(set.ends_with("\t0000000000000000"), "{set}");
    }
}

#[test]
fn as_root_no_new_privs_is_set_and_the_filter_is_on() {
    assert_eq!(status("NoNewPrivs"), "1");
    assert_eq!(status("Seccomp"), "2");
}

#[test]
fn as_root_all_four_ids_are_the_agents() {
    assert_eq!(status("Uid"), "4242\t4242\t4242\t4242");
    assert_eq!(status("Gid"), "4243\t4243\t4243\t4243");
}

#[test]
fn as_root_only_the_standard_streams_are_open() {
    // The shell's own script is an argument; `ls` itself holds the directory it reads.
    assert_eq!(said("ls /proc/$$/fd"), "0\n1\n2\n");
}

#[test]
fn as_root_signals_and_umask_are_a_fresh_programs() {
    assert_eq!(status("SigBlk"), "0000000000000000");
    assert_eq!(status("SigIgn"), "0000000000000000");
    assert_eq!(said("umask"), "0022\n");
}

#[test]
fn as_root_the_agent_is_pid_2_and_sees_no_other_process() {
    assert_eq!(said("echo $$; cd /proc; echo [0-9]*"), "2\n2\n");
}

#[test]
fn as_root_pid_1_can_be_neither_killed_nor_traced() {
    assert_eq!(perl("print kill(0, 1) ? 'yes' : $!"), "Operation not permitted");
    assert_eq!(perl("print kill(9, 1) ? 'yes' : $!"), "Operation not permitted");
    // ptrace(PTRACE_ATTACH, 1)
    assert_eq!(perl("print syscall(101, 16, 1, 0, 0) == 0 ? 'yes' : $!"), "Operation not permitted");
    assert_eq!(
        said("exec 2>/dev/null; cat /proc/1/environ || ls /proc/1/fd || ls /proc/1/root || echo none"),
        "none\n"
    );
}

#[test]
fn as_root_pid_1_is_nobody_without_rights_under_a_filter() {
    let run = support::launch(shell("read line; exit 0"), None);
    drop(run);
    let run = support::launch(shell("sleep 60"), None);
    run.started();
    let init = support::processes(&run.cgroup).lines().next().unwrap().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    for expected in [
        "NSpid:\t",
        "Uid:\t64987\t64987\t64987\t64987",
        "Gid:\t64988\t64988\t64988\t64988",
        "Groups:\t \n",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(expected), "{expected:?} in {status}");
    }
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    // Not dumpable: its files belong to root although it does not.
    let owner = std::fs::metadata(format!("/proc/{init}/environ")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
}

#[test]
fn as_root_no_mount_propagates() {
    let mounts = said("cat /proc/self/mountinfo");
    assert!(mounts.lines().count() > 10);
    for word in ["shared:", "master:", "propagate_from:"] {
        assert!(!mounts.contains(word), "{mounts}");
    }
}

#[test]
fn as_root_every_mount_is_nosuid_and_devices_open_only_on_two() {
    let mounts = said("cat /proc/self/mountinfo");
    let options = |line: &str| line.split(' ').nth(5).unwrap().to_owned();
    let place = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    let mut with_devices: Vec<_> =
        mounts.lines().filter(|line| !options(line).contains("nodev")).map(place).collect();
    assert!(mounts.lines().all(|line| options(line).contains("nosuid")), "{mounts}");
    with_devices.sort_unstable();
    assert_eq!(with_devices, ["/dev", "/dev/pts"]);
}

#[test]
fn as_root_nothing_of_the_old_root_is_left_mounted() {
    let mounts = said("cut -d' ' -f5 /proc/self/mountinfo");
    let places: Vec<_> = mounts.lines().collect();
    assert_eq!(places.iter().filter(|place| **place == "/").count(), 1, "{mounts}");
    assert_eq!(said("ls /"), "bin\ndev\netc\nlib\nlib64\nproc\ntmp\nusr\n");
}

#[test]
fn as_root_the_root_is_read_only() {
    assert_eq!(
        perl("for (qw(/x /etc/x /dev/x)) { mkdir $_ or print \"$!\\n\" }"),
        "Read-only file system\n".repeat(3)
    );
}

#[test]
fn as_root_the_user_namespace_gives_no_mount() {
    // mount(2), unshare(CLONE_NEWNS)
    assert_eq!(
        perl(
            "$n = 'none'; $t = '/tmp'; $f = 'tmpfs'; print syscall(165, $n, $t, $f, 0, 0) == 0 ? 'yes' : $!"
        ),
        "Operation not permitted"
    );
    assert_eq!(perl("print syscall(272, 0x20000) == 0 ? 'yes' : $!"), "Operation not permitted");
}

#[test]
fn as_root_dangerous_entries_of_proc_are_out_of_reach() {
    for name in ["kcore", "keys", "kallsyms", "timer_list", "kmsg", "sysrq-trigger"] {
        let script = format!(
            "[ ! -e /proc/{name} ] || [ ! -s /proc/{name} ] && ! cat /proc/{name} 2>/dev/null && echo shut"
        );
        assert_eq!(said(&script), "shut\n", "{name}");
    }
    for name in
        ["sys/kernel/core_pattern", "sys/kernel/hostname", "sysrq-trigger", "irq/default_smp_affinity"]
    {
        assert_eq!(
            said(&format!("echo x 2>/dev/null > /proc/{name} || echo refused")),
            "refused\n",
            "{name}"
        );
    }
    let mounts = said("cat /proc/self/mountinfo");
    for name in ["/proc/sys", "/proc/fs", "/proc/irq", "/proc/keys"] {
        if !std::path::Path::new(name).exists() {
            continue;
        }
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(name));
        assert!(
            line.is_some_and(|line| line.split(' ').nth(5).unwrap().starts_with("ro")),
            "{name}: {mounts}"
        );
    }
}

#[test]
fn as_root_a_core_is_one_byte_and_cannot_be_raised() {
    assert_eq!(
        said("grep 'core file' /proc/self/limits").split_whitespace().skip(4).collect::<Vec<_>>(),
        ["1", "1", "bytes"]
    );
}

#[test]
fn as_root_limits_are_set_and_a_lower_one_of_the_host_stays() {
    let mut plan = shell("ulimit -n; ulimit -Hn");
    plan.rlimits = vec![(7, 64), (9, u64::MAX)];
    assert_eq!(output_of(plan), "64\n64\n");
}

#[test]
fn as_root_an_agent_starts_with_the_usual_limit_of_descriptors() {
    let (_soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(output_of(shell("ulimit -Sn; ulimit -Hn")), format!("{}\n{hard}\n", hard.min(1024)));
}

/// Makes inotify instances until there are too many for its user, says how many those were, and keeps them.
fn all_inotify_instances(init: u32, most: usize) -> (Run, usize) {
    let script = format!(
        "my $n = 0; $n++ while syscall({}, 0) >= 0; $| = 1; print qq($n\\n); sleep 600",
        libc::SYS_inotify_init1
    );
    let mut plan = plan(&["perl", "-e", &script]);
    plan.init = Ids { uid: init, gid: init };
    plan.rlimits = vec![(libc::RLIMIT_NOFILE, most as u64 + 100)];
    let mut run = launch(plan, None);
    run.started();
    let mut said = String::new();
    BufReader::new(run.output.as_mut().unwrap()).read_line(&mut said).unwrap();
    (run, said.trim().parse().unwrap())
}

#[test]
fn as_root_what_an_agent_uses_up_of_its_users_share_is_its_own() {
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let most = most.trim().parse().unwrap();
    let (_one, count) = all_inotify_instances(64_001, most);
    assert_eq!(count, most);
    let (_other, count) = all_inotify_instances(64_002, most);
    assert_eq!(count, most, "a sandbox beside it");
    let (_same, count) = all_inotify_instances(64_001, most);
    assert_eq!(count, 0, "they are not counted for who owns the user namespace");
    let script = format!("syscall({}, 0) >= 0 or die $!", libc::SYS_inotify_init1);
    let host = std::process::Command::new("perl").args(["-e", &script]).output().unwrap();
    assert!(host.status.success(), "root's own: {}", String::from_utf8_lossy(&host.stderr));
}

#[test]
fn as_root_devices_are_there_and_work() {
    assert_eq!(
        said("ls /dev"),
        "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
    assert_eq!(
        said("echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c"),
        "3\n3\n"
    );
    assert_eq!(said("echo x > /dev/shm/f; cat /dev/shm/f"), "x\n");
}

#[test]
fn as_root_host_name_and_cgroup_are_the_sandboxs_own() {
    assert!(said("cat /proc/sys/kernel/hostname").starts_with("skep-test-"));
    let cgroups = said("grep ^0: /proc/self/cgroup");
    assert_eq!(cgroups, "0::/\n");
}

#[test]
fn as_root_the_session_keyring_is_new() {
    // keyctl(KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, buffer, length)
    let script = "$b = ' ' x 100; syscall(250, 6, -3, $b, 100); print $b";
    // The real filter refuses the question.
    let plan = Plan { agent_filter: support::ALLOW_ALL.to_vec(), ..support::plan(&["perl", "-e", script]) };
    let described = output_of(plan);
    assert!(described.starts_with(&format!("keyring;{};{};", AGENT.uid, AGENT.gid)), "{described}");
    assert!(described.trim_end_matches(['\0', ' ']).ends_with(";_ses"), "{described}");
}

#[test]
fn as_root_landlock_confines_beside_the_mounts() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(AGENT.uid), Some(AGENT.gid)).unwrap();
    let at = dir.path().to_str().unwrap();
    let mut plan = shell(&format!("touch {at}/x 2>&- && echo wrote; touch /dev/shm/y && echo shm"));
    plan.private.push(bind(at, true));
    let rule = |at: &str, write, exec| LandlockRule { at: at.into(), write, exec };
    plan.landlock =
        Some(vec![rule("/usr", false, true), rule("/dev/shm", true, false), rule("/missing", true, true)]);
    let outcome = support::launch(plan.clone(), None).finish();
    assert_eq!(outcome.output, "shm\n");
    plan.landlock = None;
    assert_eq!(support::launch(plan, None).finish().output, "wrote\nshm\n");
}

#[test]
fn as_root_a_private_tmpfs_is_the_agents_and_bounded() {
    let mut plan = shell("head -c 2000000 /dev/zero > /home/big || echo full; stat -c %u:%g:%a /home");
    plan.private.push(RootOp::Tmpfs { at: "/home".into(), bytes: 1 << 20, mode: 0o700, exec: false });
    let output = output_of(plan);
    assert!(output.ends_with("full\n4242:4243:700\n"), "{output}");
}
