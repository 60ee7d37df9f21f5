//! The memory of others: processes, System V segments, kernel keys.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::report;
use crate::sys::{Answer, address, address_mut, call};

/// Keeps a text in its memory until it is killed, and says when it is ready.
pub(crate) fn hold(text: &str) {
    let secret = format!("secret {text} secret").into_bytes().into_boxed_slice();
    println!("ready {:x} {}", address(&*secret), secret.len());
    loop {
        std::thread::park();
        std::hint::black_box(&secret);
    }
}

/// Reads another process by every way there is. `process` is `PID:ADDRESS:LENGTH`, or a PID.
pub(crate) fn peek(process: &str) {
    let mut parts = process.split(':');
    let id: usize = parts.next().and_then(|id| id.parse().ok()).unwrap_or(1);
    let at = parts.next().and_then(|at| usize::from_str_radix(at, 16).ok()).unwrap_or(0x1000);
    let length: usize = parts.next().and_then(|length| length.parse().ok()).unwrap_or(16);
    let mut buffer = vec![0u8; length];
    let local = [address_mut(buffer.as_mut_slice()), length];
    let remote = [at, length];
    let asked = [id, address(&local), 1, address(&remote), 1, 0];
    report("process_vm_readv", call(libc::SYS_process_vm_readv, &asked));
    println!("{}", String::from_utf8_lossy(&buffer));
    buffer.fill(0);
    let read =
        fs::File::open(format!("/proc/{id}/mem")).and_then(|mem| mem.read_exact_at(&mut buffer, at as u64));
    report("/proc/PID/mem", read);
    println!("{}", String::from_utf8_lossy(&buffer));
    for file in ["environ", "maps", "auxv", "stack", "syscall"] {
        report(&format!("/proc/PID/{file}"), non_empty(&format!("/proc/{id}/{file}")));
    }
    for file in ["fd", "map_files", "fdinfo"] {
        report(&format!("/proc/PID/{file}"), fs::read_dir(format!("/proc/{id}/{file}")));
    }
    for file in ["root", "cwd", "exe"] {
        report(&format!("/proc/PID/{file}"), fs::read_link(format!("/proc/{id}/{file}")));
    }
    report("kcmp", call(libc::SYS_kcmp, &[std::process::id() as usize, id, 1, 0, 0]));
    report("ptrace", call(libc::SYS_ptrace, &[libc::PTRACE_ATTACH as usize, id, 0, 0]));
    let pidfd = call(libc::SYS_pidfd_open, &[id, 0]);
    let stolen = pidfd.and_then(|pidfd| call(libc::SYS_pidfd_getfd, &[pidfd as usize, 0, 0]));
    report("pidfd_getfd", stolen);
}

fn non_empty(path: &str) -> std::io::Result<()> {
    let bytes = fs::read(path)?;
    if bytes.is_empty() { Err(std::io::Error::from_raw_os_error(libc::EACCES)) } else { Ok(()) }
}

/// Puts a text into a System V segment and leaves it there; prints the id to remove it by.
pub(crate) fn keep_shared(key: &str, text: &str) {
    let made = segment(key, libc::IPC_CREAT as usize | 0o666).and_then(|(id, file)| {
        println!("id {id}");
        write_at(file, text.as_bytes())
    });
    report("shmget", made);
}

/// Reads it.
pub(crate) fn read_shared(key: &str) {
    let mut text = vec![0u8; 64];
    let read = segment(key, 0).and_then(|(_, at)| read_at(at, &mut text));
    report("shmat", read);
    println!("{}", String::from_utf8_lossy(&text));
    report("msgget", call(libc::SYS_msgget, &[key.parse().unwrap_or(0), 0]));
    report("semget", call(libc::SYS_semget, &[key.parse().unwrap_or(0), 0, 0]));
}

/// The segment's id and where it was attached.
fn segment(key: &str, flags: usize) -> std::io::Result<(i64, usize)> {
    let id = call(libc::SYS_shmget, &[key.parse().unwrap_or(0), 4096, flags])?;
    Ok((id, call(libc::SYS_shmat, &[id as usize, 0, 0])? as usize))
}

/// Memory of our own is reached by the same call as that of others, which checks the address.
fn read_at(at: usize, buffer: &mut [u8]) -> Answer {
    let file = fs::File::open("/proc/self/mem")?;
    file.read_exact_at(buffer, at as u64)?;
    Ok(i64::from(file.as_raw_fd()))
}

fn write_at(at: usize, bytes: &[u8]) -> Answer {
    let file = fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    file.write_all_at(bytes, at as u64)?;
    Ok(i64::from(file.as_raw_fd()))
}

/// Looks for a key of the caller's sessions and user keyrings by its name.
pub(crate) fn keys(name: &str) {
    let (kind, name) = (CString::from(c"user"), CString::new(name).unwrap_or_default());
    let names = [address(kind.as_c_str()), address(name.as_c_str())];
    report("request_key", call(libc::SYS_request_key, &[names[0], names[1], 0, 0]));
    for (what, keyring) in [("session", -3isize), ("user", -4), ("user session", -5)] {
        // KEYCTL_SEARCH.
        let asked = [10, keyring as usize, names[0], names[1], 0];
        report(&format!("search the {what} keyring"), call(libc::SYS_keyctl, &asked));
    }
    let listed = non_empty("/proc/keys");
    report("/proc/keys", listed);
}
