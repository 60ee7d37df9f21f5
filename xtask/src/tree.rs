//! Where things are: the checkout, its target directory, and the cache outside the tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// The directories every verb works with.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What outlives `cargo clean`: bpf-linker, the agents. `$SKEP_CACHE`, or `skep` in the user's cache.
    pub(crate) cache: PathBuf,
}

impl Tree {
    pub(crate) fn find() -> anyhow::Result<Self> {
        // The variable is cargo's and names the checkout of this very call; the constant helps when the
        // program is started without cargo.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().context("xtask is not in a workspace")?.to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => std::path::absolute(directory).context("CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self { root, target, cache: cache()? })
    }

    /// Where the BPF objects are put.
    pub(crate) fn objects(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// Tells a cargo call where the BPF objects are, unless they are where the kernel crate looks by itself: a
    /// variable that is set only here would have the crate built again after each plain `cargo build`.
    pub(crate) fn with_objects(&self, cargo: &mut Command) {
        if self.target != self.root.join("target") {
            cargo.env("SKEP_BPF_DIR", self.objects());
        }
    }
}

fn cache() -> anyhow::Result<PathBuf> {
    if let Some(directory) = variable("SKEP_CACHE") {
        return std::path::absolute(directory).context("SKEP_CACHE");
    }
    if let Some(directory) = variable("XDG_CACHE_HOME") {
        return Ok(Path::new(&directory).join("skep"));
    }
    let home = variable("HOME").context("no directory for the cache: set SKEP_CACHE or HOME")?;
    Ok(Path::new(&home).join(".cache/skep"))
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
