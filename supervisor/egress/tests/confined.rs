//! What the gateway has given up, tried: each refused call beside one of its kind that still works.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use skep_egress::confine::{ConfineError, confine};
use skep_policy::launch::Ids;

const PROBE: &str = "SKEP_EGRESS_PROBE";

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Runs the test of this name again as a process of its own, for there is no way back from confinement.
#[test]
fn root_only_a_confined_process_opens_starts_and_listens_to_nothing() {
    if std::env::var_os(PROBE).is_some() {
        return probe();
    }
    let name = "root_only_a_confined_process_opens_starts_and_listens_to_nothing";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PROBE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn probe() {
    // The controls, before.
    File::open("/etc/passwd").unwrap();
    Command::new("/bin/true").status().unwrap();
    UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    confine(Ids { uid: 64_873, gid: 64_873 }).unwrap();
    assert_eq!(errno(File::open("/etc/passwd")), Some(libc::EPERM));
    assert_eq!(errno(Command::new("/bin/true").status()), Some(libc::EPERM));
    assert_eq!(errno(UnixStream::pair()), Some(libc::EPERM));
    assert_eq!(errno(TcpListener::bind("127.0.0.1:0")), Some(libc::EPERM));
    assert_eq!(errno(std::fs::read_link("/proc/self/exe")), Some(libc::EPERM));
    assert_eq!(errno(std::thread::Builder::new().spawn(|| {}).map(drop)), Some(libc::EPERM));
    let refused = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None).err();
    assert_eq!(refused(AddressFamily::Inet, SockType::Raw), Some(nix::Error::EPERM));
    assert_eq!(refused(AddressFamily::Packet, SockType::Datagram), Some(nix::Error::EPERM));
    assert_eq!(refused(AddressFamily::Netlink, SockType::Raw), Some(nix::Error::EPERM));
    assert_eq!(refused(AddressFamily::Vsock, SockType::Stream), Some(nix::Error::EPERM));
    // What a gateway does all day, after.
    UdpSocket::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap();
}

#[test]
fn root_is_not_an_id_to_run_with() {
    for (uid, gid) in [(0, 1), (1, 0)] {
        assert!(matches!(confine(Ids { uid, gid }), Err(ConfineError::Root)));
    }
}
