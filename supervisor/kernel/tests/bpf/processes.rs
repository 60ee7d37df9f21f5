//! Programs started and processes ended.

use skep_kernel::bpf::{Event, Exec, Exit, Status};

use crate::rig::Rig;
use crate::roles;

fn execs(events: &[Event]) -> Vec<&Exec> {
    events.iter().filter_map(|event| if let Event::Exec(exec) = event { Some(exec) } else { None }).collect()
}

fn exits(events: &[Event]) -> Vec<&Exit> {
    events.iter().filter_map(|event| if let Event::Exit(exit) = event { Some(exit) } else { None }).collect()
}

#[test]
fn as_root_an_exec_is_reported_with_file_arguments_and_lineage() {
    let mut rig = Rig::new(false);
    rig.inside("/bin/echo 'one word' two; :");
    let events = rig.events();
    let execs = execs(&events);
    let echo = execs.iter().find(|exec| exec.program.path.path.ends_with(b"/echo")).expect("echo ran");
    assert_eq!(echo.program.path.path, b"/usr/bin/echo");
    assert!(echo.program.path.accuracy.is_whole());
    assert_eq!(echo.arguments.bytes, b"/bin/echo\0one word\0two\0");
    assert_eq!(echo.task.comm, b"echo");
    assert_eq!(echo.task.cgroup, rig.cgroup);
    let shell = execs[0];
    assert_eq!(shell.arguments.bytes, b"sh\0-c\0/bin/echo 'one word' two; :\0");
    assert_eq!(echo.task.parent, shell.task.process);
    assert!(echo.task.start_ns >= shell.task.start_ns);
    let metadata = std::fs::metadata("/usr/bin/echo").unwrap();
    assert_eq!(echo.program.inode, std::os::unix::fs::MetadataExt::ino(&metadata));
    let device = std::os::unix::fs::MetadataExt::dev(&metadata);
    assert_eq!(echo.program.device, (libc::major(device), libc::minor(device)));
}

#[test]
fn as_root_long_arguments_arrive_whole_up_to_4_kib_and_marked_beyond() {
    let mut rig = Rig::new(false);
    for length in [200, 300, 4000, 5000] {
        let word = "w".repeat(length);
        rig.inside(&format!("exec /bin/true {word}"));
        let events = rig.events();
        let exec = execs(&events).into_iter().rfind(|exec| exec.task.comm == b"true").expect("true ran");
        let whole = format!("/bin/true\0{word}\0");
        let shown = whole.len().min(4096);
        assert_eq!(exec.arguments.bytes, whole.as_bytes()[..shown], "{length}");
        assert_eq!(exec.arguments.total as usize, whole.len());
        assert_eq!(exec.arguments.accuracy.truncated, shown < whole.len());
    }
}

#[test]
fn as_root_a_process_ends_once_with_its_code_or_signal() {
    let mut rig = Rig::new(false);
    rig.inside("exit 3");
    rig.inside("kill -SEGV $$");
    let events = rig.events();
    let statuses: Vec<_> = exits(&events).iter().map(|exit| exit.status).collect();
    assert_eq!(statuses, [Status::Code(3), Status::Signal(11)]);
}

#[test]
fn as_root_an_exec_by_a_second_thread_is_no_end_of_its_process() {
    let mut rig = Rig::new(false);
    let output = rig.run_inside(&roles::command("thread-exec"));
    assert_eq!(output.status.code(), Some(5));
    let events = rig.events();
    let shell = *execs(&events).last().expect("the shell ran");
    assert_ne!(shell.old_thread, shell.task.process);
    let ended: Vec<_> =
        exits(&events).into_iter().filter(|exit| exit.task.process == shell.task.process).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].status, Status::Code(5));
    assert_eq!(ended[0].task.start_ns, shell.task.start_ns);
}

#[test]
fn as_root_tasks_outside_are_not_reported() {
    let mut rig = Rig::new(true);
    rig.outside("/bin/echo x > made; cat missing; mv made other");
    assert_eq!(rig.events(), []);
    assert_eq!(rig.programs.counts(rig.cgroup).unwrap().unwrap().reads, 0);
}

#[test]
fn as_root_a_dismissed_sandbox_is_not_reported_any_more() {
    let mut rig = Rig::new(false);
    rig.inside(":");
    let counts = rig.programs.dismiss(rig.cgroup).unwrap().expect("it was admitted");
    assert!(counts.bytes > 0 && !rig.events().is_empty());
    rig.inside("/bin/true");
    assert_eq!(rig.events(), []);
    assert_eq!(rig.programs.dismiss(rig.cgroup).unwrap(), None);
}

#[test]
fn as_root_no_program_was_skipped() {
    let rig = Rig::new(false);
    rig.inside("for i in 1 2 3 4 5; do /bin/true; done");
    assert_eq!(rig.programs.skipped().unwrap(), 0);
}
