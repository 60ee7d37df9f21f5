//! The client socket: one thread per connection, one request per connection.
//!
//! A client sends descriptors, and it chooses how long each takes to close: a TCP socket lingers for as long as its
//! peer does not read, a file of a FUSE file system for as long as its server does not answer. The kernel closes
//! those of messages nobody read together with the connection, on the thread that does it. So a connection has a
//! thread of its own, and one that is refused with messages unread is closed by a thread of its user's. They do not
//! wait for what a signal ends ([`Impatient`]); whoever holds them up all the same waits for himself. A sandbox is
//! followed by a task elsewhere, which closes nothing of its client's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::channel::register;
use skep_kernel::impatience::Impatient;
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

/// Threads skepd needs at most at once: one for each connection, one for what that waits for, and those that close
/// refused connections, one for each user.
pub const THREADS: usize = 3 * MOST_CONNECTIONS;

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
    let (open, closing) = (Arc::new(Connections::default()), Arc::new(Closing::default()));
    loop {
        tokio::select! {
            () = stop.notified() => return Ok(()),
            () = open.idle(life) => return Ok(()),
            ready = listener.readable() => {
                let mut ready = ready.map_err(|e| SyscallError::from_io("epoll_wait", "client socket", &e))?;
                match listener.get_ref().accept() {
                    Ok((channel, peer)) => match open.enter(peer.uid) {
                        Some(entered) => admit(&supervisor, entered, channel, peer),
                        None => refuse(&closing, channel, peer.uid),
                    },
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

/// Serves a client on a thread of its own. The connection counts until what it has sent is closed.
fn admit(supervisor: &Arc<Supervisor>, entered: Entered, channel: Channel, peer: Peer) {
    let supervisor = Arc::clone(supervisor);
    // Nobody waits for it.
    let _detached = tokio::task::spawn_blocking(move || {
        if let Err(error) = converse(&supervisor, channel, peer) {
            tracing::debug!(uid = peer.uid, %error, "connection ended");
        }
        drop(entered);
    });
}

/// Says why nobody serves the client, and waits for nothing of it: not for its reading, and not for its end.
fn refuse(closing: &Arc<Closing>, channel: Channel, uid: u32) {
    tracing::warn!(uid, "too many connections, one refused");
    let what = format!("there are too many connections to skepd: a user may have {MOST_OF_ONE}");
    let refusal = Refusal::new("busy", what, "skep ls shows what runs; end some of it");
    if let Err(error) = channel.try_send(&Reply::Refused(refusal), &[]) {
        tracing::debug!(uid, %error, "who is refused is not told");
    }
    // Nothing arrives any more, so what is there now is all that its close has to close.
    channel.end_receiving();
    if !matches!(channel.is_empty(), Ok(true)) {
        closing.close(uid, channel);
    }
}

/// Closes connections with messages unread: one thread for each user who has such connections.
#[derive(Debug, Default)]
struct Closing {
    /// Of the users who have a thread. The kernel bounds how many descriptors of a user's are on their way
    /// (RLIMIT_NOFILE), and with them how many connections can wait here.
    waiting: Mutex<HashMap<u32, Vec<Impatient<Channel>>>>,
}

impl Closing {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, Vec<Impatient<Channel>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(self: &Arc<Self>, uid: u32, channel: Channel) {
        let channel = Impatient::new(channel);
        match self.waiting().entry(uid) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push(channel),
            Entry::Vacant(none) => drop(none.insert(vec![channel])),
        }
        let closing = Arc::clone(self);
        // Nobody waits for it.
        let _detached = tokio::task::spawn_blocking(move || {
            while let Some(channels) = closing.next(uid) {
                drop(channels);
            }
        });
    }

    /// What waits now; `None` is the end of the user's thread.
    fn next(&self, uid: u32) -> Option<Vec<Impatient<Channel>>> {
        let mut waiting = self.waiting();
        let channels = waiting.get_mut(&uid).map(std::mem::take).filter(|channels| !channels.is_empty());
        if channels.is_none() {
            waiting.remove(&uid);
        }
        channels
    }
}

/// One connection: version, request, answers.
fn converse(supervisor: &Arc<Supervisor>, channel: Channel, peer: Peer) -> Result<(), ChannelError> {
    let client = Client::new(channel)?;
    let Some(Request::Hello { version }) = in_time(&client, Client::receive)? else { return Ok(()) };
    client.send(&Reply::Welcome { version: VERSION })?;
    if version != VERSION {
        return Ok(());
    }
    match in_time(&client, Client::receive_request)? {
        None | Some((Request::Hello { .. } | Request::Signal(_), _)) => Ok(()),
        Some((Request::Run, sent)) => task::run(supervisor, client, peer, sent),
        Some((Request::List, _)) => inquiry::list(supervisor, &client, peer),
        Some((Request::Status { sandbox }, _)) => inquiry::status(supervisor, &client, peer, &sandbox),
        Some((Request::Audit { filter, follow }, _)) => {
            inquiry::audit(supervisor, &client, peer, filter, follow)
        }
    }
}

fn in_time<T>(
    client: &Client,
    receive: impl FnOnce(&Client) -> Result<Option<T>, ChannelError>,
) -> Result<Option<T>, ChannelError> {
    match receive(client) {
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
    /// Is there room for one more of this user's?
    fn has_room(&self, uid: u32) -> bool {
        let of_one = self.of.get(&uid).copied().unwrap_or(0);
        uid == 0 || (self.total < MOST_CONNECTIONS && of_one < MOST_OF_ONE)
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

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when there are too many.
    fn enter(self: &Arc<Self>, uid: u32) -> Option<Entered> {
        {
            let mut open = self.open();
            if !open.has_room(uid) {
                return None;
            }
            open.add(uid);
        }
        self.changed.notify_waiters();
        Some(Entered { connections: Arc::clone(self), uid })
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
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use super::*;

    const USER: u32 = 1000;

    /// Enters until nothing is served, and says how often it was.
    fn fill(connections: &Arc<Connections>, uid: u32, held: &mut Vec<Entered>) -> usize {
        let before = held.len();
        for _ in 0..2 * MOST_CONNECTIONS {
            match connections.enter(uid) {
                Some(entered) => held.push(entered),
                None => break,
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
        assert!(connections.enter(0).is_some());
    }

    #[test]
    fn who_left_makes_room_and_nothing_stays() {
        let (connections, mut held) = (Arc::new(Connections::default()), Vec::new());
        fill(&connections, USER, &mut held);
        held.pop();
        assert!(connections.enter(USER).is_some());
        held.clear();
        assert!(connections.open().total == 0 && connections.open().of.is_empty());
    }

    #[tokio::test]
    async fn what_refused_clients_sent_is_closed_whatever_it_is() {
        let closing = Arc::new(Closing::default());
        let (mut clients, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let (client, served) = Channel::pair().unwrap();
            let (read, write) = std::io::pipe().unwrap();
            client.send(&1_u8, &[write.as_fd()]).unwrap();
            refuse(&closing, served, USER);
            assert!(matches!(client.receive(), Ok(Some((Reply::Refused(_), _)))));
            clients.push(client);
            ends.push(read);
        }
        // The end of a pipe: its other end is closed.
        let read_all = || ends.into_iter().all(|mut end| matches!(end.read(&mut [0]), Ok(0)));
        assert!(tokio::task::spawn_blocking(read_all).await.unwrap());
        while !closing.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
