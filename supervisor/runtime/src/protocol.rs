//! The client protocol: what `skep` asks of `skepd` and what it hears.
//!
//! One SEQPACKET connection on `<runtime>/skepd.sock`, postcard messages, descriptors by SCM_RIGHTS. The set of
//! requests is closed and versioned: the first message of a client is [`Request::Hello`], which its request follows
//! without waiting, and a daemon that speaks another version says so instead of guessing. **Who asks is taken from the kernel (SO_PEERCRED), never
//! from a message.** What may be large travels in a sealed memfd instead of in the message.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use skep_policy::launch::{Ending, SANDBOX_NAME, is_sandbox_name};
use skep_policy::units::Bytes;

pub use crate::audit::{Counters, Filter};

/// Version of this protocol. Client and daemon of different versions refuse each other. It begins to grow with the
/// first release.
pub const VERSION: u16 = 1;

/// Most arguments of a command.
pub const MOST_ARGUMENTS: usize = 1 << 17;

/// Most variables of an environment.
pub const MOST_VARIABLES: usize = 1 << 13;

/// Most rules that may be accepted as weaker, and names that may be pointed elsewhere.
pub const MOST_CHOICES: usize = 1 << 10;

/// The longest argument or variable, as the kernel's own (`MAX_ARG_STRLEN`), in bytes.
pub const LONGEST_WORD: usize = (128 << 10) - 1;

/// The longest path, as the kernel's own (`PATH_MAX`), in bytes.
pub const LONGEST_PATH: usize = 4095;

/// The longest name of a rule, in bytes: a path in it may be escaped.
pub const LONGEST_RULE: usize = 16 << 10;

/// What of a message to a person is sent, in bytes.
const LONGEST_TEXT: usize = 32 << 10;

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
    #[serde(with = "skep_policy::path")]
    pub workspace: PathBuf,
    /// The caller's working directory, absolute; the agent starts there if it lies in the workspace.
    #[serde(with = "skep_policy::path")]
    pub directory: PathBuf,
    /// A name for the sandbox; one is made up otherwise.
    pub name: Option<String>,
    /// The command and its arguments, at least one, none with a NUL.
    #[serde(deserialize_with = "most::<_, _, MOST_ARGUMENTS>")]
    pub argv: Vec<Vec<u8>>,
    /// The caller's environment as `NAME=value`; the profile says what of it passes.
    #[serde(deserialize_with = "most::<_, _, MOST_VARIABLES>")]
    pub environment: Vec<Vec<u8>>,
    /// Rows and columns of the caller's terminal: the agent gets a pty. `None`: three pipes are passed.
    pub window: Option<(u16, u16)>,
    /// Rules the caller accepts to be weaker than written.
    #[serde(deserialize_with = "most::<_, _, MOST_CHOICES>")]
    pub accept_weaker: Vec<String>,
    /// Names pointed at local servers; refused by builds without the feature `test-upstreams`.
    #[serde(deserialize_with = "most::<_, _, MOST_CHOICES>")]
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
    /// A reply that is larger than a message. Descriptors: a sealed memfd with it, then its own.
    Large,
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
    #[serde(with = "skep_policy::path")]
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
    /// Each rule with the layers that enforce it here, which may be none.
    pub enforced: Vec<(String, Vec<String>)>,
    /// Rules that are weaker than written, each with why.
    pub weaker: Vec<(String, String)>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How the agent ended.
    pub ending: Ending,
    /// Why, where skepd ended it.
    pub cause: Option<Cause>,
    /// What it did.
    pub counters: Counters,
    /// The most telling denials, those by a rule first.
    pub denials: Vec<Denial>,
    /// How many different ones there are, as far as they are remembered.
    pub denials_in_all: u64,
    /// Where the audit is.
    #[serde(with = "skep_policy::path")]
    pub audit: PathBuf,
}

/// Why skepd ended a sandbox that would have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The audit cannot be written.
    Audit,
    /// Its records have used up its share of the audit.
    Share {
        /// The share, in bytes.
        bytes: u64,
    },
    /// Its profile's limit of wall-clock time is over.
    WallClock {
        /// The limit.
        milliseconds: u64,
    },
    /// skepd stops.
    Stopping,
}

impl Cause {
    /// A stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Share { .. } => "audit-share",
            Self::WallClock { .. } => "wall-clock",
            Self::Stopping => "stopping",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Audit => "make room where the audit is",
            Self::Share { .. } => {
                "run it again, or start skepd with a larger SKEP_AUDIT_SIZE: a share is a quarter of that"
            }
            Self::WallClock { .. } => "its profile sets how long it may run: limits.time",
            Self::Stopping => "run it again",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Audit => write!(out, "the audit cannot be written"),
            Self::Share { bytes } => {
                write!(out, "its records have used up its share of the audit ({})", Bytes(bytes))
            }
            Self::WallClock { milliseconds } => {
                write!(out, "its time is over ({:?})", Duration::from_millis(milliseconds))
            }
            Self::Stopping => write!(out, "skepd stops"),
        }
    }
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

impl Run {
    /// Why no work is done for this request, for a person.
    ///
    /// # Errors
    /// What of it is missing, too many or too long.
    pub fn check(&self) -> Result<(), String> {
        let lists = [
            ("arguments", self.argv.len(), MOST_ARGUMENTS),
            ("variables in the environment", self.environment.len(), MOST_VARIABLES),
            ("rules to accept as weaker", self.accept_weaker.len(), MOST_CHOICES),
            ("upstreams", self.upstreams.len(), MOST_CHOICES),
        ];
        if let Some((what, _, most)) = lists.into_iter().find(|(_, count, most)| count > most) {
            return Err(format!("it has more than {most} {what}"));
        }
        let profile = match &self.profile {
            Profile::Matching => "",
            Profile::Named(name) | Profile::Text { path: name, .. } => name,
        };
        let longest = |list: &[Vec<u8>]| list.iter().map(Vec::len).max().unwrap_or(0);
        let of_path = |path: &Path| path.as_os_str().len();
        let rule = self.accept_weaker.iter().map(String::len).max().unwrap_or(0);
        let lengths = [
            ("an argument", longest(&self.argv), LONGEST_WORD),
            ("a variable", longest(&self.environment), LONGEST_WORD),
            ("the path of the workspace", of_path(&self.workspace), LONGEST_PATH),
            ("the path of the working directory", of_path(&self.directory), LONGEST_PATH),
            ("the name of the profile", profile.len(), LONGEST_PATH),
            ("the name of a rule to accept as weaker", rule, LONGEST_RULE),
        ];
        if let Some((what, length, longest)) =
            lengths.into_iter().find(|(_, length, longest)| length > longest)
        {
            return Err(format!("{what} has {length} bytes, and at most {longest} are taken"));
        }
        let has_nul = |list: &[Vec<u8>]| list.iter().any(|word| word.contains(&0));
        let paths = [&self.workspace, &self.directory];
        if paths.iter().any(|path| !path.is_absolute() || path.as_os_str().as_bytes().contains(&0)) {
            return Err("a path in it is not absolute, or has a NUL in it".to_owned());
        }
        if self.name.as_deref().is_some_and(|name| !is_sandbox_name(name)) {
            return Err(format!("a name has {SANDBOX_NAME}"));
        }
        if self.argv.is_empty() || has_nul(&self.argv) || has_nul(&self.environment) {
            return Err("it has no command, or a NUL in a word".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
impl Run {
    /// One that can be served.
    pub(crate) fn for_tests() -> Self {
        Self {
            profile: Profile::Matching,
            workspace: "/w".into(),
            directory: "/w".into(),
            name: None,
            argv: vec![b"true".to_vec()],
            environment: Vec::new(),
            window: None,
            accept_weaker: Vec::new(),
            upstreams: Vec::new(),
            subject: None,
            plan_only: false,
        }
    }
}

/// Reads a list and keeps one entry more than there may be: so that [`Run::check`] finds it too long, and nobody can
/// have a byte of the request take 24 of memory.
fn most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Kept<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Kept<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while let Some(entry) = list.next_element()? {
                if kept.len() <= MOST {
                    kept.push(entry);
                }
            }
            Ok(kept)
        }
    }
    deserializer.deserialize_seq(Kept::<T, MOST>(PhantomData))
}

impl Refusal {
    /// A failure of ours, exit code 125.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        let [message, advice] = [message.into(), advice.into()].map(shortened);
        Self { code: code.to_owned(), message, advice, exit: 125 }
    }
}

/// A text that fits into a message, whatever is quoted in it.
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let whole = (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(whole.unwrap_or(0));
        text.push_str(" …");
    }
    text
}

/// The status a shell would report for an ending: the code, or 128 + the signal.
#[must_use]
pub fn exit_code(ending: Ending) -> u8 {
    match ending {
        Ending::Code(code) => code,
        Ending::Signal(signal) => 128_u8.saturating_add(signal),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use skep_policy::launch::RootOp;

    use super::*;

    fn received(run: &Run) -> Run {
        postcard::from_bytes(&postcard::to_stdvec(run).unwrap()).unwrap()
    }

    fn refused(run: &Run) -> String {
        received(run).check().unwrap_err()
    }

    #[test]
    fn a_request_has_no_more_than_anybody_needs_and_the_rest_is_not_even_kept() {
        let most = Run {
            argv: vec![b"a".to_vec(); MOST_ARGUMENTS],
            environment: vec![b"A=".to_vec(); MOST_VARIABLES],
            accept_weaker: vec!["r".to_owned(); MOST_CHOICES],
            ..Run::for_tests()
        };
        assert_eq!((received(&most).check(), &received(&most)), (Ok(()), &most));
        let million = Run { accept_weaker: vec![String::new(); 1_400_000], ..Run::for_tests() };
        assert_eq!(received(&million).accept_weaker.len(), MOST_CHOICES + 1);
        assert_eq!(refused(&million), "it has more than 1024 rules to accept as weaker");
        let arguments = Run { argv: vec![Vec::new(); MOST_ARGUMENTS + 9], ..Run::for_tests() };
        assert!(
            received(&arguments).argv.len() == MOST_ARGUMENTS + 1
                && refused(&arguments).contains("arguments")
        );
        let environment = Run { environment: vec![Vec::new(); MOST_VARIABLES + 1], ..Run::for_tests() };
        assert!(refused(&environment).contains("variables"));
    }

    #[test]
    fn words_and_paths_are_no_longer_than_the_kernel_takes() {
        let long =
            Run { argv: vec![vec![b'a'; LONGEST_WORD]], workspace: path(LONGEST_PATH), ..Run::for_tests() };
        assert_eq!(received(&long).check(), Ok(()));
        let word = vec![vec![b'a'; LONGEST_WORD + 1]];
        assert!(
            refused(&Run { argv: word.clone(), ..Run::for_tests() })
                .starts_with("an argument has 131072 bytes")
        );
        assert!(refused(&Run { environment: word, ..Run::for_tests() }).starts_with("a variable has"));
        for long in [
            Run { workspace: path(LONGEST_PATH + 1), ..Run::for_tests() },
            Run { directory: path(LONGEST_PATH + 1), ..Run::for_tests() },
            Run { profile: Profile::Named("p".repeat(LONGEST_PATH + 1)), ..Run::for_tests() },
            Run { accept_weaker: vec!["r".repeat(LONGEST_RULE + 1)], ..Run::for_tests() },
        ] {
            assert!(refused(&long).contains("at most"));
        }
    }

    fn path(length: usize) -> PathBuf {
        format!("/{}", "a".repeat(length - 1)).into()
    }

    #[test]
    fn a_path_travels_whatever_its_bytes_are() {
        let odd = Path::new(OsStr::from_bytes(b"/w/caf\xe9"));
        let run = Run { workspace: odd.to_owned(), ..Run::for_tests() };
        assert_eq!(received(&run), run);
        let op = RootOp::Symlink { at: odd.to_owned(), target: "/w/caf\u{e9}".into() };
        assert_eq!(postcard::from_bytes(&postcard::to_stdvec(&op).unwrap()), Ok(op.clone()));
        let shown = serde_json::to_value(&op).unwrap();
        assert_eq!(shown["Symlink"]["at"], "/w/caf\\xe9");
        assert_eq!(shown["Symlink"]["target"], "/w/caf\u{e9}");
    }

    #[test]
    fn a_request_without_sense_is_refused() {
        for (senseless, why) in [
            (Run { argv: Vec::new(), ..Run::for_tests() }, "no command"),
            (Run { argv: vec![b"a\0".to_vec()], ..Run::for_tests() }, "a NUL"),
            (Run { environment: vec![b"A=\0".to_vec()], ..Run::for_tests() }, "a NUL"),
            (Run { workspace: "w".into(), ..Run::for_tests() }, "not absolute"),
            (Run { directory: "/w\0".into(), ..Run::for_tests() }, "a NUL"),
            (Run { name: Some("../x".into()), ..Run::for_tests() }, "a name has"),
        ] {
            assert!(refused(&senseless).contains(why), "{senseless:?}");
        }
    }

    #[test]
    fn a_refusal_fits_into_a_message() {
        let refusal = Refusal::new("profile", "\u{20ac}".repeat(100_000), "");
        assert!(refusal.message.len() < LONGEST_TEXT + 8 && refusal.message.ends_with("\u{20ac} …"));
    }
}
