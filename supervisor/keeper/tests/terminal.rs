//! The terminal of a sandbox. As root.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs::File;
use std::io::{Read, Write};

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

#[test]
fn as_root_a_signal_goes_to_the_foreground_group() {
    let (run, mut master) =
        with_terminal("trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.02; done");
    let mut ready = [0; 7];
    master.read_exact(&mut ready).unwrap();
    run.channel.send(&KeeperRequest::Signal(libc::SIGINT), &[]).unwrap();
    end(&run, Ending::Code(5));
    assert_eq!(rest(&master), "got\n");
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
