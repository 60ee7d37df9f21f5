//! The commands that need no skepd: they read files with the caller's own rights, and answer with text and an
//! exit code. What they cannot know (the host's layers, the installed profiles) is passed in.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use skep_kernel::probe::Facts;
use skep_policy::compose::{Effective, Library, compose};
use skep_policy::diagnostics::{Diagnostics, Source};
use skep_policy::layers::{Host, bind};
use skep_policy::policy::{Bindings, Policy};
use skep_policy::profile::Profile;
use skep_policy::tree::{Imagined, Tree};
use skep_runtime::audit;

use crate::access::Access;
use crate::arguments::{self, ProfileCommand};
use crate::show::audit::{Printer, ShowError, filter, follow, show, verification};
use crate::show::doctor::{self, Judged, findings};
use crate::show::profile::{self, Checked, Question};
use crate::show::render::{Screen, foreign, lines};

/// What a command has to say, and the exit code of `skep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For standard output, with its last line end.
    pub text: String,
    /// See [`arguments::Arguments`].
    pub exit: u8,
}

impl Answer {
    fn new(text: &str, exit: u8) -> Self {
        Self { text: format!("{}\n", text.trim_end_matches('\n')), exit }
    }
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file of the caller's cannot be read.
    #[error("cannot read {}: {source}", foreign(&path.to_string_lossy()))]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory of the caller's cannot be written to.
    #[error("cannot write to {}: {source}", foreign(&path.to_string_lossy()))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no profile of this name.
    #[error("there is no profile {}; there are: {}; a file is named by its path, like ./x.toml", foreign(.name), .known.join(", "))]
    NoProfile {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The profile has errors.
    #[error("{0}")]
    Profile(#[from] Diagnostics),
    /// The command line asks for something that does not exist.
    #[error("{0}")]
    Question(String),
    /// The log cannot be shown.
    #[error(transparent)]
    Audit(#[from] ShowError),
}

impl LocalError {
    /// The exit code of `skep`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Profile(_) => 1,
            Self::Question(_) => 2,
            Self::File { .. } | Self::Directory { .. } | Self::NoProfile { .. } | Self::Audit(_) => 125,
        }
    }
}

/// `skep audit`, reading the log in `state` itself. Whoever stops reading the output ends it in good order.
///
/// # Errors
/// When a time is none or the log cannot be read.
pub fn audit(arguments: &arguments::Audit, state: &Path, out: &mut dyn Write) -> Result<(), LocalError> {
    let filter = filter(arguments, SystemTime::now()).map_err(LocalError::Question)?;
    let printer = Printer { screen: Screen::of_output(), json: arguments.json };
    let shown = if arguments.follow {
        follow(state, filter, &printer, out)
    } else {
        show(state, filter, &printer, out).map(drop)
    };
    match shown {
        Err(ShowError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => Ok(shown?),
    }
}

/// `skep audit verify`.
#[must_use]
pub fn verify(arguments: &arguments::Verify, state: &Path) -> Answer {
    let state = arguments.state.as_deref().unwrap_or(state);
    let outcome = audit::verify(state);
    let text = verification(&Screen::of_output(), state, &outcome, arguments.output.json);
    let exit = match &outcome {
        Ok(_) => 0,
        Err(broken) if broken.is_kept_from_us() => 125,
        Err(_) => 1,
    };
    Answer::new(&text, exit)
}

/// What commands about profiles rest on.
pub struct Surroundings<'a> {
    /// Profiles that can be named.
    pub library: &'a dyn Library,
    /// Their names.
    pub names: &'a [String],
    /// What this host enforces.
    pub host: &'a Host,
    /// The host's files as the caller sees them.
    pub tree: &'a dyn Tree,
    /// The variables of profiles; the workspace is the current directory.
    pub bindings: Bindings,
    /// The current directory.
    pub directory: &'a Path,
}

/// `skep profile`.
///
/// # Errors
/// When there is no such profile or, but for `check`, when it is wrong.
pub fn profile(arguments: &arguments::Profile, around: &Surroundings<'_>) -> Result<Answer, LocalError> {
    let screen = Screen::of_output();
    match &arguments.command {
        ProfileCommand::Check(arguments) => check(&screen, arguments, around),
        ProfileCommand::Explain(explain) => {
            let bindings = bindings(&explain.profile, around);
            let policy = Policy::compile(&around.load(&explain.profile.profile)?, &bindings, around.tree)?;
            let question = Question::parse(&explain.what, &bindings, around.directory);
            let question = question.map_err(LocalError::Question)?;
            let text = match explain.profile.output.json {
                true => profile::explain_json(&policy, &question, around.tree),
                false => profile::explain(&screen, &policy, &question, around.tree),
            };
            Ok(Answer::new(&text, 0))
        }
        ProfileCommand::Show(arguments::Show { profile: named, toml }) => {
            let effective = around.load(&named.profile)?;
            if *toml {
                return Ok(Answer::new(&text_of(&screen, &effective), 0));
            }
            let policy = Policy::compile(&effective, &bindings(named, around), around.tree)?;
            let text =
                if named.output.json { profile::show_json(&policy) } else { profile::show(&screen, &policy) };
            Ok(Answer::new(&text, 0))
        }
    }
}

fn check(
    screen: &Screen,
    arguments: &arguments::Check,
    around: &Surroundings<'_>,
) -> Result<Answer, LocalError> {
    let arguments::Check { profile: named, syntax } = arguments;
    let name = named.profile.to_string_lossy();
    let loaded = match around.load(&named.profile) {
        Ok(effective) => Ok(effective),
        Err(LocalError::Profile(errors)) => Err(errors),
        Err(error) => return Err(error),
    };
    if *syntax {
        // The same on every machine: neither its files nor its layers are asked.
        let bindings = Bindings::imagined();
        let written = loaded.and_then(|effective| Policy::compile_checked(&effective, &bindings, &Imagined));
        let text = match named.output.json {
            true => profile::check_text_json(&name, written.as_ref()).to_string(),
            false => profile::check_text(screen, &name, written.as_ref()),
        };
        return Ok(Answer::new(&text, u8::from(written.is_err())));
    }
    let checked = loaded.and_then(|effective| compiled(&effective, &bindings(named, around), around));
    let text = match named.output.json {
        true => profile::check_json(&name, &checked).to_string(),
        false => profile::check(screen, &name, &checked) + unless_root(&checked),
    };
    Ok(Answer::new(&text, u8::from(!profile::starts(&checked))))
}

/// An ordinary user's probes fail where root's would not.
fn unless_root(checked: &Checked) -> &'static str {
    match checked {
        Ok((_, Err(_))) if !nix::unistd::geteuid().is_root() => {
            "\nnot run as root: what only root can try counts as missing; sudo tries everything"
        }
        _ => "",
    }
}

/// The text of the profile at the top, which composition puts last.
fn text_of(screen: &Screen, effective: &Effective) -> String {
    let text = effective.sources.last().map(|(_, source)| source.text.as_str()).unwrap_or_default();
    // A terminal is not to be commanded by it; a file gets what is there.
    if screen.width.is_some() { lines(text) } else { text.to_owned() }
}

fn compiled(effective: &Effective, bindings: &Bindings, around: &Surroundings<'_>) -> Checked {
    let policy = Policy::compile_checked(effective, bindings, around.tree)?;
    let bound = bind(&policy, around.host, around.tree, &[]);
    Ok((policy, bound))
}

fn bindings(named: &arguments::ProfileName, around: &Surroundings<'_>) -> Bindings {
    let mut bindings = around.bindings.clone();
    if let Some(workspace) = &named.workspace {
        // As everywhere in a policy: absolute, and free of symbolic links.
        bindings.workspace = skep_policy::tree::walk(around.tree, &around.directory.join(workspace)).real;
    }
    bindings
}

impl Surroundings<'_> {
    /// A profile by its name or its path, with all it uses.
    fn load(&self, named: &OsStr) -> Result<Effective, LocalError> {
        let path = Path::new(named);
        let source = if is_path(named) {
            let read = std::fs::read(path);
            let bytes = read.map_err(|source| LocalError::File { path: path.to_owned(), source })?;
            Source::from_bytes(named.to_string_lossy(), &bytes)?
        } else {
            let name = named.to_string_lossy();
            let missing = || LocalError::NoProfile { name: name.to_string(), known: self.names.to_vec() };
            self.library.find(&name).ok_or_else(missing)?
        };
        Ok(compose(&Profile::parse(&source)?, self.library)?)
    }
}

/// A profile is named by its path when it has a slash or ends in `.toml`.
fn is_path(named: &OsStr) -> bool {
    named.as_bytes().contains(&b'/') || named.as_bytes().ends_with(b".toml")
}

/// What an ordinary user has to know about his own findings.
const UNPRIVILEGED: &str =
    "not run as root: what only root can try is shown as missing; sudo skep doctor tries everything";

/// `skep doctor`: the exit code is 1 when one of the profiles does not start here, and 125 when that is not known of all,
/// for this directory can be no workspace.
#[must_use]
pub fn doctor(
    arguments: &arguments::Doctor,
    facts: &Facts,
    access: &Access,
    around: &Surroundings<'_>,
) -> Answer {
    let check = |name: &String| {
        let judged = match around.load(OsStr::new(name)) {
            Ok(effective) => match compiled(&effective, &around.bindings, around) {
                Err(errors) => match around.bindings.unfit_workspace(&effective, around.tree) {
                    Some(why) => Err(why),
                    None => Ok(Err(errors)),
                },
                checked => Ok(checked),
            },
            Err(LocalError::Profile(errors)) => Ok(Err(errors)),
            // A name without a profile, or a file that went away meanwhile: nothing is wrong in any text.
            Err(_gone) => Ok(Err(Diagnostics::default())),
        };
        (name.clone(), judged)
    };
    let profiles: Vec<(String, Judged)> = around.names.iter().map(check).collect();
    let (found, access) = (findings(facts, around.host), doctor::access(access));
    let text = match arguments.output.json {
        true => doctor::json(&facts.kernel, &found, &access, &profiles),
        false => {
            let report = doctor::report(&Screen::of_output(), &facts.kernel, &found, &access, &profiles);
            if nix::unistd::geteuid().is_root() { report } else { format!("{UNPRIVILEGED}\n{report}") }
        }
    };
    let fails =
        |(_, judged): &(String, Judged)| judged.as_ref().is_ok_and(|checked| !profile::starts(checked));
    let exit = match profiles.iter().any(fails) {
        true => 1,
        false if profiles.iter().any(|(_, judged)| judged.is_err()) => 125,
        false => 0,
    };
    Answer::new(&text, exit)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use skep_policy::shipped::Shipped;
    use skep_policy::tree::Imagined;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn profile_command(line: &[&str]) -> Result<Answer, LocalError> {
        let host = Host { sk_lookup: true, ..Host::default() };
        let around = Surroundings {
            library: &Shipped,
            names: &[],
            host: &host,
            tree: &Imagined,
            bindings: Bindings::for_tests(),
            directory: Path::new("/home/u/project"),
        };
        let line = [&["skep", "profile"], line].concat();
        let Command::Profile(arguments) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not profile")
        };
        profile(&arguments, &around)
    }

    #[test]
    fn every_shipped_profile_checks_and_shows() {
        for (name, text) in &skep_policy::shipped::PROFILES {
            let checked = profile_command(&["check", name]).unwrap();
            assert_eq!(checked.exit, 0, "{}", checked.text);
            assert!(profile_command(&["show", name, "--json"]).unwrap().text.contains("\"rules\":["));
            assert_eq!(profile_command(&["show", name, "--toml"]).unwrap().text, *text);
        }
    }

    #[test]
    fn a_profile_that_is_right_and_does_not_start_here_passes_only_as_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "schema = 1\nname = \"x\"\nuse = [\"base\"]\nfiles.write = [\"${workspace}\"]\n\
                    guards.protect = [\"**/.secret\"]\n";
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let answer = profile_command(&["check", path]).unwrap();
        assert!(answer.exit == 1 && answer.text.contains("x:5 guards.protect"), "{}", answer.text);
        let answer = profile_command(&["check", "--json", path]).unwrap();
        assert!(answer.exit == 1 && answer.text.contains("\"starts\":false"), "{}", answer.text);
        let answer = profile_command(&["check", "--syntax", path]).unwrap();
        let right = answer.text.starts_with(&format!("{path}: right, ")) && answer.text.lines().count() == 1;
        assert!(answer.exit == 0 && right, "{}", answer.text);
        let answer = profile_command(&["check", "--syntax", "--json", path]).unwrap();
        assert!(answer.exit == 0 && !answer.text.contains("starts"), "{}", answer.text);
        std::fs::write(file.path(), text.replace("protect", "protest")).unwrap();
        assert_eq!(profile_command(&["check", "--syntax", path]).unwrap().exit, 1);
    }

    #[test]
    fn a_shipped_profile_explains_itself() {
        let answer =
            profile_command(&["explain", "claude-code", "connect", "api.anthropic.com:443"]).unwrap();
        assert!(answer.text.starts_with("allow: connect api.anthropic.com:443\n"), "{}", answer.text);
        let answer = profile_command(&["explain", "claude-code", "read", "~/.ssh/id_ed25519"]).unwrap();
        assert!(answer.text.starts_with("deny: read /home/u/.ssh/id_ed25519\n"), "{}", answer.text);
    }

    #[test]
    fn a_profile_that_is_not_there_and_one_that_is_wrong_end_differently() {
        assert_eq!(profile_command(&["check", "nonsense"]).unwrap_err().exit_code(), 125);
        assert_eq!(profile_command(&["check", "./no/such.toml"]).unwrap_err().exit_code(), 125);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "schema = 1\nname = \"x\"\nwritten = 1\n").unwrap();
        let path = file.path().to_str().unwrap();
        let answer = profile_command(&["check", path]).unwrap();
        assert!(answer.exit == 1 && answer.text.contains("written"), "{}", answer.text);
        assert_eq!(profile_command(&["show", path]).unwrap_err().exit_code(), 1);
        assert_eq!(profile_command(&["explain", "base", "fly", "/x"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_log_is_shown_and_verified_from_its_directory() {
        let state = tempfile::tempdir().unwrap();
        let log = audit::Log::open(state.path(), audit::Options::default()).unwrap();
        log.close().unwrap();
        let Command::Audit(arguments) =
            Arguments::try_parse_from(["skep", "audit", "--json", "--kind", "log"]).unwrap().command
        else {
            panic!("not audit")
        };
        let mut out = Vec::new();
        super::audit(&arguments, state.path(), &mut out).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
        let verify = |path: &Path| {
            let output = arguments::Output { json: true };
            super::verify(&arguments::Verify { state: None, output }, path)
        };
        assert_eq!(verify(state.path()).exit, 0);
        assert_eq!(verify(&state.path().join("elsewhere")).exit, 1);
    }
}
