//! The command line of `skep`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use skep_policy::launch::{SANDBOX_NAME, is_sandbox_name};

/// Exit codes, shown by `skep --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0        it worked; `run`: the agent ended with 0; `audit verify`: the log is intact
  1        `audit verify`: the log is not intact; `profile check`: the profile has errors or does
           not start here; `doctor`: a profile does not start here
  2        the command line is wrong
  125      skep could not do it, or could not go on with it: the message says which; `doctor`: not every
           profile could be judged in this directory
  126,127  `run`: the command is not executable, or was not found
  128+n    `run`: the agent died of signal n
  else     `run`: the agent's own exit code";

/// Runs AI coding agents contained, observed and governed.
#[derive(Debug, Parser)]
#[command(name = "skep", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Socket of skepd, instead of the usual one
    #[arg(long, global = true, value_name = "PATH", value_parser = clap::value_parser!(PathBuf))]
    pub socket: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What `skep` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a sandbox of its own; the current directory is its workspace
    Run(Run),
    /// List the running sandboxes
    Ls(Output),
    /// Show one sandbox: its rules, which layer enforces each, what is weaker here, what it did
    Status(Status),
    /// Show the audit, or verify it
    Audit(Audit),
    /// Check, explain or show a profile
    Profile(Profile),
    /// Say what this host can enforce and which shipped profiles start here
    Doctor(Doctor),
    /// Print the script with which a shell completes this command line
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// A directory that exists, such as ~/.local/share/man/man1
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// `skep run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Profile: a name, or a path to a TOML file (one with a slash or ending in .toml). Without it, the one
    /// whose `match` has the command, else `workspace`
    #[arg(long, value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    pub profile: Option<OsString>,
    /// The directory the agent works in [default: the current one]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// A name for the sandbox
    #[arg(long, value_name = "NAME", value_parser = sandbox_name)]
    pub name: Option<String>,
    /// Say what skep says on standard error as JSON, one object a line: weaker, started, ended; or refused
    #[arg(long)]
    pub json: bool,
    /// Print the launch plan as JSON and start nothing
    #[arg(long)]
    pub plan: bool,
    /// Start although this host cannot enforce RULE in full; every record will say so. May be repeated
    #[arg(long, value_name = "RULE")]
    pub accept_weaker: Vec<String>,
    /// Dial NAME at a local address instead (builds for tests only)
    #[cfg(feature = "test-upstreams")]
    #[arg(long, value_name = "NAME=127.0.0.1:PORT", value_parser = upstream)]
    pub upstream: Vec<(String, std::net::SocketAddr)>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// `skep status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Name or id of the sandbox [default: all of them]
    pub sandbox: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub output: Output,
}

/// `skep audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Audit {
    /// Verify instead of showing
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    /// Only this sandbox, by name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: Option<String>,
    /// Only records of this kind. May be repeated
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(KINDS))]
    pub kind: Vec<String>,
    /// Only what was refused
    #[arg(long)]
    pub denied: bool,
    /// Only records at or after this: 2026-11-20T20:15:00Z, 2026-11-20, or an age such as 90s, 10m, 2h, 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only records before this, written like --since
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only records about this path or what is below it; a relative one begins in the current directory
    #[arg(long, value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Only sandboxes of this uid
    #[arg(long, value_name = "UID")]
    pub owner: Option<u32>,
    /// Go on with new records as they are written
    #[arg(long, short)]
    pub follow: bool,
    /// Print the records as they are in the log
    #[arg(long)]
    pub json: bool,
    /// Read this state directory instead of asking skepd
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// What [`Audit`] can be besides a list.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no record was removed, changed, moved or added and that no end was cut off
    Verify(Verify),
}

/// `skep audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// State directory [default: the one of skepd]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub output: Output,
}

/// `skep profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// What about it
    #[command(subcommand)]
    pub command: ProfileCommand,
}

/// What can be done with a profile.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Report every error of a profile, run its examples, and say whether it starts on this host
    Check(Check),
    /// Say what a profile decides for something and which rule does
    Explain(Explain),
    /// Print a profile with all it uses, as it is in force
    Show(Show),
}

/// Which profile.
#[derive(Debug, Args)]
pub struct ProfileName {
    /// A name, or a path to a TOML file (one with a slash or ending in .toml)
    #[arg(value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    pub profile: OsString,
    /// The workspace that `${workspace}` stands for [default: the current directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub output: Output,
}

/// `skep profile check`.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub profile: ProfileName,
    /// Check only what is written, its examples too, and not whether this host can enforce it
    #[arg(long)]
    pub syntax: bool,
}

/// `skep profile show`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub profile: ProfileName,
    /// Print its own text instead, as the beginning of a profile that takes its place
    #[arg(long, conflicts_with = "json")]
    pub toml: bool,
}

/// `skep profile explain`.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub profile: ProfileName,
    /// What to judge, as in a profile's examples: read PATH, write PATH, exec PATH, connect NAME:PORT
    #[arg(value_name = "WHAT", required = true, num_args = 1..=8)]
    pub what: Vec<OsString>,
}

/// `skep doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type, and clap would show a text from here")]
    pub output: Output,
}

/// The kinds of records, in the words of the log.
pub const KINDS: [&str; 14] = [
    "start",
    "exec",
    "exit",
    "open",
    "read-first",
    "change",
    "denied",
    "connection",
    "closed",
    "lost",
    "end",
    "error",
    "recovered",
    "log",
];

fn sandbox_name(name: &str) -> Result<String, String> {
    if is_sandbox_name(name) { Ok(name.to_owned()) } else { Err(format!("a name has {SANDBOX_NAME}")) }
}

#[cfg(feature = "test-upstreams")]
fn upstream(text: &str) -> Result<(String, std::net::SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=127.0.0.1:PORT")?;
    let address: std::net::SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not on this host"));
    }
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command)
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_after_the_command_belongs_to_it() {
        for line in ["skep run --name a -- claude --json -- x", "skep run --name a claude --json -- x"] {
            let Command::Run(run) = parse(line).unwrap() else { panic!("{line}") };
            assert_eq!(run.command, ["claude", "--json", "--", "x"], "{line}");
            assert!(!run.json && run.name.as_deref() == Some("a"));
        }
        assert!(parse("skep run").is_err());
    }

    #[test]
    fn a_misspelt_option_is_no_command() {
        let error = parse("skep run --profle x -- true").unwrap_err().to_string();
        assert!(error.contains("--profle") && error.contains("'--profile'"), "{error}");
        assert!(parse("skep run -- --profle").is_ok(), "what comes after the dashes is the user's choice");
    }

    #[test]
    fn names_that_could_be_anything_else_are_refused() {
        assert!(parse("skep run --name=../x -- true").is_err());
    }

    #[test]
    fn audit_takes_filters_or_a_subcommand() {
        let Command::Audit(audit) = parse("skep audit bee --kind exec --kind denied --since 10m -f").unwrap()
        else {
            panic!("not audit")
        };
        assert_eq!((audit.sandbox.as_deref(), audit.kind.len(), audit.follow), (Some("bee"), 2, true));
        let Command::Audit(audit) = parse("skep audit verify --json").unwrap() else { panic!("not audit") };
        assert!(matches!(
            audit.command,
            Some(AuditCommand::Verify(Verify { output: Output { json: true }, .. }))
        ));
        assert!(parse("skep audit --kind nonsense").is_err());
    }

    #[test]
    fn help_is_a_command_too() {
        for line in ["skep help", "skep help run", "skep profile help check"] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line}: {error}");
        }
        let Command::Audit(audit) = parse("skep audit help").unwrap() else { panic!("not audit") };
        assert_eq!(audit.sandbox.as_deref(), Some("help"), "a sandbox may be called that");
    }

    #[test]
    fn an_explanation_takes_several_words() {
        let Command::Profile(Profile { command: ProfileCommand::Explain(explain) }) =
            parse("skep profile explain claude-code write /etc/passwd").unwrap()
        else {
            panic!("not explain")
        };
        assert_eq!(explain.what, ["write", "/etc/passwd"]);
        let missing = parse("skep profile explain base").unwrap_err().to_string();
        assert!(missing.contains("<WHAT>...") && !missing.contains("[WHAT]"), "{missing}");
    }
}
