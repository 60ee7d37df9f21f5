//! Opens, refusals and changes.

use std::process::Command;

use skep_kernel::bpf::{Call, Event, Named, Opened, Settings};

use crate::rig::{Rig, bytes, settings};

fn opened(events: &[Event]) -> Vec<&Opened> {
    events
        .iter()
        .filter_map(|event| if let Event::Opened(opened) = event { Some(opened) } else { None })
        .collect()
}

fn refused(events: &[Event]) -> Vec<&Call> {
    events
        .iter()
        .filter_map(|event| if let Event::Refused(call) = event { Some(call) } else { None })
        .collect()
}

fn changed(events: &[Event]) -> Vec<&Call> {
    events
        .iter()
        .filter_map(|event| if let Event::Changed(call) = event { Some(call) } else { None })
        .collect()
}

#[test]
fn as_root_a_written_file_is_reported_by_the_path_the_kernel_opened() {
    let mut rig = Rig::new(false);
    rig.inside("mkdir d; ln -s d link; echo x > link/../link/file; cat d/file");
    let events = rig.events();
    let path = rig.path("d/file");
    let file = opened(&events).into_iter().find(|opened| opened.file.path.path == bytes(&path));
    let file = file.expect("the links are resolved");
    assert!(file.created);
    assert_eq!(file.kept_flags & 3, libc::O_WRONLY.cast_unsigned());
    assert_ne!(file.passed_flags & u64::from(libc::O_CREAT.cast_unsigned()), 0);
    assert_eq!(file.file.mode & libc::S_IFMT, libc::S_IFREG);
    let reads = opened(&events).iter().filter(|opened| opened.file.path.path == bytes(&path)).count();
    assert_eq!(reads, 1, "the read is only counted");
    assert!(rig.programs.counts(rig.cgroup).unwrap().unwrap().reads > 0);
}

#[test]
fn as_root_reads_are_reported_where_the_sandbox_wants_them() {
    let mut rig = Rig::new(true);
    std::fs::write(rig.path("file"), "x").unwrap();
    rig.inside("cat file");
    let events = rig.events();
    assert!(opened(&events).iter().any(|opened| opened.file.path.path == bytes(&rig.path("file"))));
}

#[test]
fn as_root_a_path_across_a_bind_mount_is_the_one_the_task_sees() {
    let mut rig = Rig::new(false);
    std::fs::create_dir_all(rig.path("real/deep")).unwrap();
    std::fs::create_dir(rig.path("shown")).unwrap();
    let script = "mount --bind real shown && echo x > shown/deep/file";
    let output = rig.run_inside(std::process::Command::new("unshare").args(["-m", "sh", "-c", script]));
    assert!(output.status.success(), "{output:?}");
    let events = rig.events();
    let paths: Vec<_> = opened(&events).iter().map(|opened| opened.file.path.path.clone()).collect();
    assert!(paths.contains(&bytes(&rig.path("shown/deep/file")).to_vec()), "{paths:?}");
}

#[test]
fn as_root_paths_up_to_64_components_are_whole_and_deeper_ones_marked() {
    let mut rig = Rig::new(false);
    let deep = vec!["a-longer-component"; 60].join("/");
    rig.inside(&format!("mkdir -p {deep}; cd {deep}; echo x > leaf"));
    let events = rig.events();
    let leaf = opened(&events).into_iter().find(|opened| opened.file.path.path.ends_with(b"/leaf")).unwrap();
    assert_eq!(leaf.file.path.path, bytes(&rig.path(&format!("{deep}/leaf"))));
    assert!(leaf.file.path.accuracy.is_whole());
    let deeper = vec!["d"; 120].join("/");
    rig.inside(&format!("mkdir -p {deeper}; echo x > {deeper}/leaf"));
    let events = rig.events();
    let leaf = opened(&events).into_iter().find(|opened| opened.file.path.path.ends_with(b"/leaf")).unwrap();
    assert!(leaf.file.path.accuracy.too_deep);
    assert!(!leaf.file.path.path.starts_with(b"/"));
}

#[test]
fn as_root_a_missing_file_is_reported_with_its_directory_and_claimed_path() {
    let mut rig = Rig::new(false);
    rig.inside("mkdir sub; cd sub; cat no/such; cat /no/such/absolute");
    let events = rig.events();
    let paths: Vec<_> = refused(&events).iter().map(|call| (call.errno, call.first.joined())).collect();
    assert!(paths.contains(&(libc::ENOENT, bytes(&rig.path("sub/no/such")).to_vec())), "{paths:?}");
    assert!(paths.contains(&(libc::ENOENT, b"/no/such/absolute".to_vec())), "{paths:?}");
}

#[test]
fn as_root_a_refused_open_and_exec_are_reported_with_their_errno() {
    let mut rig = Rig::new(false);
    std::fs::write(rig.path("secret"), "x").unwrap();
    let script =
        "chmod 755 .; chmod 600 secret; setpriv --reuid 65534 cat secret; setpriv --reuid 65534 ./secret";
    rig.inside(script);
    let events = rig.events();
    let calls: Vec<_> =
        refused(&events).iter().map(|call| (call.name(), call.errno, call.first.joined())).collect();
    assert!(calls.contains(&("openat", libc::EACCES, bytes(&rig.path("secret")).to_vec())), "{calls:?}");
    assert!(calls.iter().any(|(name, errno, _)| *name == "execve" && *errno == libc::EACCES), "{calls:?}");
}

#[test]
fn as_root_a_path_through_a_descriptor_names_the_file_and_not_the_descriptor() {
    let mut rig = Rig::new(false);
    std::fs::create_dir(rig.path("sub")).unwrap();
    rig.inside(
        "exec 9< sub; cat /proc/self/fd/9/missing; mkdir /proc/self/fd/9/made; ln -s /proc/self/fd/9 link",
    );
    let events = rig.events();
    let paths: Vec<_> = refused(&events).iter().map(|call| call.first.joined()).collect();
    assert!(paths.contains(&bytes(&rig.path("sub/missing")).to_vec()), "{paths:?}");
    let changes: Vec<_> = changed(&events)
        .iter()
        .map(|call| (call.first.joined(), call.second.as_ref().map(Named::joined)))
        .collect();
    assert!(changes.contains(&(bytes(&rig.path("sub/made")).to_vec(), None)), "{changes:?}");
    let link = (bytes(&rig.path("link")).to_vec(), Some(b"/proc/self/fd/9".to_vec()));
    assert!(changes.contains(&link), "a link's target is only text: {changes:?}");
}

#[test]
fn as_root_a_read_only_file_system_is_a_refusal() {
    let mut rig = Rig::new(false);
    std::fs::create_dir(rig.path("ro")).unwrap();
    let script = "mount --bind ro ro && mount -o remount,bind,ro ro && mkdir ro/x";
    rig.run_inside(std::process::Command::new("unshare").args(["-m", "sh", "-c", script]));
    let events = rig.events();
    let call = refused(&events).into_iter().find(|call| call.errno == libc::EROFS).expect("EROFS");
    assert_eq!((call.name(), call.first.joined().as_slice()), ("mkdir", bytes(&rig.path("ro/x"))));
}

#[test]
fn as_root_renames_links_and_removals_are_changes_with_both_names() {
    let mut rig = Rig::new(false);
    rig.inside("echo x > a; mv a b; ln b c; ln -s target s; rm c; mkdir d; rmdir d; chmod 600 b");
    let events = rig.events();
    let both = |call: &Call| (call.first.joined(), call.second.as_ref().map(Named::joined));
    let calls: Vec<_> = changed(&events).iter().map(|call| (call.name(), both(call))).collect();
    let at = |name: &str| bytes(&rig.path(name)).to_vec();
    let has = |names: &[&str], first: Vec<u8>, second: Option<Vec<u8>>| {
        let wanted = (first, second);
        assert!(
            calls.iter().any(|(name, paths)| names.contains(name) && *paths == wanted),
            "{names:?}: {calls:?}"
        );
    };
    has(&["rename", "renameat", "renameat2"], at("a"), Some(at("b")));
    has(&["link", "linkat"], at("b"), Some(at("c")));
    has(&["symlink", "symlinkat"], at("s"), Some(b"target".to_vec()));
    has(&["unlink", "unlinkat"], at("c"), None);
    has(&["mkdir", "mkdirat"], at("d"), None);
    has(&["rmdir", "unlinkat"], at("d"), None);
    has(&["fchmodat", "chmod", "fchmodat2"], at("b"), None);
}

#[test]
fn as_root_an_exchange_is_told_from_a_rename_by_its_flag() {
    let mut rig = Rig::new(false);
    rig.inside("echo x > a; echo y > b");
    let output = rig.run_inside(&crate::roles::command("exchange"));
    assert!(output.status.success(), "{output:?}");
    let events = rig.events();
    let call = changed(&events).into_iter().find(|call| call.name() == "renameat2").expect("renameat2");
    assert_eq!(call.argument, u64::from(libc::RENAME_EXCHANGE));
    assert_eq!(call.second.as_ref().map(Named::joined).as_deref(), Some(bytes(&rig.path("b"))));
}

#[test]
fn as_root_a_refused_path_socket_is_reported_with_its_path() {
    let mut rig = Rig::new(false);
    let path = rig.path("no-socket");
    let output = rig.run_inside(crate::roles::command("unix").env("SKEP_TEST_PATH", &path));
    assert!(output.status.success(), "{output:?}");
    let events = rig.events();
    let call = refused(&events).into_iter().find(|call| call.name() == "connect").expect("connect");
    assert_eq!(call.errno, libc::ENOENT);
    let claimed = call.first.claimed.as_ref().unwrap();
    assert!(claimed.bytes.starts_with(bytes(&path)), "{claimed:?}");
}

#[test]
fn as_root_what_comes_before_the_first_program_is_not_reported_where_it_builds_the_sandbox() {
    // The shell of `command_inside` is in the sandbox before it becomes the command.
    let script = r#"echo $$ > "$0"; : > before; exec ./missing-program; exec "$@""#;
    for built_first in [false, true] {
        let mut rig = Rig::new(false);
        rig.programs.admit(rig.cgroup, &Settings { built_first, ..settings(false) }).unwrap();
        let command = rig.command_inside(Command::new("sh").args(["-c", ": > after"]));
        let mut arguments: Vec<_> = command.get_args().collect();
        arguments[1] = script.as_ref();
        let output =
            Command::new("bash").arg("-O").arg("execfail").args(arguments).current_dir(rig.path("")).output();
        assert!(output.unwrap().status.success());
        let events = rig.events();
        let wrote = |name| opened(&events).iter().any(|file| file.file.path.path == bytes(&rig.path(name)));
        assert_eq!((wrote("before"), wrote("after")), (!built_first, true));
        assert!(refused(&events).iter().any(|call| call.name() == "execve"), "{events:?}");
    }
}

#[test]
fn as_root_a_look_for_what_is_not_there_stands_for_its_repetitions_within_a_second() {
    let mut rig = Rig::new(false);
    let looks = |rig: &mut Rig, name: &str| {
        let events = rig.events();
        refused(&events).iter().filter(|call| call.first.joined().ends_with(name.as_bytes())).count()
    };
    // A shell opens by itself, so that all of them take milliseconds.
    rig.inside("for n in $(seq 50); do command : < nope; done 2> /dev/null");
    assert!((1..50).contains(&looks(&mut rig, "/nope")));
    // Other names, other directories and other purposes are other looks.
    let script = "for n in 1 2 3; do command : < no$n; done; cd e; for n in 1 2 3; do command : < no$n; done";
    rig.inside(&format!("mkdir e; {{ {script}; }} 2> /dev/null; true"));
    let events = rig.events();
    let told = |name: &str| {
        refused(&events).iter().filter(|call| call.first.joined().ends_with(name.as_bytes())).count()
    };
    assert_eq!(["/no1", "/no2", "/no3", "/e/no1", "/e/no2", "/e/no3"].map(told), [2, 2, 2, 1, 1, 1]);
    rig.inside("{ command : < gone/x; command : > gone/x; } 2> /dev/null; true");
    assert_eq!(looks(&mut rig, "/gone/x"), 2);
    rig.inside("command : < later 2> /dev/null; sleep 1.1; command : < later 2> /dev/null; true");
    assert_eq!(looks(&mut rig, "/later"), 2);
}
