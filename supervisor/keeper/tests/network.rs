//! The network namespace and its listeners. As root.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use skep_policy::launch::{Ending, KeeperEvent};
use support::{Run, launch, said, shell};

fn finish(run: &mut Run) -> String {
    let mut output = String::new();
    run.output.take().unwrap().read_to_string(&mut output).unwrap();
    run.expect(&KeeperEvent::Exited(Ending::Code(0)));
    output
}

fn cookie(socket: &impl AsRawFd) -> u64 {
    let mut cookie = 0_u64;
    let mut size = 8;
    // SAFETY: SO_NETNS_COOKIE writes eight bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, 71, (&raw mut cookie).cast(), &raw mut size)
    };
    assert_eq!(result, 0);
    cookie
}

#[test]
fn as_root_all_listeners_are_in_the_sandboxs_namespace() {
    let Run { network: descriptors, .. } = launch(shell("true"), None);
    let host = cookie(&UdpSocket::bind("127.0.0.1:0").unwrap());
    let cookies: Vec<_> = descriptors[1..].iter().map(cookie).collect();
    assert!(cookies.iter().all(|inside| *inside != host && *inside == cookies[0]), "{cookies:?}");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptors[0].as_raw_fd())).unwrap();
    assert!(link.to_str().unwrap().starts_with("net:["), "{link:?}");
}

#[test]
fn as_root_only_lo_is_there_with_both_addresses_and_every_destination_is_local() {
    let output =
        said("grep -c : /proc/net/dev; cat /proc/net/if_inet6 | cut -d' ' -f1; cat /proc/net/fib_trie");
    assert!(output.starts_with("1\n"), "{output}");
    assert!(output.contains("fd005ce9000000000000000000000002"), "{output}");
    assert!(output.contains("10.113.0.2"), "{output}");
    assert!(output.contains("/0 host LOCAL"), "{output}");
}

#[test]
fn as_root_a_connection_to_the_gateways_port_arrives_at_its_listener() {
    let script =
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(\"127.0.0.1:1\") or die $!; print <$s>'";
    let mut run = launch(shell(script), None);
    let listener = TcpListener::from(run.network.remove(1));
    listener.set_nonblocking(false).unwrap();
    run.started();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"hello\n").unwrap();
    drop(stream);
    assert_eq!(finish(&mut run), "hello\n");
}

#[test]
fn as_root_a_question_to_any_server_arrives_with_the_address_it_was_for() {
    let script = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => \"8.8.8.8:53\", Proto => \"udp\") or die $!; $s->send(\"q\"); $s->recv($a, 9); print $a'";
    let mut run = launch(shell(script), None);
    let udp = UdpSocket::from(run.network.remove(3));
    udp.set_nonblocking(false).unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    run.started();
    let mut question = [0_u8; 16];
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [std::io::IoSliceMut::new(&mut question)];
    let flags = nix::sys::socket::MsgFlags::empty();
    let message = nix::sys::socket::recvmsg::<nix::sys::socket::SockaddrIn>(
        udp.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        flags,
    )
    .unwrap();
    let info = message
        .cmsgs()
        .unwrap()
        .find_map(|part| match part {
            nix::sys::socket::ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        })
        .unwrap();
    assert_eq!(info.ipi_addr.s_addr.to_ne_bytes(), [8, 8, 8, 8]);
    let from = message.address.unwrap();
    assert_eq!(from.ip(), std::net::Ipv4Addr::new(10, 113, 0, 2));
    let answer = [std::io::IoSlice::new(b"answer")];
    let source = [nix::sys::socket::ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: info.ipi_addr,
        ipi_addr: libc::in_addr { s_addr: 0 },
    })];
    nix::sys::socket::sendmsg(udp.as_raw_fd(), &answer, &source, flags, Some(&from)).unwrap();
    assert_eq!(finish(&mut run), "answer");
}

#[test]
fn as_root_the_hosts_abstract_sockets_are_not_there() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("skep-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, pack(\"Sa*\", AF_UNIX, \"\\0{name}\")) ? \"yes\" : $!'"
    );
    assert_eq!(said(&script), "Connection refused");
    drop(File::open("/dev/null").unwrap());
}
