//! Devices: making nodes, opening those that lead to the host.

use std::ffi::CString;
use std::fs::{self, File};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::report;
use crate::sys::{address, call};

/// Never opened where the attempts run without a sandbox: reading some of these has effects.
const PATHS: [&str; 8] = [
    "/dev/mem",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/fuse",
    "/dev/vsock",
    "/dev/vda",
    "/dev/net/tun",
    "/dev/loop-control",
];

pub(crate) fn devices(directory: &str) {
    let nodes = [("block", libc::S_IFBLK, 8, 0), ("character", libc::S_IFCHR, 1, 1)];
    for (what, kind, major, minor) in nodes {
        let Ok(name) = CString::new(format!("{directory}/{what}")) else { return };
        let number = libc::makedev(major, minor);
        let asked =
            [libc::AT_FDCWD as usize, address(name.as_c_str()), (kind | 0o666) as usize, number as usize];
        report(&format!("mknod {what}"), call(libc::SYS_mknodat, &asked));
    }
    for path in PATHS {
        report(&format!("open {path}"), File::open(path));
    }
}

/// Renames a file so that a whiteout of an overlay stays in its place: the only device anybody may make.
pub(crate) fn whiteout(path: &str) {
    let away = format!("{path}-away");
    let renamed = fs::write(path, "")
        .and_then(|()| Ok(renameat2(AT_FDCWD, path, AT_FDCWD, away.as_str(), RenameFlags::RENAME_WHITEOUT)?));
    report("rename with a whiteout", renamed);
}
