//! The records of the ring buffer.
//!
//! Every record begins with a [`Header`]. Records with text exist in two sizes, because a reservation in the
//! ring must have a size the verifier knows: the small one is tried first, and what does not fit is written
//! again in the large one. The text is reserved in the ring itself and never collected in per-CPU memory,
//! which another task's program may overwrite under `preempt=full`.

use bytemuck::{Pod, Zeroable};

/// A process started a program; [`TextHead`], sections 0 the program, 1 its arguments.
pub const EXEC: u32 = 1;
/// A process ended; [`ExitRecord`].
pub const EXIT: u32 = 2;
/// A file was opened; [`TextHead`], section 0 the path the kernel opened.
pub const OPENED: u32 = 3;
/// A call failed that a rule may have forbidden; [`TextHead`], sections 0 base, 1 claimed, 2 base, 3 claimed.
pub const REFUSED: u32 = 4;
/// A call changed names or attributes; sections as with [`REFUSED`].
pub const CHANGED: u32 = 5;
/// A connect or sendmsg was judged; [`ConnectRecord`].
pub const CONNECT: u32 = 6;

/// The section is longer than the record has room for.
pub const MARK_TRUNCATED: u32 = 1;
/// The walk gave up after [`MAX_STEPS`]: the top of the path is missing.
pub const MARK_TOO_DEEP: u32 = 2;
/// Memory could not be read: the section may be incomplete.
pub const MARK_UNREADABLE: u32 = 4;
/// The walk ended at a root that is not the root of its mount: a pipe, a memfd, a lost directory.
pub const MARK_DETACHED: u32 = 8;
/// In a base: it is not the directory of the call, but what the descriptor is that the claim begins with.
pub const MARK_DESCRIPTOR: u32 = 16;

/// Steps a walk makes at most: components and mounts crossed.
pub const MAX_STEPS: u32 = 96;
/// Sections of a record with text.
pub const SECTIONS: usize = 4;

/// The beginning of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// Number of the record on its CPU, also taken by records that then found no room.
    pub number: u64,
    /// Nanoseconds of CLOCK_BOOTTIME.
    pub time_ns: u64,
    /// Id of the sandbox's cgroup.
    pub cgroup: u64,
    /// When the process started, CLOCK_BOOTTIME: with `process` its identity for ever.
    pub start_ns: u64,
    /// Process id (tgid) in the initial PID namespace.
    pub process: u32,
    /// Thread id in the initial PID namespace.
    pub thread: u32,
    /// Process id of the parent.
    pub parent: u32,
    /// The CPU that numbered the record.
    pub cpu: u32,
    /// Which record this is.
    pub kind: u32,
    /// Always 0.
    pub reserved: u32,
    /// The thread's name, which it chooses itself.
    pub comm: [u8; 16],
}

/// Length and state of one piece of text.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Section {
    /// Bytes of it in the record.
    pub length: u32,
    /// `MARK_*` bits.
    pub marks: u32,
    /// Bytes it has in truth, where known.
    pub total: u32,
    /// 1 if the record has this section.
    pub present: u32,
}

/// A record with text: the sections' bytes follow one another behind it.
///
/// A walked path is written leaf first, each component followed by `/`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TextHead {
    /// The beginning.
    pub header: Header,
    /// What the call returned; for EXEC the thread id before it.
    pub result: i64,
    /// Flags or mode as the caller passed them.
    pub argument: u64,
    /// Inode of the opened file or the program.
    pub inode: u64,
    /// Its device as the kernel has it: major << 20 | minor.
    pub device: u32,
    /// Its type and permission bits.
    pub mode: u32,
    /// `f_flags` of the opened file.
    pub file_flags: u32,
    /// `f_mode` of the opened file (`FMODE_CREATED` is 0x100000).
    pub file_mode: u32,
    /// Number of the system call, 0 for EXEC.
    pub syscall: u32,
    /// Bytes of text written.
    pub written: u32,
    /// The pieces of text.
    pub sections: [Section; SECTIONS],
}

/// Room for text in a small record: sections may begin below [`SMALL_LIMIT`] and are [`SMALL_PIECE`] long.
pub const SMALL_TEXT: usize = SMALL_LIMIT + SMALL_PIECE;
/// See [`SMALL_TEXT`].
pub const SMALL_LIMIT: usize = 512;
/// See [`SMALL_TEXT`]; a component of a path (255 bytes and a slash) must fit.
pub const SMALL_PIECE: usize = 256;
/// Room for text in a large record.
pub const LARGE_TEXT: usize = LARGE_LIMIT + LARGE_PIECE;
/// Two walked paths of PATH_MAX.
pub const LARGE_LIMIT: usize = 8192;
/// Bytes of arguments, or of a claimed path, that are captured at most.
pub const LARGE_PIECE: usize = 4096;

/// A record with text and its room.
#[repr(C)]
pub struct TextRecord<const N: usize> {
    /// Everything but the text.
    pub head: TextHead,
    /// The text; what is behind the last section is not initialised.
    pub text: [u8; N],
}

/// A process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ExitRecord {
    /// The beginning.
    pub header: Header,
    /// The status as `wait` has it: signal in the low seven bits, exit code in the second byte.
    pub status: u32,
    /// Always 0.
    pub reserved: u32,
}

/// A destination was judged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ConnectRecord {
    /// The beginning.
    pub header: Header,
    /// Cookie of the socket.
    pub cookie: u64,
    /// The destination's words in host byte order; IPv4 in the first.
    pub address: [u32; 4],
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// Port in host byte order.
    pub port: u32,
    /// IPPROTO_* of the socket.
    pub protocol: u32,
    /// [`crate::net::Verdict`] as a number.
    pub verdict: u32,
}

const _: () = assert!(size_of::<Header>() == 72);
const _: () = assert!(size_of::<Section>() == 16);
const _: () = assert!(size_of::<TextHead>() == 72 + 48 + 64);
const _: () = assert!(size_of::<TextRecord<SMALL_TEXT>>() == 184 + 768);
const _: () = assert!(size_of::<TextRecord<LARGE_TEXT>>() == 184 + 12288);
const _: () = assert!(size_of::<ExitRecord>() == 80);
const _: () = assert!(size_of::<ConnectRecord>() == 112);
