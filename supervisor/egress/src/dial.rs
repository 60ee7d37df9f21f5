//! Reaching the real host behind an allowed name.
//!
//! The name is resolved with the host's own settings at the moment of dialling, and nothing is dialled but an
//! address that was just resolved and is of the public Internet: an allowed name that leads into the host's
//! own network (DNS rebinding) leads nowhere. Neither does one that leads to a public address of this host itself,
//! where services listen that a firewall keeps from the Internet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::name::HostName;
use crate::public::is_public;

/// Time between the starts of two attempts (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// Time for looking a name up, and again for reaching one of its addresses.
const PATIENCE: Duration = Duration::from_secs(15);

/// Most addresses that are tried.
const TRIED: usize = 8;

/// Dials names on behalf of sandboxes.
pub struct Dialer {
    resolver: TokioResolver,
}

/// Why a name was not reached. The words are ours: what servers say in their answers stays out of records.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name exists nowhere, or has no address.
    #[error("the name does not resolve")]
    NoSuchName,
    /// No resolver answered, or none usefully.
    #[error("the host's resolver did not answer")]
    Resolver(#[source] NetError),
    /// No resolver answered in time.
    #[error("the host's resolver did not answer in time")]
    ResolverTimeout,
    /// It resolves, but not to the public Internet.
    #[error("the name leads only to addresses that are not public")]
    NotPublic,
    /// It resolves, but to this host.
    #[error("{0} is an address of this host")]
    ThisHost(IpAddr),
    /// None of its addresses took the connection.
    #[error("connect({0}) failed: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    /// None of its addresses answered in time.
    #[error("no address of the name answered in time")]
    ConnectTimeout,
}

impl Dialer {
    /// With the resolver settings and hosts file of this host, which are read here and never again. Without
    /// settings the resolver is the host's own, at 127.0.0.1, as with the C library.
    ///
    /// # Errors
    /// When the settings make no resolver.
    pub fn from_host() -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match TokioResolver::builder(provider.clone()) {
            Ok(builder) => builder,
            Err(_unreadable) => {
                let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
                TokioResolver::builder_with_config(config, provider)
            }
        };
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.options_mut().cache_size = 1024;
        Ok(Self { resolver: builder.build()? })
    }

    /// Connects to a port of a name.
    ///
    /// # Errors
    /// When it does not resolve, resolves to nothing public or to this host, or takes no connection.
    pub async fn dial(&self, name: &HostName, port: u16) -> Result<TcpStream, DialError> {
        let found = timeout(PATIENCE, self.resolve(name)).await;
        let addresses = order(found.map_err(|_elapsed| DialError::ResolverTimeout)??)?;
        let targets = addresses.into_iter().map(|address| SocketAddr::new(address, port));
        race(elsewhere(targets)?).await
    }

    async fn resolve(&self, name: &HostName) -> Result<Vec<IpAddr>, DialError> {
        // Absolute, so that the host's search list does not make another name of it.
        let absolute = Name::from_ascii(format!("{name}.")).map_err(|_unspellable| DialError::NoSuchName)?;
        match self.resolver.lookup_ip(absolute).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(DialError::NoSuchName),
            Err(error) => Err(DialError::Resolver(error)),
        }
    }
}

/// Connects to a fixed address.
///
/// # Errors
/// When it takes no connection.
pub async fn connect(target: SocketAddr) -> Result<TcpStream, DialError> {
    let attempt = timeout(PATIENCE, TcpStream::connect(target)).await;
    let stream = attempt.map_err(|_elapsed| DialError::ConnectTimeout)?;
    let stream = stream.map_err(|error| DialError::Connect(target, error))?;
    stream.set_nodelay(true).map_err(|error| DialError::Connect(target, error))?;
    Ok(stream)
}

/// The public addresses of a name in the order they are tried: the families take turns, IPv6 first.
fn order(found: Vec<IpAddr>) -> Result<Vec<IpAddr>, DialError> {
    if found.is_empty() {
        return Err(DialError::NoSuchName);
    }
    let (v6, v4): (Vec<_>, Vec<_>) =
        found.into_iter().filter(|one| is_public(*one)).partition(IpAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut ordered = Vec::new();
    while let Some(pair) = Some([v6.next(), v4.next()]).filter(|pair| pair.iter().any(Option::is_some)) {
        ordered.extend(pair.into_iter().flatten());
    }
    ordered.truncate(TRIED);
    if ordered.is_empty() { Err(DialError::NotPublic) } else { Ok(ordered) }
}

/// The targets that are not this host. One of which the kernel does not tell is not dialled either.
fn elsewhere(targets: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
    let mut refused = DialError::NotPublic;
    let mut kept = Vec::new();
    for target in targets {
        match is_this_host(target) {
            Ok(false) => kept.push(target),
            Ok(true) => refused = DialError::ThisHost(target.ip()),
            Err(error) => refused = DialError::Connect(target, error),
        }
    }
    if kept.is_empty() { Err(refused) } else { Ok(kept) }
}

/// Would a connection to the target end on this host? Datagram sockets are asked, whose `connect` sends nothing.
///
/// IPv4 connects from an address of the host only, also where a socket may be bound to any (`ip_nonlocal_bind`). The
/// address it would choose by itself says less: a second one of the same network is spoken to from the first.
/// IPv6 connects from any address it could be bound to, but for an address it has it chooses that one.
fn is_this_host(target: SocketAddr) -> io::Result<bool> {
    if target.is_ipv6() {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        return Ok(socket.local_addr()?.ip() == target.ip());
    }
    let connected = UdpSocket::bind((target.ip(), 0)).and_then(|socket| socket.connect(target));
    match connected.map_err(|error| (error.raw_os_error(), error)) {
        Ok(()) => Ok(true),
        // The one from `bind`, the others from `connect`, on kernels of different age.
        Err((Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::ENETUNREACH), _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

/// The first of the targets that takes a connection; another is tried when one fails or is slow.
async fn race(targets: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut attempts = JoinSet::new();
    let mut last = DialError::ConnectTimeout;
    let mut left = targets.into_iter();
    loop {
        match left.next() {
            Some(target) => drop(attempts.spawn_local(connect(target))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            },
            () = sleep(STAGGER), if left.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let found = addresses(&["1.1.1.1", "1.0.0.1", "9.9.9.9", "2606:4700::1"]);
        let expected = addresses(&["2606:4700::1", "1.1.1.1", "1.0.0.1", "9.9.9.9"]);
        assert_eq!(order(found).unwrap(), expected);
    }

    #[test]
    fn only_public_addresses_are_dialled() {
        let mixed = addresses(&["127.0.0.1", "1.1.1.1", "169.254.169.254", "::1", "fd00:ec2::254"]);
        assert_eq!(order(mixed).unwrap(), addresses(&["1.1.1.1"]));
        let rebound = addresses(&["127.0.0.1", "10.0.0.1"]);
        assert!(matches!(order(rebound), Err(DialError::NotPublic)));
        assert!(matches!(order(Vec::new()), Err(DialError::NoSuchName)));
    }

    #[test]
    fn an_address_of_this_host_is_not_dialled() {
        // Loopback addresses are this host's own as any other is.
        for own in ["127.0.0.1", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            let refused = elsewhere([SocketAddr::new(own, 443)].into_iter());
            assert!(matches!(refused, Err(DialError::ThisHost(address)) if address == own), "{refused:?}");
        }
        assert!(matches!(elsewhere(std::iter::empty()), Err(DialError::NotPublic)));
    }

    #[tokio::test]
    async fn a_refused_address_gives_way_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let local = tokio::task::LocalSet::new();
        let stream = local.run_until(race(vec![closed, good])).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        let error = local.run_until(race(vec![closed])).await.unwrap_err();
        assert!(matches!(error, DialError::Connect(target, _) if target == closed));
    }
}
