//! The calls whose arguments decide.
//!
//! Each [`Stage`] is a small program of its own, entered only for its call, with rules and an answer for
//! everything no rule meets. Comparisons are masked: the kernel reads an `int` from the low 32 bits of a
//! register, so a filter that compares 64 is walked around with one bit above them (CVE-2019-10063).

use libc::{EAFNOSUPPORT, EINVAL, EPERM, EPROTONOSUPPORT};

/// A program for one call. Order matters: an answer may only go on to a later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// `clone(flags, …)`.
    Clone,
    /// `unshare(flags)`.
    Unshare,
    /// `socket(family, type, protocol)`.
    Socket,
    /// `socket(AF_INET or AF_INET6, type, protocol)`.
    InternetSocket,
    /// `socketpair(family, …)`.
    SocketPair,
    /// `ioctl(fd, request, …)`.
    Ioctl,
    /// `prctl(option, …)`.
    Prctl,
    /// `personality(persona)`.
    Personality,
    /// `setrlimit(resource, limit)`.
    SetLimit,
    /// `prlimit64(pid, resource, new, old)`.
    ProcessLimit,
    /// `prlimit64(pid, RLIMIT_CORE, new, old)`.
    ProcessCoreLimit,
    /// `seccomp(operation, flags, …)`.
    Seccomp,
    /// `mknod(path, mode, device)`.
    MakeNode,
    /// `mknodat(directory, path, mode, device)`.
    MakeNodeAt,
    /// `open(path, flags, mode)`.
    Open,
    /// `openat(directory, path, flags, mode)`.
    OpenAt,
    /// `creat(path, mode)`.
    Create,
    /// `chmod(path, mode)`.
    ChangeMode,
    /// `fchmod(fd, mode)`.
    ChangeModeOf,
    /// `fchmodat(directory, path, mode)`.
    ChangeModeAt,
    /// `fchmodat2(directory, path, mode, flags)`.
    ChangeModeAtWith,
    /// `renameat2(directory, path, directory, path, flags)`.
    RenameWith,
}

/// What a stage says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel does it.
    Allow,
    /// It fails with this errno.
    Errno(i32),
    /// Another stage decides.
    GoOn(Stage),
}

/// `arguments[argument] & mask == value`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    pub(super) argument: u32,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// An answer for calls that meet all tests.
pub(super) type Rule = (Answer, Vec<Test>);

/// Rules of one call and the answer for what they do not name.
pub(super) struct Rules {
    /// Number of the call.
    pub(super) call: u32,
    /// The answer where no rule is met; no rule may have the same one.
    pub(super) otherwise: Answer,
    /// Rules that do not contradict each other: none is met together with one of another answer.
    pub(super) rules: Vec<Rule>,
}

/// All stages, in their order.
pub(super) const ALL: [Stage; 22] = [
    Stage::Clone,
    Stage::Unshare,
    Stage::Socket,
    Stage::InternetSocket,
    Stage::SocketPair,
    Stage::Ioctl,
    Stage::Prctl,
    Stage::Personality,
    Stage::SetLimit,
    Stage::ProcessLimit,
    Stage::ProcessCoreLimit,
    Stage::Seccomp,
    Stage::MakeNode,
    Stage::MakeNodeAt,
    Stage::Open,
    Stage::OpenAt,
    Stage::Create,
    Stage::ChangeMode,
    Stage::ChangeModeOf,
    Stage::ChangeModeAt,
    Stage::ChangeModeAtWith,
    Stage::RenameWith,
];

impl Stage {
    /// The rules of this stage.
    pub(super) fn rules(self) -> Rules {
        match self {
            Self::Clone => only(56, Answer::Errno(EPERM), &[clear(0, NEW_NAMESPACES)]),
            Self::Unshare => only(272, Answer::Errno(EPERM), &[clear(0, !SHARED_STATE)]),
            Self::Socket => socket(),
            Self::InternetSocket => internet_socket(),
            Self::SocketPair => only(53, Answer::Errno(EAFNOSUPPORT), &[int(0, libc::AF_UNIX)]),
            Self::Ioctl => ioctl(),
            Self::Prctl => prctl(),
            Self::Personality => only(135, Answer::Errno(EPERM), &[word(0, 0), word(0, 0xffff_ffff)]),
            Self::SetLimit => except(160, Answer::Errno(EPERM), &[word(0, RLIMIT_CORE)]),
            Self::ProcessLimit => except(302, Answer::GoOn(Self::ProcessCoreLimit), &[word(1, RLIMIT_CORE)]),
            // Reading the limit is harmless: no new value is a null pointer, all 64 bits of it.
            Self::ProcessCoreLimit => only(302, Answer::Errno(EPERM), &[clear(2, u64::MAX)]),
            Self::Seccomp => seccomp(),
            Self::MakeNode => make_node(133, 1),
            Self::MakeNodeAt => make_node(259, 2),
            Self::Open => open(2, 1),
            Self::OpenAt => open(257, 2),
            Self::Create => mode(85, 1),
            Self::ChangeMode => mode(90, 1),
            Self::ChangeModeOf => mode(91, 1),
            Self::ChangeModeAt => mode(268, 2),
            Self::ChangeModeAtWith => mode(452, 2),
            Self::RenameWith => except(316, Answer::Errno(EINVAL), &[set(4, WHITEOUT)]),
        }
    }
}

/// The CLONE_NEW* bits of `clone`. CLONE_NEWTIME (0x80) is part of the exit signal there.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// What `unshare` may separate: CLONE_FS, CLONE_FILES, CLONE_SYSVSEM.
const SHARED_STATE: u64 = 0x0004_0600;
/// The limit that is 1 and stays so: with 0, a piped `core_pattern` still starts a helper as root.
const RLIMIT_CORE: u64 = 4;
/// S_ISUID and S_ISGID. The agent's files have the caller's owner on the disk, root's too, and `nosuid` holds
/// inside only: the program of another user who starts them outside would be root's.
const SPECIAL: [u64; 2] = [0o4000, 0o2000];
/// RENAME_WHITEOUT, which leaves a character device 0/0 behind and needs no capability for it (5.8). EINVAL is what a
/// file system answers that cannot do it.
const WHITEOUT: u64 = 4;
/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
const NEW_LISTENER: u64 = 8;

/// Tests that the low 32 bits are `value`.
const fn word(argument: u32, value: u64) -> Test {
    Test { argument, mask: 0xffff_ffff, value }
}

/// [`word`] for the constants libc has as `int`, none of which is negative.
#[expect(clippy::cast_sign_loss, reason = "constants of libc, none negative")]
const fn int(argument: u32, value: i32) -> Test {
    word(argument, value as u64)
}

/// Tests that none of `bits` is set.
const fn clear(argument: u32, bits: u64) -> Test {
    Test { argument, mask: bits, value: 0 }
}

/// Allows what meets one of `tests`, answers `otherwise` to the rest.
fn only(call: u32, otherwise: Answer, tests: &[Test]) -> Rules {
    let rules = tests.iter().map(|test| (Answer::Allow, vec![*test])).collect();
    Rules { call, otherwise, rules }
}

/// Answers `answer` to what meets one of `tests`, allows the rest.
fn except(call: u32, answer: Answer, tests: &[Test]) -> Rules {
    let rules = tests.iter().map(|test| (answer, vec![*test])).collect();
    Rules { call, otherwise: Answer::Allow, rules }
}

/// A network namespace with nothing but `lo` isolates these families. It does not isolate AF_VSOCK (before
/// 7.0), and the others are attack surface no agent needs.
fn socket() -> Rules {
    let internet = Answer::GoOn(Stage::InternetSocket);
    let rules = vec![
        (Answer::Allow, vec![int(0, libc::AF_UNIX)]),
        (internet, vec![int(0, libc::AF_INET)]),
        (internet, vec![int(0, libc::AF_INET6)]),
        // What libc's getifaddrs and if_nametoindex ask; changing anything needs a capability over the
        // namespace.
        (Answer::Allow, vec![int(0, libc::AF_NETLINK), int(2, libc::NETLINK_ROUTE)]),
    ];
    Rules { call: 41, otherwise: Answer::Errno(EAFNOSUPPORT), rules }
}

/// TCP and UDP. No raw socket, no ping, and no MPTCP, SMC, UDP-Lite, SCTP or DCCP, which the judges of
/// connections do not see or not as what they are. Programs that try MPTCP first take EPROTONOSUPPORT as "use
/// TCP".
fn internet_socket() -> Rules {
    const TYPE: u64 = 0xf;
    let kind = |kind: i32| Test { mask: TYPE, ..int(1, kind) };
    let allowed = [
        (libc::SOCK_STREAM, libc::IPPROTO_IP),
        (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::SOCK_DGRAM, libc::IPPROTO_IP),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    ];
    let mut rules: Vec<Rule> =
        allowed.map(|(stream, protocol)| (Answer::Allow, vec![kind(stream), int(2, protocol)])).into();
    rules.push((Answer::Errno(EPERM), vec![kind(libc::SOCK_RAW)]));
    Rules { call: 41, otherwise: Answer::Errno(EPROTONOSUPPORT), rules }
}

/// Requests that put input into a terminal somebody else reads, or change what one is; and the snapshots of
/// btrfs, whose copies of a hidden file no mount covers.
fn ioctl() -> Rules {
    const REFUSED: [u64; 9] = [
        0x5412,      // TIOCSTI, CVE-2017-5226
        0x541c,      // TIOCLINUX, CVE-2023-28100
        0x5423,      // TIOCSETD
        0x5000_9401, // BTRFS_IOC_SNAP_CREATE
        0x5000_940e, // BTRFS_IOC_SUBVOL_CREATE
        0x5000_940f, // BTRFS_IOC_SNAP_DESTROY
        0x5000_9417, // BTRFS_IOC_SNAP_CREATE_V2
        0x5000_9418, // BTRFS_IOC_SUBVOL_CREATE_V2
        0x5000_943f, // BTRFS_IOC_SNAP_DESTROY_V2
    ];
    except(16, Answer::Errno(EPERM), &REFUSED.map(|request| word(1, request)))
}

/// The options a program uses on itself. A new kernel's new ones are EINVAL, as on an old kernel.
fn prctl() -> Rules {
    const PR_SET_MM: u64 = 35;
    #[rustfmt::skip]
    const ALLOWED: [u64; 36] = [
        1, 2,          // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
        3, 4,          // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        7, 8,          // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        13, 14,        // PR_GET_TIMING, PR_SET_TIMING
        15, 16,        // PR_SET_NAME, PR_GET_NAME
        21, 22,        // PR_GET_SECCOMP, PR_SET_SECCOMP: a filter set this way has no flags, so no listener
        23, 24,        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        25, 26,        // PR_GET_TSC, PR_SET_TSC
        27, 28,        // PR_GET_SECUREBITS, PR_SET_SECUREBITS
        29, 30,        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        31, 32,        // PR_TASK_PERF_EVENTS_DISABLE, PR_TASK_PERF_EVENTS_ENABLE
        36, 37,        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        38, 39,        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        40,            // PR_GET_TID_ADDRESS
        41, 42,        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
        47,            // PR_CAP_AMBIENT
        52, 53,        // PR_GET_SPECULATION_CTRL, PR_SET_SPECULATION_CTRL
        65, 66,        // PR_SET_MDWE, PR_GET_MDWE
        0x4155_5856,   // PR_GET_AUXV
        0x5356_4d41,   // PR_SET_VMA
    ];
    let mut rules = only(157, Answer::Errno(EINVAL), &ALLOWED.map(|option| word(0, option)));
    // Rewrites what /proc shows as the command line and the layout of the process.
    rules.rules.push((Answer::Errno(EPERM), vec![word(0, PR_SET_MM)]));
    rules
}

/// A nested filter may tighten. A listener would let an agent answer for its children, and takes the place of
/// ours, for a process has one.
fn seccomp() -> Rules {
    const MODE_STRICT: u64 = 0;
    const MODE_FILTER: u64 = 1;
    const ACTION_AVAILABLE: u64 = 2;
    const NOTIFICATION_SIZES: u64 = 3;
    let listener = Test { argument: 1, mask: NEW_LISTENER, value: NEW_LISTENER };
    let rules = vec![
        (Answer::Allow, vec![word(0, MODE_STRICT)]),
        (Answer::Allow, vec![word(0, MODE_FILTER), clear(1, NEW_LISTENER)]),
        (Answer::Errno(EPERM), vec![word(0, MODE_FILTER), listener]),
        (Answer::Allow, vec![word(0, ACTION_AVAILABLE)]),
        (Answer::Allow, vec![word(0, NOTIFICATION_SIZES)]),
    ];
    Rules { call: 317, otherwise: Answer::Errno(EINVAL), rules }
}

/// Regular files, FIFOs and sockets, without [`SPECIAL`]. A character device 0/0, which [`WHITEOUT`] makes too,
/// would need no capability (5.8).
fn make_node(call: u32, mode: u32) -> Rules {
    let mask = 0xf000 | SPECIAL[0] | SPECIAL[1];
    let kind = |value: u32| Test { argument: mode, mask, value: value.into() };
    let kinds = [kind(0), kind(libc::S_IFREG), kind(libc::S_IFIFO), kind(libc::S_IFSOCK)];
    only(call, Answer::Errno(EPERM), &kinds)
}

/// Tests that all of `bits` are set.
const fn set(argument: u32, bits: u64) -> Test {
    Test { argument, mask: bits, value: bits }
}

/// Any mode without [`SPECIAL`].
fn mode(call: u32, mode: u32) -> Rules {
    except(call, Answer::Errno(EPERM), &SPECIAL.map(|bit| set(mode, bit)))
}

/// The same where the flags say that there is a mode: else the register holds anything.
fn open(call: u32, flags: u32) -> Rules {
    const CREATE: u64 = 0o100;
    const TEMPORARY: u64 = 0o2000_0000;
    let both = |flag| SPECIAL.map(|bit| (Answer::Errno(EPERM), vec![set(flags, flag), set(flags + 1, bit)]));
    let rules = [CREATE, TEMPORARY].into_iter().flat_map(both).collect();
    Rules { call, otherwise: Answer::Allow, rules }
}
