//! What the server answers, and what it remembers of being asked.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The turns of one session, in order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// One turn per request that offers tools.
    pub turns: Vec<Turn>,
}

/// The answer to one request that offers tools.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Turn {
    /// A text and the end of the session.
    Text(String),
    /// Tool calls, several of them in parallel.
    Calls(Vec<Call>),
    /// An error of the API.
    Refusal {
        /// HTTP status.
        status: u16,
        /// The API's own name of the error (`rate_limit_error`).
        kind: String,
        /// Headers beside the content type.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// A stream that breaks off in the middle of a text.
    Cut {},
    /// No answer at all: the connection stays open and silent.
    Hang {},
}

/// One tool call, in words that fit every agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call {
    /// A command line for the agent's shell tool, whatever its name is.
    Shell(String),
    /// A tool by its own name, for what only one agent has.
    Tool {
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// JavaScript for the `exec` tool of Codex's code mode.
    Code(String),
}

/// One request of an agent and how it was answered.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Path and query.
    pub target: String,
    /// The model that was asked for.
    pub model: String,
    /// The request offered tools, and therefore used a turn.
    pub offers_tools: bool,
    /// Results of tool calls since the last turn, in the order of the request.
    pub results: Vec<ToolResult>,
    /// Number of the turn it used, if any was left.
    pub turn: Option<usize>,
}

/// What an agent reports about a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// The call's id, `call-TURN-INDEX`.
    pub call: String,
    /// Everything textual in the result.
    pub text: String,
    /// The agent marked it as failed; `None` where the API has no such mark.
    pub failed: Option<bool>,
}

impl ToolResult {
    /// The exit code of a shell command, which every agent words differently; `None` while it runs.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        let words = ["Process exited with code ", "Exit code "];
        let found = words.iter().find_map(|words| self.text.split_once(words));
        match found {
            Some((_, rest)) => rest.split_whitespace().next()?.parse().ok(),
            // Claude mentions only failures.
            None => (self.failed == Some(false)).then_some(0),
        }
    }
}

/// The id of a tool call, from which a test finds its result.
pub(super) fn call_id(turn: usize, index: usize) -> String {
    format!("call-{turn}-{index}")
}

/// All strings in a result, whatever its shape: plain text, or a list of content parts.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect::<Vec<_>>().join("\n"),
        Value::Object(fields) => {
            ["text", "content", "output"].iter().filter_map(|key| fields.get(*key)).map(text_of).collect()
        }
        _ => String::new(),
    }
}
