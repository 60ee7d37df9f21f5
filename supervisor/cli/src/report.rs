//! What `skep run` says about itself, on standard error: standard output is the agent's.

use std::io::{Write, stderr};

use serde_json::json;
use skep_runtime::protocol::Summary;

use crate::client::ClientError;
use crate::show::render::{Ink, Screen, lines};
use crate::show::summary;
use crate::show::weaker::{count, in_short};

/// Writes a line. Standard error may be gone; then nobody reads it.
fn say(line: &str) {
    let _nobody_reads = writeln!(stderr(), "{line}");
}

/// The rules that hold less than they say on this host, under the reason they share, or how many there are of it.
pub fn weaker(rules: &[(String, String)], json: bool) {
    if json {
        let rules: Vec<_> = rules.iter().map(|(rule, why)| json!({ "rule": rule, "why": why })).collect();
        return say(&json!({ "v": 1, "event": "weaker", "rules": rules }).to_string());
    }
    let head = format!("skep: {} WEAKER on this host, all others hold in full:", count(rules.len()));
    say(&Screen::of_errors().paint(Ink::Careful, &head));
    say(in_short(rules).trim_end());
}

/// A piece of the plan, on standard output: it is what was asked for.
pub fn plan(piece: &str) {
    print!("{piece}");
}

/// The agent runs.
pub fn started(id: &str, name: &str, pid: u32, json: bool) {
    if json {
        say(&json!({ "v": 1, "event": "started", "id": id, "name": name, "pid": pid }).to_string());
    }
}

/// Ends a line that the agent has left unfinished.
pub fn next_line() {
    say("");
}

/// The end of a run.
pub fn ended(name: &str, summary: &Summary, json: bool) {
    if json {
        say(&summary::json(name, summary));
    } else {
        say(&summary::lines(&Screen::of_errors(), name, summary));
    }
}

/// An error and what to do about it.
pub fn error(error: &ClientError, json: bool) {
    let code = match error {
        ClientError::Refused(refusal) => refusal.code.as_str(),
        _ => "connection",
    };
    let exit = error.exit_code();
    let (message, advice) = (error.to_string(), error.advice());
    if json {
        let line = json!({
            "v": 1, "event": "refused", "code": code, "message": message, "advice": advice, "exit": exit,
        });
        return say(&line.to_string());
    }
    say(&format!("skep: {}", lines(&message)));
    if !advice.is_empty() {
        say(&format!("      {}", lines(advice)));
    }
}
