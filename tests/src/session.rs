//! Scripted sessions as data (`tests/sessions/*.toml`): what the model says, and what must come of it.
//!
//! A session is played twice: without a sandbox, which shows that it does what it says, and inside, where the
//! expectations marked `inside` replace those marked `bare`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::agents::Agent;
use crate::audit::Record;
use crate::model::{Exchange, Script, ToolResult, Turn};

/// One scripted session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// What it shows, as a sentence.
    pub title: String,
    /// The agents that can play it.
    #[serde(default = "all_agents")]
    pub agents: Vec<Agent>,
    /// A shell script that prepares the workspace, outside.
    #[serde(default)]
    pub setup: String,
    /// What the model answers.
    pub turns: Vec<Turn>,
    /// What must hold afterwards.
    #[serde(default)]
    pub expect: Expectations,
}

fn all_agents() -> Vec<Agent> {
    Agent::ALL.to_vec()
}

/// Where a session is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Without a sandbox.
    Bare,
    /// In a sandbox.
    Inside,
}

/// What must hold after a session.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// Exit code of the agent.
    #[serde(default)]
    pub exit: i32,
    /// About results of tool calls.
    #[serde(default)]
    pub results: Vec<ResultExpectation>,
    /// A shell script that must succeed in the workspace, run outside, whichever side was played.
    #[serde(default)]
    pub check: String,
    /// The same, for one side only.
    #[serde(default)]
    pub check_bare: String,
    /// See [`Expectations::check_bare`].
    #[serde(default)]
    pub check_inside: String,
    /// Without a sandbox the session leaves processes behind. In a sandbox none ever may.
    #[serde(default)]
    pub leaves_processes: bool,
    /// For each entry, one denial in the audit must contain all its texts.
    #[serde(default)]
    pub denials: Vec<Vec<String>>,
}

/// What one tool result must say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultExpectation {
    /// Number of the turn that made the call.
    pub turn: usize,
    /// Number of the call in its turn.
    #[serde(default)]
    pub index: usize,
    /// On both sides.
    #[serde(default)]
    pub always: Saying,
    /// Without a sandbox.
    #[serde(default)]
    pub bare: Saying,
    /// In a sandbox.
    #[serde(default)]
    pub inside: Saying,
}

/// What a text must and must not say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saying {
    /// Exit code of the command.
    pub exit: Option<i32>,
    /// Every one of these.
    #[serde(default)]
    pub has: Vec<String>,
    /// At least one of these.
    #[serde(default)]
    pub any: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub lacks: Vec<String>,
}

impl Session {
    /// Reads one session file.
    ///
    /// # Errors
    /// The file cannot be read or is no session.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// The script for the model server, with `${workspace}` and `${home}` filled in.
    ///
    /// # Errors
    /// None for a session that was read from a file: it goes through JSON and back.
    pub fn script(&self, workspace: &Path, home: &Path) -> anyhow::Result<Script> {
        let text = serde_json::to_string(&self.turns)?;
        let text = text.replace("${workspace}", &workspace.display().to_string());
        let text = text.replace("${home}", &home.display().to_string());
        Ok(Script { turns: serde_json::from_str(&text)? })
    }
}

/// The session with this name.
///
/// # Errors
/// There is none, or it does not parse.
pub fn named(name: &str) -> anyhow::Result<Session> {
    Session::read(&directory().join(format!("{name}.toml")))
}

/// The names of all sessions.
///
/// # Errors
/// The directory cannot be read.
pub fn names() -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory()).context("read tests/sessions")?;
    let stems = entries.flatten().filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = stems.collect();
    names.sort();
    Ok(names)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sessions")
}

impl Expectations {
    /// What the exchanges with the model server fail to show; empty when all is well.
    #[must_use]
    pub fn unmet_results(&self, side: Side, exchanges: &[Exchange]) -> Vec<String> {
        self.results.iter().flat_map(|expected| expected.unmet(side, exchanges)).collect()
    }

    /// Denials that no record tells of.
    #[must_use]
    pub fn unmet_denials(&self, audit: &[Record]) -> Vec<String> {
        let told = |texts: &Vec<String>| audit.iter().any(|record| record.is_denial() && record.says(texts));
        let untold = self.denials.iter().filter(|texts| !told(texts));
        untold.map(|texts| format!("no denial in the audit says {texts:?}")).collect()
    }

    /// The scripts to run outside afterwards.
    #[must_use]
    pub fn checks(&self, side: Side) -> [&str; 2] {
        [&self.check, if side == Side::Bare { &self.check_bare } else { &self.check_inside }]
    }
}

impl ResultExpectation {
    fn unmet(&self, side: Side, exchanges: &[Exchange]) -> Vec<String> {
        let call = format!("call-{}-{}", self.turn, self.index);
        let mut results = exchanges.iter().flat_map(|exchange| &exchange.results);
        let Some(result) = results.find(|result| result.call == call) else {
            return vec![format!("{call}: no result came back")];
        };
        let particular = if side == Side::Bare { &self.bare } else { &self.inside };
        let unmet = self.always.unmet(result).into_iter().chain(particular.unmet(result));
        unmet
            .map(|unmet| format!("{call}: {unmet}, but the result is {:?}", shortened(&result.text)))
            .collect()
    }
}

impl Saying {
    fn unmet(&self, result: &ToolResult) -> Vec<String> {
        let says = |text: &String| result.text.contains(text.as_str());
        let mut unmet = Vec::new();
        if self.exit.is_some() && self.exit != result.exit_code() {
            unmet.push(format!("exit code should be {:?}, is {:?}", self.exit, result.exit_code()));
        }
        unmet.extend(self.has.iter().filter(|text| !says(text)).map(|text| format!("should say {text:?}")));
        unmet.extend(self.lacks.iter().filter(|text| says(text)).map(|text| format!("says {text:?}")));
        if !self.any.is_empty() && !self.any.iter().any(says) {
            unmet.push(format!("should say one of {:?}", self.any));
        }
        unmet
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(2000).collect()
}
