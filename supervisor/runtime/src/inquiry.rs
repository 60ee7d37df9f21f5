//! Answers to `ls`, `status` and `audit`: a user sees what is his, root sees everything.

use std::sync::Arc;
use std::time::Duration;

use skep_kernel::listener::Peer;
use skep_kernel::seqpacket::ChannelError;

use crate::audit::{Filter, ReadError, Reader, read};
use crate::client::Client;
use crate::protocol::{Refusal, Reply};
use crate::registry::Live;
use crate::supervisor::Supervisor;

/// May `peer` see what belongs to `owner`?
fn may_see(peer: Peer, owner: u32) -> bool {
    peer.uid == 0 || peer.uid == owner
}

/// Sends every sandbox the peer may see.
///
/// # Errors
/// When the client is gone.
pub fn list(supervisor: &Supervisor, client: &Client, peer: Peer) -> Result<(), ChannelError> {
    for live in supervisor.registry.all().iter().filter(|live| may_see(peer, live.owner)) {
        client.send(&Reply::Sandbox(Box::new(live.report())))?;
    }
    client.send(&Reply::Done)
}

/// Sends one sandbox. Somebody else's is answered like one that does not exist.
///
/// # Errors
/// When the client is gone.
pub fn status(
    supervisor: &Supervisor,
    client: &Client,
    peer: Peer,
    sandbox: &str,
) -> Result<(), ChannelError> {
    let found = supervisor.registry.find(sandbox, |live| may_see(peer, live.owner));
    client.send(&match found.as_slice() {
        [live] => Reply::Sandbox(Box::new(live.report())),
        [] => Reply::Refused(Refusal::new(
            "not-found",
            format!("there is no running sandbox {}", sandbox.escape_debug()),
            "skep ls lists the running ones, skep audit tells of ended ones",
        )),
        several => Reply::Refused(ambiguous(sandbox, several)),
    })
}

/// Several users have a sandbox of this name.
fn ambiguous(name: &str, several: &[Arc<Live>]) -> Refusal {
    let each = several.iter().map(|live| format!("{} of uid {}", live.id, live.owner));
    let each = each.collect::<Vec<_>>().join(", ");
    let message = format!("{} sandboxes are named {}: {each}", several.len(), name.escape_debug());
    Refusal::new("ambiguous", message, "say which by its id")
}

/// Bytes of lines put into one message, well below the limit of a message; one line alone may be longer than that.
const PIECE: usize = 48 * 1024;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Sends the records the peer may see: all to root, to others those of their own sandboxes.
///
/// # Errors
/// When the client is gone.
pub fn audit(
    supervisor: &Supervisor,
    client: &Client,
    peer: Peer,
    mut filter: Filter,
    follow: bool,
) -> Result<(), ChannelError> {
    if peer.uid != 0 {
        filter.owner = Some(peer.uid);
    }
    let mut reader = read(&supervisor.places.state, filter);
    loop {
        if let Err(failed) = send_lines(&mut reader, client)? {
            let advice = "skep audit verify says where and what";
            return client.send(&Reply::Refused(Refusal::new("audit", failed.to_string(), advice)));
        }
        if !follow {
            return client.send(&Reply::Done);
        }
        // It has nothing more to say: whatever comes is its end, and a log may be quiet for days.
        if client.has_news_within(LOOK)? {
            return Ok(());
        }
    }
}

/// Sends what the log has, in pieces.
fn send_lines(reader: &mut Reader, client: &Client) -> Result<Result<(), ReadError>, ChannelError> {
    let mut piece = String::new();
    loop {
        let entry = match reader.next().transpose() {
            Ok(entry) => entry,
            Err(failed) => return Ok(Err(failed)),
        };
        let next = entry.as_ref().map_or(0, |entry| entry.line.len());
        if !piece.is_empty() && (entry.is_none() || piece.len() + next > PIECE) {
            client.send(&Reply::Lines(std::mem::take(&mut piece)))?;
        }
        let Some(entry) = entry else { return Ok(Ok(())) };
        piece += &entry.line;
        piece.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_several_users_is_told_with_its_owners() {
        let of = |owner, cgroup| Arc::new(Live { owner, ..Live::for_tests("ci", cgroup) });
        let refusal = ambiguous("ci", &[of(1000, 1), of(1001, 2)]);
        assert_eq!(refusal.message, "2 sandboxes are named ci: 1 of uid 1000, 2 of uid 1001");
    }
}
