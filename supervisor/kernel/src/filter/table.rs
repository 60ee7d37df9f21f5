//! Which system call of x86-64 the agent may make: every number the kernel has up to 6.18, each with a
//! verdict and, where it is not simply allowed, the reason.
//!
//! The numbers stand here and not the names of a library, because libseccomp 2.5.4 ends at 450. A number that
//! is not in this file is one the kernel did not have when it was written, and answers ENOSYS, as on an older
//! kernel: programs fall back to the older call.

use libc::{ENOSYS, EOPNOTSUPP, EPERM};

use super::arguments::Stage;

/// The highest number of the table: `file_setattr`, of 6.17. 6.18 has no newer one.
pub(super) const LAST: u32 = 469;

/// x86-64 gave no numbers between the end of its own table and the one that all architectures share.
#[cfg(test)]
pub(super) const UNASSIGNED: std::ops::RangeInclusive<u32> = 337..=423;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The kernel does it.
    Allow,
    /// It fails with this errno. ENOSYS where programs have a fallback for kernels without the call.
    Refuse(i32),
    /// Its arguments decide.
    Inspect(Stage),
    /// Refused, but left to the kernel where the profile says `nested_sandbox`.
    NestedOnly,
    /// Left to the kernel, but fails with this errno where the profile says `nested_sandbox`.
    FloorOnly(i32),
    /// Its arguments decide, but left to the kernel where the profile says `nested_sandbox`.
    InspectUnlessNested(Stage),
    /// Does not exist (ENOSYS), but left to the kernel where the profile says `memfd`.
    MemfdOnly,
}

/// Calls with one verdict for one reason, ordered by number.
pub(super) struct Group {
    /// Why they have this verdict.
    pub(super) reason: &'static str,
    /// What happens to them.
    pub(super) verdict: Verdict,
    /// Number and name of each.
    pub(super) calls: &'static [(u32, &'static str)],
}

/// Why modes are looked at.
const MODE: &str = "no set-user-ID or set-group-ID file, which would be root's on the host";

/// The agent's calls.
#[rustfmt::skip]
pub(super) const AGENT: &[Group] = &[
    Group { verdict: Verdict::Allow, reason: "reads and writes what is open", calls: &[
        (0, "read"), (1, "write"), (3, "close"), (8, "lseek"), (17, "pread64"), (18, "pwrite64"), (19, "readv"),
        (20, "writev"), (22, "pipe"), (32, "dup"), (33, "dup2"), (40, "sendfile"), (72, "fcntl"), (73, "flock"),
        (74, "fsync"), (75, "fdatasync"), (77, "ftruncate"), (162, "sync"), (187, "readahead"), (221, "fadvise64"),
        (275, "splice"), (276, "tee"), (277, "sync_file_range"), (285, "fallocate"), (292, "dup3"), (293, "pipe2"),
        (295, "preadv"), (296, "pwritev"), (306, "syncfs"), (326, "copy_file_range"), (327, "preadv2"),
        (328, "pwritev2"), (436, "close_range"),
    ] },
    Group { verdict: Verdict::Allow, reason: "native asynchronous reads and writes of open descriptors; every \
        transfer passes file_permission", calls: &[
        (206, "io_setup"), (207, "io_destroy"), (208, "io_getevents"), (209, "io_submit"), (210, "io_cancel"),
        (333, "io_pgetevents"),
    ] },
    Group { verdict: Verdict::Allow, reason: "opens and names files; judged by mounts, Landlock and the LSM, which \
        see the object and not a string", calls: &[
        (4, "stat"), (5, "fstat"), (6, "lstat"), (21, "access"), (76, "truncate"), (78, "getdents"), (79, "getcwd"),
        (80, "chdir"), (81, "fchdir"), (82, "rename"), (83, "mkdir"), (84, "rmdir"), (86, "link"), (87, "unlink"),
        (88, "symlink"), (89, "readlink"), (92, "chown"), (93, "fchown"), (94, "lchown"), (95, "umask"),
        (132, "utime"), (137, "statfs"), (138, "fstatfs"), (191, "getxattr"), (192, "lgetxattr"),
        (193, "fgetxattr"), (194, "listxattr"), (195, "llistxattr"), (196, "flistxattr"), (197, "removexattr"),
        (198, "lremovexattr"), (199, "fremovexattr"), (217, "getdents64"), (235, "utimes"), (258, "mkdirat"),
        (260, "fchownat"), (261, "futimesat"), (262, "newfstatat"), (263, "unlinkat"), (264, "renameat"),
        (265, "linkat"), (266, "symlinkat"), (267, "readlinkat"), (269, "faccessat"), (280, "utimensat"),
        (332, "statx"), (439, "faccessat2"), (464, "getxattrat"), (465, "listxattrat"),
        (466, "removexattrat"),
    ] },
    Group { verdict: Verdict::Allow, reason: "watches files and waits for descriptors", calls: &[
        (7, "poll"), (23, "select"), (213, "epoll_create"), (232, "epoll_wait"), (233, "epoll_ctl"),
        (253, "inotify_init"), (254, "inotify_add_watch"), (255, "inotify_rm_watch"), (270, "pselect6"),
        (271, "ppoll"), (281, "epoll_pwait"), (282, "signalfd"), (284, "eventfd"), (289, "signalfd4"),
        (290, "eventfd2"), (291, "epoll_create1"), (294, "inotify_init1"), (441, "epoll_pwait2"),
    ] },
    Group { verdict: Verdict::Allow, reason: "the caller's own memory; runtimes with a compiler inside need it \
        executable", calls: &[
        (9, "mmap"), (10, "mprotect"), (11, "munmap"), (12, "brk"), (25, "mremap"), (26, "msync"), (27, "mincore"),
        (28, "madvise"), (149, "mlock"), (150, "munlock"), (151, "mlockall"), (152, "munlockall"),
        (239, "get_mempolicy"), (325, "mlock2"), (329, "pkey_mprotect"), (330, "pkey_alloc"), (331, "pkey_free"),
        (453, "map_shadow_stack"), (462, "mseal"),
    ] },
    Group { verdict: Verdict::Allow, reason: "signals; the PID namespace is all they reach", calls: &[
        (13, "rt_sigaction"), (14, "rt_sigprocmask"), (15, "rt_sigreturn"), (34, "pause"), (62, "kill"),
        (127, "rt_sigpending"), (128, "rt_sigtimedwait"), (129, "rt_sigqueueinfo"), (130, "rt_sigsuspend"),
        (131, "sigaltstack"), (200, "tkill"), (219, "restart_syscall"), (234, "tgkill"),
        (297, "rt_tgsigqueueinfo"), (424, "pidfd_send_signal"), (434, "pidfd_open"),
    ] },
    Group { verdict: Verdict::Allow, reason: "clocks and timers, read and own", calls: &[
        (35, "nanosleep"), (36, "getitimer"), (37, "alarm"), (38, "setitimer"), (96, "gettimeofday"),
        (201, "time"), (222, "timer_create"), (223, "timer_settime"), (224, "timer_gettime"),
        (225, "timer_getoverrun"), (226, "timer_delete"), (228, "clock_gettime"), (229, "clock_getres"),
        (230, "clock_nanosleep"), (283, "timerfd_create"), (286, "timerfd_settime"), (287, "timerfd_gettime"),
    ] },
    Group { verdict: Verdict::Allow, reason: "uses sockets, once `socket` let one be made", calls: &[
        (42, "connect"), (43, "accept"), (44, "sendto"), (45, "recvfrom"), (46, "sendmsg"), (47, "recvmsg"),
        (48, "shutdown"), (49, "bind"), (50, "listen"), (51, "getsockname"), (52, "getpeername"),
        (54, "setsockopt"), (55, "getsockopt"), (288, "accept4"), (299, "recvmmsg"), (307, "sendmmsg"),
    ] },
    Group { verdict: Verdict::Allow, reason: "System V and POSIX queues, semaphores and memory of its own IPC \
        namespace", calls: &[
        (29, "shmget"), (30, "shmat"), (31, "shmctl"), (64, "semget"), (65, "semop"), (66, "semctl"), (67, "shmdt"),
        (68, "msgget"), (69, "msgsnd"), (70, "msgrcv"), (71, "msgctl"), (220, "semtimedop"), (240, "mq_open"),
        (241, "mq_unlink"), (242, "mq_timedsend"), (243, "mq_timedreceive"), (244, "mq_notify"),
        (245, "mq_getsetattr"),
    ] },
    Group { verdict: Verdict::Allow, reason: "starts, ends and awaits its own processes and threads", calls: &[
        (57, "fork"), (58, "vfork"), (59, "execve"), (60, "exit"), (61, "wait4"), (158, "arch_prctl"),
        (202, "futex"), (218, "set_tid_address"), (231, "exit_group"), (247, "waitid"), (273, "set_robust_list"),
        (274, "get_robust_list"), (322, "execveat"), (324, "membarrier"), (334, "rseq"), (449, "futex_waitv"),
        (454, "futex_wake"), (455, "futex_wait"), (456, "futex_requeue"),
    ] },
    Group { verdict: Verdict::Allow, reason: "who and what it is; the user namespace maps one uid, so changing it \
        has nowhere to go", calls: &[
        (39, "getpid"), (63, "uname"), (97, "getrlimit"), (98, "getrusage"), (99, "sysinfo"), (100, "times"),
        (102, "getuid"), (104, "getgid"), (105, "setuid"), (106, "setgid"), (107, "geteuid"), (108, "getegid"),
        (109, "setpgid"), (110, "getppid"), (111, "getpgrp"), (112, "setsid"), (113, "setreuid"),
        (114, "setregid"), (115, "getgroups"), (116, "setgroups"), (117, "setresuid"), (118, "getresuid"),
        (119, "setresgid"), (120, "getresgid"), (121, "getpgid"), (122, "setfsuid"), (123, "setfsgid"),
        (124, "getsid"), (125, "capget"), (126, "capset"), (186, "gettid"), (309, "getcpu"), (318, "getrandom"),
    ] },
    Group { verdict: Verdict::Allow, reason: "scheduling; what would take from others needs a capability it has \
        not", calls: &[
        (24, "sched_yield"), (140, "getpriority"), (141, "setpriority"), (142, "sched_setparam"),
        (143, "sched_getparam"), (144, "sched_setscheduler"), (145, "sched_getscheduler"),
        (146, "sched_get_priority_max"), (147, "sched_get_priority_min"), (148, "sched_rr_get_interval"),
        (203, "sched_setaffinity"), (204, "sched_getaffinity"), (251, "ioprio_set"), (252, "ioprio_get"),
        (314, "sched_setattr"), (315, "sched_getattr"),
    ] },
    Group { verdict: Verdict::Allow, reason: "rulesets of its own can only tighten", calls: &[
        (444, "landlock_create_ruleset"), (445, "landlock_add_rule"), (446, "landlock_restrict_self"),
    ] },
    Group { verdict: Verdict::Allow, reason: "entered by a probe the host put there, and by nothing else (uretprobe \
        since 6.11, uprobe since 6.18); refusing it would kill the traced process", calls: &[
        (335, "uretprobe"), (336, "uprobe"),
    ] },

    Group { verdict: Verdict::InspectUnlessNested(Stage::Clone), reason: "no namespace of its own", calls: &[
        (56, "clone"),
    ] },
    Group { verdict: Verdict::InspectUnlessNested(Stage::Unshare), reason: "no namespace of its own", calls: &[
        (272, "unshare"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::Socket), reason: "only families a network namespace isolates", calls: &[
        (41, "socket"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::SocketPair), reason: "only families a network namespace isolates",
        calls: &[(53, "socketpair")] },
    Group { verdict: Verdict::Inspect(Stage::Ioctl), reason: "typing into terminals, snapshots", calls: &[
        (16, "ioctl"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::Prctl), reason: "options come with every kernel", calls: &[
        (157, "prctl"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::Personality), reason: "READ_IMPLIES_EXEC, no address randomisation",
        calls: &[(135, "personality")] },
    Group { verdict: Verdict::Inspect(Stage::SetLimit), reason: "the core limit", calls: &[(160, "setrlimit")] },
    Group { verdict: Verdict::Inspect(Stage::ProcessLimit), reason: "the core limit", calls: &[
        (302, "prlimit64"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::Seccomp), reason: "no listener of its own", calls: &[
        (317, "seccomp"),
    ] },
    Group { verdict: Verdict::Inspect(Stage::MakeNode), reason: "no devices", calls: &[(133, "mknod")] },
    Group { verdict: Verdict::Inspect(Stage::MakeNodeAt), reason: "no devices", calls: &[(259, "mknodat")] },
    Group { verdict: Verdict::Inspect(Stage::RenameWith), reason: "no devices", calls: &[(316, "renameat2")] },

    Group { verdict: Verdict::Inspect(Stage::Open), reason: MODE, calls: &[(2, "open")] },
    Group { verdict: Verdict::Inspect(Stage::Create), reason: MODE, calls: &[(85, "creat")] },
    Group { verdict: Verdict::Inspect(Stage::ChangeMode), reason: MODE, calls: &[(90, "chmod")] },
    Group { verdict: Verdict::Inspect(Stage::ChangeModeOf), reason: MODE, calls: &[(91, "fchmod")] },
    Group { verdict: Verdict::Inspect(Stage::OpenAt), reason: MODE, calls: &[(257, "openat")] },
    Group { verdict: Verdict::Inspect(Stage::ChangeModeAt), reason: MODE, calls: &[(268, "fchmodat")] },
    Group { verdict: Verdict::Inspect(Stage::ChangeModeAtWith), reason: MODE, calls: &[(452, "fchmodat2")] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "its mode is behind a pointer; libraries fall back to openat",
        calls: &[(437, "openat2")] },
    Group { verdict: Verdict::FloorOnly(EOPNOTSUPP), reason: "in a user namespace of its own the agent may give a \
        file of an idmapped mount capabilities that count on the host; copying programs go on without", calls: &[
        (188, "setxattr"), (189, "lsetxattr"), (190, "fsetxattr"), (463, "setxattrat"),
    ] },

    Group { verdict: Verdict::Refuse(ENOSYS), reason: "flags are behind a pointer, where a filter cannot see \
        CLONE_NEW*; libc falls back to clone (EPERM would abort Bun)", calls: &[(435, "clone3")] },
    Group { verdict: Verdict::NestedOnly, reason: "mounts would undo the root file system that was built", calls: &[
        (155, "pivot_root"), (161, "chroot"), (165, "mount"), (166, "umount2"), (308, "setns"), (428, "open_tree"),
        (429, "move_mount"), (430, "fsopen"), (431, "fsconfig"), (432, "fsmount"), (433, "fspick"),
        (442, "mount_setattr"), (467, "open_tree_attr"),
    ] },
    Group { verdict: Verdict::NestedOnly, reason: "names of the sandbox are its audit's", calls: &[
        (170, "sethostname"), (171, "setdomainname"),
    ] },
    Group { verdict: Verdict::MemfdOnly, reason: "a program without a path escapes rules on paths", calls: &[
        (319, "memfd_create"),
    ] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "memory nobody else may read, for programs without a path",
        calls: &[(447, "memfd_secret")] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "reaches into other processes", calls: &[
        (101, "ptrace"), (310, "process_vm_readv"), (311, "process_vm_writev"), (312, "kcmp"),
        (438, "pidfd_getfd"), (440, "process_madvise"), (448, "process_mrelease"),
    ] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "acts on rings, where no filter sees the operations",
        calls: &[(425, "io_uring_setup"), (426, "io_uring_enter"), (427, "io_uring_register")] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "large attack surface of the kernel, no use for an agent",
        calls: &[
        (154, "modify_ldt"), (278, "vmsplice"), (298, "perf_event_open"), (321, "bpf"), (323, "userfaultfd"),
    ] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "keyrings are shared by uid across namespaces", calls: &[
        (248, "add_key"), (249, "request_key"), (250, "keyctl"),
    ] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "opens by number what has no path here", calls: &[
        (212, "lookup_dcookie"), (303, "name_to_handle_at"), (304, "open_by_handle_at"),
    ] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "sees or holds up accesses of others", calls: &[
        (300, "fanotify_init"), (301, "fanotify_mark"),
    ] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "places memory on nodes, which is the host's business", calls: &[
        (237, "mbind"), (238, "set_mempolicy"), (256, "migrate_pages"), (279, "move_pages"),
        (450, "set_mempolicy_home_node"),
    ] },
    Group { verdict: Verdict::Refuse(EPERM), reason: "administers the host", calls: &[
        (103, "syslog"), (153, "vhangup"), (159, "adjtimex"), (163, "acct"), (164, "settimeofday"), (167, "swapon"),
        (168, "swapoff"), (169, "reboot"), (172, "iopl"), (173, "ioperm"), (175, "init_module"),
        (176, "delete_module"), (179, "quotactl"), (227, "clock_settime"), (246, "kexec_load"),
        (305, "clock_adjtime"), (313, "finit_module"), (320, "kexec_file_load"), (443, "quotactl_fd"),
    ] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "shows mounts of other namespaces; libmount falls back to \
        mountinfo", calls: &[(457, "statmount"), (458, "listmount")] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "tells which pages of a shared file are cached", calls: &[
        (451, "cachestat"),
    ] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "labels and inode flags, of which an agent has none to set",
        calls: &[
        (459, "lsm_get_self_attr"), (460, "lsm_set_self_attr"), (461, "lsm_list_modules"), (468, "file_getattr"),
        (469, "file_setattr"),
    ] },
    Group { verdict: Verdict::Refuse(ENOSYS), reason: "emulated for programs of the 1990s, or long gone from the \
        kernel", calls: &[
        (134, "uselib"), (136, "ustat"), (139, "sysfs"), (156, "_sysctl"), (174, "create_module"),
        (177, "get_kernel_syms"), (178, "query_module"), (180, "nfsservctl"), (181, "getpmsg"), (182, "putpmsg"),
        (183, "afs_syscall"), (184, "tuxcall"), (185, "security"), (205, "set_thread_area"),
        (211, "get_thread_area"), (214, "epoll_ctl_old"), (215, "epoll_wait_old"), (216, "remap_file_pages"),
        (236, "vserver"),
    ] },
];

/// What PID 1 still needs once the agent runs: it waits (`poll`), reads which child ended, reaps, reports
/// over its open socket and leaves; the rest is the C library's and the allocator's. It starts, signals,
/// opens and connects to nothing.
#[rustfmt::skip]
pub(super) const INIT: &[(u32, &str)] = &[
    (0, "read"), (1, "write"), (3, "close"), (7, "poll"), (9, "mmap"), (11, "munmap"), (12, "brk"),
    (13, "rt_sigaction"), (14, "rt_sigprocmask"), (15, "rt_sigreturn"), (19, "readv"), (20, "writev"),
    (25, "mremap"), (28, "madvise"), (39, "getpid"), (46, "sendmsg"),
    (47, "recvmsg"), (60, "exit"), (61, "wait4"), (131, "sigaltstack"),
    (186, "gettid"), (200, "tkill"), (202, "futex"), (219, "restart_syscall"), (228, "clock_gettime"),
    (231, "exit_group"), (234, "tgkill"), (247, "waitid"), (271, "ppoll"),
    (318, "getrandom"),
];
