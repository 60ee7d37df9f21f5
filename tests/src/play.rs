//! Playing a session with a real agent, and judging it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::agents::{Agent, Surroundings};
use crate::audit::Record;
use crate::ground::Ground;
use crate::model::{Exchange, Server};
use crate::process::{self, Finished};
use crate::session::{Session, Side};
use crate::skep::Skep;

/// No session takes longer than a few seconds; this ends an agent that waits for ever.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a session left to look at.
#[derive(Debug)]
pub struct Played {
    /// The agent's end.
    pub finished: Finished,
    /// Its requests to the model server.
    pub exchanges: Vec<Exchange>,
    /// What was recorded of it, in a sandbox.
    pub audit: Vec<Record>,
}

/// Plays a session without a sandbox and fails with everything that did not come as expected.
///
/// # Errors
/// What was expected and did not happen, with the agent's output.
pub fn bare(session: &Session, agent: Agent) -> anyhow::Result<()> {
    let (ground, server) = (Ground::new()?, Server::start()?);
    prepare(session, &ground)?;
    server.script(ground.mark(), session.script(&ground.workspace(), &ground.home())?);
    let surroundings = Surroundings {
        home: ground.home(),
        temporary: ground.temporary(),
        base: format!("http://{}", server.http()),
        key: ground.mark().to_owned(),
        authority: None,
    };
    let mut command = Command::new(agent.program()?);
    command.args(agent.arguments(&surroundings)).current_dir(ground.workspace());
    command.env_clear().envs(agent.environment(&surroundings));
    let finished = process::run(&mut command, DEADLINE)?;
    let played = Played { finished, exchanges: server.exchanges(ground.mark()), audit: Vec::new() };
    judge(session, Side::Bare, &ground, &played)
}

/// Plays a session in a sandbox. The agent believes that it talks to its real API: the name is resolved and
/// dialled by the gateway, which the test points at the scripted server.
///
/// # Errors
/// What was expected and did not happen, with the agent's output.
pub fn inside(session: &Session, agent: Agent) -> anyhow::Result<()> {
    let (skep, server) = (Skep::new()?, Server::start()?);
    let ground = skep.ground();
    prepare(session, ground)?;
    server.script(ground.mark(), session.script(&ground.workspace(), &ground.home())?);
    let authority = ground.beside("authority.pem");
    server.authority().write(&authority)?;
    let surroundings = Surroundings {
        home: ground.home(),
        temporary: PathBuf::from("/tmp"),
        base: format!("https://{}", agent.api_host()),
        key: ground.mark().to_owned(),
        authority: Some(authority.clone()),
    };
    let profile = ground.beside("profile.toml");
    std::fs::write(&profile, agent.profile(&surroundings)?).context("write profile")?;
    let upstream = format!("{}={}", agent.api_host(), server.https());
    let program = agent.program()?.display().to_string();
    let words = std::iter::once(program).chain(agent.arguments(&surroundings));
    let run = skep.run(words).profile(&profile).option("--upstream", upstream);
    let ran = run.environment(agent.environment(&surroundings)).deadline(DEADLINE).finish()?;
    let played =
        Played { finished: ran.finished, exchanges: server.exchanges(ground.mark()), audit: ran.audit };
    judge(session, Side::Inside, ground, &played)
}

/// Runs the session's own preparation and makes the directories the agent wants.
///
/// # Errors
/// The preparation failed.
pub fn prepare(session: &Session, ground: &Ground) -> anyhow::Result<()> {
    std::fs::create_dir_all(ground.home().join(".codex")).context("mkdir .codex")?;
    let setup = ground.shell(&session.setup)?;
    anyhow::ensure!(setup.status.success(), "setup failed:\n{}{}", setup.stdout, setup.stderr);
    Ok(())
}

/// Holds what happened against what the session expects.
///
/// # Errors
/// Everything that differs, with the agent's output.
pub fn judge(session: &Session, side: Side, ground: &Ground, played: &Played) -> anyhow::Result<()> {
    let mut unmet = session.expect.unmet_results(side, &played.exchanges);
    if played.finished.code() != session.expect.exit {
        unmet.push(format!("the agent's exit code is {}", played.finished.code()));
    }
    unmet.extend(unused_turns(session, &played.exchanges));
    if side == Side::Inside {
        unmet.extend(session.expect.unmet_denials(&played.audit));
    }
    for check in session.expect.checks(side) {
        let checked = ground.shell(check)?;
        if !checked.status.success() {
            unmet.push(format!("check failed:\n{check}\n{}{}", checked.stdout, checked.stderr));
        }
    }
    let mut left = process::marked(ground.mark())?;
    // A transient skepd waits a few seconds for the next run.
    left.retain(|process| side == Side::Bare || process::name(*process).as_deref() != Some("skepd"));
    if left.is_empty() == (session.expect.leaves_processes && side == Side::Bare) {
        unmet.push(format!("processes left: {left:?}"));
    }
    let (stdout, stderr) = (tail(&played.finished.stdout), tail(&played.finished.stderr));
    anyhow::ensure!(unmet.is_empty(), "{}:\n{}\n\n{stdout}\n{stderr}", session.title, unmet.join("\n"));
    Ok(())
}

/// A script must be used up, and no further: anything else means that the agent took another way.
fn unused_turns(session: &Session, exchanges: &[Exchange]) -> Option<String> {
    let asked = exchanges.iter().filter(|exchange| exchange.offers_tools).count();
    let turns = session.turns.len();
    (asked != turns).then(|| format!("the script has {turns} turns, the agent asked {asked} times"))
}

/// The end of an agent's output: its beginning lists all tools and says nothing.
fn tail(text: &str) -> &str {
    let from = text.char_indices().rev().nth(1500).map_or(0, |(at, _)| at);
    &text[from..]
}
