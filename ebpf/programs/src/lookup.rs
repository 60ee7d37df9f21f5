//! Hands the connections of one sandbox to its gateway.
//!
//! The sandbox's network namespace has only `lo`, and every destination is local to it. This program decides
//! which socket a packet without an established one belongs to. It sees no namespace, so each sandbox has its
//! own copy of the program and of its maps.
#![no_std]
#![no_main]

mod program;

use core::ptr::read_volatile;

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action::SK_DROP, sk_action::SK_PASS};
use aya_ebpf::macros::{map, sk_lookup};
use aya_ebpf::maps::{Array, SockMap};
use aya_ebpf::programs::SkLookupContext;
use skep_ebpf_abi::net::{DNS_PORT, is_own_v6};
use skep_ebpf_abi::settings::Place;

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// The gateway's TCP listeners, opened inside the sandbox's namespace: 0 for IPv4, 1 for IPv6.
#[map]
static GATEWAY: SockMap = SockMap::with_max_entries(2, 0);

/// Whose program this is.
#[map]
static PLACE: Array<Place> = Array::with_max_entries(1, 0);

/// A packet looks for its socket.
#[sk_lookup]
pub(crate) fn lookup(ctx: SkLookupContext) -> u32 {
    let Some(place) = PLACE.get(0) else { return SK_DROP };
    let packet = ctx.lookup;
    // SAFETY: the context is valid; volatile because the verifier wants every field read by itself.
    let (family, protocol, port) = unsafe {
        (
            read_volatile(&raw const (*packet).family),
            read_volatile(&raw const (*packet).protocol),
            read_volatile(&raw const (*packet).local_port),
        )
    };
    if is_local(packet, family, place) {
        // The gateway's own address: a connection made straight to it would have no destination to judge.
        let to_gateway = protocol == IPPROTO_TCP && port == place.gateway_port;
        return if to_gateway { SK_DROP } else { SK_PASS };
    }
    if protocol == IPPROTO_TCP {
        let listener = if family == AF_INET { 0 } else { 1 };
        return match GATEWAY.redirect_sk_lookup(&ctx, listener, 0) {
            Ok(()) => SK_PASS,
            Err(_) => SK_DROP,
        };
    }
    // The gateway's DNS sockets are bound to the wildcard address and port 53: the kernel finds them itself.
    if port == u32::from(DNS_PORT) { SK_PASS } else { SK_DROP }
}

/// Is the packet for the sandbox itself: loopback, or one of its own addresses.
#[inline(always)]
fn is_local(packet: *const bpf_sk_lookup, family: u32, place: &Place) -> bool {
    // SAFETY: the context is valid.
    unsafe {
        if family == AF_INET {
            let address = u32::from_be(read_volatile(&raw const (*packet).local_ip4));
            return address >> 24 == 127 || address == place.own_v4;
        }
        let address = [
            u32::from_be(read_volatile(&raw const (*packet).local_ip6[0])),
            u32::from_be(read_volatile(&raw const (*packet).local_ip6[1])),
            u32::from_be(read_volatile(&raw const (*packet).local_ip6[2])),
            u32::from_be(read_volatile(&raw const (*packet).local_ip6[3])),
        ];
        address == [0, 0, 0, 1] || is_own_v6(address, place.own_v6)
    }
}
