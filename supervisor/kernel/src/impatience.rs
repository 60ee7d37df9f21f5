//! Closing what others have sent, without waiting for it.
//!
//! Who sends a descriptor chooses how long its last close takes: a TCP socket with SO_LINGER waits until its peer
//! has read everything, a terminal until its output is drained. Such waits end when the thread that closes has a
//! signal to look at, and what it closes after that, in the same call, waits no more. So a timer sends it one every
//! few milliseconds meanwhile. (Linux 6.18: also what lies unreceived in the queue of a unix socket, which is closed
//! at the end of the call that closes that socket.)
//!
//! Some waits no signal ends: those for a FUSE server that does not answer are over when it is.

// UNSAFETY: nix installs signal handlers with an unsafe call.
#![expect(unsafe_code, reason = "a signal handler is installed")]

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

/// How long a wait lasts at most. The first signal may come before the wait begins, so there must be more than one.
const PATIENCE: Duration = Duration::from_millis(2);

/// Nobody else here sends or expects this one, and who gets it without expecting it ignores it.
const SIGNAL: Signal = Signal::SIGURG;

/// Owns something with descriptors in it that somebody else has sent. Its drop does not wait for any of them.
#[derive(Debug)]
pub struct Impatient<T>(Option<T>);

const OWNED: &str = "it is owned until it is dropped";

impl<T> Impatient<T> {
    /// Will drop `owned` without waiting.
    pub const fn new(owned: T) -> Self {
        Self(Some(owned))
    }
}

impl<T> Drop for Impatient<T> {
    fn drop(&mut self) {
        // Without a timer it takes as long as the sender of a descriptor likes, which costs no more than time.
        let interruptions = Interruptions::begin();
        self.0 = None;
        drop(interruptions);
    }
}

impl<T> Deref for Impatient<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(OWNED)
    }
}

impl<T> DerefMut for Impatient<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(OWNED)
    }
}

/// While it lives, calls of this thread that wait are interrupted. It must end on the thread it began on.
#[derive(Debug)]
struct Interruptions(#[expect(dead_code, reason = "kept for its drop")] Timer);

impl Interruptions {
    fn begin() -> Result<Self, Errno> {
        expect_signals()?;
        let thread_id = gettid().as_raw();
        let notify = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id, si_value: 0 };
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
        timer.set(Expiration::Interval(PATIENCE.into()), TimerSetTimeFlags::empty())?;
        Ok(Self(timer))
    }
}

/// Has the signal interrupt calls, and do nothing else. Once for the process; what it starts begins without.
fn expect_signals() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    extern "C" fn ignore(_signal: libc::c_int) {}
    *INSTALLED.get_or_init(|| {
        // Without SA_RESTART.
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: a handler that does nothing may run at any time in any thread.
        unsafe { sigaction(SIGNAL, &action) }.map(drop)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::seqpacket::Channel;

    /// Longer than any test takes.
    const LINGER_SECONDS: i32 = 3600;

    /// A socket that waits when it is closed, and its peer, which reads nothing.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        let linger = libc::linger { l_onoff: 1, l_linger: LINGER_SECONDS };
        setsockopt(&socket, sockopt::Linger, &linger).unwrap();
        socket.set_nonblocking(true).unwrap();
        let full = loop {
            if let Err(error) = socket.write(&[0; 1 << 16]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        (socket, peer)
    }

    /// Is it dropped within `patience`? The peers end the wait of one that is not.
    fn is_dropped<T: Send + 'static>(owner: T, peers: Vec<TcpStream>, patience: Duration) -> bool {
        let (tell, told) = channel();
        let dropping = std::thread::spawn(move || {
            drop(owner);
            tell.send(()).unwrap();
        });
        let is_dropped = told.recv_timeout(patience) != Err(RecvTimeoutError::Timeout);
        drop(peers);
        dropping.join().unwrap();
        is_dropped
    }

    /// A channel with a lingering socket in each of its messages.
    fn laden() -> (Channel, Vec<TcpStream>) {
        let (a, b) = Channel::pair().unwrap();
        let peers = (0..10).map(|_| {
            let (socket, peer) = lingering();
            a.send(&1_u8, &[socket.as_fd()]).unwrap();
            // Ours is not the last copy, so this does not wait.
            drop(socket);
            peer
        });
        (b, peers.collect())
    }

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_socket_that_lingers_is_closed_at_once() {
        let (socket, peer) = lingering();
        assert!(!is_dropped(socket, vec![peer], SHORT), "it does not linger");
        let (socket, peer) = lingering();
        assert!(is_dropped(Impatient::new(socket), vec![peer], LONG));
    }

    #[test]
    fn sockets_that_linger_in_messages_nobody_received_are_closed_at_once() {
        let (socket, peers) = laden();
        assert!(!is_dropped(socket, peers, SHORT), "they do not linger");
        let (socket, peers) = laden();
        assert!(is_dropped(Impatient::new(socket), peers, LONG));
    }

    #[test]
    fn nothing_is_interrupted_afterwards() {
        drop(Impatient::new(()));
        std::thread::sleep(2 * PATIENCE);
        let (a, _b) = Channel::pair().unwrap();
        // `poll` says so when it is interrupted, and is never restarted.
        assert!(!a.is_readable_within(20 * PATIENCE).unwrap());
        let begun = std::time::Instant::now();
        assert!(!a.is_readable_within(20 * PATIENCE).unwrap());
        assert!(begun.elapsed() >= 20 * PATIENCE);
    }
}
