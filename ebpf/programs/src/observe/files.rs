//! What sandbox tasks did to files, seen when their system calls return.
//!
//! On x86-64 the arguments are still in `pt_regs` then. Compatibility calls (`int 0x80`) carry other numbers;
//! the seccomp filter kills them. A path in user memory is what the task *claimed*: it may have changed since
//! the kernel read it, so successful opens are reported by the file the kernel opened.

use core::ptr::read_volatile;

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_probe_read_user_str};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use skep_ebpf_abi::record::*;
use skep_ebpf_abi::settings::{BUILT_FIRST, REPORT_MISSING, REPORT_READS, Settings};
use skep_ebpf_abi::syscalls::*;

use crate::emit::{Ticket, count};
use crate::kernel::{current, offset, read};
use crate::looks;
use crate::maps::{COUNTS, SANDBOXES, SYSCALLS};
use crate::text::{Text, begin, describe};

const AT_FDCWD: i32 = -100;
const AF_UNIX: u16 = 1;
const O_ACCMODE: u64 = 3;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;
const O_PATH: u32 = 0o10_000_000;
/// `FMODE_CREATED`: this open made the file.
const CREATED: u32 = 0x10_0000;

const EPERM: i64 = -1;
const ENOENT: i64 = -2;
const EACCES: i64 = -13;
const EBUSY: i64 = -16;
const EXDEV: i64 = -18;
const EROFS: i64 = -30;
const ECONNREFUSED: i64 = -111;

/// A call that has returned.
struct Call<'a> {
    number: u32,
    shape: &'a Shape,
    registers: u64,
    result: i64,
}

impl Call<'_> {
    /// An argument, by its register.
    #[inline(always)]
    fn argument(&self, register: i8) -> u64 {
        if register < 0 {
            return 0;
        }
        read(self.registers + register as u64).unwrap_or(0)
    }

    /// Flags or mode as passed; those of `openat2` are in user memory.
    #[inline(always)]
    fn flags(&self) -> u64 {
        let value = self.argument(self.shape.argument);
        if self.shape.indirect == 0 {
            return value;
        }
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(value as *const u64) }.unwrap_or(0)
    }
}

/// `sys_exit(regs, result)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub(crate) fn sys_exit(ctx: RawTracePointContext) -> i32 {
    // SAFETY: no precondition.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let Some(settings) = SANDBOXES.get_ptr(cgroup) else { return 0 };
    let registers: u64 = ctx.arg(0);
    let Ok(number) = read::<u64>(registers + NUMBER_REGISTER) else { return 0 };
    let Some(shape) = SYSCALLS.get(number as u32) else { return 0 };
    if shape.class == CLASS_NONE {
        return 0;
    }
    let call = Call { number: number as u32, shape, registers, result: ctx.arg(1) };
    report(cgroup, settings, &call);
    0
}

#[inline(always)]
fn report(cgroup: u64, settings: *const Settings, call: &Call<'_>) {
    // SAFETY: a value of a map, alive while the program runs.
    let flags = unsafe { (*settings).flags };
    if flags & BUILT_FIRST != 0 && call.shape.class != CLASS_EXEC && !has_executed(cgroup) {
        return;
    }
    if call.result < 0 {
        if is_refusal(call, flags) && !is_repeated(cgroup, call) {
            send(cgroup, REFUSED, call);
        }
        return;
    }
    match call.shape.class {
        CLASS_OPEN if flags & REPORT_READS == 0 && !writes(call) => {
            // SAFETY: a value of a map, alive while the program runs.
            count(cgroup, |counts| unsafe { &raw mut (*counts).reads });
        }
        CLASS_OPEN => send(cgroup, OPENED, call),
        CLASS_CHANGE => send(cgroup, CHANGED, call),
        CLASS_BIND if is_unix(call) => send(cgroup, CHANGED, call),
        _ => {}
    }
}

/// Has the sandbox executed a program yet.
#[inline(always)]
fn has_executed(cgroup: u64) -> bool {
    // SAFETY: a value of a map, alive while the program runs.
    COUNTS.get_ptr(cgroup).is_some_and(|counts| unsafe { read_volatile(&raw const (*counts).executed) } > 0)
}

/// Is this a failure that a rule of ours may have caused.
#[inline(always)]
fn is_refusal(call: &Call<'_>, flags: u32) -> bool {
    let socket = call.shape.class == CLASS_CONNECT || call.shape.class == CLASS_BIND;
    if socket && !is_unix(call) {
        return false;
    }
    match call.result {
        EPERM | EACCES | EROFS | EXDEV | EBUSY => true,
        ENOENT => flags & REPORT_MISSING != 0 && call.shape.class != CLASS_CHANGE,
        // What an abstract socket of the host answers.
        ECONNREFUSED => call.shape.class == CLASS_CONNECT,
        _ => false,
    }
}

/// Did the sandbox look for the same thing a moment ago, which is not there.
#[inline(always)]
fn is_repeated(cgroup: u64, call: &Call<'_>) -> bool {
    const KINDS: u64 = O_ACCMODE | O_CREAT | O_TRUNC;
    let class = call.shape.class;
    if call.result != ENOENT || (class != CLASS_OPEN && class != CLASS_EXEC) {
        return false;
    }
    let Some(directory) = directory(call.shape.directory, call.argument(call.shape.directory) as i32) else {
        return false;
    };
    let kind = call.flags() & KINDS | u64::from(class) << 32;
    looks::is_repeated(cgroup, directory, call.argument(call.shape.path), kind)
}

/// Is the address the caller passed one of AF_UNIX.
#[inline(always)]
fn is_unix(call: &Call<'_>) -> bool {
    // SAFETY: the helper checks the address.
    let family = unsafe { bpf_probe_read_user(call.argument(call.shape.path) as *const u16) };
    family == Ok(AF_UNIX)
}

/// May the open have changed something. The kernel keeps neither O_CREAT nor O_TRUNC in `f_flags`; those of
/// `openat2` stand in memory the task may have changed since, so all of its opens count.
#[inline(always)]
fn writes(call: &Call<'_>) -> bool {
    let Some(file) = opened(call.result) else { return true };
    let kept: u32 = read(file + offset!(file_flags)).unwrap_or(0);
    let mode: u32 = read(file + offset!(file_mode)).unwrap_or(0);
    if kept & O_PATH != 0 {
        return false;
    }
    let passed = call.flags();
    kept as u64 & O_ACCMODE != 0
        || mode & CREATED != 0
        || passed & (O_CREAT | O_TRUNC) != 0
        || call.shape.indirect != 0
}

/// The file behind a descriptor of the running task.
#[inline(always)]
fn opened(descriptor: i64) -> Option<u64> {
    let files: u64 = read(current() + offset!(task_files)).ok()?;
    let table: u64 = read(files + offset!(files_table)).ok()?;
    let length: u32 = read(table + offset!(table_length)).ok()?;
    if descriptor < 0 || descriptor >= i64::from(length) {
        return None;
    }
    let array: u64 = read(table + offset!(table_files)).ok()?;
    let file: u64 = read(array + descriptor as u64 * 8).ok()?;
    (file != 0).then_some(file)
}

#[inline(always)]
fn send(cgroup: u64, kind: u32, call: &Call<'_>) {
    let Some(ticket) = Ticket::take(cgroup, kind) else { return };
    if !write::<SMALL_TEXT, { SMALL_LIMIT as u64 - 1 }, { SMALL_PIECE as u64 }>(&ticket, kind, call, false) {
        write::<LARGE_TEXT, { LARGE_LIMIT as u64 - 1 }, { LARGE_PIECE as u64 }>(&ticket, kind, call, true);
    }
}

/// Writes the record; false if it deserves a larger one. `last` sends it however much is missing.
#[inline(always)]
fn write<const N: usize, const LAST: u64, const PIECE: u64>(
    ticket: &Ticket,
    kind: u32,
    call: &Call<'_>,
    last: bool,
) -> bool {
    let Some(record) = ticket.reserve::<TextRecord<N>>() else { return true };
    // SAFETY: `record` is reserved.
    let head = unsafe { &raw mut (*record).head };
    begin(ticket, head);
    // SAFETY: as above.
    unsafe {
        (*head).result = call.result;
        (*head).argument = call.flags();
        (*head).syscall = call.number;
    }
    let mut text = Text::<LAST, PIECE>::begin(record);
    if kind == OPENED {
        if let Some(file) = opened(call.result) {
            describe(head, file);
            text.path::<0>(file + offset!(file_path));
        }
    } else if call.shape.class == CLASS_CONNECT || call.shape.class == CLASS_BIND {
        base::<0, LAST, PIECE>(&mut text, CWD, 0);
        // The address is `family` and up to 108 bytes that need no end: an abstract name begins with NUL.
        let length = (call.argument(call.shape.argument) & 0xff).saturating_sub(2);
        text.memory::<1>(call.argument(call.shape.path) + 2, length);
    } else {
        claim::<0, 1, LAST, PIECE>(&mut text, call, call.shape.directory, call.shape.path);
        claim::<2, 3, LAST, PIECE>(&mut text, call, call.shape.second_directory, call.shape.second_path);
    }
    if text.fits() || last {
        ticket.submit(record);
        return true;
    }
    ticket.discard(record);
    false
}

/// Writes a path the caller named: the directory it is relative to, and what was claimed.
#[inline(always)]
fn claim<const BASE: usize, const CLAIMED: usize, const LAST: u64, const PIECE: u64>(
    text: &mut Text<LAST, PIECE>,
    call: &Call<'_>,
    directory: i8,
    path: i8,
) {
    // The target of a symbolic link is relative to nothing, and only text.
    let is_path = path != NONE && directory != NONE;
    let file = if is_path { descriptor(call.argument(path)).and_then(opened) } else { None };
    match file {
        Some(file) => {
            text.path::<BASE>(file + offset!(file_path));
            text.mark::<BASE>(MARK_DESCRIPTOR);
        }
        None => base::<BASE, LAST, PIECE>(text, directory, call.argument(directory) as i32),
    }
    if path != NONE {
        text.claimed::<CLAIMED>(call.argument(path));
    }
}

/// The number in a claim that begins with `/proc/self/fd/NUMBER`. Claude's runtime names files of a directory
/// it holds open so, and by the time anybody else looks the descriptor may be another one.
#[inline(always)]
fn descriptor(claimed: u64) -> Option<i64> {
    const FIRST: u64 = u64::from_le_bytes(*b"/proc/se");
    const SECOND: u64 = u64::from_le_bytes(*b"lf/fd/\0\0");
    let mut words = [0u64; 3];
    let most = size_of_val(&words) as u32;
    // SAFETY: the helper checks the address and writes no more than `most` bytes.
    if unsafe { bpf_probe_read_user_str(words.as_mut_ptr().cast(), most, claimed as *const _) } <= 0 {
        return None;
    }
    if words[0] != FIRST || words[1] << 16 != SECOND << 16 {
        return None;
    }
    // Two bytes of the number are in the second word, the others in the third.
    let rest = words[1] >> 48 | words[2] << 16;
    let mut number = 0;
    for place in 0..7 {
        match (rest >> (8 * place)) as u8 {
            digit @ b'0'..=b'9' => number = number * 10 + i64::from(digit - b'0'),
            0 | b'/' if place > 0 => return Some(number),
            _ => return None,
        }
    }
    None
}

/// Writes the path of the directory a name is relative to.
#[inline(always)]
fn base<const SECTION: usize, const LAST: u64, const PIECE: u64>(
    text: &mut Text<LAST, PIECE>,
    directory: i8,
    descriptor: i32,
) {
    if let Some(path) = self::directory(directory, descriptor) {
        text.path::<SECTION>(path);
    }
}

/// The `struct path` of the directory a name is relative to.
#[inline(always)]
fn directory(directory: i8, descriptor: i32) -> Option<u64> {
    if directory == NONE {
        return None;
    }
    if directory == CWD || descriptor == AT_FDCWD {
        let fs: u64 = read(current() + offset!(task_fs)).unwrap_or(0);
        return Some(fs + offset!(fs_directory));
    }
    Some(opened(i64::from(descriptor))? + offset!(file_path))
}
