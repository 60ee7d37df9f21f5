//! Typing into, pasting from and taking over a terminal.

use crate::report;
use crate::sys::{address, call};

const STDIN: usize = 0;
/// `N_NULL`: a line discipline that is always built in and does nothing.
const NULL_DISCIPLINE: i32 = 27;
const TIOCLINUX: usize = 0x541c;

pub(crate) fn attack() {
    for letter in "echo typed\n".bytes() {
        report("TIOCSTI", call(libc::SYS_ioctl, &[STDIN, libc::TIOCSTI as usize, address(&letter)]));
        // The upper half of the argument does not reach the kernel, but does reach a filter that looks.
        let disguised = libc::TIOCSTI as usize | 1 << 32;
        report("TIOCSTI disguised", call(libc::SYS_ioctl, &[STDIN, disguised, address(&letter)]));
    }
    let paste = [3u8, 0];
    report("TIOCLINUX", call(libc::SYS_ioctl, &[STDIN, TIOCLINUX, address(&paste)]));
    let changed = call(libc::SYS_ioctl, &[STDIN, libc::TIOCSETD as usize, address(&NULL_DISCIPLINE)]);
    // Under the other discipline nothing more would be heard of this program.
    let _ = call(libc::SYS_ioctl, &[STDIN, libc::TIOCSETD as usize, address(&0i32)]);
    report("TIOCSETD", changed);
    report("TIOCCONS", call(libc::SYS_ioctl, &[STDIN, libc::TIOCCONS as usize, 0]));
    // With the argument 1 root steals a terminal from the session that has it.
    report("TIOCSCTTY", call(libc::SYS_ioctl, &[STDIN, libc::TIOCSCTTY as usize, 1]));
}
