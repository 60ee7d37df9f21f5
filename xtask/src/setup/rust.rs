//! Rust toolchains: the one that builds us, its static target, and rustup where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::packages::program;
use crate::call::{self, say};

const MUSL: &str = "x86_64-unknown-linux-musl";
const GNU: &str = "x86_64-unknown-linux-gnu";

/// The target of the static keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeeperTarget {
    /// Static by nature.
    Musl,
    /// Debian's Rust has no musl target; glibc linked statically does the same job at twice the size.
    StaticGnu,
}

impl KeeperTarget {
    /// The target's name.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::Musl => MUSL,
            Self::StaticGnu => GNU,
        }
    }
}

/// The static target, added by rustup if it is missing.
pub(super) fn keeper_target() -> anyhow::Result<KeeperTarget> {
    let sysroot = own_sysroot()?;
    if sysroot.join("lib/rustlib").join(MUSL).is_dir() {
        return Ok(KeeperTarget::Musl);
    }
    let Some(toolchain) = rustup_toolchain(&sysroot).filter(|_name| rustup().is_some()) else {
        return Ok(KeeperTarget::StaticGnu);
    };
    say(&format!("installing the Rust target {MUSL}: rustup target add"));
    let add = call::run(Command::new("rustup").args(["target", "add", "--toolchain", &toolchain, MUSL]));
    if let Err(why) = add {
        // No reason to stop: the other target makes a keeper that behaves the same.
        say(&format!("going on without it: {why:#}"));
        return Ok(KeeperTarget::StaticGnu);
    }
    Ok(KeeperTarget::Musl)
}

/// Makes sure that the toolchain of a sysroot has the component whose program is `program`.
pub(crate) fn component(sysroot: &Path, name: &str, program_name: &str) -> anyhow::Result<()> {
    if sysroot.join("bin").join(program_name).exists() {
        return Ok(());
    }
    let toolchain = rustup_toolchain(sysroot).filter(|_name| rustup().is_some());
    let toolchain =
        toolchain.with_context(|| format!("{program_name} is missing from {}", sysroot.display()))?;
    say(&format!("installing the Rust component {name}: rustup component add"));
    call::run(Command::new("rustup").args(["component", "add", "--toolchain", &toolchain, name]))
}

/// Rustup's nightly as it lies on disk.
pub(super) fn nightly() -> Option<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")))?;
    Some(home.join("toolchains/nightly-x86_64-unknown-linux-gnu"))
}

/// Rustup, if it is on the path.
pub(super) fn rustup() -> Option<PathBuf> {
    program("rustup", &std::env::var_os("PATH").unwrap_or_default())
}

/// Where the toolchain lies that builds us: cargo names itself to what it runs.
pub(crate) fn own_sysroot() -> anyhow::Result<PathBuf> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let sysroot = Path::new(&cargo).parent().and_then(Path::parent);
        return sysroot.map(Path::to_owned).context("CARGO names no program of a toolchain");
    }
    let answer = call::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(answer.trim_end()))
}

fn rustup_toolchain(sysroot: &Path) -> Option<String> {
    let toolchains = sysroot.parent()?.file_name()? == "toolchains";
    toolchains.then(|| sysroot.file_name()?.to_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_toolchains_of_rustup_are_given_to_rustup() {
        let name = |path| rustup_toolchain(Path::new(path));
        assert_eq!(name("/home/a/.rustup/toolchains/stable-x86").as_deref(), Some("stable-x86"));
        assert_eq!(name("/usr"), None);
    }
}
