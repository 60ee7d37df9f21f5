//! Set-up: what has to be on the machine before anything can be built, and its installation.
//!
//! ```text
//! packages   compilers, libseccomp                  packages::NEEDS, probed by files and programs
//! rust       the static target of the keeper        rust::keeper_target
//! bpf        a compiler that makes BPF programs     bpf::toolchain  (compiler, LLVM, bpf-linker)
//! agents     the real agents, only for tests        agents::install
//! ```
//! Every step first looks, which costs some file look-ups and no process; what is there is left alone, so that a second
//! call does nothing. What is missing is named before it is installed.

mod agents;
mod bpf;
mod debian;
mod packages;
mod rust;

use anyhow::bail;

pub(crate) use agents::directory as agents_directory;
pub(crate) use bpf::Compiler;
pub(crate) use rust::{KeeperTarget, component, own_sysroot};

use crate::tree::Tree;

/// What the set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building and running.
    Build,
    /// The tests too: agents, bubblewrap, what sessions call.
    Test,
}

/// What the set-up found or made.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) bpf: Compiler,
    pub(crate) keeper: KeeperTarget,
}

/// Makes sure that everything is there.
pub(crate) fn setup(tree: &Tree, purpose: Purpose) -> anyhow::Result<Toolchain> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("skep works on Linux on x86-64 only: its seccomp filters and BPF programs are written for it");
    }
    let mut apt = debian::Apt::here();
    packages::install(&mut apt, purpose)?;
    let keeper = rust::keeper_target()?;
    let bpf = bpf::toolchain(tree, &mut apt)?;
    if purpose == Purpose::Test {
        agents::install(tree)?;
    }
    Ok(Toolchain { bpf, keeper })
}
