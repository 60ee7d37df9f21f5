//! A listener on the host that must hear nothing: the oracle of every attempt to reach it.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Sockets that are open for the whole attempt and looked at afterwards: what connected waits in the backlog.
#[derive(Debug)]
pub struct Sink {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    unix: Vec<UnixListener>,
    port: u16,
}

impl Sink {
    /// Listens for TCP and UDP on one port of all addresses of both families.
    ///
    /// # Errors
    /// No port is free in all of them.
    pub fn new() -> anyhow::Result<Self> {
        // A listener on `::` takes both families, unless the host keeps them apart.
        let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).context("bind tcp")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("bind udp")?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        let sink = Self { tcp: vec![tcp], udp: vec![udp], unix: Vec::new(), port };
        Ok(sink)
    }

    /// Listens on a path and on an abstract name as well.
    ///
    /// # Errors
    /// One of them is taken.
    pub fn with_unix(mut self, path: &Path, name: &str) -> anyhow::Result<Self> {
        let by_path = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
        let by_name =
            UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?).context("bind abstract")?;
        by_path.set_nonblocking(true)?;
        by_name.set_nonblocking(true)?;
        self.unix.extend([by_path, by_name]);
        Ok(self)
    }

    /// The port, the same for TCP and UDP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections and datagrams arrived since the last call.
    #[must_use]
    pub fn heard(&self) -> usize {
        let tcp = self.tcp.iter().flat_map(|listener| std::iter::from_fn(|| listener.accept().ok()));
        let unix = self.unix.iter().flat_map(|listener| std::iter::from_fn(|| listener.accept().ok()));
        let mut buffer = [0u8; 2048];
        let udp = self.udp.iter().map(|socket| std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count());
        tcp.count() + unix.count() + udp.sum::<usize>()
    }
}

/// An address of this host that is not loopback, if it has one.
#[must_use]
pub fn outside_address() -> Option<IpAddr> {
    // Nothing is sent: connecting a UDP socket only asks the routing table.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

/// Tries to reach a listener that an attempt may have opened, until the deadline.
#[must_use]
pub fn reachable(address: SocketAddr, patience: Duration) -> bool {
    let end = std::time::Instant::now() + patience;
    while std::time::Instant::now() < end {
        if let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            return says_anything(stream).unwrap_or(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Somebody else's listener could have the port: ours says something.
fn says_anything(mut stream: TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0u8; 16];
    Ok(stream.read(&mut buffer)? > 0)
}
