//! Races, file handles, inherited descriptors and the question whether something exists.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::report;
use crate::sys::{address, address_mut, call, owned};

/// Swaps a file and a link to the target as fast as it can, while opening the name.
pub(crate) fn race_final(target: &str, seconds: &str) {
    let _ = (fs::write("race-file", "harmless\n"), std::os::unix::fs::symlink(target, "race-link"));
    race("race-file", "race-link", Path::new("race-file"), seconds);
}

/// The same with a directory and a link to the target's directory, in the middle of the path.
pub(crate) fn race_middle(target: &str, seconds: &str) {
    let target = Path::new(target);
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else { return };
    let _ = fs::create_dir_all("race-directory/made");
    let _ = fs::write(Path::new("race-directory").join(name), "harmless\n");
    let _ = std::os::unix::fs::symlink(directory, "race-way");
    race("race-directory", "race-way", &Path::new("race-directory").join(name), seconds);
}

/// Exchanges two names in one thread and opens, creates and renames through them in this one, until something
/// of the outside shows or the time is over.
fn race(first: &str, second: &str, opened: &Path, seconds: &str) {
    let end = Instant::now() + Duration::from_secs(seconds.parse().unwrap_or(1));
    let stop = AtomicBool::new(false);
    let (mut attempts, mut hits) = (0u64, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat2(AT_FDCWD, first, AT_FDCWD, second, RenameFlags::RENAME_EXCHANGE);
            }
        });
        while Instant::now() < end && hits == 0 {
            attempts += 1;
            hits += u64::from(reads_outside(opened));
            let made = opened.parent().unwrap_or(Path::new(".")).join("made/by/race");
            let _ = (fs::create_dir_all(&made), fs::rename(&made, made.with_file_name("renamed")));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("attempts {attempts} hits {hits}");
}

fn reads_outside(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let outside = !text.is_empty() && text != "harmless\n";
    if outside {
        print!("{text}");
    }
    outside
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// Prints a file's handle, by which it can be opened without a path.
pub(crate) fn handle_of(path: &str) {
    let Ok(name) = CString::new(path) else { return };
    let (mut handle, mut mount) = (Handle { bytes: 128, kind: 0, data: [0; 128] }, 0i32);
    let here = libc::AT_FDCWD as usize;
    let asked = [here, address(name.as_c_str()), address_mut(&mut handle), address_mut(&mut mount), 0];
    match call(libc::SYS_name_to_handle_at, &asked) {
        Ok(_) => {
            let bytes = handle.data[..handle.bytes as usize].iter().map(|byte| format!("{byte:02x}"));
            println!("{}:{}", handle.kind, bytes.collect::<String>());
        }
        Err(error) => report::<(), _>("name_to_handle_at", Err(error)),
    }
}

/// Opens a file by its handle, given any descriptor on its file system, and prints it.
pub(crate) fn open_handle(mount: &str, handle: &str) {
    let Some((kind, text)) = handle.trim().split_once(':') else { return };
    let bytes: Vec<u8> = (0..text.len() / 2).map(|at| hex(&text[at * 2..at * 2 + 2])).collect();
    let mut handle = Handle { bytes: bytes.len() as u32, kind: kind.parse().unwrap_or(1), data: [0; 128] };
    handle.data[..bytes.len()].copy_from_slice(&bytes);
    let Ok(mount) = fs::File::open(mount) else { return };
    let asked = [mount.as_raw_fd() as usize, address(&handle), libc::O_RDONLY as usize];
    let opened = call(libc::SYS_open_by_handle_at, &asked);
    if let Ok(descriptor) = &opened {
        print_descriptor(*descriptor);
    }
    report("open_by_handle_at", opened);
}

fn hex(digits: &str) -> u8 {
    u8::from_str_radix(digits, 16).unwrap_or(0)
}

/// Goes through all descriptors it was born with and tries to leave the sandbox from each.
pub(crate) fn descriptors(path: &str) {
    let up = "../".repeat(16) + path.trim_start_matches('/');
    let Ok(name) = CString::new(up) else { return };
    // Above 2 nothing should be open; those of this program itself are opened only from here on.
    for descriptor in 3..1024usize {
        if call(libc::SYS_fcntl, &[descriptor, libc::F_GETFD as usize]).is_err() {
            continue;
        }
        println!("DONE descriptor {descriptor} is open");
        if let Ok(opened) = call(libc::SYS_openat, &[descriptor, address(name.as_c_str()), 0]) {
            print_descriptor(opened);
        }
        let _ = call(libc::SYS_write, &[descriptor, address("leaked\n"), 7]);
        if call(libc::SYS_fchdir, &[descriptor]).is_ok() {
            let _ = fs::read_to_string(path).map(|text| print!("{text}"));
        }
    }
}

fn print_descriptor(descriptor: i64) {
    let mut text = String::new();
    let _ = fs::File::from(owned(descriptor)).read_to_string(&mut text);
    print!("{text}");
}

/// Is there any difference between a path that exists outside and one that does not?
pub(crate) fn exists(path: &str, missing: &str) {
    let differ = |what: &str, ask: &dyn Fn(&str) -> io::Result<()>| {
        let kind = |path: &str| ask(path).map_err(|error| error.raw_os_error());
        let (there, not) = (kind(path), kind(missing));
        if there == not { println!("DENIED {what}: {not:?}") } else { println!("DONE {what}: {there:?}") }
    };
    differ("stat", &|path| fs::symlink_metadata(path).map(drop));
    differ("open", &|path| fs::File::open(path).map(drop));
    differ("readdir", &|path| fs::read_dir(Path::new(path).parent().unwrap_or(Path::new("/"))).map(drop));
    differ("chdir", &|path| std::env::set_current_dir(path));
    differ("rename", &|path| fs::rename(path, "stolen"));
    differ("inotify", &|path| {
        let name = CString::new(path).map_err(io::Error::other)?;
        let inotify = call(libc::SYS_inotify_init1, &[0])?;
        let everything = libc::IN_ALL_EVENTS as usize;
        call(libc::SYS_inotify_add_watch, &[inotify as usize, address(name.as_c_str()), everything]).map(drop)
    });
    report("fanotify_init", call(libc::SYS_fanotify_init, &[libc::FAN_CLASS_NOTIF as usize, 0]));
}
