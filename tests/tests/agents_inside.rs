//! The scripted sessions in a sandbox: real agents, reaching the scripted server under the API's real name.

use std::ffi::OsString;

use anyhow::{Context, ensure};
use skep_tests::agents::Agent;
use skep_tests::skep::Skep;
use skep_tests::{Outcome, each_session, play, session};

fn inside(name: &str) -> Outcome {
    let session = session::named(name)?;
    session.agents.iter().try_for_each(|agent| play::inside(&session, *agent).context(agent.name()))
}

/// What runtimes look at when they start is granted: an ordinary session's closing line has nothing to say.
#[test]
fn an_agent_that_says_its_version_is_refused_nothing() -> Outcome {
    for (agent, profile) in [(Agent::Claude, "claude-code"), (Agent::CodexCode, "codex")] {
        let skep = Skep::new()?;
        let version = [agent.program()?.into_os_string(), OsString::from("--version")];
        let ran = skep.run(version).profile(profile).finish()?;
        let quiet = ran.finished.stderr.contains(" connected, 0 denied\n");
        ensure!(ran.code() == 0 && quiet, "{}: {}", agent.name(), ran.finished.stderr);
    }
    Ok(())
}

each_session!(inside);
