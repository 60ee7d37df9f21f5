//! Starting our own helper programs from a threaded process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::SyscallError;
use crate::seqpacket::{Channel, ChannelError};

/// A helper and our end of its control channel.
#[derive(Debug)]
pub struct Helper {
    /// The process; to be waited for after its channel has ended.
    pub child: Child,
    /// Our end; the helper has the other as descriptor 0.
    pub channel: Channel,
}

/// Why a helper did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No channel could be made.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The program could not be started.
    #[error(transparent)]
    Spawn(#[from] SyscallError),
}

/// Starts `program` with a control channel as its standard input, nothing in its environment and none of our
/// descriptors, but standard error where `stderr` says so.
///
/// No `pre_exec`, id or directory is set, so that the standard library uses `posix_spawn`: a fork of a daemon
/// with 64 MB costs 2.7 ms, and nothing may run between fork and exec in a threaded process.
///
/// # Errors
/// When no descriptor is left or the program cannot be executed.
pub fn helper(program: &Path, arguments: &[&str], stderr: Stdio) -> Result<Helper, SpawnError> {
    let (ours, theirs) = Channel::pair()?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error: io::Error| {
            SyscallError::from_io("posix_spawn", program.display().to_string(), &error)
        })?;
    Ok(Helper { child, channel: ours })
}
