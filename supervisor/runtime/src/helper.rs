//! Our helper programs as the event loop sees them.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_kernel::SyscallError;
use skep_kernel::channel::AsyncChannel;
use skep_kernel::spawn::{self, SpawnError, Spawner};

/// How long a helper may take to end by itself once its channel is closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much of what a helper said is repeated, in bytes.
const MOST_SAID: u64 = 2_000;

/// What a helper said that said nothing.
const NOTHING: &str = "nothing";

/// A program of ours, and the thread that starts it.
#[derive(Clone, Debug)]
pub struct Program {
    spawner: Arc<Spawner>,
    path: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    /// The program at `path`, to be started with these arguments.
    #[must_use]
    pub fn new(spawner: &Arc<Spawner>, path: PathBuf, arguments: &[String]) -> Self {
        Self { spawner: Arc::clone(spawner), path, arguments: arguments.to_vec() }
    }

    /// Starts it with a control channel as its standard input. Its standard error is a pipe, which
    /// [`Helper::last_words`] reads: what a sandbox's PID 1 inherits must not be a file of ours.
    ///
    /// # Errors
    /// When no descriptor is left or the program cannot be executed.
    pub fn start(&self) -> Result<Helper, SpawnError> {
        let (said, stderr) = io::pipe().map_err(|error| SyscallError::from_io("pipe2", "", &error))?;
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let spawn::Helper { child, channel } =
            self.spawner.helper(&self.path, &arguments, Some(stderr.as_fd()))?;
        Ok(Helper { channel: AsyncChannel::new(channel)?, process: Some(Process { child, said }) })
    }
}

/// A running keeper or gateway. Dropped, it is told to end by the end of its channel, ended if it does not, and waited
/// for in the background so that no zombie stays.
#[derive(Debug)]
pub struct Helper {
    /// Its control channel; closing it ends the process.
    pub channel: AsyncChannel,
    process: Option<Process>,
}

/// A process that is to be waited for, and where it says what goes wrong.
#[derive(Debug)]
struct Process {
    child: Child,
    said: PipeReader,
}

impl Helper {
    /// Ends the process at once. It has not been waited for, so its pid is still its own.
    pub fn kill(&self) {
        let pid = self.process.as_ref().and_then(|process| i32::try_from(process.child.id()).ok());
        if let Some(pid) = pid
            && let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL)
        {
            tracing::debug!(%errno, "a helper had ended already");
        }
    }

    /// Has the process ended already?
    pub fn has_ended(&mut self) -> bool {
        let runs = self.process.as_mut().is_some_and(|process| matches!(process.child.try_wait(), Ok(None)));
        !runs
    }

    /// Closes the channel, has the process end, and tells what it wrote to its standard error: why it is of no use.
    pub async fn last_words(mut self) -> String {
        let Some(process) = self.process.take() else { return NOTHING.to_owned() };
        drop(self);
        let said = tokio::task::spawn_blocking(move || end(process)).await;
        said.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::error!(%error, "a helper could not be waited for");
            NOTHING.to_owned()
        })
    }
}

fn end(mut process: Process) -> io::Result<String> {
    wait(&mut process.child)?;
    // Nobody else has the pipe, so this is all there is.
    let mut said = Vec::new();
    process.said.take(MOST_SAID).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    Ok(if said.trim().is_empty() { NOTHING } else { said.trim() }.to_owned())
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            tokio::spawn(reap(process.child));
        }
    }
}

async fn reap(mut child: Child) {
    let reaped = tokio::task::spawn_blocking(move || wait(&mut child)).await;
    if let Ok(Err(error)) = reaped {
        tracing::error!(%error, "a helper could not be waited for");
    }
}

/// Waits for one whose channel is closed, and ends it if that takes too long.
fn wait(child: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn words_of(script: &str) -> String {
        let spawner = Arc::new(Spawner::start().unwrap());
        let shell = Program::new(&spawner, "/bin/sh".into(), &["-c", script].map(str::to_owned));
        shell.start().unwrap().last_words().await
    }

    #[tokio::test]
    async fn last_words_are_heard_also_when_they_come_after_the_channel_is_closed() {
        assert_eq!(words_of("echo it fell over >&2").await, "it fell over");
        assert_eq!(words_of("exec <&-; sleep 0.1; echo later >&2").await, "later");
        assert_eq!(words_of("").await, "nothing");
    }

    #[tokio::test]
    async fn a_helper_that_does_not_end_or_says_too_much_is_ended() {
        let begun = Instant::now();
        assert_eq!(words_of("echo stuck >&2; exec sleep 60").await, "stuck");
        let much = words_of("exec yes >&2").await;
        assert_eq!(much.len() as u64, MOST_SAID - 1, "{much}");
        assert!(begun.elapsed() < 10 * PATIENCE);
    }
}
