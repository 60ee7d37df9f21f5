//! The writer.
//!
//! One writer a state directory: a second one is refused by a lock. [`Log::append`] returns when the record is
//! in the kernel's hands ([`Durability::Buffered`]: it survives a crash of ours) or on the disk
//! ([`Durability::Durable`]: it survives a crash of the host). **When it fails, nothing was recorded, and what
//! was to be recorded must not happen**: the caller denies, and ends what it cannot deny. A full disk leaves the
//! log usable for when there is space again; a failed write-back (after which the kernel may have dropped the
//! pages, since Linux 4.13 reported once) makes every later append fail until the log is opened anew. Where no next
//! segment can be made, for want of a descriptor or an inode, the old one is used for a while longer.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use skep_policy::units::Bytes;

use super::anchor::{Anchor, Keeper};
use super::chain::seal;
use super::clock::{Moment, boot_id, rfc3339};
use super::record::{Body, LogEvent, Record, Sandbox, VERSION};
use super::redact::Redactor;
use super::segment::{self, LONGEST_LINE, Link};
use super::{AuditError, tail};
use crate::hex::hex;

/// Number of a record: 1 is the first of the log, each next one is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// What a record must survive before its append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A crash of skepd: written with `write(2)`. It reaches the disk within [`Options::anchor_every`].
    Buffered,
    /// A crash of the host: `fdatasync(2)` after it. For grants and answers.
    Durable,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment is closed when it has so many bytes.
    pub segment_bytes: u64,
    /// A segment is closed when its first record is so old.
    pub segment_age: Duration,
    /// Old segments are removed while all together have more bytes than this.
    pub retain_bytes: u64,
    /// Segments last written longer ago than this are removed.
    pub retain_age: Duration,
    /// The anchor is renewed after so many records,
    pub anchor_records: u64,
    /// or after this time, whichever is first.
    pub anchor_every: Duration,
}

impl Default for Options {
    /// 64 MiB or a day a segment, 1 GiB or 90 days in all, an anchor every 4,096 records or second.
    fn default() -> Self {
        Self::keeping(1 << 30)
    }
}

/// The variable in skepd's environment that says how much is kept, like `4GiB`.
pub const AUDIT_SIZE: &str = "SKEP_AUDIT_SIZE";

/// The least that may be kept: a share of it must hold the longest record.
const LEAST_SIZE: Bytes = Bytes(4 * LONGEST_LINE as u64);

impl Options {
    /// The usual ones, with as much kept as [`AUDIT_SIZE`] says if it is there.
    ///
    /// # Errors
    /// When it is no size, or too small.
    pub fn of_size(size: Option<&OsStr>) -> Result<Self, AuditError> {
        let Some(size) = size.filter(|size| !size.is_empty()) else { return Ok(Self::default()) };
        let shown = size.to_string_lossy();
        match Bytes::parse(&shown) {
            Ok(size) if size >= LEAST_SIZE => Ok(Self::keeping(size.0)),
            Ok(_) => Err(AuditError::Size(shown.into_owned(), format!("at least {LEAST_SIZE} are needed"))),
            Err(why) => Err(AuditError::Size(shown.into_owned(), why)),
        }
    }

    fn keeping(retain_bytes: u64) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            segment_bytes: retain_bytes / 16,
            segment_age: DAY,
            retain_bytes,
            retain_age: 90 * DAY,
            anchor_records: 4096,
            anchor_every: Duration::from_secs(1),
        }
    }

    /// What the records of one sandbox may take of what is kept: a quarter.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.retain_bytes / 4
    }
}

/// How long after a failed attempt the next one is made to go on in a new segment: each writes the old one back.
const PAUSE: Duration = Duration::from_secs(1);

/// The log of a state directory, open for writing.
pub struct Log {
    state: PathBuf,
    options: Options,
    boot: String,
    file: Arc<File>,
    segment: u64,
    /// Bytes of the segment that are whole lines.
    length: u64,
    since: SystemTime,
    /// There may be a next segment already: readers take this one for complete then, so nothing more goes into it.
    is_over: bool,
    /// When the next segment may be asked for.
    not_before: Instant,
    head: Link,
    buffer: Vec<u8>,
    anchor: Keeper,
    /// Why no append can succeed any more.
    broken: Option<String>,
    /// Held for its lock.
    _lock: File,
}

/// A line before its chain value is added. The order of the fields is the order in the file.
#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    seq: u64,
    at: &'a str,
    boot_ns: u128,
    boot: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a Sandbox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ns: Option<u64>,
    #[serde(flatten)]
    body: &'a Body,
}

impl Log {
    /// Opens the log in `<state>/audit`, making it where there is none, repairs a torn tail, and records what
    /// was found: a log that was cut or changed is continued in a new segment, loudly, never silently.
    ///
    /// # Errors
    /// [`AuditError::Busy`] when another skepd writes it, [`AuditError::Directory`] when the directory is not
    /// ours alone, else the I/O error.
    pub fn open(state: &Path, options: Options) -> Result<Self, AuditError> {
        let lock = prepare(state)?;
        let tail::Found { start, notes } = tail::examine(state)?;
        let boot = boot_id().map_err(AuditError::io("read", "/proc/sys/kernel/random/boot_id"))?;
        // The anchor exists before the first segment does, so that its absence always means something. Until then
        // it names the segment before: one that it named would be missed if we were killed in between.
        if start.fresh_anchor {
            let segment = start.segment - u64::from(start.length.is_none());
            let anchored = Anchor { link: start.link, segment };
            anchored.write(state).map_err(AuditError::io("write", &super::anchor::path(state)))?;
        }
        let anchor = Keeper::start(state, start.link.seq, options.anchor_records, options.anchor_every)
            .map_err(AuditError::io("start", "the anchor thread"))?;
        let (file, length, since) = match start.length {
            Some(length) => reopen(state, start.segment, length)?,
            None => (create(state, start.segment)?, 0, SystemTime::now()),
        };
        let mut log = Self {
            state: state.to_owned(),
            options,
            boot,
            file: Arc::new(file),
            segment: start.segment,
            length,
            since,
            is_over: false,
            not_before: Instant::now(),
            head: start.link,
            buffer: Vec::with_capacity(1 << 16),
            anchor,
            broken: None,
            _lock: lock,
        };
        let opened =
            LogEvent::Opened { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
        let first = start.length.is_none().then(|| first_of(start.segment, start.origin));
        let events = first.into_iter().chain(notes).chain([opened]);
        log.write(events.map(|event| Record::general(Body::Log(event))).collect(), Durability::Durable)?;
        Ok(log)
    }

    /// Records one thing. See the module's head for what an error means.
    ///
    /// # Errors
    /// [`AuditError::Full`] without space, [`AuditError::Broken`] after a failed write-back, else the I/O error.
    pub fn append(&mut self, record: Record, durability: Durability) -> Result<Seq, AuditError> {
        self.append_all(vec![record], durability)
    }

    /// Records several things with one write and, if durable, one write-back: all of them or none. Returns the
    /// number of the last.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_all(&mut self, records: Vec<Record>, durability: Durability) -> Result<Seq, AuditError> {
        if self.is_due() {
            self.rotate_or_go_on()?;
        }
        self.write(records, durability)
    }

    /// Number of the last record.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.head.seq)
    }

    /// The segment being written, for people: where the audit is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        segment::path(&self.state, self.segment)
    }

    /// Waits until everything appended is on the disk.
    ///
    /// # Errors
    /// The write-back's; the log is broken then.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        let synced = self.file.sync_data();
        synced.map_err(|error| self.break_with("fdatasync", &error))
    }

    /// Closes in good order: a last record, on the disk, and anchored.
    ///
    /// # Errors
    /// As [`Log::append`], or the anchor's.
    pub fn close(mut self) -> Result<(), AuditError> {
        if self.is_over {
            self.rotate_or_go_on()?;
        }
        self.write(vec![Record::general(Body::Log(LogEvent::Shut))], Durability::Durable)?;
        self.anchor.stop();
        self.anchor
            .write_now(&self.position())
            .map_err(AuditError::io("write", &super::anchor::path(&self.state)))
    }

    fn position(&self) -> Anchor {
        Anchor { link: self.head, segment: self.segment }
    }

    fn is_due(&self) -> bool {
        let old = self.since.elapsed().is_ok_and(|age| age >= self.options.segment_age);
        let due = old || self.length >= self.options.segment_bytes;
        self.is_full() || due && Instant::now() >= self.not_before
    }

    /// May nothing more go into the segment?
    fn is_full(&self) -> bool {
        self.is_over || self.length >= 2 * self.options.segment_bytes
    }

    /// Encodes, writes and commits; on any failure the file ends where it ended before.
    fn write(&mut self, records: Vec<Record>, durability: Durability) -> Result<Seq, AuditError> {
        if let Some(why) = &self.broken {
            return Err(AuditError::Broken(why.clone()));
        }
        self.buffer.clear();
        let mut head = self.head;
        let now = Moment::now();
        let at = rfc3339(now.wall);
        for record in records {
            head = encode(record, head, &at, now.boot, &self.boot, &mut self.buffer)?;
        }
        if let Err(error) = (&*self.file).write_all(&self.buffer) {
            return Err(self.undo(error));
        }
        self.length += self.buffer.len() as u64;
        self.head = head;
        if durability == Durability::Durable {
            self.sync()?;
        }
        if let Err(error) = self.anchor.advance(self.position(), &self.file) {
            return Err(self.break_with("anchor", &error));
        }
        Ok(Seq(head.seq))
    }

    /// Takes back what a failed write left of a line.
    fn undo(&mut self, error: io::Error) -> AuditError {
        if let Err(second) = self.file.set_len(self.length) {
            return self.break_with("ftruncate", &second);
        }
        let path = self.path();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                AuditError::Full { path, source: error }
            }
            _ => AuditError::io("write", &path)(error),
        }
    }

    fn break_with(&mut self, call: &str, error: &io::Error) -> AuditError {
        let why = format!("{call}({}) failed: {error}", self.path().display());
        self.broken = Some(why.clone());
        AuditError::Broken(why)
    }

    /// Goes on in a new segment, or in this one while there can be no next one; what retention could not remove, it
    /// removes the next time.
    fn rotate_or_go_on(&mut self) -> Result<(), AuditError> {
        let Err(error) = self.rotate() else { return Ok(()) };
        if self.broken.is_some() || self.is_full() {
            return Err(error);
        }
        tracing::warn!(%error, segment = self.segment, "ignoring that the audit's segments cannot be changed");
        self.not_before = Instant::now() + PAUSE;
        Ok(())
    }

    /// Goes on in a new segment and removes what retention has run out for.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.sync()?;
        let (segment, origin) = (self.segment + 1, self.head);
        let created = create(&self.state, segment);
        self.is_over |= created.is_ok() || may_exist(&segment::path(&self.state, segment));
        let file = created?;
        let old = (std::mem::replace(&mut self.file, Arc::new(file)), self.segment, self.length);
        (self.segment, self.length) = (segment, 0);
        let first = Record::general(Body::Log(first_of(segment, origin)));
        if let Err(error) = self.write(vec![first], Durability::Durable) {
            // Without its first record the new segment would break the chain: the old one stays in use.
            (self.file, self.segment, self.length) = old;
            return Err(error);
        }
        (self.since, self.is_over) = (SystemTime::now(), false);
        self.retain()
    }

    /// Removes the oldest segments. The record that says so is on the disk before the first is removed.
    fn retain(&mut self) -> Result<(), AuditError> {
        let old = tail::expired(&self.state, self.segment, &self.options)?;
        let Some(&through) = old.last() else { return Ok(()) };
        let path = segment::path(&self.state, through + 1);
        let Some(link) = tail::origin_of(&path)? else {
            // The segment that follows does not say where it comes from: removing evidence would be wrong.
            return Ok(());
        };
        let event = LogEvent::Retention { through, seq: link.seq, hash: hex(&link.hash) };
        self.write(vec![Record::general(Body::Log(event))], Durability::Durable)?;
        // The anchor must not be older than what is left, or the log would look rewritten.
        let path = super::anchor::path(&self.state);
        self.anchor.write_now(&self.position()).map_err(AuditError::io("write", &path))?;
        for segment in old {
            let path = segment::path(&self.state, segment);
            fs::remove_file(&path).map_err(AuditError::io("unlink", &path))?;
        }
        Ok(())
    }
}

fn first_of(segment: u64, origin: Link) -> LogEvent {
    LogEvent::Segment { segment, previous_seq: origin.seq, previous_hash: hex(&origin.hash) }
}

/// Adds one line to the buffer and returns the new head.
fn encode(
    mut record: Record,
    head: Link,
    at: &str,
    boot_time: Duration,
    boot: &str,
    buffer: &mut Vec<u8>,
) -> Result<Link, AuditError> {
    let shapes_only = Redactor::default();
    let redactor = record.origin.as_ref().map_or(&shapes_only, |origin| &origin.redactor);
    record.body.each_text(&mut |text| redactor.redact(text));
    let seq = head.seq + 1;
    let from = buffer.len();
    // A record that is too long is written in part, marked as such, rather than not at all.
    for limit in [usize::MAX, 4096, 256, 16] {
        record.body.shorten(limit);
        let line = Line {
            v: VERSION,
            seq,
            at,
            boot_ns: boot_time.as_nanos(),
            boot,
            sandbox: record.origin.as_ref().map(|origin| &origin.sandbox),
            event_ns: record.event_ns,
            body: &record.body,
        };
        buffer.truncate(from);
        serde_json::to_writer(&mut *buffer, &line).map_err(AuditError::Encode)?;
        if buffer.len() - from + 128 <= LONGEST_LINE {
            let hash = seal(&head.hash, buffer, from);
            if let Some(origin) = &record.origin {
                origin.share.take((buffer.len() - from) as u64);
            }
            return Ok(Link { seq, hash });
        }
    }
    Err(AuditError::TooLong)
}

/// Makes the directory, checks that it is ours alone and locks it.
fn prepare(state: &Path) -> Result<File, AuditError> {
    let directory = segment::directory(state);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(AuditError::io("mkdir", &directory))?;
    let meta = fs::symlink_metadata(&directory).map_err(AuditError::io("lstat", &directory))?;
    let own = fs::metadata("/proc/self").map_err(AuditError::io("stat", "/proc/self"))?.uid();
    if !meta.is_dir() || meta.uid() != own || meta.mode() & 0o022 != 0 {
        return Err(AuditError::Directory { path: directory, owner: meta.uid(), mode: meta.mode() & 0o7777 });
    }
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let lock = options.open(&path).map_err(AuditError::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(AuditError::Busy(directory)),
        Err(TryLockError::Error(error)) => Err(AuditError::io("flock", &path)(error)),
    }
}

/// Makes a segment, or takes the one that an attempt which failed has left empty. One with a single byte in it is
/// evidence, and is refused as it is.
fn create(state: &Path, segment: u64) -> Result<File, AuditError> {
    let path = segment::path(state, segment);
    let directory = segment::directory(state);
    // First, so that no file is left behind by a process that has no descriptor left for this.
    let parent = File::open(&directory).map_err(AuditError::io("open", &directory))?;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(AuditError::io("open", &path))?;
    let meta = file.metadata().map_err(AuditError::io("fstat", &path))?;
    if !meta.is_file() || meta.len() > 0 {
        return Err(AuditError::io("open", &path)(io::ErrorKind::AlreadyExists.into()));
    }
    parent.sync_all().map_err(AuditError::io("fsync", &directory))?;
    Ok(file)
}

/// Is there something at `path`, as far as can be told?
fn may_exist(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Opens a segment to go on at `length`, cutting what stands behind it.
fn reopen(state: &Path, segment: u64, length: u64) -> Result<(File, u64, SystemTime), AuditError> {
    let path = segment::path(state, segment);
    let open = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let file = open.map_err(AuditError::io("open", &path))?;
    file.set_len(length).map_err(AuditError::io("ftruncate", &path))?;
    let since = file.metadata().and_then(|meta| meta.created().or_else(|_no_birth_time| meta.modified()));
    Ok((file, length, since.unwrap_or_else(|_unknown| SystemTime::now())))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Exec, Failure};
    use super::super::text::Text;
    use super::*;

    fn note(message: &str) -> Record {
        Record::general(Body::Error(Failure { what: "test".into(), message: message.into() }))
    }

    #[test]
    fn numbers_go_on_when_the_log_is_opened_again() {
        let state = tempfile::tempdir().unwrap();
        let mut log = Log::open(state.path(), Options::default()).unwrap();
        assert_eq!(log.append(note("a"), Durability::Buffered).unwrap(), Seq(3));
        log.close().unwrap();
        let log = Log::open(state.path(), Options::default()).unwrap();
        assert_eq!(log.seq(), Seq(5));
        let text = fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.lines().count(), 5);
        assert!(text.starts_with(r#"{"v":1,"seq":1,"at":""#), "{text}");
        assert!(!text.contains("damaged") && !text.contains("anchor-lost"), "{text}");
    }

    #[test]
    fn a_second_writer_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let _first = Log::open(state.path(), Options::default()).unwrap();
        assert!(matches!(Log::open(state.path(), Options::default()), Err(AuditError::Busy(_))));
    }

    #[test]
    fn a_record_too_long_for_a_line_is_cut_and_says_so() {
        let state = tempfile::tempdir().unwrap();
        let mut log = Log::open(state.path(), Options::default()).unwrap();
        let argv = vec![Text::from(vec![b'\n'; 300]); 5000];
        let body = Body::Exec(Exec { argv, ..Exec::default() });
        log.append(Record::general(body), Durability::Buffered).unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.len() < LONGEST_LINE && last.contains(r#""cut":{"arguments":5000}"#));
        assert!(last.contains(r#""of":300"#));
    }

    /// A log whose segments are due after each record.
    fn of_short_segments(state: &Path) -> Log {
        Log::open(state, Options { segment_bytes: 1 << 10, ..Options::default() }).unwrap()
    }

    fn append(log: &mut Log) -> Result<Seq, AuditError> {
        log.append(note(&"x".repeat(500)), Durability::Buffered)
    }

    #[test]
    fn while_there_can_be_no_next_segment_the_last_one_goes_on() {
        let state = tempfile::tempdir().unwrap();
        let mut log = of_short_segments(state.path());
        let (audit, away) = (state.path().join("audit"), state.path().join("away"));
        fs::rename(&audit, &away).unwrap();
        let written = (0..100).take_while(|_| append(&mut log).is_ok()).count();
        // Up to twice its length, and never without end.
        assert!((2..6).contains(&written), "{written}");
        assert!(matches!(append(&mut log), Err(AuditError::Io { .. })));
        fs::rename(&away, &audit).unwrap();
        append(&mut log).unwrap();
        assert_eq!(log.segment, 2);
        log.close().unwrap();
        super::super::verify(state.path()).unwrap();
    }

    #[test]
    fn a_next_segment_that_is_there_already_ends_the_last_one() {
        let state = tempfile::tempdir().unwrap();
        let mut log = of_short_segments(state.path());
        let evidence = segment::path(state.path(), 2);
        fs::write(&evidence, "x").unwrap();
        while append(&mut log).is_ok() {}
        assert!(log.length < 2 << 10, "a reader takes it for complete");
        assert!(append(&mut log).is_err());
        fs::remove_file(&evidence).unwrap();
        append(&mut log).unwrap();
        assert_eq!(log.segment, 2);
    }

    #[test]
    fn how_much_is_kept_is_said_with_its_unit_and_is_enough_for_a_share() {
        let size = |text: &str| Options::of_size(Some(OsStr::new(text)));
        let usual = Options::of_size(None).unwrap();
        assert_eq!((usual.retain_bytes, usual.segment_bytes, usual.share()), (1 << 30, 64 << 20, 256 << 20));
        assert_eq!(size("").unwrap().retain_bytes, usual.retain_bytes);
        let small = size("4MiB").unwrap();
        assert_eq!((small.retain_bytes, small.segment_bytes, small.share()), (4 << 20, 256 << 10, 1 << 20));
        assert_eq!(
            size("3MiB").unwrap_err().to_string(),
            "SKEP_AUDIT_SIZE is \"3MiB\": at least 4MiB are needed"
        );
        for wrong in ["4", "4MB", "lots", "\u{1b}[2J"] {
            assert!(matches!(size(wrong), Err(AuditError::Size(..))), "{wrong}");
        }
    }
}
