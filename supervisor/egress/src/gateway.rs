//! The gateway's conversation with `skepd`: requests in, events out.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use skep_kernel::SyscallError;
use skep_kernel::channel::AsyncChannel;
use skep_kernel::memfd;
use skep_kernel::seqpacket::{Channel, ChannelError};
use skep_kernel::udp::{Family, report_destinations};
use skep_policy::gateway::{GatewayEvent, GatewayRequest};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::dial::Dialer;
use crate::name::HostName;
use crate::recorder::{NeverSent, Recorder};
use crate::sandbox::{Sandbox, Shared, Sockets};

/// Why the gateway ended other than by `skepd` closing its socket. All of them end the process: connections
/// die with it and nothing passes any more.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The channel failed, or a message of `skepd` did not decode.
    #[error("channel to skepd")]
    Channel(#[from] ChannelError),
    /// The event loop does not take a socket.
    #[error("event loop")]
    Loop(#[from] io::Error),
    /// A call on a passed socket failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `skepd` sent what no correct `skepd` sends.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// As above, for an answer.
    #[error("malformed request")]
    NeverSent(#[from] NeverSent),
}

/// Speaks with `skepd` until it closes its end.
///
/// # Errors
/// See [`GatewayError`].
pub async fn serve(channel: Channel, dialer: Dialer, slots: usize) -> Result<(), GatewayError> {
    let channel = AsyncChannel::new(channel)?;
    let (recorder, events) = Recorder::new();
    let shared = Rc::new(Shared { recorder, dialer, pipes: <_>::default(), slots: Semaphore::new(slots) });
    shared.recorder.say(GatewayEvent::Ready);
    let ended = tokio::select! {
        ended = write(&channel, events, &shared) => ended,
        ended = read(&channel, &shared) => ended,
    };
    match ended {
        Err(GatewayError::Channel(ChannelError::Syscall(error))) if is_gone(&error) => Ok(()),
        ended => ended,
    }
}

/// A `skepd` that ends with events unread resets the channel; that is its end like any other.
fn is_gone(error: &SyscallError) -> bool {
    [libc::ECONNRESET, libc::EPIPE].contains(&error.errno)
}

async fn write(
    channel: &AsyncChannel,
    mut events: UnboundedReceiver<GatewayEvent>,
    shared: &Shared,
) -> Result<(), GatewayError> {
    while let Some(event) = events.recv().await {
        channel.send(&event, &[]).await?;
        shared.recorder.sent();
    }
    Ok(())
}

async fn read(channel: &AsyncChannel, shared: &Rc<Shared>) -> Result<(), GatewayError> {
    let mut served: HashMap<String, Rc<Sandbox>> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let request = tokio::select! {
            request = channel.receive() => whole(request?)?,
            Some(done) = tasks.join_next() => {
                let sandbox: String = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                served.remove(&sandbox);
                shared.recorder.forget(&sandbox);
                shared.recorder.say(GatewayEvent::Dismissed { sandbox });
                continue;
            }
        };
        match request {
            None => return Ok(()),
            Some((GatewayRequest::Recorded { number }, _)) => shared.recorder.recorded(number)?,
            Some((GatewayRequest::Dismiss { sandbox }, _)) => {
                if !served.get(&sandbox).is_some_and(|sandbox| sandbox.dismiss()) {
                    return Err(GatewayError::Malformed("Dismiss of a sandbox that is not served"));
                }
            }
            Some((GatewayRequest::Large, _)) => return Err(GatewayError::Malformed("Large in a Large")),
            // Its own addresses need no list: neither is public, so nothing behind the gateway is there.
            Some((GatewayRequest::Serve { sandbox, rules, own: _, upstreams }, descriptors)) => {
                if served.contains_key(&sandbox) {
                    return Err(GatewayError::Malformed("Serve of a sandbox that is served"));
                }
                let sockets = sockets(descriptors)?;
                let upstreams = fixed(upstreams, UPSTREAMS)?;
                let state = Rc::new(Sandbox::new(sandbox.clone(), rules, upstreams, shared.clone()));
                served.insert(sandbox.clone(), Rc::clone(&state));
                shared.recorder.say(GatewayEvent::Serving { sandbox: sandbox.clone() });
                tasks.spawn_local(async move {
                    state.serve(sockets).await;
                    sandbox
                });
            }
        }
    }
}

/// What skepd says, also where it is larger than a message.
fn whole(
    message: Option<(GatewayRequest, Vec<OwnedFd>)>,
) -> Result<Option<(GatewayRequest, Vec<OwnedFd>)>, GatewayError> {
    match message {
        Some((GatewayRequest::Large, mut descriptors)) if !descriptors.is_empty() => {
            Ok(Some((memfd::decode(descriptors.remove(0))?, descriptors)))
        }
        Some((GatewayRequest::Large, _)) => Err(GatewayError::Malformed("Large without its memory file")),
        message => Ok(message),
    }
}

/// Whether names may be dialled at fixed addresses of the host's loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstreams {
    Refused,
    Taken,
}

/// Taken only in builds for tests.
const UPSTREAMS: Upstreams =
    if cfg!(feature = "test-upstreams") { Upstreams::Taken } else { Upstreams::Refused };

fn fixed(
    list: Vec<(String, SocketAddr)>,
    upstreams: Upstreams,
) -> Result<HashMap<String, SocketAddr>, GatewayError> {
    if upstreams == Upstreams::Refused && !list.is_empty() {
        return Err(GatewayError::Malformed("upstreams in a build that has none"));
    }
    let mut fixed = HashMap::new();
    for (name, address) in list {
        let name = HostName::parse(&name).map_err(|_error| GatewayError::Malformed("upstream's name"))?;
        if !address.ip().is_loopback() {
            return Err(GatewayError::Malformed("upstream that is not on loopback"));
        }
        fixed.insert(name.as_str().to_owned(), address);
    }
    Ok(fixed)
}

/// The sandbox's sockets in the order of the protocol, each checked to be what it should be.
fn sockets(descriptors: Vec<OwnedFd>) -> Result<Sockets, GatewayError> {
    let Ok([tcp4, tcp6, udp4, udp6]) = <[OwnedFd; 4]>::try_from(descriptors) else {
        return Err(GatewayError::Malformed("Serve without its four sockets"));
    };
    check(&tcp4, SockType::Stream, AddressFamily::Inet)?;
    check(&tcp6, SockType::Stream, AddressFamily::Inet6)?;
    check(&udp4, SockType::Datagram, AddressFamily::Inet)?;
    check(&udp6, SockType::Datagram, AddressFamily::Inet6)?;
    report_destinations(&udp4, Family::V4)?;
    report_destinations(&udp6, Family::V6)?;
    Ok(Sockets { tcp: [listener(tcp4)?, listener(tcp6)?], udp: [datagrams(udp4)?, datagrams(udp6)?] })
}

fn check(socket: &OwnedFd, kind: SockType, family: AddressFamily) -> Result<(), GatewayError> {
    use std::os::fd::AsRawFd;
    let failed = |errno| SyscallError::from_nix("getsockopt", "passed socket", errno);
    let is = getsockopt(socket, sockopt::SockType).map_err(failed)?;
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).map_err(failed)?;
    if is != kind || address.family() != Some(family) {
        return Err(GatewayError::Malformed("socket of another kind or family"));
    }
    Ok(())
}

fn listener(socket: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn datagrams(socket: OwnedFd) -> io::Result<tokio::net::UdpSocket> {
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_for_users_takes_no_upstream_and_a_build_for_tests_only_loopback() {
        let list = |address: &str| vec![("a.example".to_owned(), address.parse().unwrap())];
        assert!(fixed(list("127.0.0.1:1"), Upstreams::Refused).is_err());
        assert!(fixed(Vec::new(), Upstreams::Refused).unwrap().is_empty());
        assert!(fixed(list("10.0.0.1:1"), Upstreams::Taken).is_err());
        assert_eq!(fixed(list("127.0.0.1:1"), Upstreams::Taken).unwrap().len(), 1);
    }
}
