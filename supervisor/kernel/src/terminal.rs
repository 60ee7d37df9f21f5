//! The size of a terminal's window.

// UNSAFETY: nix has no safe wrapper for these two requests.
#![expect(unsafe_code, reason = "TIOCGWINSZ and TIOCSWINSZ")]

use std::os::fd::{AsFd, AsRawFd};

use crate::error::{SyscallError, check};

/// Rows and columns of a terminal's window; a terminal that does not know says 24 x 80.
///
/// # Errors
/// ENOTTY when `terminal` is none.
pub fn window(terminal: impl AsFd) -> Result<(u16, u16), SyscallError> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let number = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
    let result = unsafe { libc::ioctl(number, libc::TIOCGWINSZ, &raw mut size) };
    check(result, "ioctl", || "TIOCGWINSZ".to_owned())?;
    if size.ws_row == 0 || size.ws_col == 0 {
        return Ok((24, 80));
    }
    Ok((size.ws_row, size.ws_col))
}

/// Sets them; the foreground process group hears SIGWINCH if they changed.
///
/// # Errors
/// ENOTTY when `terminal` is none.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<(), SyscallError> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let number = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
    let result = unsafe { libc::ioctl(number, libc::TIOCSWINSZ, &raw const size) };
    check(result, "ioctl", || "TIOCSWINSZ".to_owned()).map(drop)
}
