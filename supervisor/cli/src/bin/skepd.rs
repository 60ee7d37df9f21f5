//! The daemon: puts the parts of `skep-runtime` together and serves until it is told to stop.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::SigSet;
use nix::unistd::{Group, geteuid, setsid};
use skep_cli::access::GROUP;
use skep_kernel::listener::Listener;
use skep_kernel::process::{Close, close_from};
use skep_runtime::audit::{self, AuditError};
use skep_runtime::places::Places;
use skep_runtime::server::{Life, THREADS, serve};
use skep_runtime::supervisor::{StartError, Supervisor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long a transient daemon waits for the next run before it leaves.
const IDLE: Duration = Duration::from_secs(5);

/// How much of an error the client that started us is told.
const MOST_SAID: usize = 2_000;

/// What the environment of a skepd can say, beside where it keeps things.
const ENVIRONMENT: &str = "Environment:
  SKEP_AUDIT_SIZE  how much of the audit is kept: 1GiB, if it is not said
  SKEP_LOG         what is logged: warn, if it is not said";

/// Sandbox supervisor for AI coding agents.
#[derive(Debug, Parser)]
#[command(name = "skepd", version, after_help = ENVIRONMENT)]
struct Arguments {
    /// Detach from the terminal and leave when nobody has needed the daemon for a few seconds. `skep run`
    /// starts the daemon this way when there is none.
    #[arg(long)]
    transient: bool,
}

fn main() -> ExitCode {
    if let Some(code) = skep_kernel::probe::child_main() {
        return code;
    }
    let arguments = Arguments::parse();
    let log = std::env::var("SKEP_LOG").unwrap_or_else(|_unset| "warn".to_owned());
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skepd: {error:#}");
            // The client that started us reads one line, and may look for the other after that.
            // A BPF verifier's log is megabytes; its beginning says what it is about.
            let line: String = error.to_string().replace('\n', "; ").chars().take(MOST_SAID).collect();
            say(&line);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(geteuid().is_root(), "skepd must be started as root");
    // A mask is inherited, and `skep run` blocks the signals it passes on to its agent: SIGTERM among them.
    SigSet::empty().thread_set_mask()?;
    // What whoever started us left open would be inherited by every keeper and by the gateway.
    close_from(3, Close::Now)?;
    if arguments.transient {
        // A process that leads its group already cannot; then it has no terminal to leave either.
        let _leader_already = setsid();
    }
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()?;
    let lived = workers.block_on(live(arguments));
    // A connection may be held up by its client for ever; the daemon's end is no business of his.
    workers.shutdown_background();
    lived
}

async fn live(arguments: &Arguments) -> anyhow::Result<()> {
    let places = Places::from_environment();
    let audit = audit::Options::of_size(std::env::var_os(audit::AUDIT_SIZE).as_deref())?;
    let supervisor = match Supervisor::start(places.clone(), audit) {
        Ok(supervisor) => supervisor,
        Err(StartError::Audit(AuditError::Busy(_))) => anyhow::bail!("another skepd has these places"),
        Err(error) => return Err(error.into()),
    };
    let group = Group::from_name(GROUP)?.map(|group| group.gid.as_raw());
    let listener = Listener::bind(&places.client_socket, group)?;
    let stop = Arc::new(Notify::new());
    tokio::spawn(stop_on_signal(Arc::clone(&stop)));
    say("ready");
    let life = if arguments.transient { Life::Transient(IDLE) } else { Life::Service };
    // On a worker: what this thread waited for would be woken by one.
    let served = tokio::spawn(serve(Arc::clone(&supervisor), listener, life, stop)).await;
    supervisor.stop().await;
    Ok(served??)
}

async fn stop_on_signal(stop: Arc<Notify>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; only SIGKILL ends this daemon");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.notify_one();
}

/// One line for the client that started us. It may be gone; then nobody needs it.
fn say(line: &str) {
    let mut output = std::io::stdout();
    let _nobody_listens = writeln!(output, "{line}").and_then(|()| output.flush());
}
