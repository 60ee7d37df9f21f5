//! Where skepd keeps things.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The words of transient daemons are thrown away by the next one when they are longer, in bytes.
const MOST_WORDS: u64 = 256 << 10;

/// The name of the client socket.
const SOCKET: &str = "skepd.sock";

/// The directories of one skepd. Two daemons with different places do not know of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// What survives a boot: audit, agent state. `/var/lib/skep`, or `$SKEP_STATE`.
    pub state: PathBuf,
    /// What does not: the socket. `/run/skep`, or `$SKEP_RUNTIME`.
    pub runtime: PathBuf,
    /// Installed profiles, read by root only when nobody else may write there. `/etc/skep`.
    pub configuration: PathBuf,
    /// The client socket, `<runtime>/skepd.sock` unless a client says otherwise.
    pub client_socket: PathBuf,
}

impl Places {
    /// The places named by the environment, or the usual ones. Only `main` calls this: a daemon started by
    /// root takes them from root's own environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let place = |name: &str, usual: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map_or_else(|| usual.into(), PathBuf::from)
        };
        Self::new(
            place("SKEP_STATE", "/var/lib/skep"),
            place("SKEP_RUNTIME", "/run/skep"),
            place("SKEP_CONFIGURATION", "/etc/skep"),
        )
    }

    /// These directories, with the socket in its usual place.
    #[must_use]
    pub fn new(state: PathBuf, runtime: PathBuf, configuration: PathBuf) -> Self {
        let client_socket = runtime.join(SOCKET);
        Self { state, runtime, configuration, client_socket }
    }

    /// Whether a client has named another socket than the usual one.
    #[must_use]
    pub fn has_named_socket(&self) -> bool {
        self.client_socket.parent() != Some(&self.runtime) || !self.client_socket.ends_with(SOCKET)
    }

    /// The directory of the audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// Makes the directories of state and sockets, and checks that they are root's alone.
    ///
    /// # Errors
    /// Which one cannot be made, or belongs to somebody else.
    pub fn make(&self) -> Result<(), PlaceError> {
        own_directory(&self.state, 0o711)?;
        own_directory(&self.runtime, 0o755)
    }

    /// Opens the file that is the standard error of transient daemons, for reading and for appending.
    ///
    /// # Errors
    /// The I/O error.
    pub fn words(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(self.state.join("skepd.log"))
    }

    /// Empties that file where it has grown long; for who has the lock of the state directory.
    pub fn shorten_words(&self) {
        let shortened = self.words().and_then(|words| match words.metadata()?.len() {
            ..=MOST_WORDS => Ok(()),
            _ => words.set_len(0),
        });
        if let Err(error) = shortened {
            tracing::warn!(%error, "ignoring: skepd.log cannot be shortened");
        }
    }

    /// The private state of an agent, one directory per user, profile and workspace. `digest` is a lower-case
    /// hex string that stands for the workspace.
    #[must_use]
    pub fn agent_state(&self, owner: u32, profile: &str, digest: &str) -> PathBuf {
        self.state.join("agents").join(owner.to_string()).join(format!("{profile}-{digest}"))
    }
}

/// A directory cannot be made or is not ours.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PlaceError {
    path: String,
    reason: String,
}

/// A directory of root's that nobody else may write to.
fn own_directory(path: &Path, mode: u32) -> Result<(), PlaceError> {
    let failed = |reason: String| PlaceError { path: path.display().to_string(), reason };
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    let metadata =
        made.and_then(|()| fs::symlink_metadata(path)).map_err(|error| failed(error.to_string()))?;
    let euid = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != euid || metadata.mode() & 0o022 != 0 {
        return Err(failed("must be a directory of root's that nobody else may write to".to_owned()));
    }
    Ok(())
}

/// A program of ours: installed beside the running executable.
///
/// # Errors
/// When the running executable's own path cannot be read.
pub fn sibling(name: &str) -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new("/")).join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn places(ground: &Path) -> Places {
        let places = Places::new(ground.join("state"), ground.join("run"), ground.join("etc"));
        places.make().unwrap();
        places
    }

    #[test]
    fn a_directory_somebody_else_may_write_to_is_refused_by_its_path() {
        let ground = tempfile::tempdir().unwrap();
        let places = places(ground.path());
        fs::set_permissions(&places.runtime, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = places.make().unwrap_err().to_string();
        assert!(refused.contains("/run: must be"), "{refused}");
    }

    #[test]
    fn words_are_roots_alone_and_emptied_only_when_they_are_many() {
        let ground = tempfile::tempdir().unwrap();
        let places = places(ground.path());
        for (length, left) in [(MOST_WORDS, MOST_WORDS), (MOST_WORDS + 1, 0)] {
            let words = places.words().unwrap();
            words.set_len(length).unwrap();
            places.shorten_words();
            let metadata = words.metadata().unwrap();
            assert_eq!((metadata.len(), metadata.mode() & 0o777), (left, 0o600));
        }
    }

    #[test]
    fn words_are_not_written_through_a_link() {
        let ground = tempfile::tempdir().unwrap();
        let places = places(ground.path());
        symlink("/etc/hostname", places.state.join("skepd.log")).unwrap();
        assert_eq!(places.words().unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}
