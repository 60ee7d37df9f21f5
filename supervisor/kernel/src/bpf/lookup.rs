//! One sandbox's `sk_lookup` program: its connections go to the gateway's listeners.
//!
//! The program sees no namespace, so every sandbox has its own, with its own maps. Loading one takes longer
//! than everything else about it (145 us of 175), so slots are prepared ahead of launches.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::{Array, MapData, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use skep_ebpf_abi::settings::Place;

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

/// A loaded program that waits for its sandbox.
pub struct LookupSlot {
    ebpf: Ebpf,
    gateway: SockMap<MapData>,
    place: Array<MapData, [u8; PLACE_SIZE]>,
}

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

impl LookupSlot {
    /// Loads a program.
    ///
    /// # Errors
    /// When the library was built without it or the kernel refuses it.
    pub fn prepare() -> Result<Self, BpfError> {
        let object = LOOKUP.bytes()?;
        // A panic elsewhere cannot leave the loader in pieces: it holds settings only.
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ebpf = loader.load(object).map_err(|source| LOOKUP.failed(source))?;
        drop(loader);
        let program: &mut SkLookup = LOOKUP.program(&mut ebpf, PROGRAM)?;
        program.load().map_err(|source| program_error(PROGRAM, source))?;
        let gateway = LOOKUP.map(&mut ebpf, "GATEWAY")?;
        let place = LOOKUP.map(&mut ebpf, "PLACE")?;
        Ok(Self { ebpf, gateway, place })
    }

    /// Puts the program in charge of a network namespace.
    ///
    /// The listeners must have been opened in that very namespace: one of another makes clients hang.
    ///
    /// # Errors
    /// When a listener cannot be put into the map or the namespace already has as many programs as it may.
    pub fn attach(
        mut self,
        network: BorrowedFd<'_>,
        tcp_v4: BorrowedFd<'_>,
        tcp_v6: BorrowedFd<'_>,
        place: &LookupPlace,
    ) -> Result<LookupLink, BpfError> {
        self.place.set(0, place.encode(), 0).map_err(|source| map_error("PLACE", source))?;
        for (index, listener) in [(0, tcp_v4), (1, tcp_v6)] {
            self.gateway
                .set(index, &listener.as_raw_fd(), 0)
                .map_err(|source| map_error("GATEWAY", source))?;
        }
        let program: &mut SkLookup = LOOKUP.program(&mut self.ebpf, PROGRAM)?;
        program.attach(network).map_err(|source| program_error(PROGRAM, source))?;
        Ok(LookupLink { _slot: self })
    }
}

/// A program in charge of a namespace; dropping it detaches it, and connections are refused.
pub struct LookupLink {
    _slot: LookupSlot,
}

/// Slots prepared ahead, so that no launch waits for a load.
pub struct LookupPool {
    size: usize,
    slots: Vec<LookupSlot>,
}

impl LookupPool {
    /// An empty pool that [`LookupPool::refill`] fills to `size`.
    pub fn new(size: usize) -> Self {
        Self { size, slots: Vec::with_capacity(size) }
    }

    /// A prepared slot, or one loaded now if there is none.
    ///
    /// # Errors
    /// When one has to be loaded and that fails.
    pub fn take(&mut self) -> Result<LookupSlot, BpfError> {
        self.slots.pop().map_or_else(LookupSlot::prepare, Ok)
    }

    /// Prepares one more slot if one is missing; false when the pool is full.
    ///
    /// # Errors
    /// When loading fails.
    pub fn refill(&mut self) -> Result<bool, BpfError> {
        if self.slots.len() >= self.size {
            return Ok(false);
        }
        self.slots.push(LookupSlot::prepare()?);
        Ok(true)
    }
}
