//! A sandbox process has ended.

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use skep_ebpf_abi::record::{EXIT, ExitRecord};

use crate::emit::Ticket;
use crate::kernel::{current, offset, read};
use crate::maps::SANDBOXES;

/// `SIGNAL_GROUP_EXIT` of `signal_struct.flags`: the status is the group's.
const GROUP_EXIT: u32 = 4;

/// `sched_process_exit(task)`.
///
/// The record belongs to the last thread, not to the leader: a leader may end long before its process, and the
/// one that `execve` in another thread replaces has not ended its process at all. Two threads that end at once
/// may both see no thread left; the reader drops the second record.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    // SAFETY: no precondition.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if SANDBOXES.get_ptr(cgroup).is_none() {
        return 0;
    }
    let signal: u64 = read(current() + offset!(task_signal)).unwrap_or(0);
    if read::<i32>(signal + offset!(signal_live)).unwrap_or(0) != 0 {
        return 0;
    }
    let Some(ticket) = Ticket::take(cgroup, EXIT) else { return 0 };
    let Some(record) = ticket.reserve::<ExitRecord>() else { return 0 };
    // SAFETY: `record` is reserved.
    unsafe {
        ticket.head(&raw mut (*record).header);
        (*record).status = status(signal);
        (*record).reserved = 0;
    }
    ticket.submit(record);
    0
}

/// The status as `wait` will report it.
#[inline(always)]
fn status(signal: u64) -> u32 {
    if read::<u32>(signal + offset!(signal_flags)).unwrap_or(0) & GROUP_EXIT != 0 {
        return read(signal + offset!(signal_exit_code)).unwrap_or(0);
    }
    let leader: u64 = read(current() + offset!(task_leader)).unwrap_or(0);
    read(leader + offset!(task_exit_code)).unwrap_or(0)
}
