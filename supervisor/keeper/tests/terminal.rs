//! The terminal of a sandbox. As root.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use nix::libc;
use skep_policy::launch::{Ending, KeeperEvent, KeeperRequest, Plan, Terminal};
use support::{Run, launch, shell};

fn with_terminal(script: &str) -> (Run, File) {
    let plan = Plan { terminal: Terminal::Pty { rows: 33, columns: 99 }, ..shell(script) };
    let run = launch(plan, None);
    let (event, mut descriptors) = run.event().unwrap();
    assert!(matches!(event, KeeperEvent::Started { .. }) && descriptors.len() == 1, "{event:?}");
    (run, File::from(descriptors.remove(0)))
}

/// Everything up to the hang-up, which a master reads as EIO.
fn rest(mut master: &File) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        bytes.extend(&buffer[..length]);
    }
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

fn end(run: &Run, ending: Ending) {
    run.expect(&KeeperEvent::Exited(ending));
    run.expect(&KeeperEvent::Gone);
}

#[test]
fn as_root_the_agent_has_a_terminal_of_its_own_instance() {
    let script = "tty; stty size; stat -c %u:%g:%a $(tty); echo x > /dev/tty; ls -l /proc/self/fd/0 | grep -c pts/0; ls /dev/pts";
    let (run, master) = with_terminal(script);
    end(&run, Ending::Code(0));
    assert_eq!(
        rest(&master),
        "/dev/pts/0\n33 99\n4242:4243:620\nx\n1\n0  ptmx\n"
            .replace("  ", if cfg!(any()) { "" } else { "  " })
    );
}

/// A job in the foreground group of the agent's terminal. The agent, outside of it, ends with what the job has died
/// of, and with 5 at a SIGTERM of its own.
fn with_job(then: &str) -> (Run, File) {
    let script = format!(
        "exec perl -MPOSIX -e '$| = 1; $SIG{{TTOU}} = IGNORE; my $job = fork; \
         if (!$job) {{ sleep 600; exit }} \
         $SIG{{INT}} = $SIG{{QUIT}} = sub {{ exit 6 }}; $SIG{{TERM}} = sub {{ kill KILL => $job; exit 5 }}; \
         setpgid($job, $job); tcsetpgrp(0, $job); print qq(ready\\n); {then} waitpid($job, 0); exit $?'"
    );
    let (run, mut master) = with_terminal(&script);
    master.read_exact(&mut [0; 7]).unwrap();
    (run, master)
}

#[test]
fn as_root_a_signal_that_keys_send_goes_to_the_foreground_group_and_any_other_to_the_agent() {
    for (number, ending) in [(libc::SIGINT, 2), (libc::SIGQUIT, 3), (libc::SIGTERM, 5)] {
        let (run, _master) = with_job("");
        run.channel.send(&KeeperRequest::Signal(number), &[]).unwrap();
        end(&run, Ending::Code(ending));
    }
}

/// A process of ours that leads a group of the number given, and its standard input: at its end the process ends too.
/// It says by which signal, if it was one.
fn leader_of(group: nix::unistd::Pid) -> Child {
    // `clone3` with `set_tid`, which is to be free.
    let script = "my $tid = pack('l', $ARGV[0]); \
        my $args = pack('Q11', 0, 0, 0, 0, 17, 0, 0, 0, unpack('Q', pack('P', $tid)), 1, 0); \
        my $pid = syscall(435, $args, 88); die \"clone3: $!\" if $pid < 0; \
        if (!$pid) { setpgrp(0, 0); syswrite(STDOUT, \"leads\\n\"); sysread(STDIN, $_, 1); exit 0 } \
        waitpid($pid, 0); print 'ended by ', $? & 127";
    let mut leader = Command::new("perl")
        .args(["-e", script, &group.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    leader.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"leads\n");
    leader
}

#[test]
fn as_root_the_number_of_a_foreground_group_that_has_ended_is_not_signalled() {
    let (run, mut master) =
        with_job("kill KILL => $job; waitpid($job, 0); print qq(gone\\n); sleep 1 while 1;");
    master.read_exact(&mut [0; 6]).unwrap();
    // The terminal still has the number, which by now may belong to anybody.
    let stranger = leader_of(nix::unistd::tcgetpgrp(&master).unwrap());
    for number in [libc::SIGINT, libc::SIGTERM] {
        run.channel.send(&KeeperRequest::Signal(number), &[]).unwrap();
    }
    end(&run, Ending::Code(5));
    let said = stranger.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "ended by 0");
}

#[test]
fn as_root_a_typed_interrupt_reaches_the_agent() {
    let (run, mut master) = with_terminal("echo ready; exec cat");
    master.read_exact(&mut [0; 7]).unwrap();
    master.write_all(b"\x03").unwrap();
    end(&run, Ending::Signal(2));
}

#[test]
fn as_root_typing_into_the_terminal_by_ioctl_stays_inside() {
    // TIOCSTI on the own terminal may work or not; there is no other to reach.
    let (run, master) = with_terminal(
        "perl -e '$c = \"x\"; ioctl(STDIN, 0x5412, $c) or print \"no\\n\"' >/dev/null; ls /dev/pts | wc -l",
    );
    end(&run, Ending::Code(0));
    assert!(rest(&master).contains("2\n"));
}
