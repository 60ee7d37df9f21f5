//! `cargo xtask run`: set up, build, and become `skep run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::build::{self, Variant};
use crate::call;
use crate::setup::{self, Purpose};
use crate::tree::Tree;

/// Replaces this process, so that the terminal, the signals and the exit code are the command's.
pub(crate) fn run(tree: &Tree, options: &[OsString], command: &[OsString]) -> anyhow::Result<ExitCode> {
    let toolchain = setup::setup(tree, Purpose::Build)?;
    let skep = build::build(tree, &toolchain, Variant::Plain)?.join("skep");
    let mut call = Command::new(&skep);
    call.arg("run").args(options).arg("--").args(command);
    let error = call::without_cargo(&mut call).exec();
    Err(error).with_context(|| format!("cannot start {}", skep.display()))
}
