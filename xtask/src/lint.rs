//! `cargo xtask lint` and `cargo xtask ci`.
//!
//! The rules of the repository are tests of this package (`xtask/tests/repository.rs`), so that plain `cargo test` runs them too.

use std::process::Command;

use crate::build;
use crate::call::{self, say};
use crate::compliance;
use crate::setup::{self, Purpose};
use crate::tree::Tree;

/// rustfmt, clippy and the rules of the repository.
pub(crate) fn lint(tree: &Tree) -> anyhow::Result<()> {
    let sysroot = setup::own_sysroot()?;
    setup::component(&sysroot, "rustfmt", "rustfmt")?;
    setup::component(&sysroot, "clippy", "cargo-clippy")?;
    say("rustfmt");
    call::run(cargo(tree).args(["fmt", "--all", "--check"]))?;
    call::run(cargo(tree).args(["fmt", "--manifest-path", "ebpf/programs/Cargo.toml", "--check"]))?;
    say("clippy");
    call::run(cargo(tree).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]))?;
    say("clippy on the BPF programs");
    let mut clippy = setup::setup(tree, Purpose::Build)?.bpf.clippy()?;
    call::run(build::of_programs(tree, &mut clippy).args(["--quiet", "--", "--deny", "warnings"]))?;
    say("the rules of the repository");
    call::run(cargo(tree).args(["test", "--quiet", "--package", "xtask", "--test", "repository"]))
}

/// What continuous integration runs beside `cargo xtask test`: the lints, and whether that test run left
/// docs/compliance.md as it is committed.
pub(crate) fn ci(tree: &Tree) -> anyhow::Result<()> {
    lint(tree)?;
    compliance::check_committed(tree)
}

fn cargo(tree: &Tree) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    tree.with_objects(command.current_dir(&tree.root));
    command
}
