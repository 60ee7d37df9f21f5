//! Loading a compiled seccomp program. (Compiling one is `filter`'s, with libseccomp.)

// UNSAFETY: seccomp has no wrapper in libc.
#![expect(unsafe_code, reason = "seccomp is a raw system call")]

use crate::error::{SyscallError, check};

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const libc::sock_filter,
}

/// Puts the calling thread under a program as the kernel takes it: `struct sock_filter`s of 8 bytes. An empty
/// program is an error, for a sandbox without a filter is none.
///
/// Required configuration: CONFIG_SECCOMP_FILTER; the thread has no_new_privs.
///
/// # Errors
/// EINVAL when the bytes are no program, EACCES without no_new_privs.
pub fn load(program: &[u8]) -> Result<(), SyscallError> {
    let refused = || SyscallError::new("seccomp", format!("{} bytes", program.len()), libc::EINVAL);
    if program.is_empty() || !program.len().is_multiple_of(8) {
        return Err(refused());
    }
    let instructions: Vec<libc::sock_filter> = program.chunks_exact(8).map(instruction).collect();
    let length = u16::try_from(instructions.len()).map_err(|_too_long| refused())?;
    let program = Program { length, instructions: instructions.as_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` names `length` instructions that live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
    check(result, "seccomp", || format!("{length} instructions")).map(drop)
}

fn instruction(bytes: &[u8]) -> libc::sock_filter {
    let byte = |index: usize| bytes.get(index).copied().unwrap_or_default();
    libc::sock_filter {
        code: u16::from_ne_bytes([byte(0), byte(1)]),
        jt: byte(2),
        jf: byte(3),
        k: u32::from_ne_bytes([byte(4), byte(5), byte(6), byte(7)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_and_a_torn_program_are_refused() {
        assert_eq!(load(&[]).unwrap_err().errno, libc::EINVAL);
        assert_eq!(load(&[0; 7]).unwrap_err().errno, libc::EINVAL);
    }
}
