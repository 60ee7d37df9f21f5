//! A client's connection. The thread that serves it waits in its calls: a message costs one wake-up that way, and
//! three through the event loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::memfd;
use skep_kernel::seqpacket::{Channel, ChannelError};

use crate::protocol::{Reply, Request};

/// How long a client may take to say which version it speaks and what it wants.
const HELLO: Duration = Duration::from_secs(5);

/// How long a client may leave unread what a sandbox waits to have told.
const READING: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub struct Client(Channel);

impl Client {
    /// A client that has yet to say what it wants.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn new(channel: Channel) -> Result<Self, SyscallError> {
        channel.wait_for_messages(Some(HELLO))?;
        Ok(Self(channel))
    }

    /// From now on the client may be silent for as long as it likes, but must read what it is told.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn stays(&self) -> Result<(), SyscallError> {
        self.0.wait_for_messages(None)?;
        self.0.wait_for_room(Some(READING))
    }

    /// Waits for the next request; `None` is the end of the client.
    ///
    /// # Errors
    /// When it is malformed, and [`ChannelError::WouldBlock`] when none came in time.
    pub fn receive(&self) -> Result<Option<(Request, Vec<OwnedFd>)>, ChannelError> {
        self.0.receive()
    }

    /// Waits for the next request of a client that is not served, whatever it is.
    ///
    /// # Errors
    /// When none came in time.
    pub fn receive_anything(&self) -> Result<(), ChannelError> {
        match self.receive() {
            Ok(_) | Err(ChannelError::Encoding(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends a reply, waiting for room.
    ///
    /// # Errors
    /// When the client is gone, or does not read in time.
    pub fn send(&self, reply: &Reply) -> Result<(), ChannelError> {
        self.send_with(reply, &[])
    }

    /// Sends a reply from the event loop.
    ///
    /// # Errors
    /// When the client is gone, or does not read in time.
    pub async fn tell(self: &Arc<Self>, reply: Reply, descriptors: Vec<OwnedFd>) -> Result<(), ChannelError> {
        match self.0.try_send(&reply, &borrowed(&descriptors)) {
            Err(ChannelError::WouldBlock | ChannelError::Size(_)) => {}
            done => return done,
        }
        let client = Arc::clone(self);
        let sent =
            tokio::task::spawn_blocking(move || client.send_with(&reply, &borrowed(&descriptors))).await;
        sent.unwrap_or(Err(ChannelError::WouldBlock))
    }

    /// Sends a reply, in a memory file where it is larger than a message: a profile may have a thousand rules.
    fn send_with(&self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        match self.0.send(reply, descriptors) {
            Err(ChannelError::Size(_)) => {}
            sent => return sent,
        }
        let body = memfd::sealed("skep-reply", &postcard::to_stdvec(reply)?)?;
        self.0.send(&Reply::Large, &[&[body.as_fd()], descriptors].concat())
    }

    /// Has the client closed its end? What it has said until then is still to be received.
    pub fn has_left(&self) -> bool {
        self.0.peer_has_left()
    }

    /// Ends the wait of whoever receives; nothing more is heard.
    pub fn end_receiving(&self) {
        self.0.end_receiving();
    }

    /// Waits for so long, or until the client says something, its end included.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn has_news_within(&self, wait: Duration) -> Result<bool, SyscallError> {
        self.0.is_readable_within(wait)
    }
}

fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}
