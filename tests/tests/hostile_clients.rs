//! Clients that mean harm. What one of them does, no other may notice.

// UNSAFETY: the C library's calls change the ids of all threads; that of the kernel has no other wrapper.
#![expect(unsafe_code, reason = "one thread connects as another user")]

use std::fs;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    setsockopt, socket, sockopt,
};
use skep_tests::Outcome;
use skep_tests::process::{self, Running};
use skep_tests::skep::{HOLD, Skep};

const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test takes: what waits for it waits for ever.
const LINGER_SECONDS: i32 = 3600;

/// More than skepd has worker threads on any machine the tests run on.
const CLIENTS: usize = 40;

/// More than one user may have: 256 of them are served, the others refused.
const SILENT: usize = 600;

const NOBODY: u32 = 65534;

/// Sockets whose close does not return before their peers are gone.
struct Lingering {
    /// They read nothing. Closed with bytes unread they reset their connections, and that ends the lingering.
    _peers: Vec<TcpStream>,
}

impl Lingering {
    fn new(count: usize) -> anyhow::Result<(Self, Vec<TcpStream>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (mut peers, mut sockets) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut socket = TcpStream::connect(listener.local_addr()?)?;
            peers.push(listener.accept()?.0);
            let linger = libc::linger { l_onoff: 1, l_linger: LINGER_SECONDS };
            setsockopt(&socket, sockopt::Linger, &linger)?;
            socket.set_nonblocking(true)?;
            let full = loop {
                match socket.write(&[0; 1 << 16]) {
                    Ok(_written) => {}
                    Err(error) => break error,
                }
            };
            ensure!(full.kind() == ErrorKind::WouldBlock, "filling a socket: {full}");
            sockets.push(socket);
        }
        Ok((Self { _peers: peers }, sockets))
    }
}

/// A skepd that lives as long as a sandbox of its own does.
struct Service {
    skep: Skep,
    _holder: Running,
}

impl Service {
    fn new() -> anyhow::Result<Self> {
        let skep = Skep::new()?;
        let holder = skep.shell(HOLD).command();
        let service = Self { _holder: skep.hold(holder)?, skep };
        // As for a group of which everybody is a member.
        fs::set_permissions(service.skep.runtime().join("skepd.sock"), fs::Permissions::from_mode(0o666))?;
        Ok(service)
    }

    /// Connections of somebody who is not root, and says nothing.
    fn nobody_connects(&self, count: usize) -> anyhow::Result<Vec<OwnedFd>> {
        let connect = || {
            become_nobody()?;
            (0..count).map(|_| connection_to(&self.skep)).collect()
        };
        thread::scope(|scope| scope.spawn(connect).join().map_err(|_panic| anyhow::anyhow!("a panic"))?)
    }

    /// Sends each socket on a connection of its own. The connections are the clients'.
    fn send(&self, sockets: Vec<TcpStream>) -> anyhow::Result<Vec<OwnedFd>> {
        self.send_on(sockets, |count| (0..count).map(|_| connection_to(&self.skep)).collect())
    }

    fn send_on(
        &self,
        sockets: Vec<TcpStream>,
        connect: impl FnOnce(usize) -> anyhow::Result<Vec<OwnedFd>>,
    ) -> anyhow::Result<Vec<OwnedFd>> {
        let daemon = self.daemon()?;
        // Stopped until our copies are closed: whoever closes the last one waits, and that shall be skepd.
        process::send(daemon, "STOP")?;
        let sent = connect(sockets.len()).and_then(|clients| {
            for (client, socket) in clients.iter().zip(&sockets) {
                let descriptors = [socket.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&descriptors)];
                let message = [IoSlice::new(b"hello")];
                sendmsg::<UnixAddr>(client.as_raw_fd(), &message, &rights, MsgFlags::empty(), None)?;
            }
            Ok(clients)
        });
        drop(sockets);
        process::send(daemon, "CONT")?;
        sent
    }

    /// How many descriptors skepd has.
    fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.daemon()?))?.count())
    }

    /// Waits until skepd has no more descriptors than `before`, but for what it needs for sandboxes that come and go.
    fn comes_back_to(&self, before: usize) -> Outcome {
        const FEW: usize = 20;
        process::until(PATIENCE, || Ok(self.descriptors()? < before + FEW))
            .with_context(|| format!("{before} descriptors before, {:?} after", self.descriptors()))
    }

    fn daemon(&self) -> anyhow::Result<u32> {
        self.skep.processes_named("skepd")?.first().copied().context("there is no skepd")
    }

    /// Somebody else's question is answered, and somebody else's sandbox runs.
    fn serves_others(&self) -> Outcome {
        let listed = process::run(&mut self.skep.command(["ls"]), PATIENCE)?;
        ensure!(listed.code() == 0, "skep ls: {}", listed.stderr);
        let ran = self.skep.shell("echo alive").finish()?;
        ensure!(
            ran.code() == 0 && ran.finished.stdout.contains("alive"),
            "skep run: {}",
            ran.finished.stderr
        );
        Ok(())
    }
}

fn connection_to(skep: &Skep) -> anyhow::Result<OwnedFd> {
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(&skep.runtime().join("skepd.sock"))?;
    connect(client.as_raw_fd(), &address).context("skepd's socket")?;
    Ok(client)
}

/// Gives this thread, and no other, the ids of nobody.
fn become_nobody() -> anyhow::Result<()> {
    // SAFETY: the call takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    ensure!(result == 0, "setresuid: {}", io::Error::last_os_error());
    Ok(())
}

/// What a client has been told so far.
fn told(client: &OwnedFd) -> String {
    let mut bytes = [0; 1 << 10];
    let length = recv(client.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Closes on a thread of its own, and tells when that is over.
fn close_aside(socket: TcpStream) -> Receiver<()> {
    let (closed, is_closed) = channel();
    thread::spawn(move || {
        drop(socket);
        // Whoever asked may have given up.
        let _gone = closed.send(());
    });
    is_closed
}

#[test]
fn sockets_that_do_not_close_hold_nobody_up() -> Outcome {
    let service = Service::new()?;
    let (lingering, mut sockets) = Lingering::new(CLIENTS + 1)?;
    // Such a socket does hold up whoever closes it.
    let control = close_aside(sockets.pop().context("no socket")?);
    ensure!(control.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout), "it closed");
    service.serves_others()?;
    let before = service.descriptors()?;
    let mut clients = service.send(sockets)?;
    service.serves_others()?;
    // Half of the clients leave, and what they sent is closed with their connections if it was not before.
    clients.truncate(CLIENTS / 2);
    service.serves_others()?;
    service.comes_back_to(before)?;
    ensure!(control.try_recv().is_err(), "the sockets did not linger all the time");
    drop(lingering);
    control.recv_timeout(PATIENCE)?;
    service.serves_others()
}

#[test]
fn a_user_whose_connections_are_refused_costs_skepd_nothing() -> Outcome {
    let service = Service::new()?;
    service.serves_others()?;
    let before = service.descriptors()?;
    let (lingering, mut sockets) = Lingering::new(CLIENTS + 1)?;
    let control = close_aside(sockets.pop().context("no socket")?);
    let silent = service.nobody_connects(SILENT)?;
    let laden = service.send_on(sockets, |count| service.nobody_connects(count))?;
    service.serves_others()?;
    service.comes_back_to(before)?;
    ensure!(control.try_recv().is_err(), "the sockets did not linger all the time");
    drop(lingering);
    control.recv_timeout(PATIENCE)?;
    let refused = silent.iter().chain(&laden).filter(|client| told(client).contains("too many connections"));
    // Those who are served may be so for 5 seconds, if they are silent.
    ensure!(refused.count() > CLIENTS);
    Ok(())
}

#[test]
fn who_has_too_many_connections_is_told_so() -> Outcome {
    let service = Service::new()?;
    let mut command = service.skep.command(["ls"]);
    command.uid(NOBODY).gid(NOBODY);
    // Each time it is served anew who has been silent for too long.
    process::until(PATIENCE, || {
        let _silent = service.nobody_connects(SILENT / 2)?;
        let listed = process::run(&mut command, PATIENCE)?;
        Ok(listed.code() != 0 && listed.stderr.contains("too many connections"))
    })?;
    service.serves_others()
}

#[test]
fn a_daemon_ends_although_clients_hold_threads_of_it() -> Outcome {
    let service = Service::new()?;
    let (lingering, mut sockets) = Lingering::new(5)?;
    let control = close_aside(sockets.pop().context("no socket")?);
    drop(service.send(sockets)?);
    service.serves_others()?;
    process::send(service.daemon()?, "TERM")?;
    process::until(PATIENCE, || Ok(service.skep.processes_named("skepd")?.is_empty()))?;
    ensure!(control.try_recv().is_err(), "the sockets did not linger all the time");
    drop(lingering);
    Ok(control.recv_timeout(PATIENCE)?)
}
