//! The connection to skepd, which root starts on the way when none is running.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_kernel::listener::dial;
use skep_kernel::memfd;
use skep_kernel::seqpacket::{Channel, ChannelError};
use skep_runtime::audit::AUDIT_SIZE;
use skep_runtime::places::{Places, sibling};
use skep_runtime::protocol::{Refusal, Reply, Request, VERSION};

use crate::access::{Access, GROUP, sudo};

/// How long a skepd that another client is just starting may take to listen, or one that is leaving to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a daemon that has the places but no socket is taken for one that starts.
const STARTING: Duration = Duration::from_secs(1);

/// How much of what a daemon said is shown, in bytes.
const MOST_WORDS: u64 = 2_000;

/// A connection that has exchanged versions.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon, and the caller is not the one to start it.
    #[error("no skepd is running at {socket}, and only root starts one on the way")]
    NotRunning {
        /// The socket that was tried.
        socket: String,
        /// What to do about it.
        advice: String,
    },
    /// The daemon's socket is not for this user.
    #[error("{problem}")]
    NotAllowed {
        /// Why.
        problem: String,
        /// What would open it.
        advice: String,
    },
    /// skepd did not come up.
    #[error("starting skepd failed: {0}")]
    Start(String),
    /// The connection broke.
    #[error("the connection to skepd failed: {0}")]
    Channel(#[from] ChannelError),
    /// skepd went away in the middle of a request.
    #[error("skepd closed the connection")]
    Closed,
    /// skepd said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// skepd answered something that is no answer to the request.
    #[error("skepd and skep do not understand each other; install both from the same version")]
    Protocol,
}

impl ClientError {
    /// The exit code of `skep run`: 125 for our own failures, 126 and 127 as a shell has them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(refusal) => refusal.exit,
            _ => 125,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &str {
        match self {
            Self::NotRunning { advice, .. } | Self::NotAllowed { advice, .. } => advice,
            Self::Start(_) => "skep doctor says what this host has and what it lacks",
            Self::Channel(_) | Self::Closed => "skep audit shows what happened until then",
            Self::Refused(refusal) => &refusal.advice,
            Self::Protocol => "",
        }
    }
}

impl Client {
    /// Asks the daemon of `places`; root starts a transient one if there is none.
    ///
    /// # Errors
    /// When there is no daemon and none can be started, or it speaks another version.
    pub fn ask(
        places: &Places,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Self, ClientError> {
        Self::asked(places, nix::unistd::geteuid().is_root(), request, descriptors)
    }

    /// Asks a daemon that runs already.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is none.
    pub fn ask_running(places: &Places, request: &Request) -> Result<Self, ClientError> {
        Self::asked(places, false, request, &[])
    }

    fn asked(
        places: &Places,
        may_start: bool,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Self, ClientError> {
        // A transient daemon may leave between our connect and its accept; the next one will not. What did not answer
        // our greeting has not taken the request either.
        for _ in 0..3 {
            let client = Self { channel: reach(places, may_start)? };
            match client.greet(request, descriptors) {
                Err(ClientError::Closed | ClientError::Channel(_)) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(client),
            }
        }
        Err(ClientError::Closed)
    }

    /// The request follows the greeting at once: a daemon of another version answers and reads no further. One that
    /// has too many connections reads nothing, and may be gone before this is said; it has told why.
    fn greet(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let sent = self.send(&Request::Hello { version: VERSION }, &[]);
        let sent = sent.and_then(|()| self.send(request, descriptors));
        match &sent {
            Err(ClientError::Channel(error)) if matches!(errno(error), libc::EPIPE | libc::ECONNRESET) => {}
            Err(_) => return sent,
            Ok(()) => {}
        }
        match self.receive()? {
            (Reply::Welcome { version: VERSION }, _) => sent,
            _ => Err(ClientError::Protocol),
        }
    }

    /// Sends a further request.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        Ok(self.channel.send(request, descriptors)?)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// When the connection ends, or the reply is a refusal.
    pub fn receive(&self) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let (reply, mut descriptors) = self.channel.receive()?.ok_or(ClientError::Closed)?;
        let reply = if reply == Reply::Large { large(&mut descriptors)? } else { reply };
        match reply {
            Reply::Refused(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok((reply, descriptors)),
        }
    }
}

/// A reply that did not fit into its message; its own descriptors are left.
fn large(descriptors: &mut Vec<OwnedFd>) -> Result<Reply, ClientError> {
    let body = (!descriptors.is_empty()).then(|| descriptors.remove(0)).ok_or(ClientError::Protocol)?;
    Ok(memfd::decode(body)?)
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Dials the daemon, or starts one.
fn reach(places: &Places, may_start: bool) -> Result<Channel, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    let mut patience = Duration::ZERO;
    loop {
        match dialled_within(places, patience) {
            Err(ClientError::NotRunning { .. }) if may_start && Instant::now() < deadline => {}
            channel => return channel,
        }
        patience = match start(places)? {
            Started::Ours => Duration::ZERO,
            Started::Other => STARTING,
        };
    }
}

/// Dials until somebody listens. A daemon that is leaving never listens again: then the time passes, and the
/// next attempt starts one of our own.
fn dialled_within(places: &Places, patience: Duration) -> Result<Channel, ClientError> {
    let deadline = Instant::now() + patience;
    loop {
        match dialled(places) {
            Err(ClientError::NotRunning { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            channel => return channel,
        }
    }
}

fn dialled(places: &Places) -> Result<Channel, ClientError> {
    let socket = || places.client_socket.display().to_string();
    dial(&places.client_socket).map_err(|error| match errno(&error) {
        libc::EACCES | libc::EPERM => not_allowed(&socket()),
        // The usual one may be missing, and then no skepd runs; another one was misspelt.
        libc::ENOENT if places.has_named_socket() => {
            let message = format!("there is no socket {}", socket());
            ClientError::Refused(Refusal::new(
                "socket",
                message,
                "name the one skepd has, or leave --socket out",
            ))
        }
        libc::ENOENT | libc::ECONNREFUSED => {
            let advice = format!(
                "run it with sudo: {} …; or have root keep one running: {}",
                sudo("skep"),
                sudo("skepd")
            );
            ClientError::NotRunning { socket: socket(), advice }
        }
        _ => error.into(),
    })
}

fn not_allowed(socket: &str) -> ClientError {
    match Access::find() {
        Ok(access) => {
            let advice = match access.advice() {
                advice if advice.is_empty() => "end it and start it again, as root".to_owned(),
                advice => format!("run it with sudo, or do without from now on: {advice}"),
            };
            ClientError::NotAllowed { problem: access.closed(socket), advice }
        }
        Err(errno) => ClientError::NotAllowed {
            problem: format!("{socket} is closed to you, and looking up the group {GROUP} failed: {errno}"),
            advice: "run it with sudo".to_owned(),
        },
    }
}

fn errno(error: &ChannelError) -> i32 {
    match error {
        ChannelError::Syscall(error) => error.errno,
        _ => libc::EIO,
    }
}

/// What came of starting a daemon.
#[derive(Clone, Copy, Debug)]
enum Started {
    /// It listens.
    Ours,
    /// Another one has the places: it is about to listen, or about to be gone.
    Other,
}

/// Starts a transient skepd.
///
/// The daemon says on its standard output, in one line, that it listens or why it does not. Where two clients
/// start one at the same time, the second daemon finds the state directory locked.
fn start(places: &Places) -> Result<Started, ClientError> {
    let failed = |error: io::Error| ClientError::Start(error.to_string());
    places.make().map_err(|error| ClientError::Start(error.to_string()))?;
    let words = places.words().map_err(failed)?;
    let before = words.metadata().map_err(failed)?.len();
    let mut daemon = Command::new(sibling("skepd").map_err(failed)?)
        .arg("--transient")
        .env_clear()
        .env("SKEP_STATE", &places.state)
        .env("SKEP_RUNTIME", &places.runtime)
        .env("SKEP_CONFIGURATION", &places.configuration)
        .envs(["SKEP_LOG", AUDIT_SIZE].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(words.try_clone().map_err(failed)?)
        .spawn()
        .map_err(|error| ClientError::Start(format!("skepd beside {}: {error}", own_name())))?;
    let mut answer = String::new();
    if let Some(output) = daemon.stdout.take() {
        BufReader::new(output).read_line(&mut answer).map_err(failed)?;
    }
    match answer.trim_end() {
        "ready" => Ok(Started::Ours),
        "another skepd has these places" => Ok(Started::Other),
        "" => Err(ClientError::Start(last_words(&words, before).map_err(failed)?)),
        reason => Err(ClientError::Start(reason.to_owned())),
    }
}

/// What a daemon that ended before it answered has said: the end of what it added to the file.
fn last_words(words: &File, before: u64) -> io::Result<String> {
    let length = words.metadata()?.len();
    // It may have begun by emptying the file.
    let own = if length < before { 0 } else { before };
    let from = own.max(length.saturating_sub(MOST_WORDS));
    let mut said = vec![0; usize::try_from(length - from).unwrap_or(0)];
    words.read_exact_at(&mut said, from)?;
    let said = String::from_utf8_lossy(&said);
    Ok(match said.trim() {
        "" => "it ended without a word".to_owned(),
        said => format!("it ended before it answered, and said last:\n{said}"),
    })
}

fn own_name() -> String {
    std::env::current_exe().map_or_else(|_| "skep".to_owned(), |path| path.display().to_string())
}
