use std::process::Command;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::*;

/// The test's own binary, started anew, is the process in which things are tried. libtest has a second thread
/// there, which only waits: what the attempts fork takes no lock it could hold.
fn prober() -> Prober<'static> {
    let arguments = &["--exact", "probe::tests::child", "--ignored", "--test-threads=1"];
    Prober { program: Path::new("/proc/self/exe"), arguments }
}

/// Not a test: what the tests below start.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let is_channel = nix::sys::socket::getsockopt(&std::io::stdin(), nix::sys::socket::sockopt::SockType);
    if is_channel == Ok(nix::sys::socket::SockType::SeqPacket) {
        attempt::serve();
    }
}

#[test]
fn as_root_every_layer_of_a_declared_host_is_proven_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let facts = prober().facts(&[directory.path()]);
    println!("{facts:#?}");
    assert!(facts.landlock.proof.works() && facts.landlock.abi >= 1, "{:?}", facts.landlock);
    assert!(facts.seccomp.proof.works() && facts.seccomp.listener, "{:?}", facts.seccomp);
    assert!(facts.cgroup.proof.works(), "{:?}", facts.cgroup);
    assert!(facts.user_namespaces.proof.works(), "{:?}", facts.user_namespaces);
    assert!(facts.idmapped_mounts[0].1.works(), "{:?}", facts.idmapped_mounts);
    let ours = format!("skep-probe-{}-", std::process::id());
    let left: Vec<_> = fs::read_dir(facts.cgroup.mount.unwrap()).unwrap().flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&ours)));
}

#[test]
fn as_root_what_a_killed_prober_left_is_cleared_with_its_frozen_victim() {
    let mut prober = Command::new("/bin/true").spawn().unwrap();
    prober.wait().unwrap();
    check_cleared(prober.id());
}

#[test]
fn as_root_a_killed_prober_need_not_have_been_waited_for() {
    let mut prober = Command::new("/bin/true").spawn().unwrap();
    let id = Id::Pid(Pid::from_raw(prober.id().try_into().unwrap()));
    waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    check_cleared(prober.id());
    prober.wait().unwrap();
}

fn check_cleared(prober: u32) {
    let mut victim = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let tree = Tree::open(&format!("{SCRATCH}{prober}-0")).unwrap();
    let attempt = tree.create("attempt").unwrap();
    attempt.add(victim.id()).unwrap();
    attempt.freeze(PATIENCE).unwrap();
    // Another prober on this machine may do it before us.
    clear_dead_attempts();
    assert_eq!(victim.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!tree.path().exists());
}

#[test]
fn a_prober_that_cannot_start_or_says_nothing_proves_nothing() {
    for program in ["/no/such/program", "/bin/true"] {
        let prober = Prober { program: Path::new(program), arguments: &[] };
        let answer: Result<Proof, String> = prober.ask(&Attempt::UserNamespace);
        assert!(answer.is_err(), "{program}: {answer:?}");
    }
}

#[test]
fn a_missing_directory_is_refused_by_its_errno() {
    let missing = prober().ask(&Attempt::Idmap("/no/such/directory".into()));
    assert_eq!(missing, Ok(Proof::Refused(libc::ENOENT)));
}

#[test]
fn an_unknown_lsm_list_has_no_bpf() {
    let mut facts = prober().facts(&[]);
    facts.lsms = None;
    assert!(!facts.lists_bpf_lsm());
    facts.lsms = Some(vec!["capability".to_owned(), "bpf".to_owned()]);
    assert!(facts.lists_bpf_lsm());
}

#[test]
fn what_was_started_to_try_something_starts_nothing() {
    let stuck = Prober { program: program(Some(OsStr::new(ARGUMENT))), arguments: &[ARGUMENT] };
    let answer: Result<Proof, String> = stuck.ask(&Attempt::UserNamespace);
    answer.unwrap_err();
    assert_eq!(program(None), Path::new("/proc/self/exe"));
}
