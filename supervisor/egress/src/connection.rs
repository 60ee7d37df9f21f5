//! One TCP connection of a sandbox: judged, written down, dialled, relayed.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use skep_policy::gateway::Subject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{self, DialError};
use crate::dns;
use crate::judge::{self, Verdict};
use crate::name::HostName;
use crate::recorder::Connection;
use crate::relay::relay;
use crate::sandbox::Sandbox;

/// Port of DNS, which the gateway answers itself under every address.
const DNS: u16 = 53;

/// How long a DNS connection may be silent.
const DNS_IDLE: Duration = Duration::from_secs(10);

/// Serves a connection the sandbox made from `from`.
pub(crate) async fn serve(sandbox: Rc<Sandbox>, stream: TcpStream, from: SocketAddr) {
    let Ok(to) = stream.local_addr() else { return };
    if to.port() == DNS {
        return answer(&sandbox, stream).await;
    }
    let Ok(_slot) = sandbox.shared.slots.try_acquire() else {
        return refuse(sandbox.clone(), stream, from, Verdict::denied("the gateway has no room")).await;
    };
    let Some(name) = sandbox.name_behind(to.ip()) else {
        return refuse(sandbox.clone(), stream, from, Verdict::denied("an address without a name")).await;
    };
    let verdict = judge::connection(&sandbox.rules, &name, to.port());
    if !verdict.allows() {
        return refuse(sandbox.clone(), stream, from, verdict).await;
    }
    let opened = Instant::now();
    let subject = Subject::Connection { name: name.to_string(), port: to.port(), source_port: from.port() };
    let number = sandbox.shared.recorder.write(&sandbox.name, subject, verdict).await;
    let record = Connection::new(&sandbox.shared.recorder, &sandbox.name, number, opened);
    let ended = carry(&sandbox, &stream, &name, to.port(), &record).await;
    if ended.is_some() {
        reset(&stream);
    }
    record.end(ended);
}

/// Writes down the refusal of a connection and resets it.
pub(crate) async fn refuse(sandbox: Rc<Sandbox>, stream: TcpStream, from: SocketAddr, verdict: Verdict) {
    let Ok(to) = stream.local_addr() else { return };
    let source_port = from.port();
    let subject = match sandbox.name_behind(to.ip()) {
        Some(name) => Subject::Connection { name: name.to_string(), port: to.port(), source_port },
        None => Subject::Address { address: to, source_port },
    };
    sandbox.shared.recorder.write(&sandbox.name, subject, verdict).await;
    reset(&stream);
}

/// Dials and relays; what is returned is why it did not end by both sides closing.
async fn carry(
    sandbox: &Sandbox,
    client: &TcpStream,
    name: &HostName,
    port: u16,
    record: &Connection<'_>,
) -> Option<String> {
    let server = match dial(sandbox, name, port).await {
        Ok(server) => server,
        Err(error) => return Some(error.to_string()),
    };
    // Ignoring a refusal: without it small writes are late, not wrong.
    let _late = client.set_nodelay(true);
    let (pipes, gone) = (&sandbox.shared.pipes, sandbox.dismissed());
    let ended = relay(client, &server, pipes, &record.sent, &record.received, gone).await;
    let error = ended.err()?;
    reset(&server);
    Some(error.to_string())
}

async fn dial(sandbox: &Sandbox, name: &HostName, port: u16) -> Result<TcpStream, DialError> {
    // The list is empty in builds for users: see `gateway::UPSTREAMS`.
    match sandbox.upstreams.get(name.as_str()) {
        Some(fixed) => dial::connect(*fixed).await,
        None => sandbox.shared.dialer.dial(name, port).await,
    }
}

/// Makes the close of a connection a reset, which no client takes for an answer.
fn reset(stream: &TcpStream) {
    // Ignoring a refusal: the connection is closed in any case, only less clearly.
    let _closed = stream.set_zero_linger();
}

/// DNS over TCP (RFC 7766): messages with their length before them.
async fn answer(sandbox: &Sandbox, mut stream: TcpStream) {
    let mut buffer = [0; dns::MAX_QUESTION];
    while let Ok(Some(length)) = timeout(DNS_IDLE, read(&mut stream, &mut buffer)).await {
        sandbox.shared.recorder.room().await;
        let Some((answer, verdict)) = sandbox.respond(&buffer[..length]) else { return };
        if let Some(verdict) = verdict {
            sandbox.shared.recorder.written(verdict).await;
        }
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        match timeout(DNS_IDLE, stream.write_all(&framed)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// The length of the next message, `None` at the end or when it is longer than any question.
async fn read(stream: &mut TcpStream, buffer: &mut [u8; dns::MAX_QUESTION]) -> Option<usize> {
    let length = usize::from(stream.read_u16().await.ok()?);
    stream.read_exact(buffer.get_mut(..length)?).await.ok()?;
    Some(length)
}
