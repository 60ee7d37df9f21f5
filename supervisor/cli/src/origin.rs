//! Who really typed the command: `sudo skep run` works for the user who called sudo, with his environment.
//!
//! sudo replaces HOME and, with `secure_path`, PATH, which would hide a `claude` in `~/.local/bin`. The
//! environment sudo itself was started with is the user's own, and root may read it from /proc; it is found by
//! walking up from our parent to the first process whose executable is sudo.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How far up sudo is looked for: `cargo xtask run` puts two processes between.
const ANCESTORS: usize = 6;

/// The user to work for and his environment as `NAME=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The user behind sudo, `None` where nobody is.
    pub subject: Option<u32>,
    /// The environment of the command line.
    pub environment: Vec<Vec<u8>>,
}

impl Origin {
    /// Finds out from the process's environment and ancestors.
    #[must_use]
    pub fn find() -> Self {
        let environment: Vec<Vec<u8>> = std::env::vars_os()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
            .collect();
        if !nix::unistd::geteuid().is_root() {
            return Self { subject: None, environment };
        }
        let subject = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).filter(|uid| *uid != 0);
        match subject.and_then(|_| sudo_environment(std::os::unix::process::parent_id())) {
            Some(original) => Self { subject, environment: merge(&environment, original) },
            None => Self { subject, environment },
        }
    }
}

/// The environment with which the nearest sudo above `pid` was started.
fn sudo_environment(mut pid: u32) -> Option<Vec<Vec<u8>>> {
    for _ in 0..ANCESTORS {
        let process = Path::new("/proc").join(pid.to_string());
        let executable = fs::read_link(process.join("exe")).ok()?;
        if executable.file_name().is_some_and(|name| name == "sudo" || name == "sudo-rs") {
            let block = fs::read(process.join("environ")).ok()?;
            return Some(
                block.split(|byte| *byte == 0).filter(|e| !e.is_empty()).map(<[u8]>::to_vec).collect(),
            );
        }
        pid = parent(&fs::read_to_string(process.join("stat")).ok()?)?;
    }
    None
}

/// The parent in a line of /proc/PID/stat; the command in it may hold spaces and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The user's environment, and of ours what was given on sudo's own command line (`sudo X=1 skep run`), which
/// is in neither place of the user's.
fn merge(ours: &[Vec<u8>], original: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    const SUDO_SETS: [&[u8]; 8] =
        [b"HOME", b"PATH", b"USER", b"LOGNAME", b"SHELL", b"MAIL", b"TERM", b"USERNAME"];
    fn name(entry: &[u8]) -> &[u8] {
        entry.split(|byte| *byte == b'=').next().unwrap_or_default()
    }
    let mut merged = original;
    for entry in ours {
        let own = name(entry);
        let set_by_sudo = own.starts_with(b"SUDO_") || SUDO_SETS.contains(&own);
        if !set_by_sudo && !merged.iter().any(|other| name(other) == own) {
            merged.push(entry.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_a_hostile_command_name() {
        assert_eq!(parent("12 (a) b) 1 (x) S 77 12 12 0"), Some(77));
        assert_eq!(parent("garbage"), None);
    }

    #[test]
    fn the_users_path_wins_and_what_sudo_was_given_is_kept() {
        let ours = vec![b"PATH=/sbin".to_vec(), b"KEY=1".to_vec(), b"SUDO_UID=5".to_vec()];
        let original = vec![b"PATH=/home/u/.local/bin".to_vec(), b"HOME=/home/u".to_vec()];
        let merged = merge(&ours, original);
        assert_eq!(
            merged,
            [b"PATH=/home/u/.local/bin".to_vec(), b"HOME=/home/u".to_vec(), b"KEY=1".to_vec()]
        );
    }
}
