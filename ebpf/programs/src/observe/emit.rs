//! Numbering and sending records.

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
    bpf_ringbuf_discard, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use skep_ebpf_abi::quota::{footprint, has_room};
use skep_ebpf_abi::record::Header;
use skep_ebpf_abi::settings::Counts;

use crate::kernel::{add, current, offset, read};
use crate::maps::{CONSUMED, COUNTS, EVENTS, NUMBERS};

/// Size of the ring. Filled in by the loader.
#[unsafe(no_mangle)]
pub static RING_BYTES: u64 = 0;

/// The number of a record and who it is about.
#[derive(Clone, Copy)]
pub struct Ticket {
    number: u64,
    cgroup: u64,
    counts: *mut Counts,
    cpu: u32,
    kind: u32,
}

impl Ticket {
    /// Numbers a record, unless its sandbox has no room for it: then it is counted as lost. From here on it either
    /// arrives or is a gap that the reader counts.
    ///
    /// The counter is added to atomically: cgroup programs are preemptible, and another task's program may
    /// number its record between our load and our store.
    #[inline(always)]
    pub fn take(cgroup: u64, kind: u32) -> Option<Self> {
        let counts = COUNTS.get_ptr_mut(&cgroup)?;
        if !may_hold_more(cgroup, counts, kind) {
            // SAFETY: a value of a map, alive while the program runs.
            add(unsafe { &raw mut (*counts).lost }, 1);
            return None;
        }
        let number = add(NUMBERS.get_ptr_mut(0)?, 1);
        // SAFETY: no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
        Some(Self { number, cgroup, counts, cpu, kind })
    }

    /// Reserves room for a record, or counts it as lost.
    #[inline(always)]
    pub fn reserve<T>(&self) -> Option<*mut T> {
        // SAFETY: EVENTS is the ring's definition; the size is constant.
        let record: *mut T = unsafe { bpf_ringbuf_reserve(ring(), size_of::<T>() as u64, 0) }.cast();
        if record.is_null() {
            // SAFETY: a value of a map, alive while the program runs.
            add(unsafe { &raw mut (*self.counts).lost }, 1);
            return None;
        }
        Some(record)
    }

    /// Sends a record.
    #[inline(always)]
    pub fn submit<T>(&self, record: *mut T) {
        // Before the reader can take it, or it would have taken more than there was.
        // SAFETY: a value of a map, alive while the program runs.
        add(unsafe { &raw mut (*self.counts).bytes }, footprint(size_of::<T>()));
        // SAFETY: `record` came from `reserve` and is given up here.
        unsafe { bpf_ringbuf_submit(record.cast(), 0) };
    }

    /// Gives a reserved record up: it is going to be written again in a larger one, beside which its room counts
    /// for little.
    #[inline(always)]
    pub fn discard<T>(&self, record: *mut T) {
        // SAFETY: `record` came from `reserve` and is given up here.
        unsafe { bpf_ringbuf_discard(record.cast(), 0) };
    }

    /// Fills in the header of a reserved record.
    #[inline(always)]
    pub fn head(&self, header: *mut Header) {
        let task = current();
        let leader = read(task + offset!(task_leader)).unwrap_or(task);
        let parent: u64 = read(leader + offset!(task_parent)).unwrap_or(0);
        // SAFETY: `header` is inside a reserved record.
        let header = unsafe { &mut *header };
        // SAFETY: no precondition.
        let id = unsafe { bpf_get_current_pid_tgid() };
        header.number = self.number;
        // SAFETY: no precondition.
        header.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        header.cgroup = self.cgroup;
        header.start_ns = read(leader + offset!(task_start)).unwrap_or(0);
        header.process = (id >> 32) as u32;
        header.thread = id as u32;
        header.parent = read(parent + offset!(task_tgid)).unwrap_or(0);
        header.cpu = self.cpu;
        header.kind = self.kind;
        header.reserved = 0;
        // SAFETY: the name is 16 bytes long, as the helper is told, and it fills all of them.
        unsafe { bpf_get_current_comm((&raw mut header.comm).cast(), 16) };
    }
}

/// Has the sandbox room for one more record of this kind. What the reader has taken is read first: whatever is added
/// meanwhile makes it look as if there were less room.
#[inline(always)]
fn may_hold_more(cgroup: u64, counts: *const Counts, kind: u32) -> bool {
    let Some(consumed) = CONSUMED.get_ptr(&cgroup) else { return false };
    // SAFETY: values of maps, alive while the program runs; the ring's definition.
    let (consumed, bytes, unread, ring) = unsafe {
        (
            read_volatile(consumed),
            read_volatile(&raw const (*counts).bytes),
            bpf_ringbuf_query(ring(), u64::from(BPF_RB_AVAIL_DATA)),
            read_volatile(&raw const RING_BYTES),
        )
    };
    has_room(kind, ring, unread, bytes.saturating_sub(consumed))
}

/// The ring as the helpers want it.
#[inline(always)]
fn ring() -> *mut core::ffi::c_void {
    (&raw const EVENTS).cast_mut().cast()
}

/// Adds one to a counter of a sandbox.
#[inline(always)]
pub fn count(cgroup: u64, counter: impl FnOnce(*mut Counts) -> *mut u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(&cgroup) {
        add(counter(counts), 1);
    }
}
