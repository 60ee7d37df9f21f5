//! `cargo xtask build`: the BPF programs, the keeper, the binaries, side by side in one directory.
//!
//! Each binary is a cargo call of its own, because cargo unites the features of what it builds in one call: the
//! keeper and the gateway would get the supervisor's half of the kernel crate.

mod fingerprint;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::call::{self, say};
use crate::setup::{KeeperTarget, Toolchain};
use crate::tree::Tree;

/// The BPF objects, by the names of their binaries in `ebpf/programs`.
const OBJECTS: [&str; 2] = ["observe", "lookup"];
const BPF_TARGET: &str = "bpfel-unknown-none";
const BPF_BUILD: &str = "bpf-build";

/// Which binaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// What users run.
    Plain,
    /// What the tests run: real names may be dialled at a local server (`--upstream`). Built like the tests
    /// themselves, so that a clean checkout compiles each dependency once.
    Test,
    /// The same, optimised like what users run.
    Bench,
}

impl Variant {
    fn directory(self, tree: &Tree) -> PathBuf {
        tree.target.join(match self {
            Self::Plain => "skep",
            Self::Test => "skep-test",
            Self::Bench => "skep-bench",
        })
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Test | Self::Bench => &["--features", "test-upstreams"],
        }
    }

    /// Cargo's profile, and the directory its results are in.
    fn profile(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain | Self::Bench => ("quick", "quick"),
            Self::Test => ("dev", "debug"),
        }
    }
}

/// Builds what changed and returns the directory with the binaries.
pub(crate) fn build(tree: &Tree, toolchain: &Toolchain, variant: Variant) -> anyhow::Result<PathBuf> {
    let directory = variant.directory(tree);
    let stamp = directory.join(".built");
    let now = fingerprint::of(tree, toolchain)?;
    if fs::read_to_string(&stamp).is_ok_and(|built| built == now) {
        return Ok(directory);
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    objects(tree, toolchain)?;
    for (package, binaries) in [("skep-cli", &["skep", "skepd"][..]), ("skep-egress", &["skep-egress"])] {
        say(&format!("building {}", binaries.join(" and ")));
        let (profile, results) = variant.profile();
        call::run(cargo(tree, package, profile).args(variant.features()))?;
        for binary in binaries {
            publish(&tree.target.join(results).join(binary), &directory.join(binary))?;
        }
    }
    keeper(tree, toolchain.keeper, &directory)?;
    fs::write(&stamp, now).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(directory)
}

/// The BPF objects in `target/bpf`, where the kernel crate takes them from.
fn objects(tree: &Tree, toolchain: &Toolchain) -> anyhow::Result<()> {
    say("building the BPF programs");
    let mut cargo = toolchain.bpf.cargo();
    of_programs(tree, cargo.arg("build"));
    call::run(cargo.env("PATH", toolchain.bpf.path()?))?;
    let objects = tree.objects();
    fs::create_dir_all(&objects).with_context(|| format!("making {}", objects.display()))?;
    for object in OBJECTS {
        let built = tree.target.join(BPF_BUILD).join(BPF_TARGET).join("release").join(object);
        publish(&built, &objects.join(format!("{object}.bpf.o")))?;
    }
    Ok(())
}

/// Makes a call of cargo one on the BPF programs.
pub(crate) fn of_programs<'c>(tree: &Tree, cargo: &'c mut Command) -> &'c mut Command {
    cargo.args(["--release", "-Z", "build-std=core", "--target", BPF_TARGET]);
    cargo.arg("--target-dir").arg(tree.target.join(BPF_BUILD)).current_dir(tree.root.join("ebpf/programs"))
}

fn keeper(tree: &Tree, target: KeeperTarget, directory: &Path) -> anyhow::Result<()> {
    say("building skep-keeper");
    let mut cargo = cargo(tree, "skep-keeper", "keeper");
    cargo.args(["--target", target.triple()]);
    if target == KeeperTarget::StaticGnu {
        say("this Rust has no musl target: linking the keeper against glibc, statically");
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    }
    call::run(&mut cargo)?;
    let built = tree.target.join(target.triple()).join("keeper/skep-keeper");
    publish(&built, &directory.join("skep-keeper"))
}

pub(crate) fn cargo(tree: &Tree, package: &str, profile: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["build", "--package", package, "--bins", "--profile", profile]);
    command.arg("--target-dir").arg(&tree.target).current_dir(&tree.root);
    tree.with_objects(&mut command);
    command
}

/// Puts a copy in place by a rename, for a running program's file cannot be written; an equal file is left alone, so
/// that nothing is built again because of its time.
fn publish(from: &Path, to: &Path) -> anyhow::Result<()> {
    let built = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|published| published == built) {
        return Ok(());
    }
    let next = to.with_extension("next");
    fs::copy(from, &next).with_context(|| format!("copying to {}", next.display()))?;
    fs::rename(&next, to).with_context(|| format!("naming {}", to.display()))
}
