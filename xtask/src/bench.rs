//! `cargo xtask bench`: optimised binaries, measured by the program `bench` of the tests.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::build::{self, Variant, cargo};
use crate::call;
use crate::setup::{self, Purpose};
use crate::tree::Tree;

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// `true` in a fresh sandbox, beside bare and bubblewrap
    Launch,
    /// A scripted session of the real agents, bare and inside
    Agent,
}

/// Builds and measures; the figures are printed and written into docs/performance.md.
pub(crate) fn bench(tree: &Tree, what: What, rounds: Option<u32>) -> anyhow::Result<ExitCode> {
    let toolchain = setup::setup(tree, Purpose::Test)?;
    let binaries = build::build(tree, &toolchain, Variant::Bench)?;
    call::run(cargo(tree, "skep-tests", "quick").args(["--bin", "bench"]))?;
    let mut measure = std::process::Command::new(tree.target.join("quick/bench"));
    measure.arg(format!("{what:?}").to_lowercase()).args(rounds.map(|rounds| rounds.to_string()));
    measure.env("SKEP_BIN_DIR", &binaries).env("SKEP_AGENTS_DIR", setup::agents_directory(tree));
    call::run(&mut measure)?;
    Ok(ExitCode::SUCCESS)
}
