//! The files of a log and how their lines are read.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Hash, link, unseal};
use crate::hex::unhex;

/// No line of ours is longer, and none that is longer is read. In bytes, its end included.
pub const LONGEST_LINE: usize = 1 << 20;

/// Directory of the segments in a state directory.
pub(super) fn directory(state: &Path) -> PathBuf {
    state.join("audit")
}

/// Path of a segment.
pub(super) fn path(state: &Path, segment: u64) -> PathBuf {
    directory(state).join(format!("{segment:06}.jsonl"))
}

/// Numbers of the segments that exist, in order.
///
/// # Errors
/// When the directory cannot be read; a missing one has no segments.
pub(super) fn list(state: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        // Exactly the names that `path` makes: no sign, no second spelling of a number.
        if let Some(number) =
            digits.and_then(|d| d.parse().ok()).filter(|n| digits == Some(&format!("{n:06}")))
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A line as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A line without its end.
    Whole(&'a [u8]),
    /// Bytes at the end of the file that no line end follows.
    Torn(&'a [u8]),
    /// More than [`LONGEST_LINE`] bytes without a line end; nothing after it is read.
    TooLong,
}

/// Reads lines with bounded memory.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
    /// Offset of the line read last.
    pub(super) offset: u64,
    next: u64,
}

impl Lines<File> {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }
}

impl<R: Read> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(1 << 17, reader), buffer: Vec::new(), offset: 0, next: 0 }
    }

    /// The next line, `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let limit = LONGEST_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
        self.offset = self.next;
        self.next += read as u64;
        Ok(match self.buffer.as_slice() {
            [] => None,
            [line @ .., b'\n'] => Some(Line::Whole(line)),
            _ if read as u64 == limit => Some(Line::TooLong),
            torn => Some(Line::Torn(torn)),
        })
    }
}

/// What the chain needs to know of a line.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) v: u32,
    pub(super) seq: u64,
    kind: String,
}

/// A line whose form and chain value are right.
pub(super) struct Good {
    pub(super) seq: u64,
    pub(super) hash: Hash,
    /// It is a record of the log about itself.
    pub(super) about_log: bool,
}

/// Why a line is not the next link of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is not a line of this log: no JSON object, no chain value, another version.
    Form,
    /// Its chain value does not follow from the line before and its content; with its number, as it claims.
    Chain { seq: u64 },
}

/// Checks one line against the chain value before it.
pub(super) fn check(line: &[u8], previous: &Hash) -> Result<Good, Bad> {
    let (content, hash) = unseal(line).ok_or(Bad::Form)?;
    let head: Head = serde_json::from_slice(line).map_err(|_not_json| Bad::Form)?;
    if head.v != super::record::VERSION {
        return Err(Bad::Form);
    }
    if link(previous, content) != hash {
        return Err(Bad::Chain { seq: head.seq });
    }
    Ok(Good { seq: head.seq, hash, about_log: head.kind == "log" })
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// What the first record of a segment says about the one before, unchecked.
pub(super) fn origin(line: &[u8]) -> Option<Link> {
    #[derive(Deserialize)]
    struct First {
        body: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        event: String,
        previous_seq: u64,
        previous_hash: String,
    }
    let First { body } = serde_json::from_slice(line).ok()?;
    let hash = unhex(&body.previous_hash).filter(|_| body.event == "segment")?;
    Some(Link { seq: body.previous_seq, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_torn_or_refused() {
        let mut long = b"a\n\nlast".to_vec();
        let mut lines = Lines::new(long.as_slice());
        assert_eq!(lines.next().unwrap(), Some(Line::Whole(b"a")));
        assert_eq!(lines.next().unwrap(), Some(Line::Whole(b"")));
        assert_eq!(lines.next().unwrap(), Some(Line::Torn(b"last")));
        assert_eq!((lines.offset, lines.next().unwrap()), (3, None));
        long.resize(LONGEST_LINE + 100, b'x');
        let mut lines = Lines::new(&long[3..]);
        assert_eq!(lines.next().unwrap(), Some(Line::TooLong));
    }
}
