//! One sandbox's `sk_lookup` program: its connections go to the gateway's listeners.
//!
//! The program sees no namespace, so every sandbox has its own, with its own maps. Loading one takes 145 us.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::{Array, MapData, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use skep_ebpf_abi::settings::Place;

use skep_policy::launch::Network;

use super::BpfError;
use super::object::{LOOKUP, map_error, program_error};
use super::programs::words;

const PROGRAM: &str = "lookup";
const PLACE_SIZE: usize = size_of::<Place>();

/// Made once: a new loader reads all of the kernel's BTF, which this object does not need.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// Whose connections they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupPlace {
    /// The sandbox's own IPv4 address, which stays with its own servers.
    pub own_v4: Ipv4Addr,
    /// The sandbox's own IPv6 address.
    pub own_v6: Ipv6Addr,
    /// Port of the gateway's listeners on 127.0.0.1 and `::1`, closed to direct connections.
    pub gateway_port: u16,
}

impl LookupPlace {
    fn encode(&self) -> [u8; PLACE_SIZE] {
        bytemuck::cast(Place {
            own_v4: self.own_v4.to_bits(),
            gateway_port: u32::from(self.gateway_port),
            own_v6: words(self.own_v6),
        })
    }
}

impl From<Network> for LookupPlace {
    fn from(network: Network) -> Self {
        Self { own_v4: network.v4, own_v6: network.v6, gateway_port: network.gateway_port }
    }
}

/// A program in charge of a namespace; dropping it detaches it, and connections are refused.
pub struct LookupLink {
    _program: Ebpf,
}

impl LookupLink {
    /// Loads a program and puts it in charge of a network namespace.
    ///
    /// The listeners must have been opened in that very namespace: one of another makes clients hang.
    ///
    /// # Errors
    /// When the library was built without the program, the kernel refuses it, a listener cannot be put into its
    /// map, or the namespace already has as many programs as it may.
    pub fn attach(
        network: BorrowedFd<'_>,
        tcp_v4: BorrowedFd<'_>,
        tcp_v6: BorrowedFd<'_>,
        place: &LookupPlace,
    ) -> Result<Self, BpfError> {
        let object = LOOKUP.bytes()?;
        // A panic elsewhere cannot leave the loader in pieces: it holds settings only.
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ebpf = loader.load(object).map_err(|source| LOOKUP.failed(source))?;
        drop(loader);
        let mut places: Array<MapData, [u8; PLACE_SIZE]> = LOOKUP.map(&mut ebpf, "PLACE")?;
        places.set(0, place.encode(), 0).map_err(|source| map_error("PLACE", source))?;
        let mut gateway: SockMap<MapData> = LOOKUP.map(&mut ebpf, "GATEWAY")?;
        for (index, listener) in [(0, tcp_v4), (1, tcp_v6)] {
            gateway.set(index, &listener.as_raw_fd(), 0).map_err(|source| map_error("GATEWAY", source))?;
        }
        let program: &mut SkLookup = LOOKUP.program(&mut ebpf, PROGRAM)?;
        program.load().map_err(|source| program_error(PROGRAM, source))?;
        program.attach(network).map_err(|source| program_error(PROGRAM, source))?;
        Ok(Self { _program: ebpf })
    }
}
