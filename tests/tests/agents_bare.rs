//! The scripted sessions without a sandbox: the control of `agents_inside`. Here the canary is read and the hook
//! is planted; a session that fails here shows nothing there.

use anyhow::Context;
use skep_tests::{Outcome, each_session, play, session};

fn bare(name: &str) -> Outcome {
    let session = session::named(name)?;
    session.agents.iter().try_for_each(|agent| play::bare(&session, *agent).context(agent.name()))
}

each_session!(bare);
