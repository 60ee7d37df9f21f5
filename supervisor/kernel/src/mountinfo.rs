//! What is mounted where, as `/proc/self/mountinfo` tells it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

/// Where the kernel tells it.
const TABLE: &str = "/proc/self/mountinfo";

/// All mounts of this process's namespace; a later one covers an earlier one at the same place.
///
/// # Errors
/// When /proc is not there.
pub fn mounted() -> Result<Vec<Mounted>, SyscallError> {
    Table::open()?.read()
}

/// The table of mounts, held open to learn when it changes: reading it takes a hundred times as long as that.
#[derive(Debug)]
pub struct Table {
    file: File,
    /// Whether it was read since it changed, as far as we heard.
    is_known: bool,
}

impl Table {
    /// Opens the table of this process's namespace.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn open() -> Result<Self, SyscallError> {
        let file = File::open(TABLE).map_err(|error| SyscallError::from_io("open", TABLE, &error))?;
        Ok(Self { file, is_known: false })
    }

    /// All mounts as [`mounted`] has them, if there was a change since they were told last; the first time always.
    ///
    /// # Errors
    /// When the table cannot be read; then the next call reads it.
    pub fn changed(&mut self) -> Result<Option<Vec<Mounted>>, SyscallError> {
        // A change is told once (`mounts_poll`, fs/proc_namespace.c in 6.18), so it is taken note of before the reading,
        // which may miss the next one.
        let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)];
        poll(&mut ready, PollTimeout::ZERO).map_err(|errno| SyscallError::from_nix("poll", TABLE, errno))?;
        self.is_known &= ready[0].revents() == Some(PollFlags::empty());
        if self.is_known {
            return Ok(None);
        }
        let mounts = self.read()?;
        self.is_known = true;
        Ok(Some(mounts))
    }

    fn read(&mut self) -> Result<Vec<Mounted>, SyscallError> {
        let failed = |error: io::Error| SyscallError::from_io("read", TABLE, &error);
        self.file.rewind().map_err(failed)?;
        let mut table = Vec::new();
        self.file.read_to_end(&mut table).map_err(failed)?;
        Ok(parse(&table))
    }
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
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

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

    #[test]
    fn root_only_the_table_is_told_again_when_something_was_mounted() {
        let script =
            "mount --make-rprivate / && echo && read line && mount -t tmpfs none /mnt && echo && read line";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut go_on, mut done) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut step = || done.read_exact(&mut [0]).unwrap();
        step();
        let file = File::open(format!("/proc/{}/mountinfo", child.id())).unwrap();
        let mut table = Table { file, is_known: false };
        let is_there = |mounts: Vec<Mounted>| {
            mounts.iter().any(|mount| mount.point == Path::new("/mnt") && mount.kind == "tmpfs")
        };
        assert_eq!(table.changed().unwrap().map(is_there), Some(false));
        assert_eq!(table.changed().unwrap(), None);
        go_on.write_all(b"\n").unwrap();
        step();
        assert_eq!(table.changed().unwrap().map(is_there), Some(true));
        assert_eq!(table.changed().unwrap(), None);
        drop(go_on);
        child.wait().unwrap();
    }
}
