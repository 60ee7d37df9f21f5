//! Reading kernel memory at offsets the loader found, and the two things the verifier must be told.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel as probe_read};
use skep_ebpf_abi::offsets::Offsets;

/// Filled in by the loader; in read-only memory, so that the verifier knows every value.
#[unsafe(no_mangle)]
// SAFETY: offsets are numbers, and zero is one.
pub(crate) static OFFSETS: Offsets = unsafe { MaybeUninit::zeroed().assume_init() };

/// The offset with this name. The read is volatile, or the compiler would use the zero it sees.
macro_rules! offset {
    ($name:ident) => {
        // SAFETY: a field of a static, which the loader wrote before the program was there.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::OFFSETS.$name) as u64 }
    };
}
pub(crate) use offset;

/// Reads a value of kernel memory. Any address may be passed: a bad one is an error, not a fault.
#[inline(always)]
pub(crate) fn read<T>(address: u64) -> Result<T, i64> {
    // SAFETY: the helper checks the address; T is plain data in every use.
    unsafe { probe_read(address as *const T) }.map_err(i64::from)
}

/// Reads `length` bytes of kernel memory.
///
/// # Safety
/// `to` must have room for `length` bytes, and the verifier must be able to see it.
#[inline(always)]
pub(crate) unsafe fn read_bytes(to: *mut u8, length: u64, from: u64) -> bool {
    // SAFETY: the caller vouches for `to`; the helper checks `from`.
    unsafe { bpf_probe_read_kernel(to.cast(), length as u32, from as *const _) == 0 }
}

/// The running task's `task_struct`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_current_task() }
}

/// `value`, at most `MOST`, in a register whose bound the verifier has seen: the compiler neither knows of the
/// comparison nor can move it away.
#[inline(always)]
pub(crate) fn at_most<const MOST: u64>(mut value: u64) -> u64 {
    // SAFETY: touches the one register only.
    unsafe {
        asm!("if {value} <= {most} goto +1", "{value} = {most}", value = inout(reg) value, most = const MOST);
    }
    value
}

/// Adds to a counter that other programs on other CPUs, or preempting this one, also add to; the old value.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, amount: u64) -> u64 {
    // SAFETY: counters are values of maps, aligned and alive while the program runs.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter, amount,
        )
    }
}
