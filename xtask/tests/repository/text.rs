//! Rules about texts that have to agree with each other.

use std::process::Command;

use crate::{check, files, read, root};

#[test]
fn no_file_names_a_place_of_a_build_machine() {
    // In two parts, so that this file passes its own test.
    let traces = [
        ["/work/", "wt"],
        ["/work/", "main"],
        ["/opt/", "skep-tools"],
        ["/root/", ".cargo"],
        ["/root/", ".rustup"],
    ];
    let traces = traces.map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for file in tracked() {
        // What is no text names no place; a deleted file is not committed yet.
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        let found = traces.iter().find(|trace| text.contains(*trace));
        complaints.extend(found.map(|trace| format!("{file}: {trace}")));
    }
    check("committed files say nothing about the machine they were written on", &complaints);
}

fn tracked() -> Vec<String> {
    // A checkout may belong to another user than the one who tests; git refuses that unless told.
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z"]).current_dir(root());
    let output = git.output().unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn every_profile_is_shipped() {
    if !root().join("profiles").is_dir() {
        return;
    }
    let policy: String = files("supervisor/policy/src", "rs").into_iter().map(|(_path, text)| text).collect();
    let forgotten = files("profiles", "toml").into_iter().filter(|(path, _text)| {
        let name = path.file_name().unwrap().to_str().unwrap();
        !policy.contains(name) && !policy.contains(&format!("\"{}\"", name.trim_end_matches(".toml")))
    });
    let complaints: Vec<String> = forgotten.map(|(path, _text)| path.display().to_string()).collect();
    check("a profile in profiles/ is compiled into the policy crate", &complaints);
}

#[test]
fn the_compliance_table_has_every_attack() {
    let attacks: toml::Table = toml::from_str(&read("tests/attacks.toml")).unwrap();
    let table = read("docs/compliance.md");
    let mut complaints = Vec::new();
    for section in attacks["section"].as_array().unwrap() {
        for (number, title) in section["attack"].as_table().unwrap() {
            let row = format!("| {number} | {} | ", title.as_str().unwrap());
            if !table.contains(&row) {
                complaints.push(format!("no row {row}"));
            }
        }
    }
    check("docs/compliance.md is written by `cargo xtask test`", &complaints);
}

#[test]
fn set_up_and_tests_mean_the_same_versions_of_the_agents() {
    let setup = read("xtask/src/setup/agents.rs");
    let tests = read("tests/src/agents.rs");
    for (package, constant) in
        [("@anthropic-ai/claude-code@", "CLAUDE_VERSION"), ("@openai/codex@", "CODEX_VERSION")]
    {
        let version = after(&setup, package).split('"').next().unwrap();
        let known = after(&tests, &format!("{constant}: &str = \"")).split('"').next().unwrap();
        assert_eq!(version, known, "{package}");
    }
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).unwrap_or_else(|| panic!("no {mark}")).1
}
