//! What user space tells the programs: which cgroups are sandboxes, and what each wants to hear.

use bytemuck::{Pod, Zeroable};

/// Report successful opens for reading too, instead of only counting them.
pub const REPORT_READS: u32 = 1;
/// Report opens and executions that failed with ENOENT: in a root file system made of binds that is what a
/// path nobody granted answers. The same look within a second is not reported again.
pub const REPORT_MISSING: u32 = 2;
/// Some rule opens any port of a name, or the rules name more ports than fit: the gateway alone judges them.
pub const ANY_PORT: u32 = 4;
/// Report nothing of files before the sandbox has executed its first program, refused executions apart: until then
/// it is being built, and no rule is about that.
pub const BUILT_FIRST: u32 = 8;

/// Ports that [`Settings`] have room for.
pub const PORTS: usize = 20;

/// Settings of one sandbox, the value of the map `SANDBOXES`; the key is the id of its cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// `REPORT_*` bits, [`ANY_PORT`] and [`BUILT_FIRST`].
    pub flags: u32,
    /// The sandbox's own IPv4 address, in host byte order; 0 for none.
    pub own_v4: u32,
    /// The sandbox's own IPv6 address as four words in host byte order; all 0 for none.
    pub own_v6: [u32; 4],
    /// The ports that rules open on some name, in host byte order; 0 for none. Which name is the gateway's to
    /// judge, but a port no rule opens needs no handshake to be refused.
    pub ports: [u16; PORTS],
}

impl Settings {
    /// May some name be connected to on this port.
    #[inline(always)]
    pub fn opens(&self, port: u16) -> bool {
        self.flags & ANY_PORT != 0 || (port != 0 && self.ports.contains(&port))
    }
}

/// What was only counted, the value of the map `COUNTS`; the key is the id of the cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counts {
    /// Successful opens for reading.
    pub reads: u64,
    /// Programs executed.
    pub executed: u64,
    /// Connects and datagrams that were let through: without one, nothing can have reached the gateway.
    pub sent: u64,
    /// Bytes of the ring that records of this sandbox took; see [`crate::quota`].
    pub bytes: u64,
    /// Records of this sandbox that found no room.
    pub lost: u64,
}

/// What one sandbox's `sk_lookup` program needs to know, element 0 of its map `PLACE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// The sandbox's own IPv4 address, in host byte order.
    pub own_v4: u32,
    /// The port of the gateway's listeners on 127.0.0.1 and `::1`, in host byte order.
    pub gateway_port: u32,
    /// The sandbox's own IPv6 address as four words in host byte order.
    pub own_v6: [u32; 4],
}

const _: () = assert!(size_of::<Settings>() == 64);
const _: () = assert!(size_of::<Counts>() == 40);
const _: () = assert!(size_of::<Place>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_open_when_a_rule_names_it_or_any() {
        let mut settings = Settings::zeroed();
        assert!(!settings.opens(443) && !settings.opens(0));
        settings.ports[PORTS - 1] = 443;
        assert!(settings.opens(443) && !settings.opens(22));
        settings.flags = ANY_PORT;
        assert!(settings.opens(22));
    }
}
