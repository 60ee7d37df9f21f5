//! A client's connection. The thread that serves it waits in its calls: a message costs one wake-up that way, and
//! three through the event loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::impatience::Impatient;
use skep_kernel::memfd;
use skep_kernel::seqpacket::{Channel, ChannelError};

use crate::protocol::{Reply, Request};

/// How long a client may take to say which version it speaks and what it wants.
const HELLO: Duration = Duration::from_secs(5);

/// The descriptors of a request.
pub type Sent = Impatient<Vec<OwnedFd>>;

/// How long a client may leave unread what a sandbox waits to have told.
const READING: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub struct Client(Impatient<Channel>);

impl Client {
    /// A client that has yet to say what it wants.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn new(channel: Channel) -> Result<Self, SyscallError> {
        channel.wait_for_messages(Some(HELLO))?;
        Ok(Self(Impatient::new(channel)))
    }

    /// From now on the client may be silent for as long as it likes, but must read what it is told.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn stays(&self) -> Result<(), SyscallError> {
        self.0.wait_for_messages(None)?;
        self.0.wait_for_room(Some(READING))
    }

    /// Waits for the next message; `None` is the end of the client. One with descriptors is refused, and they never
    /// become ours.
    ///
    /// # Errors
    /// When it is malformed, and [`ChannelError::WouldBlock`] when none came in time.
    pub fn receive(&self) -> Result<Option<Request>, ChannelError> {
        self.0.receive_bare()
    }

    /// Waits for the client's request, the only message that may have descriptors, if it is a run.
    ///
    /// # Errors
    /// As for [`Client::receive`].
    pub fn receive_request(&self) -> Result<Option<(Request, Sent)>, ChannelError> {
        let received = match self.0.is_next(&Request::Run)? {
            true => self.0.receive()?,
            false => self.0.receive_bare()?.map(|request| (request, Vec::new())),
        };
        Ok(received.map(|(request, descriptors)| (request, Impatient::new(descriptors))))
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
        let body = memfd::encode("skep-reply", reply)?;
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

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};

    use super::*;
    use crate::protocol::VERSION;

    /// A client that has sent these, each with the end of a pipe of its own.
    fn having_sent(requests: &[Request]) -> (Client, Channel, Vec<PipeReader>) {
        let (theirs, ours) = Channel::pair().unwrap();
        let pipes = requests.iter().map(|request| {
            let (read, write) = std::io::pipe().unwrap();
            theirs.send(request, &[write.as_fd()]).unwrap();
            read
        });
        let pipes = pipes.collect();
        (Client::new(ours).unwrap(), theirs, pipes)
    }

    #[test]
    fn only_a_run_brings_descriptors() {
        let (client, _theirs, _pipes) = having_sent(&[Request::Run, Request::Signal(15)]);
        let (request, sent) = client.receive_request().unwrap().unwrap();
        assert_eq!((request, sent.len()), (Request::Run, 1));
        assert!(matches!(client.receive(), Err(ChannelError::Descriptors)));
        for request in [Request::Hello { version: VERSION }, Request::Run, Request::Signal(15)] {
            let (client, _theirs, _pipes) = having_sent(&[request]);
            assert!(matches!(client.receive(), Err(ChannelError::Descriptors)));
        }
        for request in [Request::List, Request::Status { sandbox: String::new() }, Request::Signal(15)] {
            let (client, _theirs, _pipes) = having_sent(&[request]);
            assert!(matches!(client.receive_request(), Err(ChannelError::Descriptors)));
        }
    }

    #[test]
    fn what_a_client_has_sent_goes_with_it() {
        let (client, theirs, pipes) = having_sent(&[Request::Run, Request::Signal(15)]);
        drop(client.receive_request().unwrap());
        drop(client);
        assert!(pipes.into_iter().all(|mut pipe| matches!(pipe.read(&mut [0]), Ok(0))));
        assert!(theirs.send(&Request::List, &[]).is_err());
    }

    #[test]
    fn requests_without_descriptors_are_heard_one_by_one() {
        let (theirs, ours) = Channel::pair().unwrap();
        let client = Client::new(ours).unwrap();
        theirs.send(&Request::Hello { version: VERSION }, &[]).unwrap();
        theirs.send(&Request::List, &[]).unwrap();
        assert_eq!(client.receive().unwrap(), Some(Request::Hello { version: VERSION }));
        assert_eq!(client.receive_request().unwrap().unwrap().0, Request::List);
        drop(theirs);
        assert!(client.receive_request().unwrap().is_none());
    }
}
