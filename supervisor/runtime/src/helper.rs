//! Our helper programs as the event loop sees them.

use std::path::Path;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_kernel::channel::AsyncChannel;
use skep_kernel::spawn::{self, SpawnError};

/// A running keeper or gateway. Dropped without [`Helper::wait`] it is waited for in the background, so that
/// no zombie stays.
#[derive(Debug)]
pub struct Helper {
    /// Its control channel; closing it ends the process.
    pub channel: AsyncChannel,
    child: Option<Child>,
}

impl Helper {
    /// Starts `program` with a control channel as its standard input.
    ///
    /// # Errors
    /// When no descriptor is left or the program cannot be executed.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self, SpawnError> {
        let spawn::Helper { child, channel } = spawn::helper(program, arguments)?;
        Ok(Self { channel: AsyncChannel::new(channel)?, child: Some(child) })
    }

    /// Ends the process at once. It has not been waited for, so its pid is still its own.
    pub fn kill(&self) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid
            && let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL)
        {
            tracing::debug!(%errno, "a helper had ended already");
        }
    }

    /// Has the process ended already?
    pub fn has_ended(&mut self) -> bool {
        let runs = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        !runs
    }

    /// Closes the channel and waits for the end of the process.
    pub async fn wait(mut self) {
        let Some(child) = self.child.take() else { return };
        drop(self);
        reap(child).await;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            tokio::spawn(reap(child));
        }
    }
}

async fn reap(mut child: Child) {
    let reaped = tokio::task::spawn_blocking(move || child.wait()).await;
    if let Ok(Err(error)) = reaped {
        tracing::error!(%error, "a helper could not be waited for");
    }
}
