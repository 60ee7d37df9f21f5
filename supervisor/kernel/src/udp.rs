//! Datagrams with the address they were sent to, and answers that come from it.
//!
//! A socket bound to the wildcard address of a network namespace where every address is local receives what
//! was meant for any address; the client only believes an answer that comes from the address it asked.

// UNSAFETY: IPV6_FREEBIND has no wrapper in nix.
#![expect(unsafe_code, reason = "setsockopt(IPV6_FREEBIND)")]

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};

use crate::error::{SyscallError, check};

/// Which kind of address a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its length; more than the buffer's when it was cut.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: IpAddr,
}

/// Makes the kernel tell the destination of each datagram, and lets IPv6 answers come from any address of a
/// `local` route (without IPV6_FREEBIND sendmsg is EINVAL; IPv4 needs no such leave).
///
/// # Errors
/// When the socket is not of `family`.
pub fn report_destinations(socket: &impl AsFd, family: Family) -> Result<(), SyscallError> {
    if family == Family::V4 {
        return setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
            .map_err(|errno| SyscallError::from_nix("setsockopt", "IP_PKTINFO", errno));
    }
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
        .map_err(|errno| SyscallError::from_nix("setsockopt", "IPV6_RECVPKTINFO", errno))?;
    let on: libc::c_int = 1;
    let descriptor = socket.as_fd().as_raw_fd();
    let value = (&raw const on).cast();
    // SAFETY: `value` points at an int that lives until the call returns, and 4 is its size.
    let result = unsafe { libc::setsockopt(descriptor, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, value, 4) };
    check(result, "setsockopt", || "IPV6_FREEBIND".to_owned()).map(drop)
}

/// Takes the next datagram of a socket prepared by [`report_destinations`].
///
/// # Errors
/// EAGAIN when there is none; EBADMSG when the kernel did not say where it was sent to.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> Result<Datagram, SyscallError> {
    let mut iov = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    let descriptor = socket.as_fd().as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(descriptor, &mut iov, Some(&mut control), flags)
        .map_err(|errno| SyscallError::from_nix("recvmsg", "UDP", errno))?;
    let from = message.address.as_ref().and_then(socket_address);
    let to = message.cmsgs().ok().and_then(|mut all| all.find_map(|one| destination(&one)));
    match (from, to) {
        (Some(from), Some(to)) => Ok(Datagram { length: message.bytes, from, to }),
        _ => Err(SyscallError::from_nix("recvmsg", "UDP without its addresses", Errno::EBADMSG)),
    }
}

/// Answers a datagram from the address it was sent to.
///
/// # Errors
/// EAGAIN when the socket's buffer is full, EINVAL for a destination of another family.
pub fn answer(socket: &impl AsFd, datagram: &Datagram, bytes: &[u8]) -> Result<(), SyscallError> {
    let descriptor = socket.as_fd().as_raw_fd();
    let iov = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = match (datagram.from, datagram.to) {
        (SocketAddr::V4(from), IpAddr::V4(to)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(to).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(descriptor, &iov, &control, flags, Some(&SockaddrIn::from(from)))
        }
        (SocketAddr::V6(from), IpAddr::V6(to)) => {
            let address = libc::in6_addr { s6_addr: to.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(descriptor, &iov, &control, flags, Some(&SockaddrIn6::from(from)))
        }
        _ => Err(Errno::EINVAL),
    };
    sent.map(drop).map_err(|errno| SyscallError::from_nix("sendmsg", datagram.from.to_string(), errno))
}

fn destination(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
        _ => None,
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::new(v4.ip(), v4.port())));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::V6(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id())))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn answered_from(bind: &str, ask: &str, family: Family) {
        let server = UdpSocket::bind(bind).unwrap();
        report_destinations(&server, family).unwrap();
        let target = SocketAddr::new(ask.parse().unwrap(), server.local_addr().unwrap().port());
        let client = UdpSocket::bind(SocketAddr::new(ask.parse().unwrap(), 0)).unwrap();
        client.send_to(b"question", target).unwrap();
        let mut buffer = [0; 64];
        let datagram = receive(&server, &mut buffer).unwrap();
        assert_eq!((datagram.length, datagram.to), (8, target.ip()));
        assert_eq!(datagram.from, client.local_addr().unwrap());
        answer(&server, &datagram, b"answer").unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, target));
    }

    #[test]
    fn an_answer_over_ipv4_comes_from_the_address_that_was_asked() {
        answered_from("0.0.0.0:0", "127.9.8.7", Family::V4);
    }

    #[test]
    fn an_answer_over_ipv6_comes_from_the_address_that_was_asked() {
        answered_from("[::]:0", "::1", Family::V6);
    }

    #[test]
    fn an_empty_socket_is_eagain_even_when_it_is_blocking() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(receive(&server, &mut [0; 8]).unwrap_err().errno, libc::EAGAIN);
    }

    #[test]
    fn a_cut_datagram_tells_its_full_length() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        report_destinations(&server, Family::V4).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[0; 100], server.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&server, &mut [0; 10]).unwrap().length, 100);
    }
}
