//! From a dentry and its mount up to the root: the path the kernel resolved.

use aya_ebpf::helpers::generated::bpf_loop;
use skep_ebpf_abi::record::{MARK_DETACHED, MARK_TOO_DEEP, MARK_TRUNCATED, MARK_UNREADABLE, MAX_STEPS};

use crate::kernel::{at_most, offset, read, read_bytes};

/// Where the text of a record ends.
///
/// The number is kept in the record, not in a register: there the verifier forgets what it knew of it, so that
/// all rounds of a walk look alike to it.
#[derive(Clone, Copy)]
pub(crate) struct End(*mut u32);

impl End {
    /// The end kept at this place of a reserved record.
    ///
    /// # Safety
    /// `place` is in the record and stays so while this is used.
    #[inline(always)]
    pub(crate) unsafe fn at(place: *mut u32) -> Self {
        Self(place)
    }

    /// Bytes written so far.
    #[inline(always)]
    pub(crate) fn read(self) -> u64 {
        // SAFETY: by `at`.
        u64::from(unsafe { self.0.read_volatile() })
    }

    /// Moves the end.
    #[inline(always)]
    pub(crate) fn write(self, end: u64) {
        // SAFETY: by `at`.
        unsafe { self.0.write_volatile(end as u32) };
    }
}

/// A walk on its way.
struct Walk {
    text: *mut u8,
    end: End,
    shown: u64,
    dentry: u64,
    marks: u32,
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Writes the components of a `struct path`, leaf first and each followed by a slash, behind the end of `text`;
/// `MARK_*` bits.
///
/// A rename under the walk may tear it; this is observation, never a verdict. A component begins below
/// `LAST + 1` and has 255 bytes and a slash at most, so `text` must have `LAST + 257` bytes.
#[inline(always)]
pub(crate) fn walk<const LAST: u64>(text: *mut u8, end: End, path: u64) -> u32 {
    let (Ok(shown), Ok(dentry)) = (read(path + offset!(path_mount)), read(path + offset!(path_dentry)))
    else {
        return MARK_UNREADABLE;
    };
    let mut walk = Walk { text, end, shown, dentry, marks: MARK_TOO_DEEP };
    let step = step::<LAST> as extern "C" fn(u64, *mut Walk) -> i64;
    // SAFETY: the callback has the signature the helper calls, and `walk` outlives the call.
    unsafe { bpf_loop(MAX_STEPS, step as *mut _, (&raw mut walk).cast(), 0) };
    walk.marks
}

/// One step: out of a mount, or up by a component. `bpf_loop` (5.17) lets the verifier see it once, where a
/// loop of our own would be gone through 96 times for every walk there is.
extern "C" fn step<const LAST: u64>(_round: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `walk` is the one passed to `bpf_loop`.
    let walk = unsafe { &mut *walk };
    match advance::<LAST>(walk) {
        None => CONTINUE,
        Some(marks) => {
            walk.marks = marks;
            STOP
        }
    }
}

/// The marks of the walk if this was its last step.
#[inline(always)]
fn advance<const LAST: u64>(walk: &mut Walk) -> Option<u32> {
    let Ok(root) = read::<u64>(walk.shown + offset!(shown_root)) else { return Some(MARK_UNREADABLE) };
    if walk.dentry == root {
        let mount = walk.shown - offset!(mount_shown);
        let (Ok(above), Ok(point)) =
            (read::<u64>(mount + offset!(mount_parent)), read(mount + offset!(mount_point)))
        else {
            return Some(MARK_UNREADABLE);
        };
        walk.shown = above + offset!(mount_shown);
        walk.dentry = point;
        return (above == mount).then_some(0);
    }
    let Ok(parent) = read::<u64>(walk.dentry + offset!(dentry_parent)) else { return Some(MARK_UNREADABLE) };
    if walk.end.read() > LAST {
        return Some(MARK_TRUNCATED);
    }
    if !component::<LAST>(walk.text, walk.end, walk.dentry) {
        return Some(MARK_UNREADABLE);
    }
    if parent == walk.dentry {
        return Some(MARK_DETACHED);
    }
    walk.dentry = parent;
    None
}

/// Writes the name of a dentry and a slash.
#[inline(always)]
fn component<const LAST: u64>(text: *mut u8, end: End, dentry: u64) -> bool {
    let name = dentry + offset!(dentry_name);
    let (Ok(length), Ok(bytes)) =
        (read::<u32>(name + offset!(name_length)), read(name + offset!(name_bytes)))
    else {
        return false;
    };
    let length = at_most::<255>(u64::from(length));
    let start = at_most::<LAST>(end.read());
    let to = text.wrapping_add(start as usize);
    // SAFETY: LAST + 255 + 1 bytes are in `text`.
    unsafe {
        if !read_bytes(to, length, bytes) {
            return false;
        }
        *to.wrapping_add(length as usize) = b'/';
    }
    end.write(start + length + 1);
    true
}
