//! Reaching the real host behind an allowed name.
//!
//! The name is resolved with the host's own settings at the moment of dialling, and nothing is dialled but an
//! address that was just resolved and is of the public Internet: an allowed name that leads into the host's
//! own network (DNS rebinding) leads nowhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
    /// When it does not resolve, resolves to nothing public, or takes no connection.
    pub async fn dial(&self, name: &HostName, port: u16) -> Result<TcpStream, DialError> {
        let found = timeout(PATIENCE, self.resolve(name)).await;
        let addresses = order(found.map_err(|_elapsed| DialError::ResolverTimeout)??)?;
        let targets = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        race(targets).await
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
