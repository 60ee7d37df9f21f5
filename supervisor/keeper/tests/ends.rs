//! How a sandbox ends: orders, orphans, killed keepers, launches that fail. As root.

mod support;

use std::time::{Duration, Instant};

use nix::libc;
use skep_policy::launch::{Ending, KeeperEvent, KeeperRequest, RootOp, Stage};
use support::{Run, launch, plan, processes, shell};

fn failed(stage: Stage, object: &str, errno: i32) -> KeeperEvent {
    KeeperEvent::Failed { stage, object: object.into(), errno }
}

/// A sandbox whose agent, and a child of the agent's in a session of its own, sleep.
fn sleeping() -> Run {
    let run = launch(shell("setsid sleep 600 & sleep 600"), None);
    run.started();
    run
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn as_root_a_missing_command_is_told_by_its_path() {
    assert_eq!(launch(plan(&["/no/such"]), None).failure(), failed(Stage::Exec, "/no/such", libc::ENOENT));
}

#[test]
fn as_root_a_command_that_is_not_executable_is_told() {
    let passwd = "/etc/passwd";
    assert_eq!(launch(plan(&[passwd]), None).failure(), failed(Stage::Exec, passwd, libc::EACCES));
}

#[test]
fn as_root_a_missing_directory_is_told() {
    let mut plan = plan(&["true"]);
    plan.command.directory = "/nowhere".into();
    assert_eq!(launch(plan, None).failure(), failed(Stage::Directory, "chdir(/nowhere)", libc::ENOENT));
}

#[test]
fn as_root_a_missing_or_broken_filter_starts_nothing() {
    let mut without = plan(&["true"]);
    without.agent_filter.clear();
    assert_eq!(launch(without, None).failure(), failed(Stage::Filter, "seccomp(0 bytes)", libc::EINVAL));
    let mut broken = plan(&["true"]);
    broken.init_filter = vec![0xff; 8];
    assert_eq!(launch(broken, None).failure(), failed(Stage::Init, "seccomp(1 instructions)", libc::EINVAL));
}

#[test]
fn as_root_a_source_that_is_missing_or_of_another_kind_is_told() {
    let mut missing = plan(&["true"]);
    missing.private.push(support::bind("/no/such/dir", false));
    assert_eq!(launch(missing, None).failure(), failed(Stage::Root, "openat2(/no/such/dir)", libc::ENOENT));
    let mut kind = plan(&["true"]);
    kind.private.push(support::bind("/etc/passwd", false));
    assert_eq!(launch(kind, None).failure(), failed(Stage::Root, "/etc/passwd", libc::ENOTDIR));
}

#[test]
fn as_root_a_source_behind_a_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    let plan = plan(&["true"]);
    let object = format!("openat2({})", link.display());
    // Below the link as well: with O_NOFOLLOW alone only the last component would be safe.
    for (at, errno) in [("", libc::ENOTDIR), ("/ssl", libc::ELOOP)] {
        let mut plan = plan.clone();
        plan.private.push(support::bind(&format!("{}{at}", link.display()), false));
        let object = if at.is_empty() { link.display().to_string() } else { object.replace(')', "/ssl)") };
        assert_eq!(launch(plan, None).failure(), failed(Stage::Root, &object, errno));
    }
}

#[test]
fn as_root_a_source_the_user_cannot_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut plan = plan(&["true"]);
    plan.private.push(support::bind(inside.to_str().unwrap(), false));
    let object = format!("openat2({})", inside.display());
    assert_eq!(launch(plan, None).failure(), failed(Stage::Root, &object, libc::EACCES));
}

#[test]
fn as_root_an_unsealed_or_foreign_plan_is_refused() {
    let mut other = plan(&["true"]);
    other.version = 99;
    assert_eq!(launch(other, None).failure(), failed(Stage::Plan, "plan of version 99", libc::EPROTO));
    let helper = support::keeper();
    let file = std::fs::File::open("/etc/passwd").unwrap();
    helper.channel.send(&KeeperRequest::BuildTemplate, &[std::os::fd::AsFd::as_fd(&file)]).unwrap();
    let (event, _) = helper.channel.receive::<KeeperEvent>().unwrap().unwrap();
    assert!(matches!(event, KeeperEvent::Failed { stage: Stage::Plan, .. }), "{event:?}");
}

#[test]
fn as_root_a_request_out_of_turn_ends_everything() {
    let mut run = sleeping();
    run.channel.send(&KeeperRequest::BuildTemplate, &[]).unwrap();
    run.expect(&KeeperEvent::Exited(Ending::Signal(9)));
    run.expect(&KeeperEvent::Gone);
    assert_eq!(processes(&run.cgroup), "");
    assert!(run.keeper.wait().unwrap().success());
}

#[test]
fn as_root_a_signal_before_there_is_an_agent_ends_everything() {
    let support::Waiting { mut helper, cgroup, .. } = support::waiting();
    helper.channel.send(&KeeperRequest::Signal(libc::SIGCONT), &[]).unwrap();
    let (event, _) = helper.channel.receive::<KeeperEvent>().unwrap().unwrap();
    assert_eq!(event, failed(Stage::Plan, "Signal(18) out of turn", libc::EPROTO));
    assert!(helper.channel.receive::<KeeperEvent>().unwrap().is_none());
    assert_eq!(processes(&cgroup), "");
    helper.child.wait().unwrap();
}

#[test]
fn as_root_the_end_of_skepd_kills_everything_and_removes_the_cgroup() {
    let Run { mut keeper, channel, cgroup, .. } = sleeping();
    drop(channel);
    keeper.wait().unwrap();
    assert!(!cgroup.path.exists());
}

#[test]
fn as_root_the_end_of_skepd_during_a_launch_leaves_nothing() {
    for microseconds in (0..6000).step_by(300) {
        let Run { mut keeper, channel, cgroup, .. } = launch(plan(&["sleep", "600"]), None);
        std::thread::sleep(Duration::from_micros(microseconds));
        drop(channel);
        keeper.wait().unwrap();
        assert!(!cgroup.path.exists() || processes(&cgroup).is_empty(), "after {microseconds} us");
    }
}

#[test]
fn as_root_an_empty_sandbox_ends_with_its_pid_1() {
    let support::Waiting { mut helper, cgroup, .. } = support::waiting();
    let init = processes(&cgroup).trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).unwrap();
    let begun = Instant::now();
    while helper.child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the keeper waits for a plan");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn as_root_a_killed_keeper_leaves_no_process() {
    let mut run = sleeping();
    run.keeper.kill().unwrap();
    run.keeper.wait().unwrap();
    until("processes without a keeper", || processes(&run.cgroup).is_empty());
}

#[test]
fn as_root_a_keeper_killed_during_a_launch_leaves_no_process() {
    for microseconds in (0..6000).step_by(300) {
        let mut run = launch(plan(&["sleep", "600"]), None);
        std::thread::sleep(Duration::from_micros(microseconds));
        run.keeper.kill().unwrap();
        run.keeper.wait().unwrap();
        until("processes without a keeper", || processes(&run.cgroup).is_empty());
    }
}

#[test]
fn as_root_what_the_agent_leaves_behind_dies_with_it() {
    let outcome = launch(shell("setsid sleep 600 </dev/null >/dev/null 2>&1 & exit 3"), None).finish();
    assert_eq!(outcome.ending, Ending::Code(3));
}

#[test]
fn as_root_a_signal_reaches_the_agent() {
    let run = launch(shell("trap 'exit 7' TERM; while :; do sleep 0.01; done"), None);
    run.started();
    // The trap is not set at once.
    std::thread::sleep(Duration::from_millis(300));
    run.channel.send(&KeeperRequest::Signal(libc::SIGTERM), &[]).unwrap();
    run.expect(&KeeperEvent::Exited(Ending::Code(7)));
    run.expect(&KeeperEvent::Gone);
}

#[test]
fn as_root_a_mask_of_something_missing_fails() {
    let mut plan = plan(&["true"]);
    plan.private
        .push(RootOp::Mask { at: "/usr/no-such".into(), kind: skep_policy::launch::ObjectKind::File });
    assert_eq!(launch(plan, None).failure(), failed(Stage::Root, "openat2(/usr/no-such)", libc::ENOENT));
}
