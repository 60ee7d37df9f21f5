//! Files that would be programs of their owner: the owner is the caller's on the disk, and `nosuid` holds inside only.

use std::ffi::CString;
use std::fs;

use crate::report;
use crate::sys::{Answer, address, call};

const MODE: usize = 0o6755;

/// `struct open_how`.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// One file for each way to give it the bits.
pub(crate) fn set_id(directory: &str) {
    let here = libc::AT_FDCWD as usize;
    let changes: [(&str, &dyn Fn(usize) -> Answer); 4] = [
        ("chmod", &|path| call(libc::SYS_chmod, &[path, MODE])),
        ("fchmodat", &|path| call(libc::SYS_fchmodat, &[here, path, MODE])),
        ("fchmodat2", &|path| call(FCHMODAT2, &[here, path, MODE, 0])),
        ("fchmod", &|path| {
            let descriptor = call(libc::SYS_open, &[path, libc::O_RDWR as usize, 0])?;
            call(libc::SYS_fchmod, &[descriptor as usize, MODE])
        }),
    ];
    for (name, change) in changes {
        let path = format!("{directory}/{name}");
        let _ = fs::copy("/proc/self/exe", &path);
        attempt(name, &path, change);
    }
    for (name, make) in creations(here) {
        attempt(name, &format!("{directory}/{name}"), &*make);
    }
}

const FCHMODAT2: i64 = 452;
const CREATE: usize = (libc::O_CREAT | libc::O_RDWR) as usize;

type Way = (&'static str, Box<dyn Fn(usize) -> Answer>);

fn creations(here: usize) -> [Way; 6] {
    let how = How { flags: CREATE as u64, mode: MODE as u64, resolve: 0 };
    let file = libc::S_IFREG as usize | MODE;
    [
        ("open", Box::new(|path| call(libc::SYS_open, &[path, CREATE, MODE]))),
        ("openat", Box::new(move |path| call(libc::SYS_openat, &[here, path, CREATE, MODE]))),
        (
            "openat2",
            Box::new(move |path| call(libc::SYS_openat2, &[here, path, address(&how), size_of::<How>()])),
        ),
        ("creat", Box::new(|path| call(libc::SYS_creat, &[path, MODE]))),
        ("mknod", Box::new(move |path| call(libc::SYS_mknod, &[path, file, 0]))),
        ("mknodat", Box::new(move |path| call(libc::SYS_mknodat, &[here, path, file, 0]))),
    ]
}

fn attempt(name: &str, path: &str, way: &dyn Fn(usize) -> Answer) {
    let Ok(path) = CString::new(path) else { return };
    report(name, way(address(path.as_c_str())));
}
