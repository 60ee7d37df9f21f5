//! How much of the ring each sandbox holds: the programs count what they put in, this what is done with.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};

use super::BpfError;
use super::event::Event;
use super::object::{OBSERVE, map_error};
use super::programs::{COUNTS_SIZE, Counts};

/// Change what is there, add nothing.
const BPF_EXIST: u64 = 2;

/// What is done with, and what the programs are told of it.
pub(super) struct Ledger {
    consumed: HashMap<MapData, u64, u64>,
    counts: HashMap<MapData, u64, [u8; COUNTS_SIZE]>,
    /// Bytes by cgroup that the programs have not been told of.
    taken: BTreeMap<u64, u64>,
}

impl Ledger {
    pub(super) fn new(ebpf: &Ebpf) -> Result<Self, BpfError> {
        let (consumed, counts) = (OBSERVE.handle(ebpf, "CONSUMED")?, OBSERVE.handle(ebpf, "COUNTS")?);
        Ok(Self { consumed, counts, taken: BTreeMap::new() })
    }

    /// Notes that records of so many bytes are done with.
    pub(super) fn took(&mut self, cgroup: u64, bytes: u64) {
        *self.taken.entry(cgroup).or_default() += bytes;
    }

    /// Tells the programs what was taken, and says which of the sandboxes it was taken from have lost records.
    ///
    /// # Errors
    /// When a map cannot be read or written: then one sandbox has less room from now on.
    pub(super) fn settle(&mut self) -> Result<Vec<Event>, BpfError> {
        let mut overflowed = Vec::new();
        while let Some((cgroup, bytes)) = self.taken.pop_first() {
            self.give_back(cgroup, bytes).map_err(|source| map_error("CONSUMED", source))?;
            let counts = found(self.counts.get(&cgroup, 0)).map_err(|source| map_error("COUNTS", source))?;
            let lost = counts.map_or(0, |counts| bytemuck::cast::<_, Counts>(counts).lost);
            overflowed.extend((lost > 0).then_some(Event::Overflowed { cgroup, lost }));
        }
        Ok(overflowed)
    }

    /// A sandbox that is dismissed has no room any more, and must not be given some.
    fn give_back(&mut self, cgroup: u64, bytes: u64) -> Result<(), MapError> {
        let Some(before) = found(self.consumed.get(&cgroup, 0))? else { return Ok(()) };
        match self.consumed.insert(cgroup, before + bytes, BPF_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            told => told,
        }
    }
}

/// What a map has for a key, if anything.
pub(super) fn found<T>(value: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
