//! Answers to `ls`, `status` and `audit`: a user sees what is his, root sees everything.

use std::sync::Arc;
use std::time::Duration;

use skep_kernel::listener::Peer;
use skep_kernel::seqpacket::ChannelError;

use crate::audit::{Filter, ReadError, Reader, read};
use crate::client::Client;
use crate::protocol::{Refusal, Reply};
use crate::registry::Live;
use crate::scans::Scans;
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

/// Bytes of lines after which a message is sent, well below the limit of a message; the last line may be longer.
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
        if let Err(failed) = send_lines(&mut reader, client, &supervisor.scans, peer.uid)? {
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

/// Sends what the log has, in pieces. A client that does not read what it is sent has no turn meanwhile.
fn send_lines(
    reader: &mut Reader,
    client: &Client,
    scans: &Scans,
    uid: u32,
) -> Result<Result<(), ReadError>, ChannelError> {
    loop {
        let turn = scans.turn(uid);
        // It may have left while others had their turns, and then the log is not read for it.
        if client.has_left() {
            return Ok(Ok(()));
        }
        let (lines, end) = piece(reader);
        drop(turn);
        if !lines.is_empty() {
            client.send(&Reply::Lines(lines))?;
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// The next lines of the log, with how it ended if it did.
fn piece(reader: &mut Reader) -> (String, Option<Result<(), ReadError>>) {
    let mut lines = String::new();
    while lines.len() < PIECE {
        match reader.next() {
            Some(Ok(entry)) => {
                lines += &entry.line;
                lines.push('\n');
            }
            Some(Err(failed)) => return (lines, Some(Err(failed))),
            None => return (lines, Some(Ok(()))),
        }
    }
    (lines, None)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use skep_kernel::seqpacket::Channel;
    use tokio::task::{JoinHandle, spawn_blocking};

    use super::*;
    use crate::audit::{Log, Options};

    const USER: u32 = 1000;

    type Answered = JoinHandle<Result<Result<(), ReadError>, ChannelError>>;

    /// Asks for the whole log of a state directory.
    fn ask(scans: &Arc<Scans>, uid: u32, state: PathBuf) -> (Channel, Answered) {
        let (theirs, ours) = Channel::pair().unwrap();
        let (scans, client) = (Arc::clone(scans), Client::new(ours).unwrap());
        let answered =
            spawn_blocking(move || send_lines(&mut read(&state, Filter::default()), &client, &scans, uid));
        (theirs, answered)
    }

    async fn two_turns(scans: &Arc<Scans>) -> Vec<impl Drop + use<>> {
        let scans = Arc::clone(scans);
        spawn_blocking(move || [scans.turn(USER), scans.turn(USER)])
            .await
            .unwrap()
            .into_iter()
            .flatten()
            .collect()
    }

    #[tokio::test]
    async fn a_user_has_the_log_read_twice_at_once_and_waits_for_nobody_else() {
        let state = tempfile::tempdir().unwrap();
        Log::open(state.path(), Options::default()).unwrap().close().unwrap();
        let scans = Arc::new(Scans::default());
        let turns = two_turns(&scans).await;
        assert_eq!(turns.len(), 2);
        let (waits, _) = ask(&scans, USER, state.path().to_owned());
        for other in [0, USER + 1] {
            let (served, answered) = ask(&scans, other, state.path().to_owned());
            assert!(answered.await.unwrap().unwrap().is_ok() && served.is_readable_within(LOOK).unwrap());
        }
        assert!(!waits.is_readable_within(LOOK).unwrap());
        drop(turns);
        assert!(waits.is_readable_within(Duration::from_secs(20)).unwrap());
    }

    #[tokio::test]
    async fn for_a_client_that_left_while_it_waited_nothing_is_read() {
        let (scans, unreadable) = (Arc::new(Scans::default()), PathBuf::from("/dev/null"));
        let (_stays, answered) = ask(&scans, USER, unreadable.clone());
        assert!(answered.await.unwrap().unwrap().is_err());
        let turns = two_turns(&scans).await;
        let (leaves, answered) = ask(&scans, USER, unreadable);
        drop(leaves);
        drop(turns);
        assert!(answered.await.unwrap().unwrap().is_ok());
    }

    #[test]
    fn a_name_of_several_users_is_told_with_its_owners() {
        let of = |owner, cgroup| Arc::new(Live { owner, ..Live::for_tests("ci", cgroup) });
        let refusal = ambiguous("ci", &[of(1000, 1), of(1001, 2)]);
        assert_eq!(refusal.message, "2 sandboxes are named ci: 1 of uid 1000, 2 of uid 1001");
    }
}
