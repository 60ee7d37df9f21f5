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
    kind: u64,
    /// Whole, with zeros behind it.
    name: [u64; WORDS],
}

/// When each was recorded last. One sandbox may push out another's: that is then recorded again.
#[map]
static LOOKS: LruHashMap<Look, u64> = LruHashMap::with_max_entries(8192, 0);

/// Has the sandbox looked for this name within a second, with a call of the same `kind`? If not, it has now.
///
/// `directory` is the `struct path` of the directory the name is relative to.
#[inline(always)]
pub(crate) fn is_repeated(cgroup: u64, directory: u64, name: u64, kind: u64) -> bool {
    let directory = read(directory + offset!(path_dentry)).unwrap_or(0);
    let mut look = Look { cgroup, directory, kind, name: [0; WORDS] };
    let most = size_of_val(&look.name) as u32;
    // SAFETY: the helper checks the address and writes no more than `most` bytes.
    let length = unsafe { bpf_probe_read_user_str(look.name.as_mut_ptr().cast(), most, name as *const _) };
    // One that fills the room may be longer.
    if length <= 0 || length >= i64::from(most) || is_of_a_descriptor(&look.name) {
        return false;
    }
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
