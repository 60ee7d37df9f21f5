//! What the programs report, as values of our own. All text is bytes of the sandbox: not UTF-8, not escaped.

use std::net::SocketAddr;

use skep_ebpf_abi::net::Verdict;

/// One thing that happened in a sandbox, or that reports of it were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program was started.
    Exec(Exec),
    /// A process ended.
    Exit(Exit),
    /// A file was opened.
    Opened(Opened),
    /// A call failed that a rule may have forbidden.
    Refused(Call),
    /// A call changed names or attributes.
    Changed(Call),
    /// A destination was judged in the kernel.
    Connect(Connect),
    /// A sandbox had no room for records of its own.
    Overflowed {
        /// Its cgroup.
        cgroup: u64,
        /// How many it has lost since it was admitted.
        lost: u64,
    },
    /// Numbered records of this CPU never arrived: the ring itself was full.
    Lost {
        /// The CPU whose numbers have gaps.
        cpu: u32,
        /// How many numbers are missing.
        count: u64,
    },
    /// A record that makes no sense: the object is not the one this library was built for.
    Malformed {
        /// Its length in bytes.
        length: usize,
    },
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Id of the sandbox's cgroup.
    pub cgroup: u64,
    /// Process id in the initial PID namespace.
    pub process: u32,
    /// Thread id in the initial PID namespace.
    pub thread: u32,
    /// Process id of the parent.
    pub parent: u32,
    /// When the process started, nanoseconds of CLOCK_BOOTTIME: with `process` its identity.
    pub start_ns: u64,
    /// When this happened, nanoseconds of CLOCK_BOOTTIME.
    pub time_ns: u64,
    /// The thread's name, which it chooses itself.
    pub comm: Vec<u8>,
}

/// How far a piece of text can be relied on to be whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Longer than the record has room for: the end of a text, the top of a path is missing.
    pub truncated: bool,
    /// The path has more components than a walk follows: its top is missing.
    pub too_deep: bool,
    /// Memory could not be read: something is missing.
    pub unreadable: bool,
    /// The path ends at a root that is not mounted anywhere: a pipe, a memfd, a removed mount.
    pub detached: bool,
}

impl Accuracy {
    /// Is nothing missing.
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }
}

/// A path as the kernel has it: from the root of the task's mount namespace, mounts included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPath {
    /// The path; begins with a slash unless its top is missing.
    pub path: Vec<u8>,
    /// What may be missing.
    pub accuracy: Accuracy,
}

/// Text from the memory of the task, which may have changed since the kernel read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Bytes there were, where known.
    pub total: u32,
    /// What may be missing.
    pub accuracy: Accuracy,
}

/// A path as a call named it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The directory it is relative to, or the object itself where the call takes a descriptor.
    pub base: Option<ResolvedPath>,
    /// The base is what the descriptor is that the claim begins with: `/proc/self/fd/N`.
    pub by_descriptor: bool,
    /// What the task passed.
    pub claimed: Option<Claimed>,
}

impl Named {
    /// Base and claim put together as text; `.`, `..` and links are left as they are.
    pub fn joined(&self) -> Vec<u8> {
        let claimed = self.claimed.as_ref().map(|claimed| claimed.bytes.as_slice()).unwrap_or_default();
        let base = self.base.as_ref().map(|base| base.path.as_slice()).unwrap_or_default();
        let claimed = if self.by_descriptor { behind_descriptor(claimed) } else { claimed };
        if claimed.starts_with(b"/") || base.is_empty() {
            return claimed.to_vec();
        }
        if claimed.is_empty() {
            return base.to_vec();
        }
        let slash: &[u8] = if base.ends_with(b"/") { b"" } else { b"/" };
        [base, slash, claimed].concat()
    }
}

/// What follows `/proc/self/fd/N/` in a claim; the whole claim if it does not begin so any more.
fn behind_descriptor(claimed: &[u8]) -> &[u8] {
    let Some(rest) = claimed.strip_prefix(b"/proc/self/fd/") else { return claimed };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest.get(digits..).unwrap_or_default();
    let start = rest.iter().take_while(|byte| **byte == b'/').count();
    rest.get(start..).unwrap_or_default()
}

/// A program was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Who; `comm` is already the new program's.
    pub task: Task,
    /// The file that runs: of a script, its interpreter.
    pub program: Ran,
    /// Arguments as the kernel laid them out, each ended by NUL.
    pub arguments: Claimed,
    /// The thread's id before the call, where another thread than the leader made it.
    pub old_thread: u32,
}

/// A file that runs, or was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its path.
    pub path: ResolvedPath,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
}

/// A process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Who.
    pub task: Task,
    /// How.
    pub status: Status,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// A file was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who.
    pub task: Task,
    /// Number of the system call.
    pub syscall: u32,
    /// The file, as the kernel resolved it.
    pub file: Ran,
    /// Flags as passed: O_CREAT, O_TRUNC and the like, which the kernel does not keep.
    pub passed_flags: u64,
    /// Flags the kernel keeps: how it is open.
    pub kept_flags: u32,
    /// This open made the file.
    pub created: bool,
}

/// A call on names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub task: Task,
    /// Number of the system call.
    pub syscall: u32,
    /// The errno it failed with; 0 where it did not.
    pub errno: i32,
    /// Flags or mode as passed, 0 where it has none.
    pub argument: u64,
    /// The path.
    pub first: Named,
    /// The second path of a rename or link; the target of a symbolic link.
    pub second: Option<Named>,
}

impl Call {
    /// The system call's name.
    pub fn name(&self) -> &'static str {
        skep_ebpf_abi::syscalls::name(self.syscall).unwrap_or("?")
    }
}

/// A destination was judged in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Who.
    pub task: Task,
    /// Where to, as asked: a v4-mapped IPv6 address stays one.
    pub destination: SocketAddr,
    /// IPPROTO_* of the socket.
    pub protocol: u32,
    /// The verdict: [`Verdict::Denied`] answered EPERM.
    pub verdict: Verdict,
    /// Cookie of the socket.
    pub cookie: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(base: &[u8], claimed: &[u8]) -> Named {
        let accuracy = Accuracy::default();
        Named {
            base: Some(ResolvedPath { path: base.to_vec(), accuracy }),
            by_descriptor: false,
            claimed: Some(Claimed { bytes: claimed.to_vec(), total: 0, accuracy }),
        }
    }

    #[test]
    fn a_claim_is_joined_to_its_base_unless_it_is_absolute() {
        assert_eq!(named(b"/a/b", b"c").joined(), b"/a/b/c");
        assert_eq!(named(b"/", b"c").joined(), b"/c");
        assert_eq!(named(b"/a/b", b"/c").joined(), b"/c");
        assert_eq!(named(b"/a/b", b"").joined(), b"/a/b");
        assert_eq!(Named::default().joined(), b"");
    }
    #[test]
    fn a_claim_that_begins_with_a_descriptor_is_joined_to_what_the_descriptor_is() {
        let through = |claimed| Named { by_descriptor: true, ..named(b"/a/b", claimed) }.joined();
        assert_eq!(through(b"/proc/self/fd/14/c/d"), b"/a/b/c/d");
        assert_eq!(through(b"/proc/self/fd/14//c"), b"/a/b/c");
        assert_eq!(through(b"/proc/self/fd/14"), b"/a/b");
        assert_eq!(through(b"/etc/passwd"), b"/etc/passwd", "the task changed it after the call");
    }
}
