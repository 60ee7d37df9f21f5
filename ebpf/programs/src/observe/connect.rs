//! Where sandbox tasks connect and send: judged before a packet exists, so that a denied address answers EPERM
//! and never looks reachable.
//!
//! Attached once, to the parent of the sandboxes' cgroups. v4-mapped TCP fires `connect6` only, v4-mapped UDP
//! `sendmsg4`.

use core::ptr::read_volatile;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use skep_ebpf_abi::net::{Transport, Verdict, judge_v4, judge_v6};
use skep_ebpf_abi::record::{CONNECT, ConnectRecord};

use crate::emit::{Ticket, count, who};
use crate::maps::SANDBOXES;

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, AF_INET, Transport::Association)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, AF_INET6, Transport::Association)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, AF_INET, Transport::Datagram)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, AF_INET6, Transport::Datagram)
}

/// `datagram` is what the hook means for a socket that is no stream.
#[inline(always)]
fn judge(ctx: &SockAddrContext, family: u32, datagram: Transport) -> i32 {
    // SAFETY: no precondition.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let Some(settings) = SANDBOXES.get_ptr(cgroup) else { return ALLOW };
    let asked = ctx.sock_addr;
    let address = destination(asked, family);
    // SAFETY: the context is valid; every read is volatile, because the verifier wants each field read in its
    // own width at a constant offset, and the compiler would join them.
    let (port, kind) =
        unsafe { (read_volatile(&raw const (*asked).user_port), read_volatile(&raw const (*asked).type_)) };
    let port = u16::from_be(port as u16);
    let transport = if kind == SOCK_STREAM { Transport::Stream } else { datagram };
    // SAFETY: a value of a map, alive while the program runs.
    let settings = unsafe { &*settings };
    let mut verdict = if family == AF_INET {
        judge_v4(address[0], port, transport, settings.own_v4)
    } else {
        judge_v6(address, port, transport, settings.own_v4, settings.own_v6)
    };
    if verdict == Verdict::Virtual && !settings.opens(port) {
        verdict = Verdict::Denied;
    }
    if matches!(verdict, Verdict::Virtual | Verdict::Denied) {
        record(ctx, cgroup, family, address, port, verdict);
    }
    if matches!(verdict, Verdict::Denied | Verdict::Pointless) {
        return DENY;
    }
    // SAFETY: a value of a map, alive while the program runs.
    count(cgroup, |counts| unsafe { &raw mut (*counts).sent });
    ALLOW
}

/// The words of the address, in host byte order.
#[inline(always)]
fn destination(asked: *const bpf_sock_addr, family: u32) -> [u32; 4] {
    // SAFETY: the context is valid.
    unsafe {
        if family == AF_INET {
            return [u32::from_be(read_volatile(&raw const (*asked).user_ip4)), 0, 0, 0];
        }
        [
            u32::from_be(read_volatile(&raw const (*asked).user_ip6[0])),
            u32::from_be(read_volatile(&raw const (*asked).user_ip6[1])),
            u32::from_be(read_volatile(&raw const (*asked).user_ip6[2])),
            u32::from_be(read_volatile(&raw const (*asked).user_ip6[3])),
        ]
    }
}

/// Whoever is preempted while it holds a reservation keeps every later record back, and these hooks are preemptible: the
/// record is made on the stack, and numbered when it is ready.
#[inline(always)]
fn record(ctx: &SockAddrContext, cgroup: u64, family: u32, address: [u32; 4], port: u16, verdict: Verdict) {
    // SAFETY: the context is valid.
    let (cookie, protocol) = unsafe {
        (bpf_get_socket_cookie(ctx.sock_addr.cast()), read_volatile(&raw const (*ctx.sock_addr).protocol))
    };
    let (header, port, verdict) = (who(), u32::from(port), verdict as u32);
    let mut record = ConnectRecord { header, cookie, address, family, port, protocol, verdict };
    let Some(ticket) = Ticket::take(cgroup, CONNECT) else { return };
    record.header = ticket.stamp(record.header);
    ticket.output(&record);
}
