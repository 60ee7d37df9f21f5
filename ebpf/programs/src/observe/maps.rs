//! The maps, all created by the loader.

use aya_ebpf::bindings::BPF_F_RDONLY_PROG;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use skep_ebpf_abi::settings::{Counts, Settings};
use skep_ebpf_abi::syscalls::{Shape, TABLE_LENGTH};

/// Sandboxes by the id of their cgroup.
#[map]
pub(crate) static SANDBOXES: HashMap<u64, Settings> = HashMap::with_max_entries(4096, 0);

/// What is counted, by the id of the cgroup.
#[map]
pub(crate) static COUNTS: HashMap<u64, Counts> = HashMap::with_max_entries(4096, 0);

/// How many of the bytes that [`Counts`] has the reader has taken out of the ring, by the id of the cgroup. Written by
/// user space only.
#[map]
pub(crate) static CONSUMED: HashMap<u64, u64> = HashMap::with_max_entries(4096, BPF_F_RDONLY_PROG);

/// The shape of every watched system call, by its number.
#[map]
pub(crate) static SYSCALLS: Array<Shape> = Array::with_max_entries(TABLE_LENGTH as u32, 0);

/// The next record's number on each CPU.
#[map]
pub(crate) static NUMBERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The records. The loader sets the size.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
