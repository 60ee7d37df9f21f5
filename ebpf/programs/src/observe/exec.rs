//! A sandbox task has started a program: the point of no return is behind it, its first instruction ahead.

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use skep_ebpf_abi::record::*;

use crate::emit::{Ticket, count};
use crate::kernel::{current, offset, read};
use crate::maps::SANDBOXES;
use crate::text::{Text, begin, describe};

/// `sched_process_exec(task, old_pid, bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    // SAFETY: no precondition.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if SANDBOXES.get_ptr(cgroup).is_none() {
        return 0;
    }
    // SAFETY: a value of a map, alive while the program runs.
    count(cgroup, |counts| unsafe { &raw mut (*counts).executed });
    let Some(ticket) = Ticket::take(cgroup, EXEC) else { return 0 };
    let old_pid: i32 = ctx.arg(1);
    if !write::<SMALL_TEXT, { SMALL_LIMIT as u64 - 1 }, { SMALL_PIECE as u64 }>(&ticket, old_pid, false) {
        write::<LARGE_TEXT, { LARGE_LIMIT as u64 - 1 }, { LARGE_PIECE as u64 }>(&ticket, old_pid, true);
    }
    0
}

/// Writes the record; false if it deserves a larger one. `last` sends it however much is missing.
#[inline(always)]
fn write<const N: usize, const LAST: u64, const PIECE: u64>(
    ticket: &Ticket,
    old_pid: i32,
    last: bool,
) -> bool {
    let Some(record) = ticket.reserve::<TextRecord<N>>() else { return true };
    // SAFETY: `record` is reserved.
    let head = unsafe { &raw mut (*record).head };
    begin(ticket, head);
    // SAFETY: as above.
    unsafe { (*head).result = i64::from(old_pid) };
    let mut text = Text::<LAST, PIECE>::begin(record);
    let mm: u64 = read(current() + offset!(task_mm)).unwrap_or(0);
    let file: u64 = read(mm + offset!(mm_exe_file)).unwrap_or(0);
    describe(head, file);
    text.path::<0>(file + offset!(file_path));
    let start: u64 = read(mm + offset!(mm_arg_start)).unwrap_or(0);
    let end: u64 = read(mm + offset!(mm_arg_end)).unwrap_or(0);
    text.memory::<1>(start, end.saturating_sub(start));
    if text.fits() || last {
        ticket.submit(record);
        return true;
    }
    ticket.discard(record);
    false
}
