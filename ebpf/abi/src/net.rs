//! Which destinations a sandbox may name: one pure judgement for the kernel and for the tests.
//!
//! What is allowed here reaches the gateway at most; what is refused here never gets a handshake, so that a
//! denied literal address does not look reachable.

/// First address of the virtual IPv4 range, 198.18.0.0/15 (RFC 2544, never routed on the internet).
pub const VIRTUAL_V4: u32 = 0xc612_0000;
/// First word of the virtual IPv6 range, the unique local prefix fd5c:e900::/32.
pub const VIRTUAL_V6: u32 = 0xfd5c_e900;
/// The gateway answers DNS for every destination address.
pub const DNS_PORT: u16 = 53;

const VIRTUAL_V4_MASK: u32 = 0xfffe_0000;

/// How a socket moves bytes, as far as the judgement cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SOCK_STREAM: TCP and MPTCP.
    Stream,
    /// Everything else: UDP, UDP-Lite, raw.
    Datagram,
    /// The connect of a datagram socket, by which nothing is sent yet.
    Association,
}

/// What becomes of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Loopback, an own address or DNS: goes ahead, not worth a record.
    Local = 0,
    /// The virtual address of a name: goes ahead to the gateway, recorded with its socket.
    Virtual = 1,
    /// EPERM and a record.
    Denied = 2,
    /// EPERM without a record: nobody wanted to reach anything. C libraries connect a datagram socket to each
    /// address of a name, some to port 0, to sort them by the own address they would be reached from.
    Pointless = 3,
}

impl Verdict {
    /// The verdict with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Local),
            1 => Some(Self::Virtual),
            2 => Some(Self::Denied),
            3 => Some(Self::Pointless),
            _ => None,
        }
    }
}

/// Judges an IPv4 destination; addresses and port in host byte order, `own` 0 for none.
///
/// 0.0.0.0 is local: the kernel connects it to the loopback of the network namespace.
#[inline(always)]
pub fn judge_v4(address: u32, port: u16, transport: Transport, own: u32) -> Verdict {
    if address >> 24 == 127 || address == 0 || (own != 0 && address == own) || port == DNS_PORT {
        return Verdict::Local;
    }
    beyond(address & VIRTUAL_V4_MASK == VIRTUAL_V4, port, transport)
}

/// Judges an IPv6 destination, given as four words in host byte order. A v4-mapped address is judged as the
/// IPv4 address it stands for: `connect6` is the only hook that sees those of TCP.
#[inline(always)]
pub fn judge_v6(
    address: [u32; 4],
    port: u16,
    transport: Transport,
    own_v4: u32,
    own_v6: [u32; 4],
) -> Verdict {
    let [a, b, c, d] = address;
    if a == 0 && b == 0 && c == 0xffff {
        return judge_v4(d, port, transport, own_v4);
    }
    let loopback_or_any = a == 0 && b == 0 && c == 0 && d <= 1;
    if loopback_or_any || is_own_v6(address, own_v6) || port == DNS_PORT {
        return Verdict::Local;
    }
    beyond(a == VIRTUAL_V6, port, transport)
}

/// Judges a destination that is not the sandbox itself.
#[inline(always)]
fn beyond(is_virtual: bool, port: u16, transport: Transport) -> Verdict {
    match transport {
        Transport::Stream if is_virtual => Verdict::Virtual,
        Transport::Association if is_virtual || port == 0 => Verdict::Pointless,
        _ => Verdict::Denied,
    }
}

/// Is `address` the own address, if there is one.
#[inline(always)]
pub fn is_own_v6(address: [u32; 4], own: [u32; 4]) -> bool {
    let [a, b, c, d] = address;
    let [e, f, g, h] = own;
    e | f | g | h != 0 && a == e && b == f && c == g && d == h
}

#[cfg(test)]
mod tests {
    use super::*;
    use Transport::{Association, Datagram, Stream};

    const OWN_V4: u32 = 0x0a71_0002;
    const OWN_V6: [u32; 4] = [0xfd00_5ce9, 0, 0, 2];

    fn v4(a: u8, b: u8, c: u8, d: u8, port: u16, transport: Transport) -> Verdict {
        judge_v4(u32::from_be_bytes([a, b, c, d]), port, transport, OWN_V4)
    }

    fn v6(address: [u32; 4], port: u16, transport: Transport) -> Verdict {
        judge_v6(address, port, transport, OWN_V4, OWN_V6)
    }

    #[test]
    fn loopback_and_own_addresses_are_local() {
        assert_eq!(v4(127, 9, 9, 9, 80, Stream), Verdict::Local);
        assert_eq!(v4(10, 113, 0, 2, 80, Datagram), Verdict::Local);
        assert_eq!(v6([0, 0, 0, 1], 80, Datagram), Verdict::Local);
        assert_eq!(v6(OWN_V6, 80, Stream), Verdict::Local);
    }

    #[test]
    fn virtual_addresses_are_for_streams_only_and_end_where_the_range_ends() {
        assert_eq!(v4(198, 18, 0, 5, 443, Stream), Verdict::Virtual);
        assert_eq!(v4(198, 19, 255, 255, 443, Stream), Verdict::Virtual);
        assert_eq!(v4(198, 20, 0, 0, 443, Stream), Verdict::Denied);
        assert_eq!(v4(198, 17, 255, 255, 443, Stream), Verdict::Denied);
        assert_eq!(v4(198, 18, 0, 5, 443, Datagram), Verdict::Denied);
        assert_eq!(v6([VIRTUAL_V6, 0, 0, 5], 443, Stream), Verdict::Virtual);
        assert_eq!(v6([VIRTUAL_V6 + 1, 0, 0, 5], 443, Stream), Verdict::Denied);
    }

    #[test]
    fn a_datagram_socket_is_connected_nowhere_and_only_to_literals_is_that_worth_a_record() {
        assert_eq!(v4(198, 18, 0, 5, 443, Association), Verdict::Pointless);
        assert_eq!(v6([VIRTUAL_V6, 0, 0, 5], 65535, Association), Verdict::Pointless);
        assert_eq!(v4(1, 1, 1, 1, 0, Association), Verdict::Pointless);
        assert_eq!(v4(1, 1, 1, 1, 3478, Association), Verdict::Denied);
        assert_eq!(v4(198, 18, 0, 5, 53, Association), Verdict::Local);
    }

    #[test]
    fn literals_and_metadata_addresses_are_denied() {
        assert_eq!(v4(1, 1, 1, 1, 443, Stream), Verdict::Denied);
        assert_eq!(v4(169, 254, 169, 254, 80, Stream), Verdict::Denied);
        assert_eq!(v4(10, 113, 0, 3, 80, Stream), Verdict::Denied);
        assert_eq!(v6([0x2606_4700, 0, 0, 1], 443, Stream), Verdict::Denied);
    }

    #[test]
    fn a_v4_mapped_address_is_judged_as_the_v4_address() {
        assert_eq!(v6([0, 0, 0xffff, 0x7f00_0001], 80, Stream), Verdict::Local);
        assert_eq!(v6([0, 0, 0xffff, 0xc612_0005], 443, Stream), Verdict::Virtual);
        assert_eq!(v6([0, 0, 0xffff, 0x0101_0101], 443, Stream), Verdict::Denied);
        // The deprecated v4-compatible form is no v4 address and not ours.
        assert_eq!(v6([0, 0, 0, 0x7f00_0001], 80, Stream), Verdict::Denied);
    }

    #[test]
    fn dns_is_local_whatever_the_address() {
        assert_eq!(v4(8, 8, 8, 8, 53, Datagram), Verdict::Local);
        assert_eq!(v6([0x2001_4860, 0, 0, 0x8888], 53, Stream), Verdict::Local);
    }

    #[test]
    fn without_own_addresses_nothing_is_own() {
        assert!(!is_own_v6([0; 4], [0; 4]));
        assert_eq!(judge_v4(1, 80, Stream, 0), Verdict::Denied);
    }
}
