//! The scripted sessions in a sandbox: real agents, reaching the scripted server under the API's real name.

use anyhow::Context;
use skep_tests::{Outcome, each_session, play, session};

fn inside(name: &str) -> Outcome {
    let session = session::named(name)?;
    session.agents.iter().try_for_each(|agent| play::inside(&session, *agent).context(agent.name()))
}

each_session!(inside);
