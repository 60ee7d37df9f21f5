//! Messages between our processes: one postcard value and up to eight descriptors per SEQPACKET datagram.
//!
//! The socket keeps message borders and tells the end of the peer, so there is no framing to get wrong. A
//! message that is too large, cut or carries more descriptors than allowed is an error and its descriptors
//! are closed; nothing a peer sends can make the reader panic or keep a descriptor it did not ask for.

// UNSAFETY: control messages are laid out by hand, because nix loses (leaks) the descriptors of a message
// whose control data was truncated.
#![expect(unsafe_code, reason = "SCM_RIGHTS control messages are raw memory")]

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, getsockopt, setsockopt, shutdown, socketpair,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{SyscallError, check};

/// Most bytes of one message.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// One end of a control socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Message<T> {
    /// What was said.
    pub value: T,
    /// The descriptors, owned and close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Pid of the sender, if [`Channel::ask_for_senders`] was called before it was sent.
    pub sender: Option<u32>,
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A call failed. A vanished peer is EPIPE or ECONNRESET.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// A nonblocking channel has no message, or no room for one.
    #[error("the channel is not ready")]
    WouldBlock,
    /// The value cannot be written, or not be read, as its type.
    #[error("message does not decode or encode: {0}")]
    Encoding(#[from] postcard::Error),
    /// The message has more bytes than [`MAX_MESSAGE`], or none.
    #[error("message of {0} bytes")]
    Size(usize),
    /// The message has more descriptors than [`MAX_DESCRIPTORS`], or the receiver has no room for them.
    #[error("message with too many descriptors")]
    Descriptors,
    /// The descriptor is no SEQPACKET socket.
    #[error("not a SEQPACKET unix socket")]
    Kind,
}

impl Channel {
    /// Two connected ends, blocking and close-on-exec.
    ///
    /// # Errors
    /// When the process or the system has no descriptor left.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(|errno| SyscallError::from_nix("socketpair", "SOCK_SEQPACKET", errno))?;
        // A message must fit into the buffer whole; the default of 208 KiB holds one of MAX_MESSAGE, a host
        // with a smaller limit says EMSGSIZE to a large `send`.
        for end in [&a, &b] {
            setsockopt(end, sockopt::SndBuf, &(2 * MAX_MESSAGE))
                .map_err(|errno| SyscallError::from_nix("setsockopt", "SO_SNDBUF", errno))?;
        }
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Takes over an inherited socket.
    ///
    /// # Errors
    /// When it is no SEQPACKET socket.
    pub fn from_socket(socket: OwnedFd) -> Result<Self, ChannelError> {
        match getsockopt(&socket, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self { socket }),
            Ok(_) => Err(ChannelError::Kind),
            Err(errno) => Err(SyscallError::from_nix("getsockopt", "SO_TYPE", errno).into()),
        }
    }

    /// Makes calls return [`ChannelError::WouldBlock`] instead of waiting, for use under an event loop. The
    /// flag belongs to the open file: only this end is concerned, but every duplicate of it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn make_nonblocking(&self) -> Result<(), SyscallError> {
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .map_err(|errno| SyscallError::from_nix("fcntl", "F_SETFL", errno))?;
        Ok(())
    }

    /// How long [`Channel::receive`] waits before it returns [`ChannelError::WouldBlock`]; `None` is for ever.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn wait_for_messages(&self, patience: Option<Duration>) -> Result<(), SyscallError> {
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time_value(patience))
            .map_err(|errno| SyscallError::from_nix("setsockopt", "SO_RCVTIMEO", errno))
    }

    /// How long [`Channel::send`] waits for room before it returns [`ChannelError::WouldBlock`]; `None` is for ever.
    ///
    /// # Errors
    /// None for an open socket.
    pub fn wait_for_room(&self, patience: Option<Duration>) -> Result<(), SyscallError> {
        setsockopt(&self.socket, sockopt::SendTimeout, &time_value(patience))
            .map_err(|errno| SyscallError::from_nix("setsockopt", "SO_SNDTIMEO", errno))
    }

    /// Waits for so long until there is something to receive, the end of the peer included.
    ///
    /// # Errors
    /// When the kernel has no memory left.
    pub fn is_readable_within(&self, wait: Duration) -> Result<bool, SyscallError> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(ready) => Ok(ready > 0),
            // An interrupted wait is a short one.
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(SyscallError::from_nix("poll", "control socket", errno)),
        }
    }

    /// Has the peer closed its end?
    #[must_use]
    pub fn peer_has_left(&self) -> bool {
        // POLLHUP is told without being asked for.
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        // A call that fails tells nothing; whoever asks asks again, or receives.
        poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Whoever receives, in whatever thread, finds the end from now on.
    pub fn end_receiving(&self) {
        // It fails only where the peer is gone, and then that end is there already.
        let _gone = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Sends one message whole.
    ///
    /// # Errors
    /// When it is too large, when the peer is gone, or when the channel is not ready.
    pub fn send<T: Serialize>(&self, value: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_with(value, descriptors, MsgFlags::empty())
    }

    /// Sends one message whole, or returns [`ChannelError::WouldBlock`] at once, also where the channel waits.
    ///
    /// # Errors
    /// As for [`Channel::send`].
    pub fn try_send<T: Serialize>(
        &self,
        value: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.send_with(value, descriptors, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with<T: Serialize>(
        &self,
        value: &T,
        descriptors: &[BorrowedFd<'_>],
        flags: MsgFlags,
    ) -> Result<(), ChannelError> {
        let bytes = postcard::to_stdvec(value)?;
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            return Err(ChannelError::Size(bytes.len()));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(ChannelError::Descriptors);
        }
        send_raw(self.socket.as_fd(), &bytes, descriptors, flags)
    }

    /// Makes the kernel add to each message that arrives here from now on who sent it, for
    /// [`Channel::receive_from`].
    ///
    /// # Errors
    /// None for an open socket.
    pub fn ask_for_senders(&self) -> Result<(), SyscallError> {
        setsockopt(&self.socket, sockopt::PassCred, &true)
            .map_err(|errno| SyscallError::from_nix("setsockopt", "SO_PASSCRED", errno))
    }

    /// Receives one message; `None` is the end of the peer. One reader at a time: the size is asked before
    /// the message is taken.
    ///
    /// # Errors
    /// When the message is malformed (it is consumed then), or the channel is not ready.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        Ok(self.receive_from()?.map(|message| (message.value, message.descriptors)))
    }

    /// [`Channel::receive`] with the sender's pid, as this process's PID namespace knows it.
    ///
    /// # Errors
    /// As for [`Channel::receive`].
    pub fn receive_from<T: DeserializeOwned>(&self) -> Result<Option<Message<T>>, ChannelError> {
        let next = peek(self.socket.as_fd(), &mut [0], MsgFlags::empty())?;
        self.take(&next)
    }

    /// [`Channel::receive`] where no descriptors are expected: a message that has some is an error and stays where it
    /// is, so that none of them becomes ours. Not for channels that ask for senders.
    ///
    /// # Errors
    /// [`ChannelError::Descriptors`] for such a message, else as for [`Channel::receive`].
    pub fn receive_bare<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        let next = peek(self.socket.as_fd(), &mut [0], MsgFlags::empty())?;
        if next.has_more {
            return Err(ChannelError::Descriptors);
        }
        Ok(self.take(&next)?.map(|message| message.value))
    }

    /// Waits for the next message, which stays where it is. Does it say this?
    ///
    /// # Errors
    /// When the value cannot be encoded, or the channel is not ready.
    pub fn is_next<T: Serialize>(&self, value: &T) -> Result<bool, ChannelError> {
        let expected = postcard::to_stdvec(value)?;
        let mut bytes = vec![0; expected.len()];
        let next = peek(self.socket.as_fd(), &mut bytes, MsgFlags::empty())?;
        Ok(next.size == expected.len() && bytes == expected)
    }

    /// Is there nothing to receive now? The end of the peer is nothing.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn is_empty(&self) -> Result<bool, ChannelError> {
        match peek(self.socket.as_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Err(ChannelError::WouldBlock) => Ok(true),
            next => Ok(next?.size == 0),
        }
    }

    fn take<T: DeserializeOwned>(&self, next: &Next) -> Result<Option<Message<T>>, ChannelError> {
        let mut bytes = vec![0; next.size.min(MAX_MESSAGE)];
        let Raw { length, descriptors, sender } = receive_raw(self.socket.as_fd(), &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        if length > bytes.len() {
            return Err(ChannelError::Size(length));
        }
        Ok(Some(Message { value: postcard::from_bytes(&bytes[..length])?, descriptors, sender }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

/// A socket's timeout; none is 0, and less than a microsecond is one.
fn time_value(patience: Option<Duration>) -> TimeVal {
    let microseconds = |patience: Duration| i64::try_from(patience.as_micros()).unwrap_or(i64::MAX).max(1);
    TimeVal::microseconds(patience.map_or(0, microseconds))
}

/// Bytes of [`MAX_DESCRIPTORS`] descriptors.
const DESCRIPTOR_BYTES: u32 = 32;

const _: () = assert!(DESCRIPTOR_BYTES as usize == MAX_DESCRIPTORS * size_of::<RawFd>());

/// Bytes of a sender.
const SENDER_BYTES: u32 = 12;

const _: () = assert!(SENDER_BYTES as usize == size_of::<libc::ucred>());

/// Room for the control data of a sender and [`MAX_DESCRIPTORS`], aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 96]);

const _: () = assert!(
    size_of::<Control>()
        >= 2 * size_of::<libc::cmsghdr>() + size_of::<libc::ucred>() + 4 + DESCRIPTOR_BYTES as usize
);

/// A message header over `bytes` and `control`; both must outlive its use.
fn header(iov: &mut libc::iovec, control: *mut Control, control_length: usize) -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov;
    header.msg_iovlen = 1;
    if control_length > 0 {
        header.msg_control = control.cast();
        header.msg_controllen = control_length as _;
    }
    header
}

fn send_raw(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> Result<(), ChannelError> {
    let mut control = Control([0; 96]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let payload = u32::try_from(size_of_val(descriptors)).unwrap_or(u32::MAX);
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    let space = unsafe { libc::CMSG_SPACE(payload) };
    // SAFETY: so is CMSG_LEN.
    let length = unsafe { libc::CMSG_LEN(payload) };
    let space = if descriptors.is_empty() { 0 } else { space as usize };
    let header = header(&mut iov, &raw mut control, space);
    if !descriptors.is_empty() {
        // SAFETY: `control` holds `space` bytes and is aligned, so the first header lies inside it.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        let head = libc::cmsghdr { cmsg_len: length as _, ..control_head() };
        // SAFETY: `first` is not null as msg_controllen holds a header, and it is aligned.
        unsafe { ptr::write(first, head) };
        // SAFETY: `first` was just written; its data lies behind it.
        let data = unsafe { libc::CMSG_DATA(first) }.cast::<BorrowedFd<'_>>();
        // SAFETY: the control data has room for MAX_DESCRIPTORS, checked by the caller and the assertion
        // above; BorrowedFd has the layout of a RawFd.
        unsafe { ptr::copy_nonoverlapping(descriptors.as_ptr(), data, descriptors.len()) };
    }
    let flags = (flags | MsgFlags::MSG_NOSIGNAL).bits();
    // SAFETY: `header` points at `iov` and `control`, which live until the call returns.
    let sent = retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) });
    would_block(check(sent as i64, "sendmsg", || format!("{} bytes", bytes.len()))).map(drop)
}

/// A zeroed SCM_RIGHTS header (musl's has a padding field, so it cannot be written out).
fn control_head() -> libc::cmsghdr {
    // SAFETY: cmsghdr is plain data for which all zeroes is a valid value.
    let mut head: libc::cmsghdr = unsafe { std::mem::zeroed() };
    head.cmsg_level = libc::SOL_SOCKET;
    head.cmsg_type = libc::SCM_RIGHTS;
    head
}

/// The next message, which stays in the queue.
struct Next {
    /// Its bytes; 0 is the end of the peer, or an empty message.
    size: usize,
    /// Are there descriptors with it, or its sender where that was asked for?
    has_more: bool,
}

/// Looks at the next message; `bytes` takes its beginning.
fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: MsgFlags) -> Result<Next, ChannelError> {
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // Without room for descriptors the kernel installs none, and says that there were some.
    let mut header = header(&mut iov, ptr::null_mut(), 0);
    let flags = (flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC).bits();
    // SAFETY: `header` points at `iov` and that at `bytes`, which live until the call returns.
    let size = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) });
    let size = would_block(check(size as i64, "recvmsg", String::new))?;
    let has_more = header.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Next { size: usize::try_from(size).unwrap_or_default(), has_more })
}

/// A message as it came.
struct Raw {
    /// Its full length, which may be more than fitted.
    length: usize,
    descriptors: Vec<OwnedFd>,
    sender: Option<u32>,
}

/// Takes the next message.
fn receive_raw(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Raw, ChannelError> {
    let mut control = Control([0; 96]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let senders = getsockopt(&socket, sockopt::PassCred)
        .map_err(|errno| SyscallError::from_nix("getsockopt", "SO_PASSCRED", errno))?;
    // The kernel writes the sender first, so that there is room for MAX_DESCRIPTORS in both cases and no more.
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    let for_sender = unsafe { libc::CMSG_SPACE(SENDER_BYTES) } as usize;
    // SAFETY: as above.
    let for_descriptors = unsafe { libc::CMSG_SPACE(DESCRIPTOR_BYTES) } as usize;
    let space = for_descriptors + if senders { for_sender } else { 0 };
    let mut header = header(&mut iov, &raw mut control, space);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    // SAFETY: `header` points at `iov` and `control`, which live until the call returns.
    let length = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) });
    let length = would_block(check(length as i64, "recvmsg", String::new))?;
    let (descriptors, sender) = take_control(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(ChannelError::Descriptors);
    }
    Ok(Raw { length: usize::try_from(length).unwrap_or_default(), descriptors, sender })
}

/// Owns every descriptor the kernel has installed for this message, and reads who sent it.
fn take_control(header: &libc::msghdr) -> (Vec<OwnedFd>, Option<u32>) {
    let mut descriptors = Vec::new();
    let mut sender = None;
    // SAFETY: `header` was filled by recvmsg and its control data is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: a non-null pointer of the CMSG macros points at a whole header inside the control data.
        let head = unsafe { *next };
        // SAFETY: `next` is a valid header, so its data lies behind it.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => take_descriptors(&head, data.cast(), &mut descriptors),
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                // SAFETY: the kernel wrote a whole ucred; control data need not be aligned for us.
                let credentials = unsafe { ptr::read_unaligned(data.cast::<libc::ucred>()) };
                sender = u32::try_from(credentials.pid).ok();
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    (descriptors, sender)
}

fn take_descriptors(head: &libc::cmsghdr, data: *const RawFd, descriptors: &mut Vec<OwnedFd>) {
    // SAFETY: CMSG_LEN is arithmetic on its argument.
    let prefix = unsafe { libc::CMSG_LEN(0) } as usize;
    #[cfg_attr(not(target_env = "musl"), expect(clippy::unnecessary_cast, reason = "musl has a u32 here"))]
    let count = (head.cmsg_len as usize).saturating_sub(prefix) / size_of::<RawFd>();
    for index in 0..count {
        // SAFETY: the kernel wrote `count` descriptors at `data`.
        let place = unsafe { data.add(index) };
        // SAFETY: as above; control data need not be aligned for us.
        let number = unsafe { ptr::read_unaligned(place) };
        // SAFETY: the kernel installed this descriptor for this message alone; it is owned once.
        descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Repeats a call that was interrupted. A peer that closes with messages unread leaves ECONNRESET behind, which
/// is reported once and **before** what the peer had sent: what it said last is not lost for that.
fn retry(mut call: impl FnMut() -> isize) -> isize {
    loop {
        let result = call();
        if result >= 0 || !matches!(nix::errno::Errno::last_raw(), libc::EINTR | libc::ECONNRESET) {
            return result;
        }
    }
}

fn would_block(result: Result<i64, SyscallError>) -> Result<i64, ChannelError> {
    result.map_err(|error| match error.errno {
        libc::EAGAIN => ChannelError::WouldBlock,
        _ => ChannelError::Syscall(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        a.send(&"hello".to_owned(), &[write.as_fd()]).unwrap();
        drop(write);
        let (text, mut descriptors) = b.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("hello", 1));
        File::from(descriptors.remove(0)).write_all(b"x").unwrap();
        let mut got = String::new();
        File::from(read).read_to_string(&mut got).unwrap();
        assert_eq!(got, "x");
    }

    #[test]
    fn received_descriptors_are_close_on_exec() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&1_u8, &[a.as_fd()]).unwrap();
        let (_, descriptors) = b.receive::<u8>().unwrap().unwrap();
        let flags = fcntl(&descriptors[0], FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn the_end_of_the_peer_is_none() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(b.receive::<u8>().unwrap().is_none());
    }

    #[test]
    fn what_a_peer_said_before_it_closed_with_messages_unread_is_heard() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&7_u8, &[]).unwrap();
        b.send(&8_u8, &[]).unwrap();
        drop(b);
        assert_eq!(a.receive::<u8>().unwrap().unwrap().0, 8);
        assert!(a.receive::<u8>().unwrap().is_none());
    }

    #[test]
    fn the_sender_is_told_where_it_was_asked_for() {
        let (a, b) = Channel::pair().unwrap();
        b.ask_for_senders().unwrap();
        a.send(&1_u8, &[a.as_fd(); MAX_DESCRIPTORS]).unwrap();
        let message = b.receive_from::<u8>().unwrap().unwrap();
        assert_eq!(message.sender, Some(std::process::id()));
        assert_eq!(message.descriptors.len(), MAX_DESCRIPTORS);
        b.send(&1_u8, &[]).unwrap();
        assert_eq!(a.receive_from::<u8>().unwrap().unwrap().sender, None);
    }

    #[test]
    fn a_nonblocking_channel_without_a_message_says_so() {
        let (a, _b) = Channel::pair().unwrap();
        a.make_nonblocking().unwrap();
        assert!(matches!(a.receive::<u8>(), Err(ChannelError::WouldBlock)));
    }

    #[test]
    fn the_largest_message_fits_and_a_larger_one_is_refused() {
        let (a, b) = Channel::pair().unwrap();
        let fits = vec![7_u8; MAX_MESSAGE - 8];
        a.send(&fits, &[]).unwrap();
        assert_eq!(b.receive::<Vec<u8>>().unwrap().unwrap().0, fits);
        assert!(matches!(a.send(&vec![7_u8; MAX_MESSAGE], &[]), Err(ChannelError::Size(_))));
    }

    #[test]
    fn more_descriptors_than_allowed_are_an_error_and_leave_none_open() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let fds = [write.as_raw_fd(); 12];
        let iov = [std::io::IoSlice::new(b"x")];
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
        let flags = nix::sys::socket::MsgFlags::empty();
        nix::sys::socket::sendmsg::<()>(a.as_raw_fd(), &iov, &rights, flags, None).unwrap();
        assert!(matches!(b.receive::<u8>(), Err(ChannelError::Descriptors)));
        drop(write);
        // Were one of the received copies still open, the pipe would have no end.
        assert_eq!(File::from(read).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_message_with_unexpected_descriptors_is_not_taken() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        a.send(&1_u8, &[]).unwrap();
        a.send(&2_u8, &[write.as_fd()]).unwrap();
        drop(write);
        assert_eq!(b.receive_bare::<u8>().unwrap(), Some(1));
        assert!(matches!(b.receive_bare::<u8>(), Err(ChannelError::Descriptors)));
        assert!(!b.is_empty().unwrap());
        let (value, descriptors) = b.receive::<u8>().unwrap().unwrap();
        assert_eq!((value, descriptors.len()), (2, 1));
        drop((descriptors, a));
        assert_eq!(File::from(read).read(&mut [0]).unwrap(), 0);
        assert_eq!(b.receive_bare::<u8>().unwrap(), None);
    }

    #[test]
    fn the_next_message_is_compared_whole_and_stays() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&"yes".to_owned(), &[a.as_fd()]).unwrap();
        assert!(!b.is_next(&"ye").unwrap() && !b.is_next(&"yes!").unwrap() && !b.is_next(&"yet").unwrap());
        assert!(b.is_next(&"yes").unwrap());
        assert_eq!(b.receive::<String>().unwrap().unwrap().0, "yes");
        drop(a);
        assert!(!b.is_next(&"yes").unwrap());
    }

    #[test]
    fn nothing_arrives_after_the_end_of_receiving_and_what_did_is_seen() {
        let (a, b) = Channel::pair().unwrap();
        assert!(b.is_empty().unwrap());
        a.send(&1_u8, &[]).unwrap();
        b.end_receiving();
        assert!(a.send(&2_u8, &[]).is_err());
        assert!(!b.is_empty().unwrap());
        b.receive::<u8>().unwrap();
        assert!(b.is_empty().unwrap());
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let (a, b) = Channel::pair().unwrap();
        nix::unistd::write(&a, &[0xff; 3]).unwrap();
        assert!(matches!(b.receive::<String>(), Err(ChannelError::Encoding(_))));
    }

    #[test]
    fn another_kind_of_socket_is_refused() {
        let (a, _b) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(matches!(Channel::from_socket(a), Err(ChannelError::Kind)));
    }
}
