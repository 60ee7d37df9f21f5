//! A sandbox's connections reach the gateway's listeners, and only as meant.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::CloneFlags;
use skep_kernel::bpf::{LookupLink, LookupPlace};

use crate::roles::network;

const PORT: u16 = 1;

/// This thread's network namespace becomes a sandbox's; the listeners of its gateway.
fn sandbox() -> (LookupLink, TcpListener, TcpListener) {
    skep_kernel::clone::unshare(CloneFlags::CLONE_NEWNET).unwrap();
    skep_kernel::netns::configure(&network()).unwrap();
    let tcp_v4 = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    let tcp_v6 = TcpListener::bind(("::1", PORT)).unwrap();
    let namespace = File::open("/proc/thread-self/ns/net").unwrap();
    let place = LookupPlace { own_v4: network().v4, own_v6: network().v6, gateway_port: PORT };
    let link = LookupLink::attach(namespace.as_fd(), tcp_v4.as_fd(), tcp_v6.as_fd(), &place)
        .unwrap_or_else(|error| panic!("{error}"));
    (link, tcp_v4, tcp_v6)
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))
}

fn refused(address: &str) {
    let error = connect(address).expect_err(address);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
}

/// Connects and checks that `listener` gets it, with its original destination.
fn reaches(address: &str, listener: &TcpListener) {
    let wanted: SocketAddr = address.parse().unwrap();
    let mut client = connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(server.local_addr().unwrap(), wanted);
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();
    assert_eq!(client.peer_addr().unwrap(), wanted);
}

#[test]
fn as_root_connections_of_both_families_reach_their_listener_with_their_destination() {
    let (_link, tcp_v4, tcp_v6) = sandbox();
    reaches("198.18.0.5:443", &tcp_v4);
    reaches("198.18.0.5:53", &tcp_v4);
    reaches("[fd5c:e900::5]:443", &tcp_v6);
}

#[test]
fn as_root_own_servers_answer_and_the_gateway_cannot_be_called_directly() {
    let (_link, ..) = sandbox();
    for own in ["127.0.0.1:8080", "10.113.0.2:8081", "[::1]:8080", "[fd00:5ce9::2]:8081"] {
        let server = TcpListener::bind(own).unwrap();
        reaches(own, &server);
    }
    refused("127.0.0.1:1");
    refused("[::1]:1");
    refused("10.113.0.2:1");
}

#[test]
fn as_root_datagrams_other_than_dns_are_dropped() {
    let (_link, ..) = sandbox();
    let dns = UdpSocket::bind("0.0.0.0:53").unwrap();
    let other = UdpSocket::bind("0.0.0.0:5353").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"question", "198.18.0.5:53").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(dns.recv(&mut buffer).unwrap(), 8);
    client.send_to(b"leak", "198.18.0.5:5353").unwrap();
    // What comes behind it has arrived, so the first would have, too.
    client.send_to(b"own", "127.0.0.1:5353").unwrap();
    assert_eq!(other.recv(&mut buffer).unwrap(), 3);
}

#[test]
fn as_root_a_dropped_link_refuses_connections() {
    let (link, ..) = sandbox();
    drop(link);
    refused("198.18.0.5:443");
}
