//! The command line of skep: parse, ask, print.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use skep_cli::access::Access;
use skep_cli::arguments::{self, Arguments, AuditCommand, Command};
use skep_cli::client::ClientError;
use skep_cli::local::{self, Answer, LocalError, Surroundings};
use skep_cli::origin::Origin;
use skep_cli::{ask, manual, report, run};
use skep_kernel::probe::Facts;
use skep_policy::policy::Bindings;
use skep_runtime::caller::variable;
use skep_runtime::host;
use skep_runtime::places::Places;
use skep_runtime::profiles::Shelf;
use skep_runtime::view::HostTree;

/// Our own failures, as with `run`.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    if let Some(code) = skep_kernel::probe::child_main() {
        return code;
    }
    let arguments = Arguments::parse();
    let mut places = Places::from_environment();
    if let Some(socket) = arguments.socket {
        places.client_socket = socket;
    }
    ExitCode::from(match arguments.command {
        Command::Run(options) => {
            let json = options.json;
            told(run::run(run_options(options), &places), json)
        }
        Command::Ls(output) => told(ask::list(&places, output.json).map(|()| 0), output.json),
        Command::Status(status) => told(ask::status(&places, &status).map(|()| 0), status.output.json),
        Command::Audit(audit) => show_audit(&audit, &places),
        Command::Profile(profile) => {
            with_surroundings(&places, &prove(&places), |around| local::profile(&profile, around))
        }
        Command::Doctor(doctor) => examine(&doctor, &places),
        Command::Completions { shell } => print(Ok(Answer { text: manual::completions(shell), exit: 0 })),
        Command::Man { directory } => {
            let written = manual::pages(&directory);
            let answer = written.map(|()| Answer { text: String::new(), exit: 0 });
            print(answer.map_err(|source| LocalError::Directory { path: directory, source }))
        }
    })
}

/// The exit code, after the error has been told.
fn told(result: Result<u8, ClientError>, json: bool) -> u8 {
    result.unwrap_or_else(|error| {
        report::error(&error, json);
        error.exit_code()
    })
}

/// Root reads the log itself, which also works when skepd is down; others ask skepd, which shows them theirs. So does
/// root where a socket is named: whose log it is, only that skepd knows.
fn show_audit(audit: &arguments::Audit, places: &Places) -> u8 {
    let names_socket = places.has_named_socket();
    let named = match &audit.command {
        Some(AuditCommand::Verify(verify)) => verify.state.as_deref(),
        None => audit.state.as_deref(),
    };
    if names_socket && (named.is_some() || audit.command.is_some()) {
        let which = "--socket asks a skepd for its records, --state reads a directory, and verify does that only: leave one of them out";
        return print(Err(LocalError::Question(which.to_owned())));
    }
    if let Some(Err(error)) = named.map(is_there) {
        return print(Err(error));
    }
    if let Some(AuditCommand::Verify(verify)) = &audit.command {
        return print(Ok(local::verify(verify, &places.state)));
    }
    let state = audit.state.as_deref();
    if state.is_none() && (names_socket || !nix::unistd::geteuid().is_root()) {
        return told(ask::audit(places, audit).map(|()| 0), audit.json);
    }
    let shown = local::audit(audit, state.unwrap_or(&places.state), &mut io::stdout().lock());
    print(shown.map(|()| Answer { text: String::new(), exit: 0 }))
}

/// The usual places may be missing, and then nothing runs and nothing was recorded. One that was named is a slip.
fn is_there(named: &Path) -> Result<(), LocalError> {
    match std::fs::metadata(named) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            Err(LocalError::File { path: named.to_owned(), source })
        }
        // Whatever else is wrong with it is told by who opens it.
        _ => Ok(()),
    }
}

fn examine(doctor: &arguments::Doctor, places: &Places) -> u8 {
    let facts = prove(places);
    let access = match Access::find() {
        Ok(access) => access,
        Err(errno) => {
            eprintln!("skep: looking up users and groups failed: {errno}");
            return FAILED;
        }
    };
    with_surroundings(places, &facts, |around| Ok(local::doctor(doctor, &facts, &access, around)))
}

/// Proves the layers. Idmapped mounts are tried where agents' states are, or where they will be made.
fn prove(places: &Places) -> Facts {
    let existing = places.state.ancestors().find(|path| path.is_dir());
    host::prove(existing.unwrap_or(Path::new("/")))
}

/// Answers with what surrounds this process: the installed profiles, the host, the current directory.
fn with_surroundings(
    places: &Places,
    facts: &Facts,
    answer: impl FnOnce(&Surroundings<'_>) -> Result<Answer, LocalError>,
) -> u8 {
    let directory = match std::env::current_dir() {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("skep: the current directory cannot be read: {error}");
            return FAILED;
        }
    };
    // Behind sudo, `~` is the home of whoever typed it: his are the runs.
    let environment = Origin::find().environment;
    let home = variable(&environment, "HOME")
        .map_or(Path::new("/nonexistent"), |home| Path::new(OsStr::from_bytes(home)));
    let bindings = Bindings {
        workspace: directory.clone(),
        agent_state: places.agent_state(nix::unistd::getuid().as_raw(), "profile", "workspace"),
        home: home.to_owned(),
        program: None,
        environment: std::collections::BTreeMap::new(),
        reserved: vec![places.state.clone(), places.runtime.clone()],
    };
    let shelf = Shelf::new(&places.configuration);
    let around = Surroundings {
        library: &shelf,
        names: &shelf.names(),
        host: &host::host(facts, true),
        tree: &HostTree::default(),
        bindings,
        directory: &directory,
    };
    print(answer(&around))
}

fn print(answer: Result<Answer, LocalError>) -> u8 {
    match answer {
        Ok(answer) => {
            // Whoever stops reading has read enough.
            let _closed = io::stdout().lock().write_all(answer.text.as_bytes());
            answer.exit
        }
        Err(error) => {
            eprintln!("skep: {}", skep_cli::show::render::lines(&error.to_string()));
            error.exit_code()
        }
    }
}

fn run_options(options: arguments::Run) -> run::Options {
    run::Options {
        profile: options.profile.map(|name| name.to_string_lossy().into_owned()),
        workspace: options.workspace,
        name: options.name,
        accept_weaker: options.accept_weaker,
        #[cfg(feature = "test-upstreams")]
        upstreams: options.upstream,
        #[cfg(not(feature = "test-upstreams"))]
        upstreams: Vec::new(),
        plan: options.plan,
        json: options.json,
        argv: options.command.into_iter().map(OsStringExt::into_vec).collect(),
    }
}
