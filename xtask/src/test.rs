//! `cargo xtask test`: set up, build, and run every test, then rewrite docs/compliance.md from what they reported.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;

use crate::build::{self, Variant};
use crate::call::{self, say};
use crate::compliance;
use crate::setup::{self, Purpose};
use crate::tree::Tree;

/// Runs the tests of the crates, then the black-box tests, and ends with the counts of both.
pub(crate) fn test(tree: &Tree, full: bool, filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let toolchain = setup::setup(tree, Purpose::Test)?;
    let binaries = build::build(tree, &toolchain, Variant::Test)?;
    let results = compliance::begin(tree)?;

    say("testing the crates");
    let mut report = Report::default();
    let mut crates = cargo_test(tree, filter, &["--workspace", "--exclude", "skep-tests"]);
    crates.env("SKEP_COMPLIANCE_DIR", &results);
    report.add(&mut crates)?;

    say("testing the binaries, with the real agents");
    let mut whole = cargo_test(tree, filter, &["--package", "skep-tests"]);
    whole.env("SKEP_BIN_DIR", &binaries).env("SKEP_AGENTS_DIR", setup::agents_directory(tree));
    whole.env("SKEP_COMPLIANCE_DIR", &results);
    if full {
        whole.env("SKEP_TEST_FULL", "1");
    }
    report.add(&mut whole)?;

    report.print();
    if filter.is_none() {
        compliance::write(tree, &results)?;
    }
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo_test(tree: &Tree, filter: Option<&str>, which: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["test", "--no-fail-fast"]).args(which).args(filter).current_dir(&tree.root);
    tree.with_objects(&mut command);
    command
}

/// How many lines of what a failed test wrote are repeated at the end: the first, where an error begins,
const FIRST_LINES: usize = 12;

/// the last, where a panic is,
const LAST_LINES: usize = 24;

/// and of how many tests.
const MOST_TESTS: usize = 8;

/// The closing lines of all test programs: whoever sees only the end of the output learns what failed, and why.
#[derive(Debug)]
struct Report {
    /// What failed tests wrote, each under the heading libtest gives it.
    said: Vec<Vec<String>>,
    /// The last of them is not at its end yet.
    listening: bool,
    lines: Vec<String>,
    counts: Counts,
    good: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Default for Report {
    fn default() -> Self {
        let (said, lines) = (Vec::new(), Vec::new());
        Self { said, listening: false, lines, counts: Counts::default(), good: true }
    }
}

impl Report {
    /// Runs the tests, shows their output as it comes and keeps what closes it.
    fn add(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let line = call::line(command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {line}"))?;
        let output = child.stdout.take().context("the tests have no output")?;
        for text in BufReader::new(output).split(b'\n') {
            let text = text.with_context(|| format!("reading the output of {line}"))?;
            self.read(&String::from_utf8_lossy(&text));
            std::io::stdout().write_all(&text).and_then(|()| std::io::stdout().write_all(b"\n"))?;
        }
        let status = child.wait().with_context(|| format!("waiting for {line}"))?;
        self.good &= status.success();
        if !status.success() {
            self.lines.push(format!("{line}: {status}"));
        }
        Ok(())
    }

    fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.listening = false;
            self.counts.add(result);
        } else if line == "failures:" {
            // Once before what they wrote, and once before their names.
            self.listening = false;
        } else if line.starts_with("---- ") && line.ends_with(" ----") {
            self.listening = true;
            self.said.push(vec![line.to_owned()]);
        } else if self.listening {
            self.said.last_mut().into_iter().for_each(|said| said.push(line.to_owned()));
        } else if line.starts_with("test ") && line.ends_with(" ... FAILED") {
            self.lines.push(line.to_owned());
        }
    }

    /// What failed tests wrote, as far as it is repeated.
    fn repeated(&self) -> impl Iterator<Item = &str> {
        self.said.iter().take(MOST_TESTS).flat_map(|said| {
            let (first, rest) = said.split_at(said.len().min(1 + FIRST_LINES));
            let last = &rest[rest.len().saturating_sub(LAST_LINES)..];
            let gap = (last.len() < rest.len()).then_some("[…]");
            first.iter().map(String::as_str).chain(gap).chain(last.iter().map(String::as_str))
        })
    }

    fn print(&self) {
        println!();
        self.repeated().for_each(|line| println!("{line}"));
        self.lines.iter().for_each(|line| println!("{line}"));
        let Counts { passed, failed, ignored } = self.counts;
        let word = if self.good { "ok" } else { "FAILED" };
        println!("all tests: {word}. {passed} passed; {failed} failed; {ignored} ignored");
    }
}

impl Counts {
    /// Adds the numbers of `ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, result: &str) {
        let numbers = result.split(['.', ';']).filter_map(|part| part.trim().split_once(' '));
        for (number, what) in numbers {
            let number = number.parse::<u64>().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_programs_are_added_and_failures_kept() {
        let mut report = Report::default();
        report.read("test a::b ... FAILED");
        report.read("test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        report.read(
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.20s",
        );
        assert_eq!(report.counts, Counts { passed: 7, failed: 1, ignored: 2 });
        assert_eq!(report.lines, ["test a::b ... FAILED"]);
    }

    #[test]
    fn beginning_and_end_of_what_a_failed_test_wrote_are_repeated() {
        let mut report = Report::default();
        let written: Vec<_> = (0..50).map(|number| format!("line {number}")).collect();
        let block = |name: &str, said: &[String]| {
            let heading = format!("---- {name} stdout ----");
            let names = ["failures:", "    a", "    b", "", "test result: FAILED. 0 passed; 2 failed"];
            let before = ["test a ... FAILED", "", "failures:", "", &heading].map(str::to_owned);
            before.into_iter().chain(said.to_vec()).chain(names.map(str::to_owned)).collect::<Vec<_>>()
        };
        block("a", &written).iter().for_each(|line| report.read(line));
        block("b", &written[..2]).iter().for_each(|line| report.read(line));
        let repeated: Vec<_> = report.repeated().collect();
        assert_eq!(repeated[..2], ["---- a stdout ----", "line 0"]);
        assert_eq!(repeated[FIRST_LINES..][..3], ["line 11", "[…]", "line 26"]);
        assert_eq!(
            repeated[FIRST_LINES + LAST_LINES + 1..],
            ["line 49", "---- b stdout ----", "line 0", "line 1"]
        );
        assert_eq!(report.lines.len(), 2);
    }
}
