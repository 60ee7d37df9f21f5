//! The real agents from npm, pinned, once, into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::call::{self, say};
use crate::tree::Tree;

/// The versions whose wire and process facts the tests rely on; `tests/src/agents.rs` has the same.
const CLAUDE: &str = "@anthropic-ai/claude-code@2.1.329";
/// See [`CLAUDE`].
const CODEX: &str = "@openai/codex@0.169.0";

const CLAUDE_PROGRAM: &str = "node_modules/@anthropic-ai/claude-code-linux-x64/claude";
const CODEX_PROGRAM: &str = "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";

/// Where the agents are: the versions are in the name, so that a new pin is a new place.
pub(crate) fn directory(tree: &Tree) -> PathBuf {
    let version = |package: &str| package.rsplit('@').next().unwrap_or_default().to_owned();
    tree.cache.join(format!("agents-claude-{}-codex-{}", version(CLAUDE), version(CODEX)))
}

/// Installs the agents if they are not there.
pub(super) fn install(tree: &Tree) -> anyhow::Result<()> {
    let place = directory(tree);
    if place.is_dir() {
        return Ok(());
    }
    say(&format!("installing {CLAUDE} and {CODEX} by npm, 770 MB, into {}", place.display()));
    // Published by a rename: a half installation is never taken for a whole one.
    let half = place.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| format!("removing {}", half.display()))?;
    }
    fs::create_dir_all(&half).with_context(|| format!("making {}", half.display()))?;
    call::run(&mut npm(&half))?;
    for program in [CLAUDE_PROGRAM, CODEX_PROGRAM] {
        ensure!(half.join(program).is_file(), "npm installed no {program}");
    }
    fs::rename(&half, &place).with_context(|| format!("naming {}", place.display()))
}

/// Install scripts stay off: as root they would be foreign code outside any sandbox. They only copy the native program
/// over a stub, and the tests call the native programs where they lie.
fn npm(place: &Path) -> Command {
    let mut command = Command::new("npm");
    command.args([
        "install",
        "--ignore-scripts",
        "--no-package-lock",
        "--no-save",
        "--no-audit",
        "--no-fund",
    ]);
    command.args(["--loglevel=error", CLAUDE, CODEX]).current_dir(place).arg("--prefix").arg(place);
    call::without_cargo(&mut command);
    command
}
