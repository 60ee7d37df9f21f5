//! Sealed memory files: how a plan travels, and what is larger than a message, so that what was checked is what is read.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::unistd::{Whence, lseek};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::SyscallError;
use crate::seqpacket::ChannelError;

const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// Most bytes of a plan or a value.
pub const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Puts bytes into a memory file that nobody can change any more.
///
/// # Errors
/// When no descriptor or memory is left.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, SyscallError> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd =
        memfd_create(name, flags).map_err(|errno| SyscallError::from_nix("memfd_create", name, errno))?;
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(|error| SyscallError::from_io("write", name, &error))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))
        .map_err(|errno| SyscallError::from_nix("fcntl", "F_ADD_SEALS", errno))?;
    Ok(file.into())
}

/// Reads a memory file from its start, after checking that it is sealed.
///
/// # Errors
/// EPERM when a seal is missing, EFBIG when it is larger than `most` bytes.
pub fn read(fd: impl AsFd, most: u64) -> Result<Vec<u8>, SyscallError> {
    let seals = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS)
        .map_err(|errno| SyscallError::from_nix("fcntl", "F_GET_SEALS", errno))?;
    if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
        return Err(SyscallError::new("fcntl", "F_GET_SEALS", libc::EPERM));
    }
    let fail = |error: std::io::Error| SyscallError::from_io("read", "memfd", &error);
    let file = File::from(fd.as_fd().try_clone_to_owned().map_err(fail)?);
    // Not `fstat`, which also asks about files by name: the gateway's filter refuses it.
    let end = lseek(&file, 0, Whence::SeekEnd);
    let size = end.map_err(|errno| SyscallError::from_nix("lseek", "memfd", errno))?.cast_unsigned();
    if size > most {
        return Err(SyscallError::new("read", "memfd", libc::EFBIG));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    // By position: the offset is shared with whoever else has the file.
    file.read_exact_at(&mut bytes, 0).map_err(fail)?;
    Ok(bytes)
}

/// Puts a value that is larger than a message into a memory file.
///
/// # Errors
/// As [`sealed`], and when it does not encode.
pub fn encode<T: Serialize>(name: &str, value: &T) -> Result<OwnedFd, ChannelError> {
    Ok(sealed(name, &postcard::to_stdvec(value)?)?)
}

/// Reads such a value.
///
/// # Errors
/// As [`read`], and when it does not decode.
pub fn decode<T: DeserializeOwned>(fd: impl AsFd) -> Result<T, ChannelError> {
    Ok(postcard::from_bytes(&read(fd, MAX_SIZE)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_come_back_and_cannot_be_changed() {
        let fd = sealed("test", b"plan").unwrap();
        assert!(nix::unistd::write(&fd, b"x").is_err());
        assert_eq!(read(&fd, 4).unwrap(), b"plan");
        assert_eq!(read(&fd, 3).unwrap_err().errno, libc::EFBIG);
    }

    #[test]
    fn a_value_comes_back_and_what_is_none_is_refused() {
        let value = vec!["a".repeat(1 << 20), String::new()];
        assert_eq!(decode::<Vec<String>>(encode("test", &value).unwrap()).unwrap(), value);
        let cut = sealed("test", b"\x05a").unwrap();
        assert!(matches!(decode::<String>(cut), Err(ChannelError::Encoding(_))));
    }

    #[test]
    fn a_file_without_seals_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read(&file, MAX_SIZE).is_err());
    }
}
