//! skepd's client socket: a SEQPACKET listener in the file system whose peers the kernel vouches for.

// UNSAFETY: nix's accept4 returns a bare number.
#![expect(unsafe_code, reason = "taking ownership of a descriptor nix returns as a number")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket,
    sockopt,
};

use crate::error::SyscallError;
use crate::seqpacket::{Channel, ChannelError};

/// A listening socket that removes its name when it goes.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

/// Who is at the other end, as of its `connect` (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id; may be somebody else by now.
    pub pid: i32,
}

impl Listener {
    /// Listens at `path`, open to root, to `group` if there is one, and to nobody else.
    ///
    /// A socket that nobody listens to any more is replaced; one with a living owner is EADDRINUSE. Callers
    /// hold the lock of the state directory, so that two daemons do not do this at once.
    ///
    /// # Errors
    /// When the socket cannot be made, named or given to its group.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, SyscallError> {
        let object = || path.display().to_string();
        let address = UnixAddr::new(path).map_err(|e| SyscallError::from_nix("bind", object(), e))?;
        if path.exists() {
            match dial(path) {
                Ok(_) => return Err(SyscallError::new("bind", object(), libc::EADDRINUSE)),
                Err(_stale) => {
                    fs::remove_file(path).map_err(|e| SyscallError::from_io("unlink", object(), &e))?;
                }
            }
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
            .map_err(|e| SyscallError::from_nix("socket", object(), e))?;
        bind(socket.as_raw_fd(), &address).map_err(|e| SyscallError::from_nix("bind", object(), e))?;
        let listener = Self { socket, path: path.to_owned() };
        // Between bind and here the socket has the modes of the umask, but nobody can connect before `listen`.
        if group.is_some() {
            chown(path, None, group).map_err(|e| SyscallError::from_io("chown", object(), &e))?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|e| SyscallError::from_io("chmod", object(), &e))?;
        let backlog = Backlog::new(256).map_err(|e| SyscallError::from_nix("listen", object(), e))?;
        listen(&listener.socket, backlog).map_err(|e| SyscallError::from_nix("listen", object(), e))?;
        Ok(listener)
    }

    /// Takes the next connection; its calls wait.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`] when there is none; a client that is already gone is ECONNABORTED.
    pub fn accept(&self) -> Result<(Channel, Peer), ChannelError> {
        let number = match accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(number) => number,
            Err(nix::errno::Errno::EAGAIN) => return Err(ChannelError::WouldBlock),
            Err(errno) => return Err(SyscallError::from_nix("accept4", "client socket", errno).into()),
        };
        let socket = own(number);
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)
            .map_err(|errno| SyscallError::from_nix("getsockopt", "SO_PEERCRED", errno))?;
        let peer = Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
        Ok((Channel::from_socket(socket)?, peer))
    }
}

/// Owns a descriptor a call has just returned.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel returned this descriptor to us and nobody else knows its number yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The name is only a name: one that cannot be removed is replaced by the next daemon.
        let _ignored: io::Result<()> = fs::remove_file(&self.path);
    }
}

/// Connects to a daemon.
///
/// # Errors
/// ENOENT or ECONNREFUSED when none listens, EACCES when the caller may not.
pub fn dial(path: &Path) -> Result<Channel, ChannelError> {
    let object = || path.display().to_string();
    let address = UnixAddr::new(path).map_err(|e| SyscallError::from_nix("connect", object(), e))?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| SyscallError::from_nix("socket", object(), e))?;
    connect(socket.as_raw_fd(), &address).map_err(|e| SyscallError::from_nix("connect", object(), e))?;
    Channel::from_socket(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_kernel_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path, None).unwrap();
        let client = dial(&path).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        client.send(&7_u8, &[]).unwrap();
        assert_eq!(server.receive::<u8>().unwrap().unwrap().0, 7);
    }

    #[test]
    fn a_living_daemon_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _first = Listener::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Listener::bind(&path, None).unwrap_err().errno, libc::EADDRINUSE);
    }

    #[test]
    fn the_name_of_a_dead_daemon_is_taken_over_and_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let dead = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(dead.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        drop(dead);
        let listener = Listener::bind(&path, None).unwrap();
        drop(listener);
        assert!(!path.exists());
    }
}
