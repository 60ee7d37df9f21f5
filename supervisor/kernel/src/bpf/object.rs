//! The embedded objects.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError};
use aya::programs::{Program, ProgramError};

use super::BpfError;

/// One embedded object; empty where the library was built without the BPF programs.
pub(super) struct Object {
    /// Its name in errors.
    pub(super) name: &'static str,
    bytes: &'static [u8],
}

/// What sandbox tasks do, and where they may connect.
pub(super) static OBSERVE: Object = Object {
    name: "observe",
    bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observe.bpf.o")),
};

/// One sandbox's connections to its gateway.
pub(super) static LOOKUP: Object =
    Object { name: "lookup", bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lookup.bpf.o")) };

impl Object {
    /// The object's bytes.
    ///
    /// # Errors
    /// When the library was built without them.
    pub(super) fn bytes(&self) -> Result<&'static [u8], BpfError> {
        if self.bytes.is_empty() { Err(BpfError::NotBuilt) } else { Ok(self.bytes) }
    }

    /// The error of a failed load.
    pub(super) fn failed(&self, source: aya::EbpfError) -> BpfError {
        BpfError::Object { object: self.name, source: Box::new(source) }
    }

    /// Takes a map out of the loaded object.
    pub(super) fn map<T>(&self, ebpf: &mut Ebpf, name: &'static str) -> Result<T, BpfError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let missing = BpfError::Mismatch { object: self.name, missing: name };
        T::try_from(ebpf.take_map(name).ok_or(missing)?).map_err(|source| map_error(name, source))
    }

    /// A handle of its own on a hash map of the loaded object.
    pub(super) fn handle<T>(&self, ebpf: &Ebpf, name: &'static str) -> Result<T, BpfError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let Some(Map::HashMap(map)) = ebpf.map(name) else {
            return Err(BpfError::Mismatch { object: self.name, missing: name });
        };
        let descriptor = map.fd().as_fd().try_clone_to_owned().map_err(MapError::from);
        let map = descriptor.and_then(MapData::from_fd).and_then(|map| T::try_from(Map::HashMap(map)));
        map.map_err(|source| map_error(name, source))
    }

    /// A program of the loaded object as its type.
    pub(super) fn program<'a, T>(&self, ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, BpfError>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let missing = BpfError::Mismatch { object: self.name, missing: name };
        let program = ebpf.program_mut(name).ok_or(missing)?;
        program.try_into().map_err(|source| program_error(name, source))
    }
}

/// The error of a map.
pub(super) fn map_error(map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { map, source: Box::new(source) }
}

/// The error of a program.
pub(super) fn program_error(program: &'static str, source: ProgramError) -> BpfError {
    BpfError::Program { program, source: Box::new(source) }
}
