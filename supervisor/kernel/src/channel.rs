//! A [`Channel`] under tokio.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

use crate::error::SyscallError;
use crate::seqpacket::{Channel, ChannelError};

/// A control socket whose calls wait in the event loop. Shared by reference: one task receives, any send.
#[derive(Debug)]
pub struct AsyncChannel(AsyncFd<Channel>);

impl AsyncChannel {
    /// Makes `channel` nonblocking and registers it.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn new(channel: Channel) -> Result<Self, ChannelError> {
        channel.make_nonblocking()?;
        let registered = register(channel)
            .map_err(|error| SyscallError::from_io("epoll_ctl", "control socket", &error))?;
        Ok(Self(registered))
    }

    /// Sends one message, waiting for room.
    ///
    /// # Errors
    /// See [`Channel::send`].
    pub async fn send<T: Serialize>(
        &self,
        value: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        loop {
            // Trying first saves a system call: there nearly always is room.
            match self.0.get_ref().send(value, descriptors) {
                Err(ChannelError::WouldBlock) => {}
                done => return done,
            }
            let mut ready =
                self.0.writable().await.map_err(|e| SyscallError::from_io("epoll_wait", "", &e))?;
            match self.0.get_ref().send(value, descriptors) {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// Receives the next message; `None` is the end of the peer. Safe to drop while it waits: a message is
    /// taken whole or not at all.
    ///
    /// # Errors
    /// See [`Channel::receive`].
    pub async fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        loop {
            let mut ready =
                self.0.readable().await.map_err(|e| SyscallError::from_io("epoll_wait", "", &e))?;
            match self.0.get_ref().receive() {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                done => return done,
            }
        }
    }
}

/// Registers an object with the event loop.
///
/// # Errors
/// When the kernel has no room for it.
#[expect(
    deprecated,
    reason = "its replacement is unsafe for types whose descriptor may change; ours owns one"
)]
pub fn register<T: AsRawFd>(object: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(object)
}
