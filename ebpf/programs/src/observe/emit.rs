//! Numbering and sending records.

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
    bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use skep_ebpf_abi::record::Header;
use skep_ebpf_abi::settings::Counts;

use crate::kernel::{add, current, offset, read};
use crate::maps::{COUNTS, EVENTS, NUMBERS};

/// The number of a record and who it is about.
#[derive(Clone, Copy)]
pub struct Ticket {
    number: u64,
    cgroup: u64,
    cpu: u32,
    kind: u32,
}

impl Ticket {
    /// Numbers a record. From here on it either arrives or is a gap that the reader counts.
    ///
    /// The counter is added to atomically: cgroup programs are preemptible, and another task's program may
    /// number its record between our load and our store.
    #[inline(always)]
    pub fn take(cgroup: u64, kind: u32) -> Option<Self> {
        let number = add(NUMBERS.get_ptr_mut(0)?, 1);
        // SAFETY: no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
        Some(Self { number, cgroup, cpu, kind })
    }

    /// Reserves room for a record, or counts it as lost.
    #[inline(always)]
    pub fn reserve<T>(&self) -> Option<*mut T> {
        let ring = (&raw const EVENTS).cast_mut().cast();
        // SAFETY: EVENTS is the ring's definition; the size is constant.
        let record: *mut T = unsafe { bpf_ringbuf_reserve(ring, size_of::<T>() as u64, 0) }.cast();
        if record.is_null() {
            self.count(|counts| unsafe { &raw mut (*counts).lost });
            return None;
        }
        Some(record)
    }

    /// Sends a record.
    #[inline(always)]
    pub fn submit<T>(&self, record: *mut T) {
        self.count(|counts| unsafe { &raw mut (*counts).records });
        // SAFETY: `record` came from `reserve` and is given up here.
        unsafe { bpf_ringbuf_submit(record.cast(), 0) };
    }

    /// Gives a reserved record up: it is going to be written again in a larger one.
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

    #[inline(always)]
    fn count(&self, counter: impl FnOnce(*mut Counts) -> *mut u64) {
        count(self.cgroup, counter);
    }
}

/// Adds one to a counter of a sandbox.
#[inline(always)]
pub fn count(cgroup: u64, counter: impl FnOnce(*mut Counts) -> *mut u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(&cgroup) {
        add(counter(counts), 1);
    }
}
