//! Profiles as they are written: the whole grammar, with the place of every rule.
//!
//! Parsing says only whether a profile is well formed. What its rules mean together is said by
//! [`crate::compose`] and [`crate::policy`], and which of them this host can enforce by [`crate::layers`].

mod commands;
mod files;
mod limits;
mod network;
mod parse;
mod reader;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::Decision;
use crate::diagnostics::{Diagnostics, Source};
use crate::rule::RuleRef;
use crate::units::{Bytes, Percent};

pub use files::{Granting, Guarding};
pub use parse::is_profile_name;

/// The schema this code reads.
pub const SCHEMA: u64 = 1;

/// One profile file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name, `[a-z0-9-]`.
    pub name: String,
    /// Names of commands that choose this profile when the user names none.
    pub matches: Vec<String>,
    /// The profiles it is composed of.
    pub uses: Vec<Use>,
    /// What it says.
    pub rules: Rules,
    /// Its text, for errors that are found later.
    pub source: Source,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// With everything that is wrong in it.
    pub fn parse(source: &Source) -> Result<Self, Diagnostics> {
        parse::profile(source)
    }
}

/// One entry of `use`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The name of the other profile.
    pub name: String,
    /// Where this one says so.
    pub rule: RuleRef,
}

/// Everything profiles say beside their names; composing merges these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// `mode`.
    pub mode: Vec<Setting<Mode>>,
    /// `nested_sandbox`.
    pub nested_sandbox: Vec<Setting<bool>>,
    /// `identity`.
    pub identity: Vec<Setting<Identity>>,
    /// `[limits]`.
    pub limits: Vec<LimitRule>,
    /// `[files]`.
    pub grants: Vec<Grant>,
    /// `[guards]`.
    pub guards: Vec<Guard>,
    /// `commands.default`.
    pub command_default: Vec<Setting<Decision>>,
    /// `[[commands.rule]]`.
    pub commands: Vec<CommandRule>,
    /// `[[egress]]`, one for each entry of `to`.
    pub egress: Vec<EgressRule>,
    /// `environment.pass`.
    pub pass: Vec<Setting<String>>,
    /// `environment.set`, in the order in which later ones win.
    pub set: Vec<Setting<(String, String)>>,
    /// `[[example]]`: what the profile promises of itself with all it uses, not of profiles that use it.
    pub examples: Vec<Example>,
}

/// A value and the rule that says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who says it.
    pub rule: RuleRef,
}

/// Whether verdicts are enforced or only recorded. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Judge and record, let pass.
    Observe,
    /// Judge, record and enforce.
    Enforce,
}

/// As whom the agent runs. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The caller's own uid.
    Caller,
    /// A uid that only this sandbox has.
    Own,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRule {
    /// What is limited, and to how much.
    pub limit: Limit,
    /// Whether it holds for the sandbox or for each command in it.
    pub scope: LimitScope,
    /// Go on without it where the host cannot enforce it.
    pub best_effort: bool,
    /// Why it is there.
    pub reason: Option<String>,
    /// Its name.
    pub rule: RuleRef,
}

/// For what a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// All of the sandbox together.
    Sandbox,
    /// Each command the agent starts.
    Command,
}

/// A limit with its unit. Of two on the same thing the lower one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Memory of all processes, page cache included.
    Memory(Bytes),
    /// Number of tasks.
    Pids(u64),
    /// CPU time per wall-clock time.
    Cpu(Percent),
    /// Weight against other users of a disk, 1 to 10,000.
    Io(u64),
    /// Open files of a process.
    Nofile(u64),
    /// Size of a file that is written.
    FileSize(Bytes),
    /// Wall-clock time.
    Time(Duration),
    /// Time without output and without a record.
    Idle(Duration),
}

/// One entry of a list in `[files]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which list.
    pub kind: Granting,
    /// The path as written: literal, with a variable in front.
    pub path: String,
    /// With `ask`: which operations.
    pub ops: Vec<Op>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Go on without it where the host cannot enforce it.
    pub best_effort: bool,
    /// Its name.
    pub rule: RuleRef,
}

/// One entry of a list in `[guards]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Which list.
    pub kind: Guarding,
    /// The pattern as written.
    pub path: String,
    /// Patterns it does not guard.
    pub except: Vec<String>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Go on without it where the host cannot enforce it.
    pub best_effort: bool,
    /// Its name.
    pub rule: RuleRef,
}

impl Guard {
    /// What keeps an agent from changing the file its profile was read from. `path` is absolute.
    #[must_use]
    pub fn of_profile(path: &str) -> Self {
        let kind = Guarding::Protect;
        Self {
            kind,
            path: path.to_owned(),
            except: Vec::new(),
            reason: Some("the next run obeys what is in it".to_owned()),
            best_effort: false,
            rule: RuleRef::built_in(&format!("guards.{}", kind.key()), path),
        }
    }
}

/// An operation on a file, as `ops` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Open for reading, list, follow.
    Read,
    /// Change, create, remove, rename.
    Write,
    /// Start as a program.
    Exec,
    /// Connect to a socket at a path.
    Connect,
}

/// One `[[commands.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRule {
    /// Tokens of `argv`; `**` stands for any number of them.
    pub run: Vec<String>,
    /// What it decides.
    pub decision: Decision,
    /// How long an ask waits; `None` inside is for ever.
    pub deadline: Option<Deadline>,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// Limits of the command.
    pub limits: Vec<LimitRule>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Go on without it where the host cannot enforce it.
    pub best_effort: bool,
    /// Its name.
    pub rule: RuleRef,
}

/// How long an ask waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deadline {
    /// No answer by then means deny.
    After(Duration),
    /// It waits for ever.
    Never,
}

/// One destination of an `[[egress]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// Where to.
    pub to: Destination,
    /// What it decides.
    pub decision: Decision,
    /// What is spoken there, `None` for what the port says.
    pub protocol: Option<Protocol>,
    /// Whether the gateway reads what passes.
    pub inspect: bool,
    /// How long an ask waits.
    pub deadline: Option<Deadline>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Go on without it where the host cannot enforce it.
    pub best_effort: bool,
    /// Its name.
    pub rule: RuleRef,
}

/// A destination pattern; the port is `None` for any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A name, its labels in reading order.
    Name(Vec<String>, Option<u16>),
    /// A range of addresses: `10.0.0.0/8`, or one address.
    Network(std::net::IpAddr, u8, Option<u16>),
}

/// A protocol the gateway can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TLS: the client hello must carry the name.
    Tls,
    /// HTTP: the Host header must carry the name.
    Http,
    /// SSH.
    Ssh,
    /// Anything: only name and port are judged.
    Tcp,
}

/// One `[[example]]`, checked when the profile is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// What is done.
    pub attempt: Attempt,
    /// What must come out.
    pub expect: Decision,
    /// Its name.
    pub rule: RuleRef,
}

/// The `do` of an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// `read PATH`, `write PATH`, and so on; the path with variables.
    File(crate::policy::FileOp, String),
    /// `connect NAME:PORT`.
    Connect(String, u16),
    /// `run COMMAND…`.
    Run(String),
}
