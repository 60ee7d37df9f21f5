//! One sandbox: its sockets, its names, its connections. One task owns it; dropping the task cuts everything.
//!
//! A sandbox is dismissed when its processes are gone, and each of its connections then has its end queued
//! behind its bytes. What they sent before they ended is theirs to send: it is delivered as a kernel would.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use skep_kernel::udp;
use skep_policy::egress::Rules;
use skep_policy::gateway::Subject;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::connection;
use crate::dial::Dialer;
use crate::dns::{self, Answer, Kind};
use crate::judge::{self, Verdict};
use crate::name::{HostName, NameError};
use crate::recorder::Recorder;
use crate::relay::Pipes;
use crate::table::{self, Table};

/// Most connections of one sandbox.
pub const CONNECTIONS: usize = 512;

/// Connections over the limit that wait for the record of their refusal; beyond them the kernel's queue fills.
const REFUSALS: usize = 32;

/// Questions that wait until the verdict on their name is written down; of more the client asks again.
const QUESTIONS: usize = 256;

/// How long what a dismissed sandbox has sent may take to reach its servers. It takes so long only when a server
/// is slow to answer the handshake or to read: a second is several round trips around the world, and the most
/// that the end of a run is held up.
const LINGER: Duration = Duration::from_secs(1);

/// Datagrams answered before others run.
const TURN: usize = 64;

/// What all sandboxes of a gateway share.
pub struct Shared {
    /// The way to `skepd`.
    pub recorder: Recorder,
    /// The way out.
    pub dialer: Dialer,
    /// Pipes for relays.
    pub pipes: Pipes,
    /// Connections for which the process has descriptors.
    pub slots: Semaphore,
}

/// What is known of one sandbox.
pub struct Sandbox {
    pub(crate) name: String,
    pub(crate) rules: Rules,
    pub(crate) upstreams: HashMap<String, SocketAddr>,
    pub(crate) shared: Rc<Shared>,
    table: RefCell<Table>,
    told: RefCell<HashMap<(String, Verdict), u64>>,
    dismissed: watch::Sender<bool>,
}

/// The sockets opened inside a sandbox's network namespace.
pub struct Sockets {
    /// TCP listeners, one of each family.
    pub tcp: [TcpListener; 2],
    /// UDP sockets on port 53 that report destinations, one of each family.
    pub udp: [UdpSocket; 2],
}

impl Sandbox {
    /// A sandbox that has asked for nothing yet.
    #[must_use]
    pub fn new(
        name: String,
        rules: Rules,
        upstreams: HashMap<String, SocketAddr>,
        shared: Rc<Shared>,
    ) -> Self {
        let (table, told, dismissed) = Default::default();
        Self { name, rules, upstreams, shared, table, told, dismissed }
    }

    /// Begins the end of [`Sandbox::serve`]; `false` when it has begun already.
    pub fn dismiss(&self) -> bool {
        !self.dismissed.send_replace(true)
    }

    /// Returns once the sandbox is dismissed: no process of it is left.
    pub(crate) async fn dismissed(&self) {
        // The sender is ours, so it is not gone.
        let mut dismissed = self.dismissed.subscribe();
        let _is = dismissed.wait_for(|dismissed| *dismissed).await;
    }

    /// Serves the sandbox until it is dismissed, delivers what it has sent, and cuts what takes longer than
    /// [`LINGER`]. Everything of it is closed, and said to be, when this returns.
    pub async fn serve(self: Rc<Self>, sockets: Sockets) {
        let Sockets { tcp, udp } = sockets;
        let mut open = JoinSet::new();
        tokio::select! {
            () = self.dismissed() => {}
            () = self.attend(&tcp, udp, &mut open) => {}
        }
        // Without anything left to deliver this is done at once, and no timer is set.
        let _in_time = timeout(LINGER, self.deliver(tcp, &mut open)).await;
        open.abort_all();
        join(&mut open).await;
    }

    /// Answers questions and takes connections, for ever.
    async fn attend(self: &Rc<Self>, tcp: &[TcpListener; 2], udp: [UdpSocket; 2], open: &mut JoinSet<()>) {
        let [tcp4, tcp6] = tcp;
        let [udp4, udp6] = udp.map(Rc::new);
        let mut asked = JoinSet::new();
        loop {
            self.shared.recorder.room().await;
            let has_room = has_room(open);
            tokio::select! {
                accepted = tcp4.accept(), if has_room => self.take(accepted, open).await,
                accepted = tcp6.accept(), if has_room => self.take(accepted, open).await,
                Ok(()) = udp4.readable() => self.answer(&udp4, &mut asked),
                Ok(()) = udp6.readable() => self.answer(&udp6, &mut asked),
                Some(done) = open.join_next() => check(done),
                Some(done) = asked.join_next() => check(done),
            }
        }
    }

    /// Takes the connections that wait in the listeners' queues and sees all to their end.
    async fn deliver(self: &Rc<Self>, listeners: [TcpListener; 2], open: &mut JoinSet<()>) {
        for listener in listeners {
            // The event loop may not have heard yet of what waits; the kernel has.
            let Ok(listener) = listener.into_std() else { continue };
            loop {
                self.shared.recorder.room().await;
                while !has_room(open) {
                    open.join_next().await.into_iter().for_each(check);
                }
                match accept(&listener) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    accepted => self.take(accepted, open).await,
                }
            }
        }
        join(open).await;
    }

    async fn take(self: &Rc<Self>, accepted: io::Result<(TcpStream, SocketAddr)>, open: &mut JoinSet<()>) {
        match accepted {
            Ok((stream, from)) if open.len() < CONNECTIONS => {
                open.spawn_local(connection::serve(Rc::clone(self), stream, from));
            }
            Ok((stream, from)) => {
                let verdict = Verdict::denied("too many connections");
                open.spawn_local(connection::refuse(Rc::clone(self), stream, from, verdict));
            }
            // Out of descriptors, or the client was gone first: others get their turn before the next try.
            Err(_passing) => sleep(Duration::from_millis(10)).await,
        }
    }

    fn answer(self: &Rc<Self>, socket: &Rc<UdpSocket>, asked: &mut JoinSet<()>) {
        let mut buffer = [0; dns::MAX_QUESTION];
        for _ in 0..TURN {
            let take = || Ok(udp::receive(socket, &mut buffer)?);
            let datagram = match socket.try_io(Interest::READABLE, take) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An answer's ICMP error, or a datagram without addresses: there may be more behind it.
                Err(_of_one) => continue,
            };
            let question = buffer.get(..datagram.length).unwrap_or_default();
            // A client that does not take its answer asks again.
            match self.respond(question) {
                Some((answer, None)) => drop(udp::answer(socket, &datagram, &answer)),
                Some((answer, Some(verdict))) if asked.len() < QUESTIONS => {
                    let (sandbox, socket) = (self.clone(), socket.clone());
                    asked.spawn_local(async move {
                        sandbox.shared.recorder.written(verdict).await;
                        drop(udp::answer(&*socket, &datagram, &answer));
                    });
                }
                Some((_, Some(_))) | None => {}
            }
        }
    }

    /// The answer to one DNS message, and the number of the verdict that must be written down before it is given.
    pub(crate) fn respond(&self, question: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
        let mut verdict = None;
        let answer = dns::respond(question, |name, kind| match name {
            Ok(name) => {
                let (answer, number) = self.about(name, kind);
                verdict = number.filter(|number| !self.shared.recorder.is_written(*number));
                answer
            }
            Err(error) => self.about_nothing(error),
        })?;
        Some((answer, verdict))
    }

    /// The name behind a virtual address of this sandbox.
    pub(crate) fn name_behind(&self, address: IpAddr) -> Option<HostName> {
        self.table.borrow().name(address).cloned()
    }

    /// What is answered, and the verdict that gives an address away.
    fn about(&self, name: &HostName, kind: Kind) -> (Answer, Option<u64>) {
        if name.is_localhost() {
            return (of_kind(kind, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), None);
        }
        let denied = |verdict: Verdict| {
            self.tell_once(name.as_str(), None, verdict);
            (Answer::Denied(verdict.reason), None)
        };
        let verdict = judge::name(&self.rules, name);
        if !verdict.allows() {
            return denied(verdict);
        }
        let Some((v4, v6)) = self.table.borrow_mut().assign(name) else {
            return denied(Verdict::denied("too many names"));
        };
        let number = self.tell_once(name.as_str(), Some((v4, v6)), verdict);
        (of_kind(kind, v4, v6), Some(number))
    }

    /// What is no host name has no canonical spelling, so its record has none either.
    fn about_nothing(&self, error: NameError) -> Answer {
        let verdict = Verdict::denied(error.reason());
        self.tell_once("", None, verdict);
        Answer::Denied(verdict.reason)
    }

    /// Reports a name the first time, and again should so many others have come between that it is forgotten.
    /// Returns the number of the report.
    fn tell_once(&self, name: &str, addresses: Option<(Ipv4Addr, Ipv6Addr)>, verdict: Verdict) -> u64 {
        let mut told = self.told.borrow_mut();
        if told.len() >= 2 * table::CAPACITY {
            told.clear();
        }
        *told.entry((name.to_owned(), verdict)).or_insert_with(|| {
            let subject = Subject::Name { name: name.to_owned(), addresses };
            self.shared.recorder.tell(&self.name, subject, verdict)
        })
    }
}

/// Whether another connection may be taken, to be served or to be refused.
fn has_room(open: &mut JoinSet<()>) -> bool {
    while let Some(done) = open.try_join_next() {
        check(done);
    }
    open.len() < CONNECTIONS + REFUSALS
}

fn accept(listener: &std::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, from) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((TcpStream::from_std(stream)?, from))
}

async fn join(open: &mut JoinSet<()>) {
    while let Some(done) = open.join_next().await {
        check(done);
    }
}

/// A broken assumption ends the gateway: nothing of it may go on half right.
fn check(done: Result<(), JoinError>) {
    if let Some(Ok(panic)) = done.err().map(JoinError::try_into_panic) {
        std::panic::resume_unwind(panic);
    }
}

fn of_kind(kind: Kind, v4: Ipv4Addr, v6: Ipv6Addr) -> Answer {
    match kind {
        Kind::V4 => Answer::Address(v4.into()),
        Kind::V6 => Answer::Address(v6.into()),
        Kind::Other => Answer::Nothing,
    }
}
