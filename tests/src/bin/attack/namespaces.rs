//! Mounts and namespaces: making new ones, and entering those of others.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use crate::report;
use crate::sys::{Answer, address, call};

const AT_FDCWD: usize = libc::AT_FDCWD as usize;

/// Every way to mount something.
pub(crate) fn mounts(directory: &str) {
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (at, tmpfs, here) = (text(directory), text("tmpfs"), text("/"));
    let [at, tmpfs, here] = [&at, &tmpfs, &here].map(|text| address(text.as_c_str()));
    let mount =
        |kind: usize, from: usize, flags: u64| call(libc::SYS_mount, &[from, at, kind, flags as usize, 0]);
    report("mount tmpfs", mount(tmpfs, tmpfs, 0));
    report("mount bind", mount(0, here, libc::MS_BIND));
    report("mount remount", mount(0, 0, libc::MS_REMOUNT | libc::MS_BIND));
    report("mount propagation", mount(0, 0, libc::MS_SHARED));
    report("umount2", call(libc::SYS_umount2, &[at, libc::MNT_DETACH as usize]));
    report("fsopen", new_mount(tmpfs, at));
    report("open_tree clone", call(libc::SYS_open_tree, &[AT_FDCWD, here, 1]));
    // struct mount_attr with MOUNT_ATTR_NODEV to set.
    let attributes = [4u64, 0, 0, 0];
    let asked = [AT_FDCWD, at, 0, address(&attributes), size_of_val(&attributes)];
    report("mount_setattr", call(libc::SYS_mount_setattr, &asked));
}

/// A tmpfs by the newer calls.
fn new_mount(kind: usize, at: usize) -> Answer {
    let context = call(libc::SYS_fsopen, &[kind, 0])? as usize;
    // FSCONFIG_CMD_CREATE.
    call(libc::SYS_fsconfig, &[context, 6, 0, 0, 0])?;
    let mounted = call(libc::SYS_fsmount, &[context, 0, 0])? as usize;
    let empty = address("\0");
    // MOVE_MOUNT_F_EMPTY_PATH.
    call(libc::SYS_move_mount, &[mounted, empty, AT_FDCWD, at, 4])
}

/// A FUSE file system of one's own: whoever walks into it waits for as long as its server likes.
pub(crate) fn fuse(directory: &str) {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let number = device.as_ref().map_or(0, AsRawFd::as_raw_fd);
    report("open /dev/fuse", device.as_ref());
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let options = text(&format!("fd={number},rootmode=40000,user_id=0,group_id=0"));
    let (at, kind) = (text(directory), text("fuse"));
    let [at, kind, options] = [&at, &kind, &options].map(|text| address(text.as_c_str()));
    report("mount fuse", call(libc::SYS_mount, &[kind, at, kind, 0, options]));
}

/// Every kind of new namespace, by `unshare` and by `clone`, each in a child of its own.
pub(crate) fn create() {
    let kinds = [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ];
    for (name, flag) in kinds {
        report(&format!("clone {name}"), clone(flag));
    }
    for (name, flag) in kinds {
        // A thread cannot enter a new user namespace, and what it unshares otherwise ends with it.
        report(&format!("unshare {name}"), call(libc::SYS_unshare, &[flag as usize]));
    }
}

/// A child by the raw call, which ends at once.
fn clone(flags: i32) -> Answer {
    let child = call(libc::SYS_clone, &[(flags | libc::SIGCHLD) as usize, 0, 0, 0, 0])?;
    if child == 0 {
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    call(libc::SYS_wait4, &[child as usize, 0, 0, 0])?;
    Ok(child)
}

/// A user namespace with flags behind a pointer, where no filter can look.
pub(crate) fn clone3() {
    // struct clone_args, first version: flags, pidfd, child_tid, parent_tid, exit_signal, and three of the stack.
    let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let answer = call(libc::SYS_clone3, &[address(&arguments), size_of_val(&arguments)]);
    if matches!(answer, Ok(0)) {
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    report("clone3 user", answer);
}

/// The namespaces and the root of others.
pub(crate) fn enter() {
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (here, old) = (text("."), text("/"));
    let [here, old] = [&here, &old].map(|text| address(text.as_c_str()));
    for kind in ["mnt", "net", "pid", "user", "ipc", "uts"] {
        for process in ["1", "self"] {
            let path = format!("/proc/{process}/ns/{kind}");
            let entered = File::open(&path)
                .and_then(|namespace| call(libc::SYS_setns, &[namespace.as_raw_fd() as usize, 0]));
            report(&format!("setns {path}"), entered);
        }
    }
    let pidfd = call(libc::SYS_pidfd_open, &[1, 0]);
    let namespaces = (libc::CLONE_NEWNS | libc::CLONE_NEWNET) as usize;
    report("setns pidfd", pidfd.and_then(|pidfd| call(libc::SYS_setns, &[pidfd as usize, namespaces])));
    report("pivot_root", call(libc::SYS_pivot_root, &[here, here]));
    report("chroot", call(libc::SYS_chroot, &[old]));
}
