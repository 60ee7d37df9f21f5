//! Moving bytes both ways between two connected sockets.
//!
//! Nothing is held for an idle connection: a pipe is taken from the pool when bytes arrive and returned when
//! they have left. Back-pressure is the pipe: while it cannot be emptied nothing more is read.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::splice::{Pipe, finish};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long a connection may be silent in both directions.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Bytes after which a busy direction lets others run.
const TURN: usize = 4 << 20;

/// Most idle pipes that are kept.
const POOLED: usize = 64;

/// Pipes that wait for the next bytes.
#[derive(Debug, Default)]
pub struct Pipes(RefCell<Vec<Pipe>>);

/// Why a relay ended other than by both sides closing.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A socket's error, mostly a reset.
    #[error("{0}")]
    Syscall(#[from] SyscallError),
    /// The event loop's error.
    #[error("readiness: {0}")]
    Readiness(#[from] io::Error),
    /// Nothing moved for [`IDLE`].
    #[error("idle for too long")]
    Idle,
}

impl Pipes {
    fn take(&self) -> Result<Pipe, SyscallError> {
        let pooled = self.0.borrow_mut().pop();
        pooled.map_or_else(Pipe::new, Ok)
    }

    fn give(&self, pipe: Pipe) {
        let mut pooled = self.0.borrow_mut();
        if pipe.held() == 0 && pooled.len() < POOLED {
            pooled.push(pipe);
        }
    }
}

/// Relays until both directions have ended. An end of one direction is passed on and the other goes on. The
/// answers end as well once the client is `gone`: nobody reads them, and a dead client's kernel would meet them
/// with a reset, and with it drop what it has yet to send.
///
/// # Errors
/// When either socket fails or both are silent for too long; the caller resets both then.
pub async fn relay(
    client: &TcpStream,
    server: &TcpStream,
    pipes: &Pipes,
    sent: &Cell<u64>,
    received: &Cell<u64>,
    gone: impl Future<Output = ()>,
) -> Result<(), RelayError> {
    let down = async {
        tokio::select! {
            biased;
            () = gone => Ok(()),
            ended = pump(server, client, pipes, received) => ended,
        }
    };
    // A client that resets has its last bytes passed on before the answer meets the reset.
    let both = async { tokio::try_join!(biased; pump(client, server, pipes, sent), down).map(drop) };
    tokio::select! {
        biased;
        ended = both => ended,
        () = silence(sent, received) => Err(RelayError::Idle),
    }
}

async fn pump(from: &TcpStream, to: &TcpStream, pipes: &Pipes, moved: &Cell<u64>) -> Result<(), RelayError> {
    let mut turn = 0;
    loop {
        from.readable().await?;
        let mut pipe = pipes.take()?;
        while let Some(count) = ready(from.try_io(Interest::READABLE, || Ok(pipe.fill(from)?)))? {
            if count == 0 {
                pipes.give(pipe);
                return match finish(to) {
                    // It has reset the connection and is past being told of an end; all bytes have arrived.
                    Err(error) if error.errno == libc::ENOTCONN => Ok(()),
                    ended => Ok(ended?),
                };
            }
            drain(&mut pipe, to).await?;
            moved.set(moved.get() + count as u64);
            turn += count;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        pipes.give(pipe);
    }
}

async fn drain(pipe: &mut Pipe, to: &TcpStream) -> Result<(), RelayError> {
    while pipe.held() > 0 {
        if ready(to.try_io(Interest::WRITABLE, || Ok(pipe.drain(to)?)))?.is_none() {
            to.writable().await?;
        }
    }
    Ok(())
}

/// `None` for "not now".
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns when neither count has changed for [`IDLE`].
async fn silence(sent: &Cell<u64>, received: &Cell<u64>) {
    loop {
        let before = (sent.get(), received.get());
        sleep(IDLE).await;
        if before == (sent.get(), received.get()) {
            return;
        }
    }
}
