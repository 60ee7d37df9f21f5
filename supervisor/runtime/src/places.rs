//! Where skepd keeps things.

use std::path::{Path, PathBuf};

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
        let client_socket = runtime.join("skepd.sock");
        Self { state, runtime, configuration, client_socket }
    }

    /// The directory of the audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// The private state of an agent, one directory per user, profile and workspace. `digest` is a lower-case
    /// hex string that stands for the workspace.
    #[must_use]
    pub fn agent_state(&self, owner: u32, profile: &str, digest: &str) -> PathBuf {
        self.state.join("agents").join(owner.to_string()).join(format!("{profile}-{digest}"))
    }
}

/// A program of ours: installed beside the running executable.
///
/// # Errors
/// When the running executable's own path cannot be read.
pub fn sibling(name: &str) -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new("/")).join(name))
}
