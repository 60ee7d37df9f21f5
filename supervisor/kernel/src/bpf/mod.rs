//! The BPF programs: loading them, telling them which cgroups are sandboxes, hearing what they saw.
//!
//! [`Programs`] are loaded once per process and judge connects of every sandbox below one parent cgroup; each
//! sandbox's network namespace gets a [`LookupLink`] of its own. Nothing is pinned: what this process loaded
//! leaves with it.
//!
//! Minimum kernel version: 6.1. Required configuration: `CONFIG_BPF_SYSCALL`, `CONFIG_CGROUP_BPF`,
//! `CONFIG_DEBUG_INFO_BTF`, `CONFIG_HAVE_SYSCALL_TRACEPOINTS`.

mod btf;
mod decode;
mod event;
mod ledger;
mod lookup;
mod object;
mod programs;
mod reader;

use skep_ebpf_abi::net;
use skep_policy::egress;

pub use event::{
    Accuracy, Call, Claimed, Connect, Event, Exec, Exit, Named, Opened, Ran, ResolvedPath, Status, Task,
};
pub use lookup::{LookupLink, LookupPlace};
pub use programs::{Counts, Options, Programs, Settings};
pub use reader::{EventReader, Taken};

// The gateway hands out what the programs let through, and neither can depend on the other's crate.
const _: () = assert!(egress::VIRTUAL_V4.to_bits() == net::VIRTUAL_V4);
const _: () = assert!(egress::VIRTUAL_V6.to_bits() >> 96 == net::VIRTUAL_V6 as u128);

/// Why the programs could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The library was built without the objects.
    #[error("built without the BPF programs: cargo xtask build")]
    NotBuilt,
    /// The kernel's description of its types is missing or broken.
    #[error("/sys/kernel/btf/vmlinux: {0}")]
    Types(String),
    /// A structure the programs read has no such member in this kernel.
    #[error("this kernel has no {structure}.{member}: the BPF programs cannot observe it")]
    Member {
        /// The structure.
        structure: &'static str,
        /// The member.
        member: &'static str,
    },
    /// The object could not be parsed or its maps not be made.
    #[error("loading the BPF object {object} failed: {source}")]
    Object {
        /// Which object.
        object: &'static str,
        /// Why.
        source: Box<aya::EbpfError>,
    },
    /// The kernel refused a program or its attachment.
    #[error("BPF program {program}: {source}")]
    Program {
        /// Which program.
        program: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be used.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Which map.
        map: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// The object has no such program or map: it is not the one this library was built for.
    #[error("the BPF object {object} has no {missing}")]
    Mismatch {
        /// Which object.
        object: &'static str,
        /// What it lacks.
        missing: &'static str,
    },
    /// The ring must be a power of two and at least a page.
    #[error("{0} bytes are no size for a ring: a power of two from 4096 on is needed")]
    RingSize(u32),
}
