//! What a record says. The form is version 1 of the log: **append-only**, like every format that outlives its
//! writer; a new field is optional, a new kind is skipped by readers that do not know it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_policy::decision::Decision;

use super::redact::Redactor;
use super::share::Share;
use super::text::Text;
use crate::hex::hex;

/// Version of the line format.
pub const VERSION: u32 = 1;

/// What is to be recorded. Number, clocks and chain are added by the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The sandbox it is about; `None` for what concerns skepd itself.
    pub origin: Option<Arc<Origin>>,
    /// When it happened, in nanoseconds of the boot clock, where that is not the moment of writing (records of
    /// the kernel).
    pub event_ns: Option<u64>,
    /// What happened.
    pub body: Body,
}

impl Record {
    /// A record about a sandbox.
    #[must_use]
    pub fn of(origin: &Arc<Origin>, body: Body) -> Self {
        Self { origin: Some(Arc::clone(origin)), event_ns: None, body }
    }

    /// A record about skepd itself.
    #[must_use]
    pub fn general(body: Body) -> Self {
        Self { origin: None, event_ns: None, body }
    }

    /// The same record with the boot-clock time at which the kernel saw the event.
    #[must_use]
    pub fn at(mut self, event_ns: u64) -> Self {
        self.event_ns = Some(event_ns);
        self
    }
}

/// What every record of one sandbox repeats, the secrets that must not be in any of them, and how long all of them
/// together may be.
#[derive(Debug)]
pub struct Origin {
    /// The repeated fields.
    pub sandbox: Sandbox,
    /// Redacts what is written about this sandbox.
    pub redactor: Redactor,
    /// What its records may take of the log.
    pub share: Share,
}

/// The sandbox a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id, unique on this host.
    pub id: String,
    /// Its name, which the user chose.
    pub name: Text,
    /// The uid whose sandbox it is.
    pub owner: u32,
    /// Name of its profile.
    pub profile: Text,
    /// Hash of the effective profile, hex.
    pub version: String,
    /// [`weaker_id`] of its list of weaker rules, absent when every rule is enforced. The list itself is in the
    /// sandbox's `start` record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weaker: Option<String>,
}

/// A short id of a list of weaker rules: the same list has the same id on every host. `None` for no rules.
#[must_use]
pub fn weaker_id(rules: &[Weaker]) -> Option<String> {
    let mut names: Vec<&[u8]> = rules.iter().map(|rule| rule.rule.as_bytes()).collect();
    names.sort_unstable();
    let hash = names.iter().fold(Sha256::new(), |hash, name| {
        hash.chain_update((name.len() as u64).to_le_bytes()).chain_update(name)
    });
    (!names.is_empty()).then(|| hex(&hash.finalize()[..6]))
}

/// What happened. In a line: `"kind":"exec","body":{…}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "kebab-case")]
pub enum Body {
    /// A sandbox is about to start: written before the keeper is asked for anything.
    Start(Start),
    /// A program was executed.
    Exec(Exec),
    /// A process ended.
    Exit(Exit),
    /// A file was opened for writing or created.
    Open(Open),
    /// The first read of an object by a process tree; further ones are only counted.
    ReadFirst(ReadFirst),
    /// A name or the attributes of a file changed.
    Change(Change),
    /// Something was refused.
    Denied(Denied),
    /// A connection (or a DNS name) was judged by the gateway; written before it is dialled.
    Connection(Connection),
    /// A relayed connection ended.
    Closed(Closed),
    /// Records of the kernel were lost.
    Lost(Lost),
    /// The sandbox ended and nothing of it is left.
    End(End),
    /// Something of ours failed.
    Error(Failure),
    /// The leftovers of a crash were cleared away.
    Recovered(Failure),
    /// The log speaks about itself.
    Log(LogEvent),
}

/// The process an event belongs to, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its pid in the initial PID namespace.
    pub pid: u32,
    /// Its parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Its 15 bytes of command name, which it may set to anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<Text>,
    /// The program it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Text>,
}

/// Body of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The command, `argv[0]` first.
    pub command: Vec<Text>,
    /// The workspace.
    pub workspace: Text,
    /// Who asked, with the uid the request's socket proved.
    pub caller: u32,
    /// `release` of the running kernel.
    pub kernel: String,
    /// Each layer and what it does for this sandbox.
    pub layers: Vec<Layer>,
    /// The rules that are enforced less than they say, each with who accepted that.
    pub weaker: Vec<Weaker>,
}

/// One layer of enforcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name: `landlock`, `seccomp`, `mounts`, …
    pub name: String,
    /// Whether it is in force.
    pub on: bool,
    /// Why not, or how it was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
}

/// A rule that no layer of this host enforces in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weaker {
    /// The rule, as the profile names it.
    pub rule: Text,
    /// What is missing, and whether `best_effort` or `--accept-weaker` let it pass.
    pub reason: Text,
}

/// Body of `exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Who.
    pub task: Task,
    /// The file that was executed.
    pub path: Text,
    /// The arguments, as many as were captured.
    pub argv: Vec<Text>,
    /// Set when `argv` is not all there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Text>,
}

/// How much there was of something that is recorded only in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Number of arguments, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<u64>,
    /// Length of the whole in bytes, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of the whole, hex, where somebody saw the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Body of `exit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Who.
    pub task: Task,
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
}

/// Body of `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Who.
    pub task: Task,
    /// What.
    pub path: Text,
    /// It did not exist before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// Its contents were thrown away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Body of `read-first`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFirst {
    /// Who.
    pub task: Task,
    /// What.
    pub path: Text,
}

/// Body of `change`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who.
    pub task: Task,
    /// The operation, in the kernel's word: `rename`, `unlink`, `mkdir`, `link`, `chmod`, …
    pub op: String,
    /// What.
    pub path: Text,
    /// The other name of a rename or a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Text>,
}

/// Body of `denied`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The operation: `read`, `write`, `exec`, `connect`, `resolve`, a syscall's name.
    pub op: String,
    /// The path, address or name it was for.
    pub object: Text,
    /// What the caller got: `EACCES`, `EPERM`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The rule, as the profile names it; `None` where nothing matched, which is deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text>,
    /// Why.
    pub reason: Text,
    /// The one line of TOML that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_with: Option<Text>,
    /// How often it happened since the last record of the same.
    pub count: u64,
}

/// Body of `connection`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The gateway's number of the event, by which `closed` refers to it.
    pub number: u64,
    /// `name:port`, a bare name for a DNS question, or an address and port.
    pub to: Text,
    /// The verdict.
    pub decision: Decision,
    /// The rule, as the profile names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text>,
    /// Why.
    pub reason: Text,
    /// For a denied one, the line of TOML that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_with: Option<Text>,
}

/// Body of `closed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// [`Connection::number`].
    pub number: u64,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// Milliseconds it was open.
    pub milliseconds: u64,
    /// Why it ended, if not by a plain close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Text>,
}

/// Body of `lost`: records of the kernel that never arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Where: `sandbox` of the one that had more of them at once than it has room for, `ring` between the programs
    /// and skepd, `programs` that the kernel did not run. What met a full ring is in both of the first two.
    pub source: String,
    /// The CPU whose numbering has the gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// First number that is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Last number that is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// How many.
    pub count: u64,
}

/// Body of `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How: `exit 0`, `signal 9`, `launch failed: …`, `failed: …` once it ran, `killed: …` with why skepd ended
    /// it.
    pub status: Text,
    /// Wall-clock milliseconds.
    pub milliseconds: u64,
    /// What happened in it.
    pub counters: Counters,
}

/// What happened in a sandbox, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Programs executed.
    pub executed: u64,
    /// Distinct files written, created, renamed or removed.
    pub changed: u64,
    /// Operations a rule refused, repeats included.
    pub denied: u64,
    /// Operations refused because no rule grants them, repeats included.
    pub ungranted: u64,
    /// Looks at paths that no rule grants and that the host does not have either: counted, never recorded.
    pub missing: u64,
    /// Connections relayed.
    pub connected: u64,
    /// Files opened for reading, the unrecorded ones included; known at the end.
    pub reads: u64,
    /// Records of its own that it had no room for.
    pub lost: u64,
}

/// Body of `error` and `recovered`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, in a few fixed words.
    pub what: String,
    /// What happened.
    pub message: Text,
}

/// Body of `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LogEvent {
    /// First record of every segment: where the chain comes from.
    Segment {
        /// Number of this segment.
        segment: u64,
        /// Last record of the segment before; sequence 0 and a hash of zeros at the beginning of time.
        previous_seq: u64,
        /// Its hash, hex.
        previous_hash: String,
    },
    /// A skepd has taken the log over.
    Opened {
        /// Version of skepd.
        version: String,
        /// Pid of skepd.
        pid: u32,
    },
    /// The writer closed the log in good order.
    Shut,
    /// A torn tail was cut off: a crash met a write half-way.
    Repaired {
        /// The segment.
        segment: u64,
        /// How many bytes were cut off.
        bytes: u64,
        /// Their SHA-256, hex.
        sha256: String,
        /// Their beginning.
        torn: Text,
    },
    /// Segments were removed by retention: their absence is no tampering.
    Retention {
        /// The newest segment that was removed, with every older one.
        through: u64,
        /// Its last record.
        seq: u64,
        /// That record's hash, hex.
        hash: String,
    },
    /// The log did not end where its anchor says: records were cut off or changed before this one.
    Damaged {
        /// The anchored sequence number.
        anchored_seq: u64,
        /// The anchored hash, hex.
        anchored_hash: String,
        /// The last intact record that was found.
        found_seq: u64,
        /// What is wrong.
        problem: String,
    },
    /// The anchor was missing or unreadable; without it a cut tail cannot be seen.
    AnchorLost,
}

impl Body {
    /// The word in `"kind"`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Exec(_) => "exec",
            Self::Exit(_) => "exit",
            Self::Open(_) => "open",
            Self::ReadFirst(_) => "read-first",
            Self::Change(_) => "change",
            Self::Denied(_) => "denied",
            Self::Connection(_) => "connection",
            Self::Closed(_) => "closed",
            Self::Lost(_) => "lost",
            Self::End(_) => "end",
            Self::Error(_) => "error",
            Self::Recovered(_) => "recovered",
            Self::Log(_) => "log",
        }
    }

    /// Every text of others in it, for redaction, cutting and searching.
    pub fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        match self {
            Self::Start(b) => {
                b.command.iter_mut().for_each(&mut *visit);
                visit(&mut b.workspace);
                b.layers.iter_mut().filter_map(|l| l.reason.as_mut()).for_each(&mut *visit);
                b.weaker.iter_mut().flat_map(|w| [&mut w.rule, &mut w.reason]).for_each(visit);
            }
            Self::Exec(b) => {
                b.task.each_text(visit);
                visit(&mut b.path);
                b.argv.iter_mut().chain(&mut b.directory).for_each(visit);
            }
            Self::Exit(b) => b.task.each_text(visit),
            Self::Open(b) => {
                b.task.each_text(visit);
                visit(&mut b.path);
            }
            Self::ReadFirst(b) => {
                b.task.each_text(visit);
                visit(&mut b.path);
            }
            Self::Change(b) => {
                b.task.each_text(visit);
                visit(&mut b.path);
                b.to.iter_mut().for_each(visit);
            }
            Self::Denied(b) => {
                b.task.iter_mut().for_each(|task| task.each_text(visit));
                visit(&mut b.object);
                visit(&mut b.reason);
                b.rule.iter_mut().chain(&mut b.allow_with).for_each(visit);
            }
            Self::Connection(b) => {
                b.task.iter_mut().for_each(|task| task.each_text(visit));
                visit(&mut b.to);
                visit(&mut b.reason);
                b.rule.iter_mut().chain(&mut b.allow_with).for_each(visit);
            }
            Self::Closed(b) => b.error.iter_mut().for_each(visit),
            Self::End(b) => visit(&mut b.status),
            Self::Error(b) | Self::Recovered(b) => visit(&mut b.message),
            Self::Log(LogEvent::Repaired { torn, .. }) => visit(torn),
            Self::Lost(_) | Self::Log(_) => {}
        }
    }
}

impl Body {
    /// Cuts what is too long for a line: each text to `limit` bytes, a list to `limit` elements.
    pub(super) fn shorten(&mut self, limit: usize) {
        self.each_text(&mut |text| text.shorten(limit));
        match self {
            Self::Exec(b) if b.argv.len() > limit => {
                let cut = b.cut.get_or_insert_default();
                cut.arguments.get_or_insert(b.argv.len() as u64);
                b.argv.truncate(limit);
            }
            Self::Start(b) => b.command.truncate(limit),
            _ => {}
        }
    }
}

impl Task {
    fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        self.comm.iter_mut().chain(&mut self.program).for_each(visit);
    }
}
