//! The results of the attack tests, from which `docs/compliance.md` is made.
//!
//! Each test appends one line to `target/compliance/results.jsonl`; what has no line is listed as open.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// One attempt and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    /// Number of the case in `tests/attacks.toml`.
    pub case: u16,
    /// What this attempt is.
    pub title: &'a str,
    /// How it ended.
    pub status: Status,
    /// How it is known that the attempt works where nothing stops it.
    pub control: &'a str,
    /// The layers that are meant to stop it.
    pub layers: &'a [&'a str],
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// No effect outside.
    Stopped,
    /// It had its effect.
    BrokeThrough,
}

/// Appends a line. One write, so that lines of parallel tests do not mix.
///
/// # Errors
/// The file cannot be written.
pub fn record(line: &Line<'_>) -> anyhow::Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
    let path = directory.join("results.jsonl");
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut file = OpenOptions::new().append(true).create(true).open(&path).context("open results")?;
    file.write_all(text.as_bytes()).with_context(|| format!("append to {}", path.display()))
}

fn directory() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/compliance");
    std::env::var_os("SKEP_COMPLIANCE_DIR").map_or(default, PathBuf::from)
}
