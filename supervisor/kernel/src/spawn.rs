//! Starting our own helper programs from a threaded process that holds what strangers sent.
//!
//! A new process begins with a copy of the descriptor table of the thread that makes it, and closes what it may not
//! keep when it executes its program. **That may take for ever**: each table that lets go of a file of a FUSE file
//! system asks its server first (`fuse_flush`, called by `filp_close`), and such a file may be among what a client
//! sent. So helpers are made by a thread with a table of its own, in which there never is anything of a client's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::SyscallError;
use crate::process;
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
    /// The thread that starts helpers is gone.
    #[error("the thread that starts helpers has ended")]
    Ended,
}

/// The thread that starts helpers. It ends when this is dropped.
#[derive(Debug)]
pub struct Spawner(Mutex<Thread>);

/// What the thread is told and tells. A command has no descriptors in it: those of our table mean nothing in that of
/// the thread, so they go over a socket.
#[derive(Debug)]
struct Thread {
    descriptors: Channel,
    commands: Sender<Command>,
    children: Receiver<Result<Child, SpawnError>>,
}

impl Spawner {
    /// Starts the thread. To be done before anything is received from strangers.
    ///
    /// # Errors
    /// When no thread or descriptor is left.
    pub fn start() -> Result<Self, SpawnError> {
        let (ours, theirs) = Channel::pair()?;
        let (commands, to_start) = channel();
        let (started, children) = channel();
        let (ready, is_ready) = channel();
        let number = theirs.as_raw_fd();
        let work = move || {
            let own = || Ok(Channel::from_socket(process::own_descriptors(number)?)?);
            let (own, outcome) = match own() {
                Ok(own) => (Some(own), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if let (Ok(()), Some(own)) = (ready.send(outcome), own) {
                start_helpers(&own, &to_start, &started);
            }
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(work);
        thread.map_err(|error| SyscallError::from_io("clone", "spawner", &error))?;
        is_ready.recv().unwrap_or(Err(SpawnError::Ended))?;
        // The thread has its own copy by now.
        drop(theirs);
        Ok(Self(Mutex::new(Thread { descriptors: ours, commands, children })))
    }

    /// Starts `program` with a control channel as its standard input, nothing in its environment and none of our
    /// descriptors but `stderr`, or our own standard error where there is none.
    ///
    /// # Errors
    /// When no descriptor is left or the program cannot be executed.
    pub fn helper(
        &self,
        program: &Path,
        arguments: &[&str],
        stderr: Option<BorrowedFd<'_>>,
    ) -> Result<Helper, SpawnError> {
        let (ours, theirs) = Channel::pair()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().stdout(Stdio::null());
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend(stderr);
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A command without its descriptors would get those of the next one, so they come first.
        thread.descriptors.send(&STREAMS, &descriptors)?;
        thread.commands.send(command).map_err(|_ended| SpawnError::Ended)?;
        let child = thread.children.recv().unwrap_or(Err(SpawnError::Ended))?;
        Ok(Helper { child, channel: ours })
    }
}

/// The message that carries descriptors; a message is never empty.
const STREAMS: u8 = 0;

/// Starts what is asked for until nobody can ask any more. Nothing is logged here: the log is in the other table.
fn start_helpers(
    descriptors: &Channel,
    commands: &Receiver<Command>,
    started: &Sender<Result<Child, SpawnError>>,
) {
    // An error ends it: nobody could say whose descriptors come next.
    while let Ok(Some((_streams, streams))) = descriptors.receive::<u8>() {
        let Ok(command) = commands.recv() else { return };
        if started.send(start(command, streams)).is_err() {
            return;
        }
    }
}

/// No `pre_exec`, id or directory is set, so that the standard library uses `posix_spawn`: a fork of a daemon
/// with 64 MB costs 2.7 ms, and nothing may run between fork and exec in a threaded process.
fn start(mut command: Command, streams: Vec<OwnedFd>) -> Result<Child, SpawnError> {
    let mut streams = streams.into_iter();
    command.stdin(streams.next().map_or_else(Stdio::null, Stdio::from));
    command.stderr(streams.next().map_or_else(Stdio::inherit, Stdio::from));
    let program = command.get_program().display().to_string();
    let failed = |error: io::Error| SyscallError::from_io("posix_spawn", program, &error);
    Ok(command.spawn().map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_helper_has_its_channel_and_its_standard_error_and_nothing_else() {
        let spawner = Spawner::start().unwrap();
        let mut held = tempfile::tempfile().unwrap();
        let (mut said, stderr) = std::io::pipe().unwrap();
        // A shell keeps what it needs for a moment above 9.
        let script =
            ["-c", "for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo $n; done >&2; true"];
        let Helper { mut child, channel } =
            spawner.helper(Path::new("/bin/sh"), &script, Some(stderr.as_fd())).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(channel.receive::<u8>().unwrap().is_none());
        drop(stderr);
        let mut listed = String::new();
        // Its end is there: neither we nor the thread still hold the other one.
        said.read_to_string(&mut listed).unwrap();
        assert_eq!(listed, "0\n1\n2\n");
        assert_eq!(held.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_thread_never_holds_what_we_opened() {
        let (before, spawner) = (tempfile::NamedTempFile::new().unwrap(), Spawner::start().unwrap());
        let after = tempfile::NamedTempFile::new().unwrap();
        spawner.helper(Path::new("/bin/true"), &[], None).unwrap().child.wait().unwrap();
        // Another test's thread may not have a table of its own yet, and another's may have just ended.
        let begun = Instant::now();
        while spawners_hold(&[before.path(), after.path()]) {
            assert!(begun.elapsed() < Duration::from_secs(20), "a spawner holds what is not its own");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has a thread that starts helpers one of these open?
    fn spawners_hold(files: &[&Path]) -> bool {
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let spawners: Vec<_> = tasks
            .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "spawner"))
            .collect();
        assert!(!spawners.is_empty());
        let held =
            spawners.iter().flat_map(|task| fs::read_dir(task.join("fd")).into_iter().flatten().flatten());
        held.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| files.contains(&target.as_path()))
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_the_next_one_starts() {
        let spawner = Spawner::start().unwrap();
        let error = spawner.helper(Path::new("/no/such/program"), &[], None).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert!(spawner.helper(Path::new("/bin/true"), &[], None).unwrap().child.wait().unwrap().success());
    }
}
