//! Finds the BPF objects that are embedded into the library.
//!
//! They are built by another toolchain (`cargo xtask build`, see ebpf/programs/README.md). Where they are not,
//! an empty file is embedded and loading says so: `cargo check` and `cargo test` on a plain checkout need no
//! BPF toolchain.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const OBJECTS: [&str; 2] = ["observe.bpf.o", "lookup.bpf.o"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SKEP_BPF_DIR");
    let (Some(out), Some(from)) = (env::var_os("OUT_DIR"), directory()) else {
        return Err(io::Error::other("cargo set neither OUT_DIR nor CARGO_MANIFEST_DIR"));
    };
    for object in OBJECTS {
        let bytes = fs::read(from.join(object)).unwrap_or_default();
        fs::write(Path::new(&out).join(object), bytes)?;
    }
    Ok(())
}

/// Where the objects are, watched for changes. The default directory is made if it is missing, because cargo
/// takes a missing path for one that always changes.
fn directory() -> Option<PathBuf> {
    let named = env::var_os("SKEP_BPF_DIR").map(PathBuf::from);
    let directory = named.or_else(|| {
        let workspace = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("../..");
        let directory = workspace.join("target/bpf");
        // A read-only checkout has no objects either; then the stub is right.
        let _ = fs::create_dir_all(&directory);
        Some(directory)
    })?;
    println!("cargo::rerun-if-changed={}", directory.display());
    Some(directory)
}
