//! What children do that a shell cannot: the test binary starts itself with a role.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use skep_policy::launch::Network;

const ROLE: &str = "SKEP_TEST_ROLE";
const MARK: &str = "=> ";

/// The network of a sandbox, as the tests have it.
pub(crate) fn network() -> Network {
    Network { v4: "10.113.0.2".parse().unwrap(), v6: "fd00:5ce9::2".parse().unwrap(), gateway_port: 1 }
}

/// A command that plays a role.
pub(crate) fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "roles::a_child_plays_its_role", "--nocapture"]).env(ROLE, role);
    command
}

/// The lines a role reported.
pub(crate) fn reported(output: &std::process::Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once(MARK));
    lines.map(|(_, report)| report.to_owned()).collect()
}

/// Does nothing in an ordinary run.
#[test]
fn a_child_plays_its_role() {
    match std::env::var(ROLE).as_deref() {
        Ok("connect") => connect(),
        Ok("thread-exec") => thread_exec(),
        Ok("unix") => unix(),
        Ok("exchange") => exchange(),
        Ok("open") => open(libc::O_RDONLY),
        Ok("open-write") => open(libc::O_WRONLY),
        Ok("flood") => (0..20_000).for_each(look_for),
        Ok("restless") => (0..=u32::MAX).for_each(look_for),
        _ => {}
    }
}

/// Opens what is not there: each name is a record of its own.
fn look_for(number: u32) {
    let _refused = std::fs::File::open(format!("/nowhere/{number}"));
}

/// Tries every kind of destination in a namespace where all of them are local and somebody listens.
fn connect() {
    skep_kernel::clone::unshare(CloneFlags::CLONE_NEWNET).unwrap();
    skep_kernel::netns::configure(&network()).unwrap();
    let tcp = TcpListener::bind("[::]:0").unwrap();
    let udp = UdpSocket::bind("[::]:0").unwrap();
    let (tcp, udp) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    for address in ADDRESSES {
        let target = |port| SocketAddr::new(address.parse().unwrap(), port);
        let stream = TcpStream::connect_timeout(&target(tcp), Duration::from_secs(5));
        report("tcp", address, stream);
        let local = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(local).unwrap();
        report("sendto", address, socket.send_to(b"x", target(udp)));
        report("dns", address, socket.send_to(b"x", target(53)));
        report("udp", address, socket.connect(target(udp)));
    }
}

/// Destinations of the role `connect`.
pub(crate) const ADDRESSES: [&str; 9] = [
    "127.0.0.1",
    "::1",
    "10.113.0.2",
    "fd00:5ce9::2",
    "192.0.2.1",
    "2001:db8::1",
    "::ffff:192.0.2.1",
    "198.18.0.5",
    "fd5c:e900::5",
];

fn report<T>(what: &str, address: &str, result: io::Result<T>) {
    let errno = result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    println!("{MARK}{what} {address} {errno}");
}

/// Another thread than the leader becomes another program.
fn thread_exec() {
    use std::os::unix::process::CommandExt;
    std::thread::spawn(|| panic!("{}", Command::new("sh").args(["-c", "exit 5"]).exec())).join().unwrap();
}

/// Exchanges the files `a` and `b` of its working directory.
fn exchange() {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RenameFlags::RENAME_EXCHANGE).unwrap();
}

/// Opens and closes a file many times and reports the nanoseconds one round takes.
fn open(flags: i32) {
    use nix::fcntl::OFlag;
    // As many records as fit into the ring, which nobody reads meanwhile.
    const ROUNDS: u32 = 1500;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_CLOEXEC;
    let round = || nix::fcntl::open("/dev/null", flags, nix::sys::stat::Mode::empty()).unwrap();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| drop(round()));
        best = best.min(start.elapsed());
    }
    println!("{MARK}{}", best.as_nanos() / u128::from(ROUNDS));
}

/// Connects to a path nobody listens on.
fn unix() {
    let path = std::env::var_os("SKEP_TEST_PATH").unwrap();
    std::os::unix::net::UnixStream::connect(path).expect_err("nobody listens");
}
