//! Devices: making nodes, opening those that lead to the host.

use std::ffi::CString;
use std::fs::File;

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
    // In a user namespace a whiteout is the only device anybody may make; it must be no way in either.
    for path in PATHS {
        report(&format!("open {path}"), File::open(path));
    }
}
