//! The error of a system call: which call, on what, and what the kernel said.

use std::fmt;
use std::io;

/// A failed system call with its name, its object and its errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallError {
    /// Name of the call, as its manual page has it.
    pub call: &'static str,
    /// What it was called on: a path, an address, a limit's name; may be empty.
    pub object: String,
    /// The kernel's answer.
    pub errno: i32,
}

impl SyscallError {
    /// An error with a known errno.
    pub fn new(call: &'static str, object: impl Into<String>, errno: i32) -> Self {
        Self { call, object: object.into(), errno }
    }

    /// The error of the libc call that has just failed in this thread.
    pub fn last(call: &'static str, object: impl Into<String>) -> Self {
        Self::new(call, object, nix::errno::Errno::last_raw())
    }

    /// From an [`io::Error`] of the standard library; one without an errno counts as EIO.
    pub fn from_io(call: &'static str, object: impl Into<String>, error: &io::Error) -> Self {
        Self::new(call, object, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// From an errno of nix.
    pub fn from_nix(call: &'static str, object: impl Into<String>, errno: nix::errno::Errno) -> Self {
        Self::new(call, object, errno as i32)
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno);
        write!(f, "{}({}) failed: {errno}", self.call, self.object.escape_debug())
    }
}

impl std::error::Error for SyscallError {}

impl From<SyscallError> for io::Error {
    fn from(error: SyscallError) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno).kind();
        io::Error::new(kind, error)
    }
}

/// Turns the `-1` of a libc call into a [`SyscallError`].
///
/// # Errors
/// When `result` is negative; errno is read at once, so nothing may stand between the call and this.
pub(crate) fn check(
    result: impl Into<i64>,
    call: &'static str,
    object: impl FnOnce() -> String,
) -> Result<i64, SyscallError> {
    let result = result.into();
    if result < 0 {
        let errno = nix::errno::Errno::last_raw();
        return Err(SyscallError::new(call, object(), errno));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_call_object_and_errno() {
        let error = SyscallError::new("mount", "/proc", libc::EPERM);
        assert_eq!(error.to_string(), "mount(/proc) failed: EPERM: Operation not permitted");
    }

    #[test]
    fn control_characters_of_an_object_are_escaped() {
        let error = SyscallError::new("open", "/a\u{1b}[2J", libc::ENOENT);
        assert!(error.to_string().contains("\\u{1b}"));
    }
}
