//! Rules about our own crates. The table "Crates" of docs/ARCHITECTURE.md is the measure.

use std::collections::BTreeMap;

use crate::metadata::{Dependency, METADATA, Package};
use crate::{check, files, read};

/// The program that attacks makes raw system calls for a living.
const ATTACKER: &str = "tests/src/bin/attack";

/// What the table lets a crate depend on: directories of crates, each with a feature it must not have.
type Allowed = BTreeMap<String, Option<String>>;

#[test]
fn dependencies_point_in_the_directions_of_the_architecture() {
    let table = architecture();
    let mut complaints = Vec::new();
    for package in METADATA.ours() {
        let Some(allowed) = table.get(&package.directory()) else {
            complaints.push(format!("{} is not in the table of docs/ARCHITECTURE.md", package.directory()));
            continue;
        };
        let others = package.dependencies.iter().filter(|dependency| dependency.name != package.name);
        complaints.extend(others.filter_map(|dependency| complaint(package, dependency, allowed)));
    }
    check("docs/ARCHITECTURE.md says what may depend on what", &complaints);
}

fn complaint(package: &Package, dependency: &Dependency, allowed: &Allowed) -> Option<String> {
    dependency.path.as_ref()?;
    let target = METADATA.ours().find(|other| other.name == dependency.name)?;
    let (from, to) = (package.directory(), target.directory());
    match allowed.get(&to) {
        None => Some(format!("{from} may not depend on {to}")),
        Some(Some(feature)) => {
            let default = target.features.get("default").is_some_and(|default| default.contains(feature));
            let has = dependency.features.contains(feature) || (default && dependency.uses_default_features);
            has.then(|| format!("{from} may not have feature {feature} of {to}"))
        }
        Some(None) => None,
    }
}

/// Rows of the table: crate to what it may depend on.
fn architecture() -> BTreeMap<String, Allowed> {
    let text = read("docs/ARCHITECTURE.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names = cells[3].split(',').filter_map(|part| {
            let (name, rest) = quoted(part)?;
            let feature = rest.contains("without its feature").then(|| quoted(rest).unwrap().0.to_owned());
            Some((directory(name), feature))
        });
        (directory(quoted(cells[1]).unwrap().0), names.collect())
    })
    .collect()
}

/// The first `quoted` word and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.split_once('`')?.1.split_once('`')
}

/// The table calls `supervisor/policy` also `policy`.
fn directory(name: &str) -> String {
    let short = ["policy", "kernel", "keeper", "runtime", "egress", "api", "cli"].contains(&name);
    if short { format!("supervisor/{name}") } else { name.to_owned() }
}

#[test]
fn crates_forbid_unsafe_code_except_where_system_calls_are_made() {
    let with_unsafe = ["supervisor/kernel", "supervisor/keeper"];
    let attacker = crate::root().join(ATTACKER);
    let mut complaints = Vec::new();
    for package in METADATA.ours().filter(|package| package.directory() != "ebpf/abi") {
        let line = if with_unsafe.contains(&package.directory().as_str()) { "deny" } else { "forbid" };
        for target in package.targets.iter().filter(|target| target.is_shipped()) {
            if target.src_path.starts_with(&attacker) {
                continue;
            }
            let text = std::fs::read_to_string(&target.src_path).unwrap();
            let found = text.contains("#![forbid(unsafe_code)]")
                || (line == "deny" && text.contains("#![deny(unsafe_code)]"));
            if !found {
                complaints.push(format!("{} has no #![{line}(unsafe_code)]", target.src_path.display()));
            }
        }
    }
    check("unsafe code is forbidden by a line in the root of each crate", &complaints);
}

#[test]
fn modules_with_unsafe_code_say_why() {
    let marks = ["expect(unsafe_code", "allow(unsafe_code"];
    let sources = ["supervisor", "ebpf", "tests", "xtask"].into_iter().flat_map(|below| files(below, "rs"));
    let silent = sources.filter(|(path, text)| {
        let exempt = path.ends_with("xtask/tests/repository/crates.rs") || path.starts_with(ATTACKER);
        !exempt && marks.iter().any(|mark| text.contains(mark)) && !text.contains("// UNSAFETY: ")
    });
    let complaints: Vec<String> = silent.map(|(path, _text)| path.display().to_string()).collect();
    check("a module that allows unsafe code has an UNSAFETY line", &complaints);
}

#[test]
fn the_bpf_programs_have_the_lints_of_the_workspace_but_for_those_they_name() {
    let lints = |manifest: &str, at: &[&str]| {
        let manifest: toml::Value = toml::from_str(&read(manifest)).unwrap();
        let tables = at.iter().fold(&manifest, |table, key| &table[key]).as_table().unwrap().clone();
        let rows = |(tool, lints): (String, toml::Value)| {
            let lints = lints.as_table().unwrap().clone();
            lints.into_iter().map(move |(lint, level)| (format!("{tool}::{lint}"), level.to_string()))
        };
        tables.into_iter().flat_map(rows).collect::<BTreeMap<_, _>>()
    };
    let mut expected = lints("Cargo.toml", &["workspace", "lints"]);
    for lint in [
        "multiple_unsafe_ops_per_block",
        "needless_pass_by_value",
        "cast_possible_truncation",
        "cast_sign_loss",
    ] {
        assert!(expected.remove(&format!("clippy::{lint}")).is_some(), "{lint}");
    }
    assert_eq!(lints("ebpf/programs/Cargo.toml", &["lints"]), expected);
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let without = METADATA.ours().filter(|package| {
        let manifest = read(format!("{}/Cargo.toml", package.directory()));
        !manifest.contains("[lints]\nworkspace = true")
    });
    let complaints: Vec<String> = without.map(Package::directory).collect();
    check("each manifest takes over the lints of the workspace", &complaints);
}
