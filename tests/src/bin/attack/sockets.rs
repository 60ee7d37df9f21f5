//! Sockets: every family, every way to reach an address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use crate::report;
use crate::sys::{Answer, call};

/// Long enough to see an answer on loopback, short enough for a list.
const PATIENCE: Duration = Duration::from_secs(2);

fn socket(family: i32, kind: i32, protocol: i32) -> Answer {
    call(libc::SYS_socket, &[family as usize, kind as usize, protocol as usize])
}

/// Families that are no business of a coding agent.
pub(crate) fn families() {
    let families = [
        ("AF_ALG", libc::AF_ALG, libc::SOCK_SEQPACKET),
        ("AF_KEY", libc::AF_KEY, libc::SOCK_RAW),
        ("AF_BLUETOOTH", libc::AF_BLUETOOTH, libc::SOCK_SEQPACKET),
        ("AF_TIPC", libc::AF_TIPC, libc::SOCK_STREAM),
        ("AF_CAN", libc::AF_CAN, libc::SOCK_RAW),
        ("AF_RDS", libc::AF_RDS, libc::SOCK_SEQPACKET),
        ("AF_SMC", 43, libc::SOCK_STREAM),
        ("AF_XDP", libc::AF_XDP, libc::SOCK_RAW),
        ("AF_QIPCRTR", 42, libc::SOCK_DGRAM),
        ("AF_IUCV", libc::AF_IUCV, libc::SOCK_STREAM),
        ("AF_NFC", libc::AF_NFC, libc::SOCK_SEQPACKET),
        ("AF_PHONET", libc::AF_PHONET, libc::SOCK_DGRAM),
        ("AF_X25", libc::AF_X25, libc::SOCK_SEQPACKET),
        ("AF_AX25", libc::AF_AX25, libc::SOCK_DGRAM),
        ("AF_PPPOX", libc::AF_PPPOX, libc::SOCK_STREAM),
        ("AF_KCM", 41, libc::SOCK_DGRAM),
    ];
    for (name, family, kind) in families {
        report(name, socket(family, kind, 0));
    }
    report("IPPROTO_SCTP", socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP));
    report("IPPROTO_MPTCP", socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP));
    report("IPPROTO_UDPLITE", socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE));
}

/// Only the socket: no address of this family is ever connected to.
pub(crate) fn vsock() {
    report("AF_VSOCK stream", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0));
    report("AF_VSOCK datagram", socket(libc::AF_VSOCK, libc::SOCK_DGRAM, 0));
}

/// Sockets below TCP and UDP.
pub(crate) fn raw() {
    report("raw ICMP", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP));
    report("raw IP", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW));
    report("raw ICMPv6", socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6));
    report("ping socket", socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP));
    report("ping socket v6", socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6));
    report("packet raw", socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300));
    report("packet cooked", socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300));
}

/// Every netlink protocol but routes, which libc asks for interfaces.
pub(crate) fn netlink() {
    let protocols = [
        ("sock_diag", 4),
        ("xfrm", 6),
        ("selinux", 7),
        ("audit", 9),
        ("connector", 11),
        ("netfilter", 12),
        ("kobject_uevent", 15),
        ("generic", 16),
        ("crypto", 21),
    ];
    for (name, protocol) in protocols {
        report(&format!("netlink {name}"), socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol));
    }
}

/// Connects, and says something so that a listener notices.
pub(crate) fn tcp(addresses: &[&str]) {
    for text in addresses {
        let connected = text.parse::<SocketAddr>().map_err(std::io::Error::other).and_then(|address| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"leaked\n")?;
            let mut answer = [0u8; 64];
            let read = stream.read(&mut answer)?;
            print!("{}", String::from_utf8_lossy(&answer[..read]));
            Ok(())
        });
        report(&format!("tcp {text}"), connected);
    }
}

/// Sends a datagram; that it left is for the listener to say.
pub(crate) fn udp(addresses: &[&str]) {
    for text in addresses {
        let sent = text.parse::<SocketAddr>().map_err(std::io::Error::other).and_then(|address| {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_broadcast(true)?;
            socket.send_to(b"leaked\n", address)
        });
        report(&format!("udp {text}"), sent);
    }
}

/// A socket by an abstract name, which belongs to the network namespace.
pub(crate) fn unix_abstract(name: &str) {
    let connected = UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
    report("abstract socket", connected.and_then(|mut stream| stream.write_all(b"leaked\n")));
}

/// A socket by its path.
pub(crate) fn unix(path: &str) {
    let connected = UnixStream::connect(path);
    report("unix socket", connected.and_then(|mut stream| stream.write_all(b"leaked\n")));
}
