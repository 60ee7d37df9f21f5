//! The client protocol: what `skep` asks of `skepd` and what it hears.
//!
//! One SEQPACKET connection on `<runtime>/skepd.sock`, postcard messages, descriptors by SCM_RIGHTS. The set of
//! requests is closed and versioned: the first message of a client is [`Request::Hello`], which its request follows
//! without waiting, and a daemon that speaks another version says so instead of guessing. **Who asks is taken from the kernel (SO_PEERCRED), never
//! from a message.** What may be large travels in a sealed memfd instead of in the message.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skep_policy::launch::Ending;

pub use crate::audit::{Counters, Filter};

/// Version of this protocol. Client and daemon of different versions refuse each other.
pub const VERSION: u16 = 1;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Always the first message.
    Hello {
        /// [`VERSION`] of the client.
        version: u16,
    },
    /// Run a command in a new sandbox that ends with this connection. Descriptors: a sealed memfd with a
    /// [`Run`], then, unless [`Run::window`] is given, the agent's standard input, output and error.
    Run,
    /// Send a signal to the agent of this connection's sandbox.
    Signal(i32),
    /// List sandboxes the caller may see.
    List,
    /// Report on one sandbox by name or id.
    Status {
        /// Name or id.
        sandbox: String,
    },
    /// Send the audit lines the caller may see.
    Audit {
        /// Which of them; who is not root gets his own anyway.
        filter: Filter,
        /// Keep sending as records arrive.
        follow: bool,
    },
}

/// A run request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which profile.
    pub profile: Profile,
    /// The workspace as the caller named it, absolute.
    pub workspace: PathBuf,
    /// The caller's working directory, absolute; the agent starts there if it lies in the workspace.
    pub directory: PathBuf,
    /// A name for the sandbox; one is made up otherwise.
    pub name: Option<String>,
    /// The command and its arguments, at least one, none with a NUL.
    pub argv: Vec<Vec<u8>>,
    /// The caller's environment as `NAME=value`; the profile says what of it passes.
    pub environment: Vec<Vec<u8>>,
    /// Rows and columns of the caller's terminal: the agent gets a pty. `None`: descriptors are passed.
    pub window: Option<(u16, u16)>,
    /// Rules the caller accepts to be weaker than written.
    pub accept_weaker: Vec<String>,
    /// Names pointed at local servers; refused by builds without the feature `test-upstreams`.
    pub upstreams: Vec<(String, SocketAddr)>,
    /// The user the agent works for, if not the caller: only root may name another (`sudo skep run`).
    pub subject: Option<u32>,
    /// Compute and return the plan, start nothing.
    pub plan_only: bool,
}

/// How a run names its profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The profile whose `match` has the command's base name, else `workspace`.
    Matching,
    /// A shipped or installed profile.
    Named(String),
    /// A file the client read with the caller's own rights.
    Text {
        /// Its path, for messages.
        path: String,
        /// Its contents.
        text: String,
    },
}

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The daemon speaks the client's version.
    Welcome {
        /// [`VERSION`] of the daemon.
        version: u16,
    },
    /// The request was refused, or failed.
    Refused(Refusal),
    /// Something the caller should read before the agent starts.
    Notice(String),
    /// The rules that are weaker on this host than written, each with why and what remains of it.
    Weaker(Vec<(String, String)>),
    /// The plan of [`Run::plan_only`], as JSON, in pieces.
    Plan(String),
    /// The agent runs. Descriptor: the pty's master, when [`Run::window`] was given.
    Started {
        /// The sandbox's id.
        id: String,
        /// Its name.
        name: String,
        /// The agent's pid in the initial PID namespace.
        pid: u32,
    },
    /// The run is over and nothing of it is left.
    Ended(Summary),
    /// One sandbox of a list.
    Sandbox(Box<Sandbox>),
    /// Lines of the audit.
    Lines(String),
    /// The list or the audit is complete.
    Done,
}

/// Why a request was refused, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A stable word for programs: `profile`, `rule-not-enforceable`, `workspace`, `command-not-found`, ….
    pub code: String,
    /// What happened and why; several lines allowed. Contains no raw control characters but newlines.
    pub message: String,
    /// What to do next.
    pub advice: String,
    /// The exit code of `skep run`: 125 for our failures, 126 and 127 as a shell has them.
    pub exit: u8,
}

/// One sandbox, for `ls` and `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Owner's uid.
    pub owner: u32,
    /// Profile.
    pub profile: String,
    /// Workspace.
    pub workspace: PathBuf,
    /// The agent's command, escaped for display.
    pub command: String,
    /// `preparing`, `running`, `ending`.
    pub state: String,
    /// Seconds since it was asked for.
    pub age_seconds: u64,
    /// The agent's pid in the initial PID namespace, once started.
    pub pid: Option<u32>,
    /// What happened so far.
    pub counters: Counters,
    /// Each rule with the layers that enforce it here.
    pub enforced: Vec<(String, Vec<String>)>,
    /// Rules that are weaker than written, each with why.
    pub weaker: Vec<(String, String)>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How the agent ended.
    pub ending: Ending,
    /// What it did.
    pub counters: Counters,
    /// The most telling denials, those by a rule first.
    pub denials: Vec<Denial>,
    /// Where the audit is.
    pub audit: PathBuf,
}

/// Something that was refused in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// What: `write /work/.git/hooks/pre-commit`.
    pub what: String,
    /// The rule that refused it; `None` when no rule grants it.
    pub rule: Option<String>,
    /// The line of TOML that would allow it.
    pub allow_with: Option<String>,
}

impl Refusal {
    /// A failure of ours, exit code 125.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), advice: advice.into(), exit: 125 }
    }
}

/// The status a shell would report for an ending: the code, or 128 + the signal.
#[must_use]
pub fn exit_code(ending: Ending) -> u8 {
    match ending {
        Ending::Code(code) => code,
        Ending::Signal(signal) => 128_u8.saturating_add(signal),
    }
}
