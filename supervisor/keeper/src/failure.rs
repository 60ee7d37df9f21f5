//! The one error of a launch: at which stage, on what, and what the kernel said.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use skep_kernel::SyscallError;
use skep_kernel::seqpacket::ChannelError;
use skep_policy::launch::{KeeperEvent, Stage};

/// Why a launch ended before the agent's program ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{stage:?}: {object}: {}", Errno::from_raw(*errno))]
pub struct Failure {
    /// Which step.
    pub stage: Stage,
    /// The call and its object.
    pub object: String,
    /// The kernel's answer.
    pub errno: i32,
}

impl Failure {
    /// A failure that is no failed call, with the errno that says it best.
    pub fn new(stage: Stage, object: impl Into<String>, errno: Errno) -> Self {
        Self { stage, object: object.into(), errno: errno as i32 }
    }
}

impl From<Failure> for KeeperEvent {
    fn from(failure: Failure) -> Self {
        KeeperEvent::Failed { stage: failure.stage, object: failure.object, errno: failure.errno }
    }
}

/// Names the stage a call failed in.
pub trait At<T> {
    /// # Errors
    /// The same, with its stage.
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, SyscallError> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage,
            object: format!("{}({})", error.call, error.object),
            errno: error.errno,
        })
    }
}

impl<T> At<T> for Result<T, ChannelError> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| match error {
            ChannelError::Syscall(error) => Failure::new(stage, error.call, Errno::from_raw(error.errno)),
            other => Failure::new(stage, other.to_string(), Errno::EBADMSG),
        })
    }
}
