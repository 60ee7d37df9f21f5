//! The messages between `skepd` and `skep-egress`, postcard in SEQPACKET messages.
//!
//! The gateway judges names by the rules it was given, but **nothing it allows happens before `skepd` has
//! written it down**: it sends a [`GatewayEvent::Judged`] and dials, or gives the address of a name away, only
//! when [`GatewayRequest::Recorded`] answers. What it says about a sandbox is believed only as a record, never as
//! a right.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::decision::Decision;
use crate::egress::Rules;

/// What `skepd` tells the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayRequest {
    /// Serve a sandbox. Descriptors: its TCP v4, TCP v6, UDP v4 and UDP v6 sockets, opened inside.
    Serve {
        /// The sandbox.
        sandbox: String,
        /// Its compiled egress rules.
        rules: Rules,
        /// The sandbox's own addresses: nothing behind the gateway is ever there.
        own: (Ipv4Addr, Ipv6Addr),
        /// Names dialled at a fixed loopback address instead of being resolved. Always empty in builds
        /// without the feature `test-upstreams`.
        upstreams: Vec<(String, SocketAddr)>,
    },
    /// A request that is larger than a message: a profile may have a thousand names. Descriptors: a sealed memfd with
    /// it, then its own.
    Large,
    /// Stop serving a sandbox whose processes are gone: take what waits in its listeners, deliver what it has
    /// sent, cut what takes longer than a moment, and close everything.
    Dismiss {
        /// The sandbox.
        sandbox: String,
    },
    /// The judged event with this number is in the audit: go on.
    Recorded {
        /// [`GatewayEvent::Judged::number`].
        number: u64,
    },
}

/// What the gateway tells `skepd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayEvent {
    /// The gateway has confined itself and listens to requests.
    Ready,
    /// It serves the sandbox: packets may arrive now.
    Serving {
        /// The sandbox.
        sandbox: String,
    },
    /// It judged a name or a connection.
    Judged {
        /// Number of the event, counted per gateway; answered by [`GatewayRequest::Recorded`].
        number: u64,
        /// The sandbox.
        sandbox: String,
        /// What was judged.
        subject: Subject,
        /// The verdict.
        decision: Decision,
        /// Index of the deciding rule in [`Rules`], `None` when no rule matched.
        rule: Option<u32>,
        /// Why, in a few words fixed by the gateway, never the agent's.
        reason: String,
    },
    /// A relayed connection ended.
    Closed {
        /// Number of the event that allowed it.
        number: u64,
        /// The sandbox.
        sandbox: String,
        /// Bytes from the sandbox to the server.
        sent: u64,
        /// Bytes from the server to the sandbox.
        received: u64,
        /// Milliseconds from accept to close.
        milliseconds: u64,
        /// Why it ended, if not by a plain close of both sides.
        error: Option<String>,
    },
    /// It no longer serves the sandbox, and everything it had to say about it has been said.
    Dismissed {
        /// The sandbox.
        sandbox: String,
    },
}

/// What the gateway judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A DNS question for a canonical name.
    Name {
        /// Lower-case, no trailing dot.
        name: String,
        /// The virtual addresses that stand for it from now on, if it is allowed.
        addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    },
    /// A TCP connection to a name's virtual address.
    Connection {
        /// The canonical name.
        name: String,
        /// The port.
        port: u16,
        /// The sandbox's source port, to find the task behind it.
        source_port: u16,
    },
    /// A TCP connection to an address that belongs to no name.
    Address {
        /// The original destination.
        address: SocketAddr,
        /// The sandbox's source port.
        source_port: u16,
    },
}
