//! What is mounted where, as `/proc/self/mountinfo` tells it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::error::SyscallError;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
    /// What of the file system shows there: `/` is all of it.
    pub root: PathBuf,
    /// The file system's type: `ext4`, `cgroup2`, `fuse.sshfs`, ….
    pub kind: String,
}

/// All mounts of this process's namespace; a later one covers an earlier one at the same place.
///
/// # Errors
/// When /proc is not there.
pub fn mounted() -> Result<Vec<Mounted>, SyscallError> {
    let table = fs::read("/proc/self/mountinfo")
        .map_err(|error| SyscallError::from_io("read", "/proc/self/mountinfo", &error))?;
    Ok(parse(&table))
}

pub(crate) fn parse(table: &[u8]) -> Vec<Mounted> {
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        let path = |field: &&[u8]| PathBuf::from(OsString::from_vec(unescape(field)));
        Some(Mounted {
            point: fields.get(4).map(path)?,
            root: fields.get(3).map(path)?,
            kind: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
        })
    });
    lines.collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_optional_fields_and_escapes() {
        let table = b"29 23 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n\
            3 2 0:26 /a /my\\040dir rw - fuse.sshfs me@host: rw\n\nshort - \n";
        let mount = |point: &str, root: &str, kind: &str| Mounted {
            point: point.into(),
            root: root.into(),
            kind: kind.to_owned(),
        };
        let expected = [mount("/sys/fs/cgroup", "/", "cgroup2"), mount("/my dir", "/a", "fuse.sshfs")];
        assert_eq!(parse(table), expected);
    }
}
