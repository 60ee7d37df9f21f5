//! The agent's terminal or pipes, carried to and from ours.
//!
//! The agent never holds a descriptor of ours: in a terminal it gets a pty of its own sandbox, otherwise three
//! pipes. Each stream is carried by a thread that reads and writes with blocking calls, so that a slow reader
//! slows the agent down and nothing is buffered without bound.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use nix::fcntl::OFlag;
use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd::pipe2;

/// What carries the streams of one run.
#[derive(Debug, Default)]
pub struct Carriers {
    /// Threads that end when the agent's side closes.
    output: Vec<JoinHandle<()>>,
}

/// The ends of three pipes: ours, and the agent's in the order 0, 1, 2.
#[derive(Debug)]
pub struct Pipes {
    input: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
    /// The agent's ends.
    pub agent: [OwnedFd; 3],
}

impl Pipes {
    /// Makes them.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // Close-on-exec: a skepd that is started on the way must not hold them, or they would never end.
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let (agent_input, input) = pipe()?;
        let (output, agent_output) = pipe()?;
        let (error, agent_error) = pipe()?;
        Ok(Self { input, output, error, agent: [agent_input, agent_output, agent_error] })
    }

    /// Starts to carry; the agent's ends are closed here, so that its end is seen.
    #[must_use]
    pub fn carry(self) -> Carriers {
        drop(self.agent);
        carry(io::stdin(), File::from(self.input));
        let output =
            vec![carry(File::from(self.output), io::stdout()), carry(File::from(self.error), io::stderr())];
        Carriers { output }
    }
}

/// Carries between our terminal and the agent's pty.
///
/// # Errors
/// When the pty's descriptor cannot be duplicated.
pub fn carry_pty(master: OwnedFd) -> io::Result<Carriers> {
    carry(io::stdin(), File::from(master.try_clone()?));
    Ok(Carriers { output: vec![carry(File::from(master), io::stdout())] })
}

impl Carriers {
    /// Waits until everything the agent wrote has been written out. Called when nothing of the agent is left,
    /// so every stream has its end.
    pub fn finish(self) {
        for carrier in self.output {
            // A carrier that panicked has lost its stream, which the reader of the output sees.
            let _ended = carrier.join();
        }
    }
}

/// Copies until either side ends. A pty whose last user is gone answers EIO, which is an end too; a writer
/// that is gone closes the reader, so the agent gets SIGPIPE as it would without us.
fn carry(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0_u8; 64 * 1024];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_end) => return,
            };
            if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    })
}

/// Our terminal in raw mode; dropping it restores what was.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches standard input to raw mode: every key goes to the agent's pty, which gives it its meaning.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone (SIGHUP), and then there is nothing to restore.
        let _ignored = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Does the agent get a terminal? Only when both its input and its output would be ours.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}
