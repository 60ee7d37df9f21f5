//! Filling the text of a record, section by section.

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use skep_ebpf_abi::record::{MARK_TRUNCATED, MARK_UNREADABLE, SECTIONS, Section, TextHead, TextRecord};

use crate::emit::Ticket;
use crate::kernel::{at_most, offset, read};
use crate::walk::{End, walk};

/// Bytes of a path in user memory that are captured.
const CLAIMED: u64 = 1024;

/// A text being written. `LAST` is the last byte at which a section or component may begin and `PIECE` the most
/// that is written at once.
pub(crate) struct Text<const LAST: u64, const PIECE: u64> {
    head: *mut TextHead,
    bytes: *mut u8,
    end: End,
    fits: bool,
}

impl<const LAST: u64, const PIECE: u64> Text<LAST, PIECE> {
    /// Begins the text of a reserved record, which has room for `LAST + 1 + PIECE` bytes.
    #[inline(always)]
    pub(crate) fn begin<const N: usize>(record: *mut TextRecord<N>) -> Self {
        // SAFETY: `record` is reserved memory.
        unsafe {
            let head = &raw mut (*record).head;
            for section in 0..SECTIONS {
                put(&raw mut (*head).sections[section].present, 0);
            }
            let end = End::at(&raw mut (*head).written);
            end.write(0);
            Self { head, bytes: (&raw mut (*record).text).cast(), end, fits: true }
        }
    }

    /// Did everything fit that there is and that the largest record would hold.
    #[inline(always)]
    pub(crate) fn fits(&self) -> bool {
        self.fits
    }

    /// Writes the path of a `struct path`.
    #[inline(always)]
    pub(crate) fn path<const SECTION: usize>(&mut self, path: u64) {
        let start = self.end.read();
        let marks = walk::<LAST>(self.bytes, self.end, path);
        self.fits &= marks & MARK_TRUNCATED == 0;
        self.section::<SECTION>(self.end.read().wrapping_sub(start), marks, 0);
    }

    /// Adds to the marks of a section that is written.
    #[inline(always)]
    pub(crate) fn mark<const SECTION: usize>(&mut self, marks: u32) {
        // SAFETY: `head` is inside the reserved record.
        unsafe { (*self.head).sections[SECTION].marks |= marks };
    }

    /// Writes the string the caller passed.
    #[inline(always)]
    pub(crate) fn claimed<const SECTION: usize>(&mut self, from: u64) {
        let Some((to, start)) = self.room() else { return self.section::<SECTION>(0, MARK_TRUNCATED, 0) };
        let most = if PIECE < CLAIMED { PIECE } else { CLAIMED };
        // SAFETY: `room` has PIECE bytes.
        let length = unsafe { bpf_probe_read_user_str(to.cast(), most as u32, from as *const _) };
        if length <= 0 {
            return self.section::<SECTION>(0, MARK_UNREADABLE, 0);
        }
        let length = length as u64 - 1;
        let cut = length + 1 >= most;
        self.fits &= !cut;
        self.section::<SECTION>(length, if cut { MARK_TRUNCATED } else { 0 }, 0);
        self.end.write(start + length);
    }

    /// Writes bytes of user memory.
    #[inline(always)]
    pub(crate) fn memory<const SECTION: usize>(&mut self, from: u64, total: u64) {
        let Some((to, start)) = self.room() else {
            return self.section::<SECTION>(0, MARK_TRUNCATED, total as u32);
        };
        let length = at_most::<PIECE>(total);
        self.fits &= total <= PIECE;
        // SAFETY: `room` has PIECE bytes and `length` is no more.
        if unsafe { bpf_probe_read_user(to.cast(), length as u32, from as *const _) } != 0 {
            return self.section::<SECTION>(0, MARK_UNREADABLE, total as u32);
        }
        self.section::<SECTION>(length, if total > PIECE { MARK_TRUNCATED } else { 0 }, total as u32);
        self.end.write(start + length);
    }

    /// Where the next section begins, with room for PIECE bytes, as a pointer and in bytes of text.
    #[inline(always)]
    fn room(&mut self) -> Option<(*mut u8, u64)> {
        let end = self.end.read();
        self.fits &= end <= LAST;
        let start = at_most::<LAST>(end);
        (end <= LAST).then(|| (self.bytes.wrapping_add(start as usize), start))
    }

    #[inline(always)]
    fn section<const SECTION: usize>(&mut self, length: u64, marks: u32, total: u32) {
        // SAFETY: `head` is inside the reserved record.
        unsafe {
            (*self.head).sections[SECTION] = Section { length: length as u32, marks, total, present: 1 };
        }
    }
}

/// Writes what the kernel knows of a file into the head of a record.
#[inline(always)]
pub(crate) fn describe(head: *mut TextHead, file: u64) {
    let inode: u64 = read(file + offset!(file_inode)).unwrap_or(0);
    let root: u64 = read(inode + offset!(inode_super)).unwrap_or(0);
    // SAFETY: `head` is inside a reserved record.
    let head = unsafe { &mut *head };
    head.inode = read(inode + offset!(inode_number)).unwrap_or(0);
    head.mode = read::<u16>(inode + offset!(inode_mode)).unwrap_or(0) as u32;
    head.device = read(root + offset!(super_device)).unwrap_or(0);
    head.file_flags = read(file + offset!(file_flags)).unwrap_or(0);
    head.file_mode = read(file + offset!(file_mode)).unwrap_or(0);
}

/// Starts a record with text: its header and nothing known of a file.
#[inline(always)]
pub(crate) fn begin(ticket: &Ticket, head: *mut TextHead) {
    // SAFETY: `head` is inside a reserved record.
    unsafe {
        ticket.head(&raw mut (*head).header);
        put(&raw mut (*head).argument, 0);
        put(&raw mut (*head).inode, 0);
        put(&raw mut (*head).device, 0);
        put(&raw mut (*head).mode, 0);
        put(&raw mut (*head).file_flags, 0);
        put(&raw mut (*head).file_mode, 0);
        put(&raw mut (*head).syscall, 0);
        put(&raw mut (*head).result, 0);
    }
}

/// Writes a field by itself. The compiler would turn a row of zeros into a call of its byte-wise memset.
///
/// # Safety
/// `field` must be in a reserved record.
#[inline(always)]
unsafe fn put<T>(field: *mut T, value: T) {
    // SAFETY: by the contract above.
    unsafe { field.write_volatile(value) };
}
