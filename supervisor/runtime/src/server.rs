//! The client socket: one thread per connection, one request per connection.
//!
//! A client sends descriptors, and it chooses how long each takes to close: a TCP socket lingers for as long as its
//! peer does not read, a file of a FUSE file system for as long as its server does not answer. The kernel closes
//! those of messages nobody read together with the connection, on the thread that does it. So a connection has a
//! thread of its own, and whoever holds that up waits for himself. A sandbox is followed by a task elsewhere, which
//! closes nothing of its client's.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::channel::register;
use skep_kernel::listener::{Listener, Peer};
use skep_kernel::seqpacket::{Channel, ChannelError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::protocol::{Refusal, Reply, Request, VERSION};
use crate::supervisor::Supervisor;
use crate::{inquiry, task};

/// Connections one daemon serves users at once; more are refused, so that no client can exhaust its descriptors.
/// Root has no bound: it must be able to see what happens.
const MOST_CONNECTIONS: usize = 1024;

/// Connections of one user.
const MOST_OF_ONE: usize = 256;

/// Threads skepd needs at most at once: those of connections, those that close refused ones, and as many again for
/// what connections wait for.
pub const THREADS: usize = 4 * MOST_CONNECTIONS;

/// How long a daemon lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Until it is told to stop.
    Service,
    /// Until nobody has needed it for this long.
    Transient(Duration),
}

/// Serves clients until `stop` is notified or a transient daemon has been idle for its time. Running sandboxes
/// are ended by their tasks when their connections close.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    supervisor: Arc<Supervisor>,
    listener: Listener,
    life: Life,
    stop: Arc<Notify>,
) -> Result<(), SyscallError> {
    let listener =
        register(listener).map_err(|error| SyscallError::from_io("epoll_ctl", "client socket", &error))?;
    let open = Arc::new(Connections::default());
    loop {
        tokio::select! {
            () = stop.notified() => return Ok(()),
            () = open.idle(life) => return Ok(()),
            ready = listener.readable() => {
                let mut ready = ready.map_err(|e| SyscallError::from_io("epoll_wait", "client socket", &e))?;
                match listener.get_ref().accept() {
                    Ok((channel, peer)) => admit(&supervisor, &open, channel, peer),
                    Err(ChannelError::WouldBlock) => ready.clear_ready(),
                    // A client that left again, or no descriptor free: the others must not suffer for it.
                    Err(error) => {
                        tracing::warn!(%error, "a client could not be accepted");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
    }
}

fn admit(supervisor: &Arc<Supervisor>, open: &Arc<Connections>, channel: Channel, peer: Peer) {
    match open.enter(peer.uid) {
        Ok(entered) => {
            let supervisor = Arc::clone(supervisor);
            on_own_thread(entered, move || converse(&supervisor, channel, peer));
        }
        Err(Full::ToServe(entered)) => {
            tracing::warn!(uid = peer.uid, "too many connections, one refused");
            on_own_thread(entered, || refuse(channel));
        }
        Err(Full::ToClose) => {
            tracing::error!(uid = peer.uid, "connections do not close; one more is never closed");
            std::mem::forget(channel);
        }
    }
}

/// Says why nobody serves the client. What it has sent must be read, or it is told of a reset connection instead.
fn refuse(channel: Channel) -> Result<(), ChannelError> {
    let client = Client::new(channel)?;
    let what = format!("there are too many connections to skepd: a user may have {MOST_OF_ONE}");
    client.send(&Reply::Refused(Refusal::new("busy", what, "skep ls shows what runs; end some of it")))?;
    client.receive_anything()?;
    client.receive_anything()
}

/// Does what may take for as long as a client likes. The connection counts until that is over.
fn on_own_thread(entered: Entered, work: impl FnOnce() -> Result<(), ChannelError> + Send + 'static) {
    let uid = entered.uid;
    // Nobody waits for it.
    let _detached = tokio::task::spawn_blocking(move || {
        if let Err(error) = work() {
            tracing::debug!(uid, %error, "connection ended");
        }
        drop(entered);
    });
}

/// One connection: version, request, answers.
fn converse(supervisor: &Arc<Supervisor>, channel: Channel, peer: Peer) -> Result<(), ChannelError> {
    let client = Client::new(channel)?;
    let Some((Request::Hello { version }, _)) = in_time(&client)? else { return Ok(()) };
    client.send(&Reply::Welcome { version: VERSION })?;
    if version != VERSION {
        // With its request unread, the kernel would tell it of a reset connection instead of what it was sent.
        return client.receive_anything();
    }
    match in_time(&client)? {
        None | Some((Request::Hello { .. } | Request::Signal(_), _)) => Ok(()),
        Some((Request::Run, descriptors)) => task::run(supervisor, client, peer, descriptors),
        Some((Request::List, _)) => inquiry::list(supervisor, &client, peer),
        Some((Request::Status { sandbox }, _)) => inquiry::status(supervisor, &client, peer, &sandbox),
        Some((Request::Audit { filter, follow }, _)) => {
            inquiry::audit(supervisor, &client, peer, filter, follow)
        }
    }
}

fn in_time(client: &Client) -> Result<Option<(Request, Vec<OwnedFd>)>, ChannelError> {
    match client.receive() {
        Err(ChannelError::WouldBlock) => {
            let refusal = Refusal::new("timeout", "no request came", "ask at once after connecting");
            client.send(&Reply::Refused(refusal))?;
            Ok(None)
        }
        request => request,
    }
}

/// Counts open connections and knows since when there is none.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<Open>,
    changed: Notify,
}

/// How many connections there are, and of whom; root's are counted with the others and bounded by none.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    of: HashMap<u32, usize>,
}

impl Open {
    /// Is there room for one more of this user's, if `factor` times the bounds count?
    fn has_room(&self, uid: u32, factor: usize) -> bool {
        let of_one = self.of.get(&uid).copied().unwrap_or(0);
        uid == 0 || (self.total < factor * MOST_CONNECTIONS && of_one < factor * MOST_OF_ONE)
    }

    fn add(&mut self, uid: u32) {
        self.total += 1;
        *self.of.entry(uid).or_default() += 1;
    }

    fn remove(&mut self, uid: u32) {
        self.total -= 1;
        if let Some(of_one) = self.of.get_mut(&uid) {
            *of_one -= 1;
            if *of_one == 0 {
                self.of.remove(&uid);
            }
        }
    }
}

/// Why a connection is not served.
#[derive(Debug)]
enum Full {
    /// There are too many; it counts until it is closed.
    ToServe(Entered),
    /// As many again are being closed and do not come to an end.
    ToClose,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, uid: u32) -> Result<Entered, Full> {
        let is_served = {
            let mut open = self.open();
            if !open.has_room(uid, 2) {
                return Err(Full::ToClose);
            }
            let is_served = open.has_room(uid, 1);
            open.add(uid);
            is_served
        };
        self.changed.notify_waiters();
        let entered = Entered { connections: Arc::clone(self), uid };
        if is_served { Ok(entered) } else { Err(Full::ToServe(entered)) }
    }

    /// Resolves when a transient daemon has had no connection for its time.
    async fn idle(&self, life: Life) {
        let Life::Transient(patience) = life else { return std::future::pending().await };
        loop {
            let changed = self.changed.notified();
            if self.open().total > 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = sleep_until(Instant::now() + patience) => {
                    if self.open().total == 0 {
                        return;
                    }
                }
                () = changed => {}
            }
        }
    }
}

/// One open connection.
#[derive(Debug)]
struct Entered {
    connections: Arc<Connections>,
    uid: u32,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.open().remove(self.uid);
        self.connections.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u32 = 1000;

    /// Enters until nothing is served, and says how often it was.
    fn fill(connections: &Arc<Connections>, uid: u32, held: &mut Vec<Entered>) -> usize {
        let before = held.len();
        for _ in 0..2 * MOST_CONNECTIONS {
            match connections.enter(uid) {
                Ok(entered) => held.push(entered),
                Err(_full) => break,
            }
        }
        held.len() - before
    }

    #[test]
    fn one_user_leaves_room_for_others_and_all_of_them_for_root() {
        let (connections, mut held) = (Arc::new(Connections::default()), Vec::new());
        assert_eq!(fill(&connections, USER, &mut held), MOST_OF_ONE);
        for user in 1..MOST_CONNECTIONS / MOST_OF_ONE {
            let uid = USER + u32::try_from(user).unwrap();
            assert_eq!(fill(&connections, uid, &mut held), MOST_OF_ONE);
        }
        assert_eq!(fill(&connections, 7, &mut held), 0);
        assert!(connections.enter(0).is_ok());
    }

    #[test]
    fn who_left_makes_room_and_nothing_stays() {
        let (connections, mut held) = (Arc::new(Connections::default()), Vec::new());
        fill(&connections, USER, &mut held);
        held.pop();
        assert!(connections.enter(USER).is_ok());
        held.clear();
        assert!(connections.open().total == 0 && connections.open().of.is_empty());
    }

    #[test]
    fn refused_connections_count_until_they_are_closed() {
        let (connections, mut held) = (Arc::new(Connections::default()), Vec::new());
        fill(&connections, USER, &mut held);
        let mut refused = Vec::new();
        while let Err(Full::ToServe(entered)) = connections.enter(USER) {
            refused.push(entered);
        }
        assert_eq!(refused.len(), MOST_OF_ONE);
        assert!(matches!(connections.enter(USER), Err(Full::ToClose)));
    }
}
