//! The client socket: one task per connection, one request per connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::channel::{AsyncChannel, register};
use skep_kernel::listener::{Listener, Peer};
use skep_kernel::seqpacket::ChannelError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::protocol::{Refusal, Reply, Request, VERSION};
use crate::supervisor::Supervisor;
use crate::{inquiry, task};

/// Connections one daemon serves at once; more are refused, so that no client can exhaust its descriptors.
const MOST_CONNECTIONS: usize = 512;

/// How long a client may take to say which version it speaks and what it wants.
const HELLO: Duration = Duration::from_secs(5);

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

fn admit(
    supervisor: &Arc<Supervisor>,
    open: &Arc<Connections>,
    channel: skep_kernel::seqpacket::Channel,
    peer: Peer,
) {
    let Some(guard) = open.enter() else {
        tracing::warn!(uid = peer.uid, "too many connections, one refused");
        return;
    };
    let supervisor = Arc::clone(supervisor);
    tokio::spawn(async move {
        let _guard = guard;
        if let Err(error) = converse(supervisor, channel, peer).await {
            tracing::debug!(uid = peer.uid, %error, "connection ended");
        }
    });
}

/// One connection: version, request, answers.
async fn converse(
    supervisor: Arc<Supervisor>,
    channel: skep_kernel::seqpacket::Channel,
    peer: Peer,
) -> Result<(), ChannelError> {
    let client = AsyncChannel::new(channel)?;
    let Some((Request::Hello { version }, _)) = in_time(&client).await? else { return Ok(()) };
    client.send(&Reply::Welcome { version: VERSION }, &[]).await?;
    if version != VERSION {
        return Ok(());
    }
    match in_time(&client).await? {
        None | Some((Request::Hello { .. } | Request::Signal(_), _)) => Ok(()),
        Some((Request::Run, descriptors)) => task::run(supervisor, client, peer, descriptors).await,
        Some((Request::List, _)) => inquiry::list(&supervisor, &client, peer).await,
        Some((Request::Status { sandbox }, _)) => inquiry::status(&supervisor, &client, peer, &sandbox).await,
        Some((Request::Audit { filter, follow }, _)) => {
            inquiry::audit(&supervisor, &client, peer, filter, follow).await
        }
    }
}

async fn in_time(
    client: &AsyncChannel,
) -> Result<Option<(Request, Vec<std::os::fd::OwnedFd>)>, ChannelError> {
    match tokio::time::timeout(HELLO, client.receive()).await {
        Ok(request) => request,
        Err(_elapsed) => {
            let refusal = Refusal::new("timeout", "no request came", "ask at once after connecting");
            client.send(&Reply::Refused(refusal), &[]).await?;
            Ok(None)
        }
    }
}

/// Counts open connections and knows since when there is none.
#[derive(Debug, Default)]
struct Connections {
    open: AtomicUsize,
    changed: Notify,
}

impl Connections {
    fn enter(self: &Arc<Self>) -> Option<Entered> {
        let entered = Entered(Arc::clone(self));
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        (before < MOST_CONNECTIONS).then_some(entered)
    }

    /// Resolves when a transient daemon has had no connection for its time.
    async fn idle(&self, life: Life) {
        let Life::Transient(patience) = life else { return std::future::pending().await };
        loop {
            let changed = self.changed.notified();
            if self.open.load(Ordering::SeqCst) == 0 {
                tokio::select! {
                    () = sleep_until(Instant::now() + patience) => {
                        if self.open.load(Ordering::SeqCst) == 0 {
                            return;
                        }
                    }
                    () = changed => {}
                }
            } else {
                changed.await;
            }
        }
    }
}

/// One open connection.
#[derive(Debug)]
struct Entered(Arc<Connections>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}
