//! Key rings: a sandbox starts with none of its parent's keys.

// UNSAFETY: keyctl has no wrapper in libc.
#![expect(unsafe_code, reason = "keyctl is a raw system call")]

use crate::error::{SyscallError, check};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Replaces the session keyring by a new, empty, anonymous one. A kernel without keys has none to take away.
///
/// # Errors
/// EDQUOT when the user's quota of keys is used up.
pub fn fresh_session() -> Result<(), SyscallError> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match check(result, "keyctl", || "KEYCTL_JOIN_SESSION_KEYRING".into()) {
        Err(error) if error.errno == libc::ENOSYS => Ok(()),
        other => other.map(drop),
    }
}
