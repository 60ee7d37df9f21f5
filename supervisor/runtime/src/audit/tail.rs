//! What a log looks like when it is opened: where to go on, and what has to be said about it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::AuditError;
use super::anchor::{self, Anchor};
use super::chain::Hash;
use super::log::Options;
use super::record::LogEvent;
use super::segment::{self, Line, Lines, Link, check};
use super::text::Text;
use crate::hex::hex;

/// How much of a torn tail is kept in the record about it, in bytes.
const TORN_KEPT: usize = 4096;

/// The outcome of [`examine`].
pub(super) struct Found {
    pub(super) start: Start,
    /// What the writer records first.
    pub(super) notes: Vec<LogEvent>,
}

/// Where the writer goes on.
pub(super) struct Start {
    pub(super) segment: u64,
    /// Length at which the segment goes on; `None` if it is to be made.
    pub(super) length: Option<u64>,
    /// The head: number and hash of the last record.
    pub(super) link: Link,
    /// What the first record of a new segment names as the one before.
    pub(super) origin: Link,
    /// There is no usable anchor: one has to be written first.
    pub(super) fresh_anchor: bool,
}

/// What the last segment holds.
struct Scan {
    segment: u64,
    /// Bytes of the intact lines.
    good: u64,
    last: Link,
    /// What the chain value is at the anchor's number, if that number was met.
    at_anchor: Option<Hash>,
    bad: Option<Torn>,
}

/// What follows the intact lines.
struct Torn {
    bytes: u64,
    sha256: String,
    beginning: Vec<u8>,
    /// A line end is in it: one torn write leaves none, short of a crash of the host.
    lines: bool,
}

/// Reads the anchor and the last segment and decides. Writes nothing but removes an empty last segment.
pub(super) fn examine(state: &Path) -> Result<Found, AuditError> {
    let path = anchor::path(state);
    let anchor = Anchor::read(state).map_err(AuditError::io("read", &path))?;
    let scan = last_segment(state, anchor)?;
    let fresh_anchor = anchor.is_none();
    let Some(scan) = scan else {
        let anchored = anchor.unwrap_or_default();
        let start = Start {
            segment: anchored.segment + 1,
            length: None,
            link: anchored.link,
            origin: anchored.link,
            fresh_anchor,
        };
        let lost = (anchored.link.seq > 0).then(|| damaged(anchored, 0, "every segment is missing"));
        return Ok(Found { start, notes: lost.into_iter().collect() });
    };
    let mut found = go_on(&scan, anchor);
    if fresh_anchor {
        found.notes.push(LogEvent::AnchorLost);
        found.start.fresh_anchor = true;
    }
    Ok(found)
}

fn go_on(scan: &Scan, anchor: Option<Anchor>) -> Found {
    let unanchored = anchor.is_none();
    let anchor = anchor.unwrap_or_default();
    let problem = if unanchored && scan.bad.as_ref().is_some_and(|bad| bad.lines) {
        Some("a record is changed or torn and there is no anchor")
    } else if scan.last.seq < anchor.link.seq && scan.bad.is_some() {
        Some("a record before the anchor is changed or torn")
    } else if scan.last.seq < anchor.link.seq {
        Some("the end is missing")
    } else if scan.at_anchor.is_some_and(|hash| hash != anchor.link.hash) {
        Some("the anchored record is another one")
    } else {
        None
    };
    if let Some(problem) = problem {
        // The evidence stays as it is; the log goes on behind it with numbers that were never used.
        let link = Link { seq: scan.last.seq.max(anchor.link.seq), hash: scan.last.hash };
        let segment = scan.segment.max(anchor.segment) + 1;
        let start = Start { segment, length: None, link, origin: scan.last, fresh_anchor: false };
        return Found { start, notes: vec![damaged(anchor, scan.last.seq, problem)] };
    }
    let notes = scan.bad.iter().map(|torn| LogEvent::Repaired {
        segment: scan.segment,
        bytes: torn.bytes,
        sha256: torn.sha256.clone(),
        torn: Text::beginning(torn.beginning.clone(), torn.bytes),
    });
    let notes = notes.collect();
    let length = (scan.good > 0).then_some(scan.good);
    let start =
        Start { segment: scan.segment, length, link: scan.last, origin: scan.last, fresh_anchor: false };
    Found { start, notes }
}

fn damaged(anchor: Anchor, found_seq: u64, problem: &str) -> LogEvent {
    LogEvent::Damaged {
        anchored_seq: anchor.link.seq,
        anchored_hash: hex(&anchor.link.hash),
        found_seq,
        problem: problem.to_owned(),
    }
}

/// Scans the last segment. One without an intact line (a crash while it was made) is removed, and its bytes
/// are noted as torn from the one before.
fn last_segment(state: &Path, anchor: Option<Anchor>) -> Result<Option<Scan>, AuditError> {
    let mut torn = None;
    let mut numbers = segment::list(state).map_err(AuditError::io("readdir", &segment::directory(state)))?;
    while let Some(number) = numbers.pop() {
        let path = segment::path(state, number);
        let mut scan = scan(&path, number, anchor).map_err(AuditError::io("read", &path))?;
        // Only what no anchor has covered may go: such a segment was never whole.
        let torn_whole = scan.bad.as_ref().is_none_or(|bad| !bad.lines);
        let unanchored = anchor.map_or(torn_whole, |anchor| anchor.segment < number);
        if scan.good > 0 || !unanchored {
            scan.bad = scan.bad.or(torn);
            return Ok(Some(scan));
        }
        torn = torn.or(scan.bad);
        fs::remove_file(&path).map_err(AuditError::io("unlink", &path))?;
    }
    Ok(torn.map(|bad| Scan { segment: 1, good: 0, last: Link::default(), at_anchor: None, bad: Some(bad) }))
}

fn scan(path: &Path, number: u64, anchor: Option<Anchor>) -> io::Result<Scan> {
    let mut scan = Scan { segment: number, good: 0, last: Link::default(), at_anchor: None, bad: None };
    let origin = first_line(path)?.and_then(|line| segment::origin(&line));
    let Some(origin) = origin else {
        scan.bad = rest(path, 0)?;
        return Ok(scan);
    };
    scan.last = origin;
    let mut lines = Lines::open(path)?;
    while let Some(Line::Whole(line)) = lines.next()? {
        let Ok(good) = check(line, &scan.last.hash) else { break };
        scan.good += line.len() as u64 + 1;
        scan.last = Link { seq: good.seq, hash: good.hash };
        if anchor.is_some_and(|anchor| anchor.link.seq == good.seq) {
            scan.at_anchor = Some(good.hash);
        }
    }
    scan.bad = rest(path, scan.good)?;
    Ok(scan)
}

/// What stands in a file from `offset` on.
fn rest(path: &Path, offset: u64) -> io::Result<Option<Torn>> {
    use std::io::{Read as _, Seek as _};
    let mut file = fs::File::open(path)?;
    file.seek(io::SeekFrom::Start(offset))?;
    let (mut hash, mut bytes, mut beginning, mut lines) = (Sha256::new(), 0, Vec::new(), false);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
        lines |= buffer[..read].contains(&b'\n');
        let room = TORN_KEPT.saturating_sub(beginning.len());
        beginning.extend_from_slice(&buffer[..read.min(room)]);
    }
    Ok((bytes > 0).then(|| Torn { bytes, sha256: hex(&hash.finalize()), beginning, lines }))
}

fn first_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    Ok(match Lines::open(path)?.next()? {
        Some(Line::Whole(line)) => Some(line.to_vec()),
        _ => None,
    })
}

/// Where the segment at `path` says it comes from.
pub(super) fn origin_of(path: &Path) -> Result<Option<Link>, AuditError> {
    let line = first_line(path).map_err(AuditError::io("read", path))?;
    Ok(line.and_then(|line| segment::origin(&line)))
}

/// The segments whose time is over, oldest first; never the one being written, never one in the middle.
pub(super) fn expired(state: &Path, current: u64, options: &Options) -> Result<Vec<u64>, AuditError> {
    let numbers = segment::list(state).map_err(AuditError::io("readdir", &segment::directory(state)))?;
    let mut segments = Vec::new();
    for number in numbers.into_iter().filter(|number| *number < current) {
        let path = segment::path(state, number);
        let meta = fs::metadata(&path).map_err(AuditError::io("stat", &path))?;
        segments.push((number, meta.len(), meta.modified().map_err(AuditError::io("stat", &path))?));
    }
    let mut total: u64 = segments.iter().map(|(_, bytes, _)| bytes).sum();
    let now = SystemTime::now();
    let old = segments.into_iter().take_while(|(_, bytes, written)| {
        let aged = now.duration_since(*written).is_ok_and(|age| age > options.retain_age);
        let over = total > options.retain_bytes;
        total -= bytes;
        aged || over
    });
    Ok(old.map(|(number, ..)| number).collect())
}
