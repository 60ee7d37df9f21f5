//! Reading the log, all of it or what a filter lets through, to its end and on as it grows.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use skep_policy::decision::Decision;

use super::clock::parse_rfc3339;
use super::record::{Body, Sandbox};
use super::segment::{self, Line, Lines};

/// One record as it was read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The line as it is in the file, without its end.
    pub line: String,
    /// Its number.
    pub seq: u64,
    /// Wall clock, RFC 3339.
    pub at: String,
    /// The sandbox it is about.
    pub sandbox: Option<Sandbox>,
    /// Boot clock of the event in nanoseconds, where the kernel saw it earlier.
    pub event_ns: Option<u64>,
    /// The kind, also where `body` is unknown.
    pub kind: String,
    /// What happened; `None` for a kind or a form of a later version.
    pub body: Option<Body>,
}

/// Which records are wanted. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Name or id of the sandbox.
    pub sandbox: Option<String>,
    /// Kinds, all if empty.
    pub kinds: Vec<String>,
    /// Not before.
    pub since: Option<SystemTime>,
    /// Before.
    pub until: Option<SystemTime>,
    /// Only what was refused.
    pub denied: bool,
    /// Only what names this path or something below it.
    pub path: Option<PathBuf>,
    /// Only sandboxes of this uid: what a caller without special rights may see.
    pub owner: Option<u32>,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A call failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A line is no record. `skep audit verify` says more.
    #[error("{}, byte {offset}: not a record of this log; see `skep audit verify`", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
    },
}

/// Reads the log of a state directory. The iterator ends where the log ends for now; asked again later, it goes
/// on with what was written since, which is how one follows a log.
#[must_use]
pub fn read(state: &Path, filter: Filter) -> Reader {
    Reader { state: state.to_owned(), filter, segment: None, offset: 0, lines: None, base: 0 }
}

/// See [`read`].
pub struct Reader {
    state: PathBuf,
    filter: Filter,
    /// The segment being read.
    segment: Option<u64>,
    /// Where its next line begins.
    offset: u64,
    lines: Option<Lines<File>>,
    /// Offset at which `lines` was opened.
    base: u64,
}

impl Reader {
    /// The segment after the current one, if there is one; the first at the beginning.
    fn following(&self) -> Result<Option<u64>, ReadError> {
        let list = segment::list(&self.state);
        let numbers =
            list.map_err(|source| ReadError::Io { path: segment::directory(&self.state), source })?;
        Ok(numbers.into_iter().find(|number| self.segment.is_none_or(|current| *number > current)))
    }

    fn turn_to(&mut self, segment: u64) {
        (self.segment, self.offset, self.lines) = (Some(segment), 0, None);
    }

    /// Skips segments that were last written a day before what is wanted; the day is for clocks set back.
    fn is_too_old(&self, segment: u64) -> bool {
        let since = self.filter.since.and_then(|since| since.checked_sub(Duration::from_secs(86_400)));
        let written = fs::metadata(segment::path(&self.state, segment)).and_then(|meta| meta.modified());
        since.zip(written.ok()).is_some_and(|(since, written)| written < since)
    }

    fn open(&mut self, segment: u64) -> Result<bool, ReadError> {
        let path = segment::path(&self.state, segment);
        let mut file = match File::open(&path) {
            // Retention has removed it: go on with the next one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(|source| ReadError::Io { path: path.clone(), source })?,
        };
        file.seek(SeekFrom::Start(self.offset)).map_err(|source| ReadError::Io { path, source })?;
        (self.lines, self.base) = (Some(Lines::new(file)), self.offset);
        Ok(true)
    }

    /// The next line, filtered or not.
    fn advance(&mut self) -> Result<Option<Entry>, ReadError> {
        loop {
            // Asked before the line is read: a segment that has a follower gets no more lines, so its end is
            // the end. The other way round a line written in between would be missed.
            let following = if self.lines.is_none() { self.following()? } else { None };
            let Some(segment) = self.segment else {
                let Some(first) = following else { return Ok(None) };
                self.turn_to(first);
                continue;
            };
            if self.lines.is_none() {
                let passed = self.offset == 0 && following.is_some() && self.is_too_old(segment);
                if passed || !self.open(segment)? {
                    let Some(next) = following else { return Ok(None) };
                    self.turn_to(next);
                    continue;
                }
            }
            let path = segment::path(&self.state, segment);
            let Some(lines) = &mut self.lines else { continue };
            let line = lines.next().map_err(|source| ReadError::Io { path: path.clone(), source })?;
            match line {
                Some(Line::Whole(line)) => {
                    let offset = self.offset;
                    self.offset += line.len() as u64 + 1;
                    return match std::str::from_utf8(line).ok().and_then(Entry::parse) {
                        Some(entry) => Ok(Some(entry)),
                        None => Err(ReadError::NoRecord { path, offset }),
                    };
                }
                Some(Line::TooLong) => {
                    // Nothing behind it can be trusted to be a line: the segment ends here.
                    let offset = self.offset;
                    self.offset = fs::metadata(&path).map_or(offset, |meta| meta.len());
                    self.lines = None;
                    return Err(ReadError::NoRecord { path, offset });
                }
                None | Some(Line::Torn(_)) => {
                    // An unfinished line is read again from its beginning.
                    let at_end = self.offset == self.base;
                    self.lines = None;
                    match following {
                        Some(next) if at_end => self.turn_to(next),
                        _ if at_end => return Ok(None),
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Entry {
    /// Reads a line of the log, wherever it came from; `None` if it is none. Its chain value is not checked.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            seq: u64,
            at: String,
            #[serde(default)]
            sandbox: Option<Sandbox>,
            #[serde(default)]
            event_ns: Option<u64>,
            kind: String,
        }
        #[derive(Deserialize)]
        struct Whole {
            #[serde(flatten)]
            body: Body,
        }
        let Wire { seq, at, sandbox, event_ns, kind } = serde_json::from_str(line).ok()?;
        let body = serde_json::from_str(line).ok().map(|Whole { body }| body);
        Some(Self { line: line.to_owned(), seq, at, sandbox, event_ns, kind, body })
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.advance() {
                Ok(Some(entry)) if self.filter.admits(&entry) => return Some(Ok(entry)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Filter {
    /// Whether a record is wanted.
    #[must_use]
    pub fn admits(&self, entry: &Entry) -> bool {
        let sandbox = entry.sandbox.as_ref();
        let named =
            |name: &String| sandbox.is_some_and(|s| s.id == *name || s.name.as_bytes() == name.as_bytes());
        self.sandbox.as_ref().is_none_or(named)
            && self.owner.is_none_or(|uid| sandbox.is_some_and(|s| s.owner == uid))
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && (!self.denied || is_denial(entry))
            && self.in_time(&entry.at)
            && self.path.as_ref().is_none_or(|path| names(entry, path))
    }

    fn in_time(&self, at: &str) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        parse_rfc3339(at).is_some_and(|at| {
            self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
        })
    }
}

fn is_denial(entry: &Entry) -> bool {
    match &entry.body {
        Some(Body::Connection(connection)) => connection.decision != Decision::Allow,
        _ => entry.kind == "denied",
    }
}

fn names(entry: &Entry, path: &Path) -> bool {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = false;
    if let Some(mut body) = entry.body.clone() {
        body.each_text(&mut |text| {
            found |= Path::new(OsStr::from_bytes(text.as_bytes())).starts_with(path);
        });
    }
    found
}
