//! A network namespace that holds only `lo`, to which every address is local, and the sockets through which
//! the gateway hears what is sent there.

// UNSAFETY: SIOCGSKNS returns a raw descriptor.
#![expect(unsafe_code, reason = "an ioctl returns a raw descriptor")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, bind, listen, recv, sendto, socket,
};
use skep_policy::launch::Network;

use crate::error::{SyscallError, check};

const LOOPBACK_INDEX: u32 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const CREATE: u16 = 0x1 | 0x200 | 0x400; // REQUEST, EXCL, CREATE
const ACK: u16 = 0x4;

/// Raises `lo`, gives it one more address of each family and makes every destination local, in one batch.
///
/// # Errors
/// The first step the kernel refused, by name.
pub fn configure(network: &Network) -> Result<(), SyscallError> {
    let batch = batch(network);
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
        .map_err(|errno| SyscallError::from_nix("socket", "AF_NETLINK", errno))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(fd.as_raw_fd(), &batch.bytes, &kernel, MsgFlags::empty())
        .map_err(|errno| SyscallError::from_nix("sendto", "rtnetlink", errno))?;
    read_answers(fd.as_fd(), &batch)
}

/// Messages for rtnetlink. Only the last asks for an acknowledgement; a failed one is answered in any case, and
/// before it.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Batch {
    fn add(&mut self, name: String, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) {
        let start = self.bytes.len();
        let sequence = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | 0x1).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        for (attribute, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
            self.bytes.extend(length.to_ne_bytes());
            self.bytes.extend(attribute.to_ne_bytes());
            self.bytes.extend(*value);
        }
        // Every body and value here is a multiple of four bytes, so nothing needs padding.
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

fn batch(network: &Network) -> Batch {
    const V4: u8 = 2; // AF_INET
    const V6: u8 = 10; // AF_INET6
    let lo = LOOPBACK_INDEX.to_ne_bytes();
    let up = 1_u32.to_ne_bytes();
    let (v4, v6) = (network.v4.octets(), network.v6.octets());
    let mut batch = Batch::default();
    let link = [[0; 4], lo, up, up].concat();
    batch.add("lo up".into(), RTM_NEWLINK, 0, &link, &[]);
    let address = |family, length, flags| [[family, length, flags, 0], lo].concat();
    // IFA_LOCAL and IFA_ADDRESS; the v6 address skips duplicate detection (IFA_F_NODAD), it is usable at once.
    batch.add(
        format!("address {}", network.v4),
        RTM_NEWADDR,
        CREATE,
        &address(V4, 32, 0),
        &[(2, &v4), (1, &v4)],
    );
    batch.add(format!("address {}", network.v6), RTM_NEWADDR, CREATE, &address(V6, 128, 2), &[(1, &v6)]);
    // `local default dev lo table local` with a preferred source: without it a v4 connection's source would
    // be its destination. Table 255, protocol static, scope host, type local; RTA_OIF and RTA_PREFSRC.
    let route = |family| [[family, 0, 0, 0], [255, 4, 254, 2], [0; 4]].concat();
    let v4_route: [(u16, &[u8]); 2] = [(4, &lo), (7, &v4)];
    batch.add("v4 local default route".into(), RTM_NEWROUTE, CREATE, &route(V4), &v4_route);
    let v6_route: [(u16, &[u8]); 2] = [(4, &lo), (7, &v6)];
    batch.add("v6 local default route".into(), RTM_NEWROUTE, CREATE | ACK, &route(V6), &v6_route);
    batch
}

fn read_answers(netlink: BorrowedFd<'_>, batch: &Batch) -> Result<(), SyscallError> {
    let mut buffer = [0_u8; 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .map_err(|errno| SyscallError::from_nix("recv", "rtnetlink", errno))?;
        let answer = buffer.get(..length).and_then(answer);
        let (sequence, errno) =
            answer.ok_or_else(|| SyscallError::new("recv", "rtnetlink", libc::EBADMSG))?;
        let name = batch.names.get(sequence).cloned().unwrap_or_default();
        if errno != 0 {
            return Err(SyscallError::new("rtnetlink", name, -errno));
        }
        if sequence + 1 == batch.names.len() {
            return Ok(());
        }
    }
}

/// Sequence number and errno (negative, 0 for success) of an answer.
fn answer(bytes: &[u8]) -> Option<(usize, i32)> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some((usize::try_from(sequence).ok()?, errno))
}

/// What the gateway serves a sandbox through, opened in its network namespace; all nonblocking.
#[derive(Debug)]
pub struct Listeners {
    /// TCP on 127.0.0.1, gets every IPv4 connection.
    pub tcp4: OwnedFd,
    /// TCP on `::1`, gets every IPv6 connection.
    pub tcp6: OwnedFd,
    /// UDP port 53 on every IPv4 address; the address asked comes as `IP_PKTINFO`.
    pub udp4: OwnedFd,
    /// UDP port 53 on every IPv6 address; the address asked comes as `IPV6_PKTINFO`.
    pub udp6: OwnedFd,
}

impl Listeners {
    /// Opens all four in the caller's network namespace.
    ///
    /// # Errors
    /// The socket the kernel refused, by its address.
    pub fn open(port: u16) -> Result<Self, SyscallError> {
        let loopback4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let loopback6 = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0));
        let any4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 53));
        let any6 = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 53, 0, 0));
        let tcp4 = bound(SockType::Stream, &loopback4, &[])?;
        let tcp6 = bound(SockType::Stream, &loopback6, &[(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)])?;
        // Answers carry the address that was asked as their source. For IPv4 the local route is enough; IPv6
        // refuses a source that is no configured address with EINVAL, unless the socket may bind freely.
        let udp4 = bound(SockType::Datagram, &any4, &[(libc::IPPROTO_IP, libc::IP_PKTINFO)])?;
        let v6_options = [libc::IPV6_V6ONLY, libc::IPV6_RECVPKTINFO, libc::IPV6_FREEBIND]
            .map(|option| (libc::IPPROTO_IPV6, option));
        let udp6 = bound(SockType::Datagram, &any6, &v6_options)?;
        for listener in [&tcp4, &tcp6] {
            listen(listener, Backlog::MAXCONN)
                .map_err(|errno| SyscallError::from_nix("listen", port.to_string(), errno))?;
        }
        Ok(Self { tcp4, tcp6, udp4, udp6 })
    }
}

fn bound<A: SockaddrLike + std::fmt::Display>(
    kind: SockType,
    address: &A,
    options: &[(i32, i32)],
) -> Result<OwnedFd, SyscallError> {
    let family = address.family().unwrap_or(AddressFamily::Unspec);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)
        .map_err(|errno| SyscallError::from_nix("socket", address.to_string(), errno))?;
    for (level, option) in options {
        switch_on(fd.as_fd(), *level, *option)?;
    }
    bind(fd.as_raw_fd(), address)
        .map_err(|errno| SyscallError::from_nix("bind", address.to_string(), errno))?;
    Ok(fd)
}

fn switch_on(socket: BorrowedFd<'_>, level: i32, option: i32) -> Result<(), SyscallError> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default();
    // SAFETY: these options read an int, whose address and size are given.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size) };
    check(result, "setsockopt", || format!("level {level} option {option}")).map(drop)
}

/// The network namespace a socket belongs to; works where no procfs is in sight.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn of_socket(socket: BorrowedFd<'_>) -> Result<OwnedFd, SyscallError> {
    // SAFETY: SIOCGSKNS takes no argument and returns a descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as _) };
    let fd = check(fd, "ioctl", || "SIOCGSKNS".into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_the_batch_is_framed_and_only_the_last_asks_for_an_answer() {
        let network = Network { v4: Ipv4Addr::new(10, 113, 0, 2), v6: Ipv6Addr::LOCALHOST, gateway_port: 1 };
        let batch = batch(&network);
        let mut at = 0;
        let mut flags = Vec::new();
        while at < batch.bytes.len() {
            let length = u32::from_ne_bytes(batch.bytes[at..at + 4].try_into().unwrap()) as usize;
            flags.push(u16::from_ne_bytes(batch.bytes[at + 6..at + 8].try_into().unwrap()));
            assert_eq!(length % 4, 0);
            at += length;
        }
        assert_eq!((at, flags.len()), (batch.bytes.len(), batch.names.len()));
        assert!(flags[..4].iter().all(|flags| flags & ACK == 0) && flags[4] & ACK != 0);
    }

    #[test]
    fn an_answer_that_is_cut_is_no_answer() {
        assert_eq!(answer(&[0; 12]), None);
    }
}
