//! `skep run`: ask for a sandbox, carry its streams, pass signals on, end with its status.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use skep_kernel::memfd;
use skep_kernel::terminal;
use skep_runtime::places::Places;
use skep_runtime::protocol::{Profile, Refusal, Reply, Request, Run, exit_code};

use crate::client::{Client, ClientError};
use crate::origin::Origin;
use crate::report;
use crate::streams::{Carriers, Line, Pipes, RawMode, carry_pty, is_interactive};

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--profile`: a name, or a path with a slash or the ending `.toml`.
    pub profile: Option<String>,
    /// `--workspace`.
    pub workspace: Option<PathBuf>,
    /// `--name`.
    pub name: Option<String>,
    /// `--accept-weaker`, each.
    pub accept_weaker: Vec<String>,
    /// `--upstream`, each.
    pub upstreams: Vec<(String, SocketAddr)>,
    /// `--plan`.
    pub plan: bool,
    /// `--json`.
    pub json: bool,
    /// The command.
    pub argv: Vec<Vec<u8>>,
}

/// Signals that are meant for the agent when they reach us.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

/// Runs the command and returns the exit code of `skep`.
///
/// # Errors
/// When no sandbox came to be, or the connection to skepd broke.
pub fn run(options: Options, places: &Places) -> Result<u8, ClientError> {
    // Blocked before any thread exists, so that all of them leave these signals to the descriptor.
    let signals = signals()?;
    let json = options.json;
    let window = if is_interactive() && !options.plan { terminal::window(io::stdin()).ok() } else { None };
    let pipes = if window.is_none() { Some(Pipes::new().map_err(local("pipes"))?) } else { None };
    let request = request(options, window)?;
    let client = ask(places, &request, pipes.as_ref())?;
    follow(&client, &signals, pipes, json)
}

fn signals() -> Result<SignalFd, ClientError> {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGWINCH);
    set.thread_block().map_err(|e| local("signals")(e.into()))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(|e| local("signals")(e.into()))
}

/// The request, made of the options and of what surrounds the process.
fn request(options: Options, window: Option<(u16, u16)>) -> Result<Run, ClientError> {
    let directory = std::env::current_dir().map_err(|error| {
        refuse("workspace", format!("the current directory cannot be read: {error}"), "cd to one that exists")
    })?;
    let workspace = match options.workspace {
        Some(path) => fs::canonicalize(&path).map_err(|error| {
            refuse(
                "workspace",
                format!("workspace {}: {error}", path.display()),
                "name a directory that exists and that you may read",
            )
        })?,
        None => directory.clone(),
    };
    let origin = Origin::find();
    Ok(Run {
        profile: options.profile.map_or(Ok(Profile::Matching), profile)?,
        workspace,
        directory,
        name: options.name,
        argv: options.argv,
        environment: origin.environment,
        window,
        accept_weaker: options.accept_weaker,
        upstreams: options.upstreams,
        subject: origin.subject,
        plan_only: options.plan,
    })
}

/// A profile named like a path is a file, which we read with the caller's rights.
fn profile(name: String) -> Result<Profile, ClientError> {
    let is_file = name.contains('/') || Path::new(&name).extension().is_some_and(|ending| ending == "toml");
    if !is_file {
        return Ok(Profile::Named(name));
    }
    let text = fs::read_to_string(&name).map_err(|error| {
        refuse("profile", format!("profile {name}: {error}"), "name a file that exists and that you may read")
    })?;
    Ok(Profile::Text { path: name, text })
}

fn ask(places: &Places, request: &Run, pipes: Option<&Pipes>) -> Result<Client, ClientError> {
    let body = memfd::encode("skep-run", request)
        .map_err(|error| refuse("memory", error.to_string(), "free some memory"))?;
    let mut descriptors = vec![body.as_fd()];
    descriptors.extend(pipes.iter().flat_map(|pipes| pipes.agent.iter().map(AsFd::as_fd)));
    Client::ask(places, &Request::Run, &descriptors)
}

/// Follows the run to its end.
fn follow(
    client: &Client,
    signals: &SignalFd,
    mut pipes: Option<Pipes>,
    json: bool,
) -> Result<u8, ClientError> {
    let mut carriers = Carriers::default();
    let mut raw = None;
    let mut master: Option<OwnedFd> = None;
    let mut own_name = String::new();
    loop {
        if wait(client, signals)? == Ready::Signal {
            forward(client, signals, master.as_ref())?;
            continue;
        }
        match client.receive()? {
            (Reply::Weaker(rules), _) => report::weaker(&rules, json),
            (Reply::Plan(text), _) => report::plan(&text),
            (Reply::Done, _) => return Ok(0),
            (Reply::Started { id, name, pid }, descriptors) => {
                report::started(&id, &name, pid, json);
                own_name = name;
                if let Some(pipes) = pipes.take() {
                    carriers = pipes.carry();
                } else if let Some(pty) = descriptors.into_iter().next() {
                    raw = Some(RawMode::enter().map_err(local("terminal"))?);
                    // The window may have changed since the request, while there was nobody to tell.
                    resize(&pty)?;
                    master = Some(pty.try_clone().map_err(local("terminal"))?);
                    carriers = carry_pty(pty).map_err(local("terminal"))?;
                }
            }
            (Reply::Ended(summary), _) => {
                drop(master);
                let line = carriers.finish();
                // What came from the pty went to standard output: ours may be a file.
                let is_shared = raw.is_none() || io::stderr().is_terminal();
                drop(raw);
                if line == Line::Within && is_shared {
                    report::next_line();
                }
                report::ended(&own_name, &summary, json);
                return Ok(exit_code(summary.ending));
            }
            _ => return Err(ClientError::Protocol),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Reply,
    Signal,
}

fn wait(client: &Client, signals: &SignalFd) -> Result<Ready, ClientError> {
    let mut ready =
        [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) if ready[1].any() == Some(true) => return Ok(Ready::Signal),
            Ok(_) => return Ok(Ready::Reply),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(local("poll")(errno.into())),
        }
    }
}

/// Passes one signal on; a new window size goes to the agent's pty, which tells the agent itself.
fn forward(client: &Client, signals: &SignalFd, master: Option<&OwnedFd>) -> Result<(), ClientError> {
    let Some(info) = signals.read_signal().map_err(|e| local("signals")(e.into()))? else { return Ok(()) };
    let number = i32::try_from(info.ssi_signo).unwrap_or(libc::SIGTERM);
    if number != libc::SIGWINCH {
        return match client.send(&Request::Signal(number), &[]) {
            // It comes too late, and what is to be received says how it went.
            Err(ClientError::Channel(_)) => Ok(()),
            sent => sent,
        };
    }
    master.map_or(Ok(()), resize)
}

/// Gives the agent's pty the size of our terminal.
fn resize(master: &OwnedFd) -> Result<(), ClientError> {
    // A terminal that is gone has no size.
    let Ok((rows, columns)) = terminal::window(io::stdin()) else { return Ok(()) };
    terminal::resize(master, rows, columns).map_err(|e| local("terminal")(e.into()))
}

fn refuse(code: &str, message: String, advice: &str) -> ClientError {
    ClientError::Refused(Refusal::new(code, message, advice))
}

fn local(what: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |error| refuse(what, format!("{what}: {error}"), "free descriptors or memory, then try again")
}
