//! docs/compliance.md: every attack the project knows, and what the last test run says about it.
//!
//! `tests/attacks.toml` numbers the attacks. A test that carries one out appends a line of JSON to `results.jsonl` in the directory
//! that `SKEP_COMPLIANCE_DIR` names. An attack without a line is open, and stays in the table: what is not shown to be stopped must not
//! look as if it were.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::call;
use crate::tree::Tree;

/// A checkout may belong to another user than root, who runs the tests; git refuses that unless told.
const GIT_TRUST: [&str; 2] = ["-c", "safe.directory=*"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    section: Vec<Section>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    title: String,
    attack: BTreeMap<String, String>,
}

/// One line of a test: an attack carried out once (`tests/src/compliance.rs` writes them).
#[derive(Debug, Deserialize)]
struct Outcome {
    case: u32,
    /// What exactly was tried.
    title: String,
    status: Status,
    /// What stopped it; several lines of one case add theirs up.
    #[serde(default)]
    layers: BTreeSet<String>,
    /// What showed that the same attack works outside the sandbox.
    #[serde(default)]
    control: String,
}

/// From the best to the worst: of several lines the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// Carried out, without effect.
    Stopped,
    /// Had its effect.
    BrokeThrough,
}

/// Empties the results and returns their directory.
pub(crate) fn begin(tree: &Tree) -> anyhow::Result<PathBuf> {
    let directory = tree.target.join("compliance");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let results = directory.join("results.jsonl");
    fs::write(&results, "").with_context(|| format!("emptying {}", results.display()))?;
    Ok(directory)
}

/// Writes the document from the results.
pub(crate) fn write(tree: &Tree, directory: &Path) -> anyhow::Result<()> {
    let text = render(tree, &directory.join("results.jsonl"))?;
    let document = document(tree);
    fs::write(&document, text).with_context(|| format!("writing {}", document.display()))
}

/// Compares the document as the last whole test run wrote it with what is committed.
pub(crate) fn check_committed(tree: &Tree) -> anyhow::Result<()> {
    let committed = call::read(
        Command::new("git").args(GIT_TRUST).args(["show", "HEAD:docs/compliance.md"]).current_dir(&tree.root),
    )?;
    let document = document(tree);
    let written = fs::read_to_string(&document).with_context(|| format!("reading {}", document.display()))?;
    if committed != written {
        bail!("docs/compliance.md is not what the last test run says: call `cargo xtask test` and commit it");
    }
    Ok(())
}

fn document(tree: &Tree) -> PathBuf {
    tree.root.join("docs/compliance.md")
}

fn render(tree: &Tree, results: &Path) -> anyhow::Result<String> {
    let catalogue = tree.root.join("tests/attacks.toml");
    let text = fs::read_to_string(&catalogue).with_context(|| format!("reading {}", catalogue.display()))?;
    let catalogue: Catalogue =
        toml::from_str(&text).with_context(|| format!("reading {}", catalogue.display()))?;
    let lines = fs::read_to_string(results).with_context(|| format!("reading {}", results.display()))?;
    let outcomes = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Outcome>, _>>();
    table(&catalogue, &outcomes.with_context(|| format!("reading {}", results.display()))?)
}

const HEAD: &str = "# Compliance

Written by `cargo xtask test` from its own run; do not edit it. *stopped*: tests carried the attack out inside, in the ways
listed, and it had no effect, after it had worked where nothing stops it. *open*: no test shows anything yet, whatever the code
may do.
";

fn table(catalogue: &Catalogue, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    let known =
        |case: &u32| catalogue.section.iter().any(|section| section.attack.contains_key(&case.to_string()));
    if let Some(stranger) = outcomes.iter().find(|outcome| !known(&outcome.case)) {
        bail!("a test reports attack {}, which tests/attacks.toml does not have", stranger.case);
    }
    for section in &catalogue.section {
        write!(
            text,
            "\n## {}\n\n| | attack | status | tried | stopped by | control |\n|---|---|---|---|---|---|\n",
            section.title
        )?;
        let mut attacks = section.attack.iter().collect::<Vec<_>>();
        attacks.sort_by_key(|(number, _title)| number.parse::<u32>().unwrap_or(u32::MAX));
        for (number, title) in attacks {
            writeln!(text, "| {number} | {title} | {} |", row(number, outcomes))?;
        }
    }
    Ok(text)
}

fn row(number: &str, outcomes: &[Outcome]) -> String {
    let of = || outcomes.iter().filter(|outcome| outcome.case.to_string() == number);
    let status = match of().map(|outcome| outcome.status).max() {
        None => return "open | | |".to_owned(),
        Some(Status::Stopped) => "stopped",
        Some(Status::BrokeThrough) => "**broke through**",
    };
    let titles = joined("; ", of().map(|outcome| outcome.title.as_str()));
    let layers = joined(", ", of().flat_map(|outcome| outcome.layers.iter().map(String::as_str)));
    let controls = joined("; ", of().map(|outcome| outcome.control.as_str()));
    format!("{status} | {titles} | {layers} | {controls}")
}

/// Each word once and in order, whatever order the tests ended in; a bar would end the cell.
fn joined<'a>(separator: &str, words: impl Iterator<Item = &'a str>) -> String {
    let words: BTreeSet<&str> = words.filter(|word| !word.is_empty()).collect();
    words.into_iter().collect::<Vec<_>>().join(separator).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        toml::from_str("[[section]]\ntitle = \"A\"\n[section.attack]\n2 = \"two\"\n10 = \"ten\"\n").unwrap()
    }

    fn outcome(line: &str) -> Outcome {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn an_attack_without_a_result_is_open_and_numbers_are_in_order() {
        let text = table(&catalogue(), &[]).unwrap();
        assert!(text.ends_with("| 2 | two | open | | | |\n| 10 | ten | open | | | |\n"), "{text}");
    }

    #[test]
    fn the_worst_of_several_results_counts_and_layers_add_up() {
        let line = r#"{"case":2,"title":"x","status":"stopped","layers":["mounts"],"control":"as root"}"#;
        let stopped = || outcome(line);
        let again =
            outcome(r#"{"case":2,"title":"a|b","status":"stopped","layers":["Landlock"],"control":""}"#);
        assert_eq!(row("2", &[stopped(), again]), r"stopped | a\|b; x | Landlock, mounts | as root");
        let through = outcome(r#"{"case":2,"title":"y","status":"broke-through"}"#);
        assert!(row("2", &[through, stopped()]).starts_with("**broke through** | x; y |"));
    }

    #[test]
    fn a_result_for_an_unknown_attack_is_an_error() {
        assert!(table(&catalogue(), &[outcome(r#"{"case":3,"title":"x","status":"stopped"}"#)]).is_err());
    }
}
