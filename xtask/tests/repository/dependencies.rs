//! Rules about what others wrote.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::metadata::METADATA;
use crate::{check, read};

/// deny.toml, as far as we check it ourselves: cargo-deny needs a minute to build, and the advisory database is
/// not to be reached from everywhere; licences and bans are checked here on every run.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Names of crates, and our own crates that use them, as docs/dependencies.md calls those.
type Users = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_dependency_has_its_line_with_its_users_and_every_line_its_dependency() {
    let (used, listed) = (used(), listed());
    let missing = used.iter().filter(|(name, users)| listed.get(*name) != Some(*users));
    let mut complaints: Vec<String> =
        missing.map(|(name, users)| format!("{name} should be listed as used by {users:?}")).collect();
    let idle = listed.keys().filter(|name| !used.contains_key(*name));
    complaints.extend(idle.map(|name| format!("{name} is listed and not used")));
    check("docs/dependencies.md says who uses each dependency and why", &complaints);
}

fn used() -> Users {
    let mut used = Users::new();
    for package in METADATA.ours() {
        let directory = package.directory();
        let user = directory.strip_prefix("supervisor/").unwrap_or(&directory);
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_none()) {
            used.entry(dependency.name.clone()).or_default().insert(user.to_owned());
        }
    }
    for name in programs() {
        used.entry(name).or_default().insert("ebpf/programs".to_owned());
    }
    used
}

/// The first two columns of the table.
fn listed() -> Users {
    let text = read("docs/dependencies.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let users = |rest: &str| {
        let column = rest.split(" | ").next().unwrap_or_default();
        column.split(", ").map(str::to_owned).collect()
    };
    rows.map(|(name, rest)| (name.to_owned(), users(rest))).collect()
}

#[test]
fn what_the_workspace_pins_is_used() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let pinned = manifest["workspace"]["dependencies"].as_table().unwrap();
    let used = used();
    let idle = pinned.iter().filter(|(name, pin)| pin.get("path").is_none() && !used.contains_key(*name));
    let complaints: Vec<String> = idle.map(|(name, _pin)| format!("{name} is used by no crate")).collect();
    check("the workspace's manifest pins nothing in vain", &complaints);
}

/// What the BPF programs depend on: they are a workspace of their own.
fn programs() -> Vec<String> {
    let manifest = crate::root().join("ebpf/programs/Cargo.toml");
    let Ok(text) = std::fs::read_to_string(manifest) else { return Vec::new() };
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let theirs = dependencies.into_iter().flatten().filter(|(_name, value)| value.get("path").is_none());
    theirs.map(|(name, _value)| name.clone()).collect()
}

#[test]
fn licences_are_allowed_and_nothing_banned_is_linked() {
    let deny: Deny = toml::from_str(&read("deny.toml")).unwrap();
    let mut complaints = Vec::new();
    for package in METADATA.theirs() {
        let licence = package.license.as_deref().unwrap_or("none");
        if !allowed(licence, &deny.licenses.allow) {
            complaints.push(format!("{} {}: licence {licence}", package.name, package.version));
        }
        let banned = deny.bans.deny.iter().find(|banned| banned.name == package.name);
        complaints.extend(banned.map(|banned| format!("{}: {}", banned.name, banned.reason)));
    }
    check("deny.toml says what may be linked", &complaints);
}

/// Whether we may use what is under this expression. Alternatives bind weaker than conjunctions; a bracket holds alternatives
/// of which one is enough, as in every expression met so far.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let every_bracket_and_name = |conjunction: &str| {
        conjunction.split(" AND ").all(|part| {
            let part = part.trim();
            match part.strip_prefix('(').and_then(|part| part.strip_suffix(')')) {
                Some(alternatives) => alternatives.split(" OR ").any(|name| allow.contains(name.trim())),
                None => allow.contains(part),
            }
        })
    };
    // Before 2018 crates wrote a slash for OR.
    let expression = expression.replace('/', " OR ");
    if expression.contains('(') {
        return every_bracket_and_name(&expression);
    }
    expression.split(" OR ").any(every_bracket_and_name)
}

#[test]
fn licence_expressions_are_understood() {
    let allow = ["MIT", "ISC", "Apache-2.0"].map(str::to_owned).into();
    for good in
        ["MIT", "GPL-3.0 OR MIT", "MIT/Unlicense", "Apache-2.0 AND ISC", "(X OR MIT) AND ISC", "X / MIT"]
    {
        assert!(allowed(good, &allow), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND GPL-3.0", "none", ""] {
        assert!(!allowed(bad, &allow), "{bad}");
    }
}

#[test]
fn every_crate_comes_from_crates_io() {
    let lock = read("Cargo.lock");
    let sources = lock.lines().filter(|line| line.starts_with("source = "));
    let strange =
        sources.filter(|line| !line.contains("registry+https://github.com/rust-lang/crates.io-index"));
    check("the lock file names no other registry", &strange.map(str::to_owned).collect::<Vec<_>>());
}
