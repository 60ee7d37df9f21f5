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
    output: Vec<JoinHandle<Line>>,
}

/// Where on a line what was written ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// At its beginning.
    #[default]
    Begun,
    /// In it: whatever follows would stand behind it.
    Within,
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
        let output = carry(File::from(self.output), io::stdout());
        Carriers { output: vec![output, carry(File::from(self.error), io::stderr())] }
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
    /// so every stream has its end. Says where the last stream stands: the one our standard error goes on after.
    pub fn finish(self) -> Line {
        // A carrier that panicked has lost its stream, which the reader of the output sees.
        self.output.into_iter().fold(Line::Begun, |_, carrier| carrier.join().unwrap_or_default())
    }
}

/// Copies until either side ends. A pty whose last user is gone answers EIO, which is an end too; a writer
/// that is gone closes the reader, so the agent gets SIGPIPE as it would without us.
fn carry(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<Line> {
    thread::spawn(move || {
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut end = Cursor::default();
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return end.line,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_end) => return end.line,
            };
            if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                return end.line;
            }
            end.pass(&buffer[..length]);
        }
    })
}

/// Follows what is written as far as it takes to know where on a line it ends. Sequences that command the terminal
/// are no text: a program that ends with showing the cursor again has begun no line.
#[derive(Debug, Default)]
struct Cursor {
    line: Line,
    within: Sequence,
}

/// How much of the end of what was read is looked at, in bytes.
const LOOKED_AT: usize = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// After ESC.
    Escape,
    /// After `ESC [`, to a byte from `@` on.
    Control,
    /// After `ESC ]` and the like, to BEL or `ESC \`.
    Text,
}

impl Cursor {
    fn pass(&mut self, bytes: &[u8]) {
        // Only the end counts, and a sequence is short; where one is cut, an empty line too much does no harm.
        let end = &bytes[bytes.len().saturating_sub(LOOKED_AT)..];
        for byte in end {
            self.within = match (self.within, byte) {
                (_, 0x1b) => Sequence::Escape,
                (Sequence::Escape, b'[') => Sequence::Control,
                (Sequence::Escape, b']' | b'P' | b'_' | b'^') => Sequence::Text,
                // Two bytes follow where a character set is named.
                (Sequence::Escape, b'(' | b')') => Sequence::Escape,
                (Sequence::Control, b'@'..) | (Sequence::Text, 0x07) | (Sequence::Escape, _) => {
                    Sequence::None
                }
                (Sequence::None, b'\n') => {
                    self.line = Line::Begun;
                    Sequence::None
                }
                (Sequence::None, b' '..) => {
                    self.line = Line::Within;
                    Sequence::None
                }
                (other, _) => other,
            };
        }
    }
}

/// Our terminal in raw mode; dropping it restores what was.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches standard input to raw mode: every key goes to the agent's pty, which gives it its meaning.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter() -> io::Result<Self> {
        Self::of(io::stdin().as_fd().try_clone_to_owned()?)
    }

    fn of(terminal: OwnedFd) -> io::Result<Self> {
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // What nobody has read is thrown away: it was typed for the agent, or is the terminal's answer to the last
        // thing the agent asked, and the shell that reads here next would take it for something typed.
        // The terminal may be gone (SIGHUP), and then there is nothing to restore.
        let _ignored = termios::tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Does the agent get a terminal? Only when both its input and its output would be ours.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::pty::openpty;

    use super::*;

    #[test]
    fn what_a_terminal_answers_an_agent_that_has_ended_is_not_left_for_the_shell() {
        let pty = openpty(None, None).unwrap();
        let raw = RawMode::of(pty.slave.try_clone().unwrap()).unwrap();
        nix::unistd::write(&pty.master, b"\x1b[1;1R").unwrap();
        // A thread of the kernel's carries it to the other end.
        let mut arrived = [PollFd::new(pty.slave.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut arrived, PollTimeout::from(20_000_u16)), Ok(1));
        drop(raw);
        let _still_raw = RawMode::of(pty.slave.try_clone().unwrap()).unwrap();
        nix::unistd::write(&pty.master, b"ls").unwrap();
        let mut typed = [0; 16];
        let length = nix::unistd::read(&pty.slave, &mut typed).unwrap();
        assert_eq!(&typed[..length], b"ls");
    }

    #[test]
    fn the_end_of_what_was_written_is_found_on_its_line() {
        let end = |parts: &[&str]| {
            let mut cursor = Cursor::default();
            parts.iter().for_each(|part| cursor.pass(part.as_bytes()));
            cursor.line
        };
        let begun = [
            &[][..],
            &["text\r\n"],
            &["text\n", "\x1b[?25h\x1b[0m"],
            &["text\n\x1b]0;ti", "tle\x07\x1b(B\x1b>"],
            &["a\n\x1b]8;;x\x1b\\\r"],
        ];
        let within = [&["^C"][..], &["a\nb"], &["50 %\r"], &["a\n\x1b[32m", "ok\x1b[0m"], &["a\n\u{e9}"]];
        for parts in begun {
            assert_eq!(end(parts), Line::Begun, "{parts:?}");
        }
        for parts in within {
            assert_eq!(end(parts), Line::Within, "{parts:?}");
        }
    }
}
