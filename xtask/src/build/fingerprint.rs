//! What a build depends on, as one number: asking cargo four times whether anything changed takes most of a second.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use anyhow::Context as _;

use crate::setup::Toolchain;
use crate::tree::Tree;

/// Everything below these counts.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", ".cargo", "ebpf", "profiles", "supervisor"];

/// Names, sizes and times of the sources, as cargo itself looks at them; the toolchains; and this program, which is built
/// again whenever the compiler or it changes.
pub(super) fn of(tree: &Tree, toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut hasher = DefaultHasher::new();
    format!("{toolchain:?}").hash(&mut hasher);
    std::env::var_os("RUSTFLAGS").hash(&mut hasher);
    file(&std::env::current_exe().context("the path of xtask")?, &mut hasher)?;
    for source in SOURCES {
        let path = tree.root.join(source);
        if path.exists() {
            walk(&path, &mut hasher)?;
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn walk(path: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    if !path.is_dir() {
        return file(path, hasher);
    }
    if path.ends_with("target") {
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    paths.iter().try_for_each(|path| walk(path, hasher))
}

fn file(path: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    path.hash(hasher);
    metadata.len().hash(hasher);
    metadata.modified().with_context(|| format!("the time of {}", path.display()))?.hash(hasher);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(path: &Path) -> u64 {
        let mut hasher = DefaultHasher::new();
        walk(path, &mut hasher).unwrap();
        hasher.finish()
    }

    #[test]
    fn a_changed_a_new_and_a_renamed_file_change_it_and_a_target_directory_does_not() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        fs::write(at("a"), "1").unwrap();
        let first = hash(tree.path());
        assert_eq!(hash(tree.path()), first);
        fs::create_dir(at("target")).unwrap();
        fs::write(at("target/x"), "1").unwrap();
        assert_eq!(hash(tree.path()), first);
        fs::write(at("a"), "12").unwrap();
        let changed = hash(tree.path());
        assert_ne!(changed, first);
        fs::rename(at("a"), at("b")).unwrap();
        assert_ne!(hash(tree.path()), changed);
    }
}
