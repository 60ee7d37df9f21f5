//! Helpers start whatever this process holds: also a file whose close waits for a stranger.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use skep_kernel::spawn::Spawner;

/// Operations of `include/uapi/linux/fuse.h`.
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;

/// A regular file of a FUSE file system whose server answers everything but FLUSH.
struct Unflushed {
    /// Closed, it ends the connection, and with that every wait for an answer.
    server: File,
    file: File,
}

impl Unflushed {
    fn open() -> Self {
        let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let point = tempfile::NamedTempFile::new().unwrap();
        let path = point.path().to_owned();
        let options = format!("fd={},rootmode=100644,user_id=0,group_id=0", server.as_raw_fd());
        let (mounted, is_mounted) = channel();
        // In a mount namespace of the thread's own, which ends with it: nothing is left behind.
        let opener = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("skep-test"), &path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
            mounted.send(()).unwrap();
            let file = File::open(&path).unwrap();
            umount2(&path, MntFlags::MNT_DETACH).unwrap();
            file
        });
        is_mounted.recv().unwrap();
        let mut opened = false;
        while !opened {
            opened = answer(&server) == OPEN;
        }
        Self { server, file: opener.join().unwrap() }
    }
}

/// Answers one request and says what was asked for.
fn answer(mut server: &File) -> u32 {
    let mut request = [0; 1 << 17];
    let length = server.read(&mut request).unwrap();
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    assert!(length >= 40);
    let (operation, unique) = (word(4), &request[8..16]);
    let mut body = match operation {
        INIT => vec![0; 64],
        GETATTR => vec![0; 104],
        OPEN => vec![0; 16],
        _ => Vec::new(),
    };
    match operation {
        INIT => {
            // The version, and the most that is written at once.
            body[0..4].copy_from_slice(&7_u32.to_ne_bytes());
            body[4..8].copy_from_slice(&31_u32.to_ne_bytes());
            body[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
        }
        // The mode, behind six words of 8 bytes and three of 4 of the attributes.
        GETATTR => body[16 + 60..16 + 64].copy_from_slice(&0o100_644_u32.to_ne_bytes()),
        OPEN | FLUSH => {}
        _ => panic!("operation {operation}"),
    }
    let total = u32::try_from(16 + body.len()).unwrap();
    let reply = [&total.to_ne_bytes()[..], &0_i32.to_ne_bytes(), unique, &body].concat();
    assert_eq!(server.write(&reply).unwrap(), reply.len());
    operation
}

#[test]
fn as_root_a_helper_starts_although_a_stranger_keeps_a_file_of_ours_from_closing() {
    let spawner = Spawner::start().unwrap();
    let Unflushed { server, file } = Unflushed::open();
    // Such a file does hold up who is started in the usual way.
    let (started, has_started) = channel();
    let usual = thread::spawn(move || {
        Command::new("/bin/true").status().unwrap();
        started.send(()).unwrap();
    });
    has_started.recv_timeout(Duration::from_millis(300)).unwrap_err();

    let mut helper = spawner.helper(Path::new("/bin/true"), &[], None).unwrap();
    assert!(helper.child.wait().unwrap().success());
    has_started.try_recv().unwrap_err();
    drop(server);
    usual.join().unwrap();
    drop(file);
}
