//! Files of procfs and cgroupfs, where one write is one act.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::SyscallError;
use crate::mount::{Resolve, open_at};

/// Writes a text to a file below a directory, in one call.
///
/// # Errors
/// Those of opening the file, and whatever the kernel thinks of the text.
pub fn write(directory: BorrowedFd<'_>, path: &str, text: &str) -> Result<(), SyscallError> {
    let file = open_at(directory, Path::new(path), libc::O_WRONLY, 0, Resolve::Inside)?;
    nix::unistd::write(&file, text.as_bytes())
        .map(drop)
        .map_err(|errno| SyscallError::from_nix("write", format!("{path} {text:?}"), errno))
}
