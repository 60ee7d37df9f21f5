//! Looks for what is not there, which programs repeat: every shell looks for its locales, every runtime for its
//! settings. A record costs the task that looks some 7 us and skepd more, to see each time that it is known.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_user_str};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;

use crate::kernel::{offset, read};

/// How long a look stands for its repetitions. What it looks for may be there by the next.
const SECOND: u64 = 1_000_000_000;

/// Names up to 127 bytes are compared.
const WORDS: usize = 16;

/// What was looked for where.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Look {
    cgroup: u64,
    /// The dentry the name is relative to.
    directory: u64,
    name: u64,
}

/// When each was recorded last. One sandbox may push out another's: that is then recorded again.
#[map]
static LOOKS: LruHashMap<Look, u64> = LruHashMap::with_max_entries(8192, 0);

/// Random, filled in by the loader: no sandbox can find two names that count as one.
#[unsafe(no_mangle)]
static LOOKS_SEED: u64 = 0;

/// Has the sandbox looked for this name within a second, with a call of the same `kind`? If not, it has now.
///
/// `directory` is the `struct path` of the directory the name is relative to.
#[inline(always)]
pub(crate) fn is_repeated(cgroup: u64, directory: u64, name: u64, kind: u64) -> bool {
    let mut words = [0u64; WORDS];
    let most = size_of_val(&words) as u32;
    // SAFETY: the helper checks the address and writes no more than `most` bytes.
    let length = unsafe { bpf_probe_read_user_str(words.as_mut_ptr().cast(), most, name as *const _) };
    // One that fills the room may be longer.
    if length <= 0 || length >= i64::from(most) || is_of_a_descriptor(&words) {
        return false;
    }
    let directory = read(directory + offset!(path_dentry)).unwrap_or(0);
    let look = Look { cgroup, directory, name: mix(&words, kind) };
    // SAFETY: no precondition.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if let Some(last) = LOOKS.get_ptr(look)
        // SAFETY: a value of a map, alive while the program runs.
        && now.wrapping_sub(unsafe { last.read_volatile() }) < SECOND
    {
        return true;
    }
    // Where there is no room, it is recorded again.
    let _forgotten = LOOKS.insert(look, now, 0);
    false
}

/// `/proc/…` may name a descriptor, which may be another one by now.
#[inline(always)]
fn is_of_a_descriptor(words: &[u64; WORDS]) -> bool {
    const PROC: u64 = u64::from_le_bytes(*b"/proc/\0\0");
    words[0] << 16 == PROC << 16
}

/// Mixes the bits of a name, as a multiplicative hash does.
#[inline(always)]
fn mix(words: &[u64; WORDS], kind: u64) -> u64 {
    // SAFETY: in read-only memory; volatile, or the compiler would use the zero it sees.
    let mut mixed = unsafe { (&raw const LOOKS_SEED).read_volatile() } ^ kind;
    for word in words {
        mixed = (mixed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
    }
    mixed
}
