//! The compiler of the BPF programs, the LLVM it agrees with, and bpf-linker built against that LLVM.
//!
//! bpf-linker reads the compiler's bitcode, and an LLVM reads no bitcode of a newer one: the LLVM has to be at least the
//! compiler's. Rustup's nightly comes first; where it is not to be had, or is ahead of every LLVM the distribution has,
//! Debian's `rustc-web` does the same under `RUSTC_BOOTSTRAP`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::debian::Apt;
use super::rust;
use crate::call::{self, say};
use crate::tree::Tree;

/// The sysroot of Debian's compiler.
const DEBIAN: &str = "/usr";
const LINKER_VERSION: &str = "0.13.0";
/// What bpf-linker 0.13 can be built against, in the order of preference.
const LLVMS: [u32; 3] = [22, 23, 21];

/// A compiler for BPF, complete with its linker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compiler {
    sysroot: PathBuf,
    /// Told from the compiler of the same place after an update by its time.
    changed: SystemTime,
    linker: PathBuf,
}

impl Compiler {
    /// A call of the compiler's cargo, with unstable options allowed.
    pub(crate) fn cargo(&self) -> Command {
        self.call("cargo")
    }

    /// A call of its clippy, which is installed if it is missing.
    pub(crate) fn clippy(&self) -> anyhow::Result<Command> {
        if self.sysroot != Path::new(DEBIAN) {
            rust::component(&self.sysroot, "clippy", "cargo-clippy")?;
        } else if !self.program("cargo-clippy").exists() {
            Apt::here().install(&["rust-web-clippy"], "clippy for the BPF programs")?;
        }
        let mut command = self.call("cargo-clippy");
        command.arg("clippy").env("CARGO", self.program("cargo"));
        Ok(command)
    }

    fn call(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        call::without_cargo(&mut command).env("RUSTC", self.program("rustc")).env("RUSTC_BOOTSTRAP", "1");
        command
    }

    fn program(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }

    /// The search path with bpf-linker in front: the compiler looks it up by name, for a committed configuration
    /// could only give the path of one machine.
    pub(crate) fn path(&self) -> anyhow::Result<OsString> {
        let linker = self.linker.parent().map(Path::to_owned);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(linker.into_iter().chain(std::env::split_paths(&inherited))).context("PATH")
    }

    fn holds(&self) -> bool {
        self.linker.is_file()
            && has_source(&self.sysroot)
            && changed(&self.sysroot).is_some_and(|time| time == self.changed)
    }
}

/// The compiler found earlier, or whatever has to be installed to have one.
pub(super) fn toolchain(tree: &Tree, apt: &mut Apt) -> anyhow::Result<Compiler> {
    let stamp = tree.cache.join("bpf-compiler.json");
    let found = fs::read(&stamp).ok().and_then(|bytes| serde_json::from_slice::<Compiler>(&bytes).ok());
    if let Some(compiler) = found.filter(Compiler::holds) {
        return Ok(compiler);
    }
    let (sysroot, llvm) = compiler_and_llvm(apt)?;
    let linker = linker(&tree.cache, llvm)?;
    let changed = changed(&sysroot).with_context(|| format!("{} has no compiler", sysroot.display()))?;
    let compiler = Compiler { sysroot, changed, linker };
    fs::write(&stamp, serde_json::to_vec(&compiler)?)
        .with_context(|| format!("writing {}", stamp.display()))?;
    Ok(compiler)
}

fn compiler_and_llvm(apt: &mut Apt) -> anyhow::Result<(PathBuf, u32)> {
    match nightly() {
        Ok(sysroot) => match llvm_for(&sysroot, apt)? {
            Some(llvm) => return Ok((sysroot, llvm)),
            None => say("the nightly compiler's LLVM is newer than any this distribution has"),
        },
        Err(why) => say(&format!("no nightly compiler by rustup: {why:#}")),
    }
    let sysroot = debian(apt)?;
    let llvm = llvm_for(&sysroot, apt)?;
    let llvm = llvm.context("no LLVM of this distribution reads the bitcode of its own rustc-web")?;
    Ok((sysroot, llvm))
}

fn nightly() -> anyhow::Result<PathBuf> {
    rust::rustup().context("rustup is not on the path")?;
    let sysroot = rust::nightly().context("neither RUSTUP_HOME nor HOME is set")?;
    if changed(&sysroot).is_none() {
        say("installing Rust's nightly for the BPF programs: rustup toolchain install nightly");
        let install = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        call::run(call::without_cargo(&mut Command::new("rustup")).args(install))?;
    }
    if !has_source(&sysroot) {
        say("installing the source of Rust's core: rustup component add rust-src --toolchain nightly");
        let add = ["component", "add", "rust-src", "--toolchain", "nightly"];
        call::run(call::without_cargo(&mut Command::new("rustup")).args(add))?;
    }
    Ok(sysroot)
}

fn debian(apt: &mut Apt) -> anyhow::Result<PathBuf> {
    let sysroot = PathBuf::from(DEBIAN);
    if !has_source(&sysroot) {
        let packages = ["rustc-web", "cargo-web", "rust-web-src"];
        apt.install(&packages, "a Rust compiler for the BPF programs (Debian's, for want of a nightly)")?;
    }
    Ok(sysroot)
}

/// An LLVM that reads what the compiler writes, installed if need be.
fn llvm_for(sysroot: &Path, apt: &mut Apt) -> anyhow::Result<Option<u32>> {
    let needed = llvm_of(&call::read(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?)?;
    let reads = |llvm: &&u32| **llvm >= needed;
    if let Some(llvm) = LLVMS.iter().filter(reads).find(|llvm| prefix(**llvm).join("include/llvm-c").is_dir())
    {
        return Ok(Some(*llvm));
    }
    for llvm in LLVMS.iter().filter(reads) {
        let package = format!("llvm-{llvm}-dev");
        if apt.offers(&package)? {
            apt.install(&[&package], &format!("LLVM {llvm} for bpf-linker"))?;
            return Ok(Some(*llvm));
        }
    }
    Ok(None)
}

/// bpf-linker, built into the cache if it is not there.
fn linker(cache: &Path, llvm: u32) -> anyhow::Result<PathBuf> {
    let place = cache.join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let program = place.join("bin/bpf-linker");
    if program.is_file() {
        return Ok(program);
    }
    let feature = format!("llvm-{llvm}");
    say(&format!(
        "building bpf-linker {LINKER_VERSION} against LLVM {llvm}, about a minute, into {}",
        place.display()
    ));
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    let build = cache.join("bpf-linker-build");
    let mut install = Command::new("cargo");
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"]);
    install.args(["--no-default-features", "--features", &feature]);
    install.arg("--root").arg(&place).arg("--target-dir").arg(&build);
    call::run(call::without_cargo(&mut install).env("LLVM_PREFIX", prefix(llvm)).current_dir("/"))?;
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    Ok(program)
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn has_source(sysroot: &Path) -> bool {
    // Debian's package links the same place.
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

fn changed(sysroot: &Path) -> Option<SystemTime> {
    fs::metadata(sysroot.join("bin/rustc")).and_then(|rustc| rustc.modified()).ok()
}

fn llvm_of(version: &str) -> anyhow::Result<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = line.and_then(|version| version.split('.').next()).and_then(|major| major.parse().ok());
    let Some(major) = major else { bail!("`rustc -vV` names no LLVM version: {version}") };
    Ok(major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version() {
        let version = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_of(version).unwrap(), 22);
        assert!(llvm_of("rustc 1.97.0").is_err());
    }

    #[test]
    fn a_compiler_that_was_updated_or_lost_its_linker_is_set_up_again() {
        let sysroot = tempfile::tempdir().unwrap();
        let source = sysroot.path().join("lib/rustlib/src/rust/library/core/src");
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(sysroot.path().join("bin")).unwrap();
        let linker = sysroot.path().join("bin/bpf-linker");
        for file in [&source.join("lib.rs"), &sysroot.path().join("bin/rustc"), &linker] {
            fs::write(file, "").unwrap();
        }
        let changed = changed(sysroot.path()).unwrap();
        let compiler = Compiler { sysroot: sysroot.path().to_owned(), changed, linker: linker.clone() };
        assert!(compiler.holds());
        assert!(!Compiler { changed: SystemTime::UNIX_EPOCH, ..compiler.clone() }.holds());
        fs::remove_file(linker).unwrap();
        assert!(!compiler.holds());
    }
}
