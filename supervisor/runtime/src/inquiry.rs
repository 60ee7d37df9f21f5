//! Answers to `ls`, `status` and `audit`: a user sees what is his, root sees everything.

use std::time::Duration;

use skep_kernel::channel::AsyncChannel;
use skep_kernel::listener::Peer;
use skep_kernel::seqpacket::ChannelError;

use tokio::sync::mpsc;

use crate::audit::{Filter, Reader, read};
use crate::protocol::{Refusal, Reply, Request};
use crate::supervisor::Supervisor;

/// May `peer` see what belongs to `owner`?
fn may_see(peer: Peer, owner: u32) -> bool {
    peer.uid == 0 || peer.uid == owner
}

/// Sends every sandbox the peer may see.
///
/// # Errors
/// When the client is gone.
pub async fn list(supervisor: &Supervisor, client: &AsyncChannel, peer: Peer) -> Result<(), ChannelError> {
    for live in supervisor.registry.all().iter().filter(|live| may_see(peer, live.owner)) {
        client.send(&Reply::Sandbox(Box::new(live.report())), &[]).await?;
    }
    client.send(&Reply::Done, &[]).await
}

/// Sends one sandbox. Somebody else's is answered like one that does not exist.
///
/// # Errors
/// When the client is gone.
pub async fn status(
    supervisor: &Supervisor,
    client: &AsyncChannel,
    peer: Peer,
    sandbox: &str,
) -> Result<(), ChannelError> {
    let found = supervisor.registry.find(sandbox).filter(|live| may_see(peer, live.owner));
    let reply = match found {
        Some(live) => Reply::Sandbox(Box::new(live.report())),
        None => Reply::Refused(Refusal::new(
            "not-found",
            format!("there is no running sandbox {}", sandbox.escape_debug()),
            "skep ls lists the running ones, skep audit tells of ended ones",
        )),
    };
    client.send(&reply, &[]).await
}

/// Bytes of lines put into one message, well below the limit of a message.
const PIECE: usize = 48 * 1024;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Sends the records the peer may see: all to root, to others those of their own sandboxes.
///
/// # Errors
/// When the client is gone.
pub async fn audit(
    supervisor: &Supervisor,
    client: &AsyncChannel,
    peer: Peer,
    mut filter: Filter,
    follow: bool,
) -> Result<(), ChannelError> {
    if peer.uid != 0 {
        filter.owner = Some(peer.uid);
    }
    let reader = read(&supervisor.places.state, filter);
    let (pieces, mut ready) = mpsc::channel(4);
    // Reading blocks; the channel holds it back when the client is slow and ends it when the client is gone.
    let reading = tokio::task::spawn_blocking(move || send_lines(reader, &pieces, follow));
    loop {
        let piece = tokio::select! {
            piece = ready.recv() => piece,
            // It has nothing more to say: whatever comes is its end, and a log may be quiet for days.
            _end = client.receive::<Request>() => return Ok(()),
        };
        let Some(piece) = piece else { break };
        client.send(&Reply::Lines(piece), &[]).await?;
    }
    match reading.await {
        Ok(Ok(())) => client.send(&Reply::Done, &[]).await,
        Ok(Err(error)) => {
            let refusal = Refusal::new("audit", error.to_string(), "skep audit verify says where and what");
            client.send(&Reply::Refused(refusal), &[]).await
        }
        Err(_panicked) => {
            client.send(&Reply::Refused(Refusal::new("audit", "reading the audit failed", "")), &[]).await
        }
    }
}

/// Collects lines into pieces until the log ends, or for ever if it is followed.
fn send_lines(
    mut reader: Reader,
    pieces: &mpsc::Sender<String>,
    follow: bool,
) -> Result<(), crate::audit::ReadError> {
    let mut piece = String::new();
    loop {
        while let Some(entry) = reader.next().transpose()? {
            let is_full = piece.len() + entry.line.len() > PIECE && !piece.is_empty();
            if is_full && pieces.blocking_send(std::mem::take(&mut piece)).is_err() {
                return Ok(());
            }
            piece += &entry.line;
            piece.push('\n');
        }
        if !piece.is_empty() && pieces.blocking_send(std::mem::take(&mut piece)).is_err() {
            return Ok(());
        }
        if !follow || pieces.is_closed() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}
