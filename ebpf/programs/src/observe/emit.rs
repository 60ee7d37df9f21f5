//! Numbering and sending records.

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
    bpf_ringbuf_discard, bpf_ringbuf_output, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use skep_ebpf_abi::quota::{footprint, has_room};
use skep_ebpf_abi::record::Header;
use skep_ebpf_abi::settings::Counts;

use crate::kernel::{add, current, offset, read};
use crate::maps::{CONSUMED, COUNTS, EVENTS, NUMBERS};

/// Size of the ring. Filled in by the loader.
#[unsafe(no_mangle)]
pub(crate) static RING_BYTES: u64 = 0;

/// The number of a record and who it is about.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
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
    pub(crate) fn take(cgroup: u64, kind: u32) -> Option<Self> {
        let counts = COUNTS.get_ptr_mut(cgroup)?;
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
    pub(crate) fn reserve<T>(&self) -> Option<*mut T> {
        // SAFETY: EVENTS is the ring's definition; the size is constant.
        let record: *mut T = unsafe { bpf_ringbuf_reserve(ring(), size_of::<T>() as u64, 0) }.cast();
        if record.is_null() {
            self.lost();
            return None;
        }
        Some(record)
    }

    /// Sends a record.
    #[inline(always)]
    pub(crate) fn submit<T>(&self, record: *mut T) {
        // Before the reader can take it, or it would have taken more than there was.
        // SAFETY: a value of a map, alive while the program runs.
        add(unsafe { &raw mut (*self.counts).bytes }, footprint(size_of::<T>()));
        // SAFETY: `record` came from `reserve` and is given up here.
        unsafe { bpf_ringbuf_submit(record.cast(), 0) };
    }

    /// Sends a record that is whole, or counts it as lost.
    #[inline(always)]
    pub(crate) fn output<T>(&self, record: &T) {
        let length = size_of::<T>();
        // SAFETY: a value of a map, alive while the program runs.
        let bytes = unsafe { &raw mut (*self.counts).bytes };
        // Before the reader can take it, as in `submit`.
        add(bytes, footprint(length));
        // SAFETY: EVENTS is the ring's definition; the record is `length` bytes without padding.
        let sent =
            unsafe { bpf_ringbuf_output(ring(), (&raw const *record).cast_mut().cast(), length as u64, 0) };
        if sent != 0 {
            add(bytes, footprint(length).wrapping_neg());
            self.lost();
        }
    }

    #[inline(always)]
    fn lost(&self) {
        // SAFETY: a value of a map, alive while the program runs.
        add(unsafe { &raw mut (*self.counts).lost }, 1);
    }

    /// Gives a reserved record up: it is going to be written again in a larger one, beside which its room counts
    /// for little.
    #[inline(always)]
    pub(crate) fn discard<T>(&self, record: *mut T) {
        // SAFETY: `record` came from `reserve` and is given up here.
        unsafe { bpf_ringbuf_discard(record.cast(), 0) };
    }

    /// Fills in the header of a reserved record.
    #[inline(always)]
    pub(crate) fn head(&self, header: *mut Header) {
        // SAFETY: `header` is inside a reserved record.
        unsafe { header.write(self.stamp(who())) };
    }

    /// The header of the record this is for.
    #[inline(always)]
    pub(crate) fn stamp(&self, who: Header) -> Header {
        Header { number: self.number, cgroup: self.cgroup, cpu: self.cpu, kind: self.kind, ..who }
    }
}

/// What a header says of the running task, and when this was.
#[inline(always)]
pub(crate) fn who() -> Header {
    let task = current();
    let leader = read(task + offset!(task_leader)).unwrap_or(task);
    let parent: u64 = read(leader + offset!(task_parent)).unwrap_or(0);
    // SAFETY: no precondition.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let mut comm = [0; 16];
    // SAFETY: the name is 16 bytes long, as the helper is told.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), 16) };
    Header {
        number: 0,
        // SAFETY: no precondition.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        cgroup: 0,
        start_ns: read(leader + offset!(task_start)).unwrap_or(0),
        process: (id >> 32) as u32,
        thread: id as u32,
        parent: read(parent + offset!(task_tgid)).unwrap_or(0),
        cpu: 0,
        kind: 0,
        reserved: 0,
        comm,
    }
}

/// Has the sandbox room for one more record of this kind. What the reader has taken is read first: whatever is added
/// meanwhile makes it look as if there were less room.
#[inline(always)]
fn may_hold_more(cgroup: u64, counts: *const Counts, kind: u32) -> bool {
    let Some(consumed) = CONSUMED.get_ptr(cgroup) else { return false };
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
pub(crate) fn count(cgroup: u64, counter: impl FnOnce(*mut Counts) -> *mut u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(cgroup) {
        add(counter(counts), 1);
    }
}
