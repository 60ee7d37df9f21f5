//! Is the log what was written? Streaming, with bounded memory, and safe on hostile files.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::anchor::Anchor;
use super::record::LogEvent;
use super::segment::{self, Bad, Good, Line, Lines, Link, check};
use crate::hex::unhex;

/// An intact log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many records are there.
    pub records: u64,
    /// Number of the first one; above 1 where retention has removed older ones.
    pub first_seq: u64,
    /// Number of the last one.
    pub last_seq: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Number up to which the anchor vouches for the end; a cut behind it cannot be seen.
    pub anchored_seq: u64,
    /// Bytes of an unfinished line at the end: it is being written, or was when the host stopped.
    pub torn_bytes: u64,
    /// What the log says about itself: repairs, removed segments, a lost anchor.
    pub notes: Vec<(Place, LogEvent)>,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Line in it, from 1; 0 for the segment as a whole.
    pub line: u64,
    /// The sequence number that is expected there.
    pub seq: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:06}, line {}, record {}", self.segment, self.line, self.seq)
    }
}

/// The first thing that is wrong with a log.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Broken {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl Broken {
    /// Whether nothing is known to be wrong: whoever asked may not read the log.
    #[must_use]
    pub fn is_kept_from_us(&self) -> bool {
        matches!(&self.problem, Problem::Unreadable(_, error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What can be wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is neither a segment nor an anchor.
    #[error("there is no log here")]
    NoLog,
    /// The line is no record, or its content does not belong to its chain value.
    #[error("the record was changed")]
    Changed,
    /// Records are missing here.
    #[error("records {first} to {last} were removed")]
    Removed {
        /// First missing number.
        first: u64,
        /// Last missing number.
        last: u64,
    },
    /// The record that belongs here stands elsewhere, or another one was put in.
    #[error("records are not in order: record {found} stands here")]
    Moved {
        /// The number that was found.
        found: u64,
    },
    /// Whole segments are missing that no retention record accounts for.
    #[error("segments {first:06} to {last:06} are missing and retention did not remove them")]
    SegmentsMissing {
        /// First missing segment.
        first: u64,
        /// Last missing segment.
        last: u64,
    },
    /// The segment does not go on from the one before.
    #[error("the segment does not continue the one before it")]
    NotContinued,
    /// The end is missing.
    #[error("the end was cut off: the log ends with record {found}, the anchor says it reached {anchored}")]
    Cut {
        /// The last record there is.
        found: u64,
        /// The record the anchor names.
        anchored: u64,
    },
    /// The anchored record is there but is another one: the log was written anew.
    #[error("the log was rewritten: record {anchored} is not the one that was anchored")]
    Rewritten {
        /// The record the anchor names.
        anchored: u64,
    },
    /// The anchor is missing or unreadable.
    #[error("the anchor is missing or unreadable, so it is unknown whether the end was cut off")]
    NoAnchor,
    /// skepd itself found damage when it opened the log, and went on behind it.
    #[error("when skepd opened the log here it found it damaged: {0}")]
    FoundDamaged(String),
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
}

/// Checks the log of a state directory. It may be written at the same time.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn verify(state: &Path) -> Result<Report, Broken> {
    // Retention may remove a segment between listing and opening it: then the listing was old.
    for _ in 0..4 {
        match Walk::over(state) {
            Err(Broken { problem: Problem::Unreadable(_, error), .. })
                if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
    }
    Walk::over(state)
}

struct Walk {
    anchor: Option<Anchor>,
    link: Link,
    place: Place,
    report: Report,
    /// The first segment there is and where it says it comes from.
    start: Option<(u64, Link)>,
    /// The last retention record: segments up to this one were removed, and this was their end.
    retained: Option<(u64, Link)>,
}

impl Walk {
    fn over(state: &Path) -> Result<Report, Broken> {
        // The anchor first: what is written later only makes the log longer.
        let anchor =
            Anchor::read(state).map_err(|error| unreadable(Place::default(), "the anchor", error))?;
        let segments = segment::list(state)
            .map_err(|error| unreadable(Place::default(), "the directory of the log", error))?;
        let mut walk = Self {
            anchor,
            link: Link::default(),
            place: Place::default(),
            report: Report::default(),
            start: None,
            retained: None,
        };
        if anchor.is_none() && segments.is_empty() {
            return Err(walk.broken(Problem::NoLog));
        }
        let newest = segments.last().copied();
        for number in segments {
            walk.segment(state, number, newest == Some(number))?;
        }
        walk.finish()
    }

    fn broken(&self, problem: Problem) -> Broken {
        Broken { place: self.place, problem }
    }

    fn segment(&mut self, state: &Path, number: u64, newest: bool) -> Result<(), Broken> {
        let before = self.place.segment;
        self.place = Place { segment: number, line: 0, seq: self.link.seq + 1 };
        if self.start.is_some() && number != before + 1 {
            return Err(self.broken(Problem::SegmentsMissing { first: before + 1, last: number - 1 }));
        }
        let path = segment::path(state, number);
        let name = path.display().to_string();
        let mut lines = Lines::open(&path).map_err(|error| unreadable(self.place, &name, error))?;
        self.report.segments += 1;
        loop {
            self.place.line += 1;
            self.place.seq = self.link.seq + 1;
            match lines.next().map_err(|error| unreadable(self.place, &name, error))? {
                None if self.place.line == 1 && !newest => return Err(self.broken(Problem::NotContinued)),
                None => return Ok(()),
                Some(Line::Whole(line)) => {
                    if self.place.line == 1 {
                        self.begin(line)?;
                    }
                    match check(line, &self.link.hash) {
                        Ok(good) if good.seq == self.link.seq + 1 => self.accept(&good, line)?,
                        Ok(Good { seq, .. }) | Err(Bad::Chain { seq }) => {
                            return Err(self.judge(seq, &mut lines));
                        }
                        Err(Bad::Form) => return Err(self.broken(Problem::Changed)),
                    }
                }
                Some(Line::Torn(torn)) if newest => {
                    self.report.torn_bytes = torn.len() as u64;
                    return Ok(());
                }
                Some(Line::Torn(_) | Line::TooLong) => return Err(self.broken(Problem::Changed)),
            }
        }
    }

    /// The first line of a segment says where it comes from.
    fn begin(&mut self, line: &[u8]) -> Result<(), Broken> {
        let origin = segment::origin(line).ok_or_else(|| self.broken(Problem::NotContinued))?;
        if self.start.is_some() || self.place.segment == 1 {
            // What is damaged at the end of a segment was noted by skepd and does not continue; the missing
            // records are reported where they are missing.
            let expected = self.link;
            self.start.get_or_insert((1, expected));
            return if origin == expected { Ok(()) } else { Err(self.broken(Problem::NotContinued)) };
        }
        self.start = Some((self.place.segment, origin));
        self.link = origin;
        self.place.seq = origin.seq + 1;
        Ok(())
    }

    fn accept(&mut self, good: &Good, line: &[u8]) -> Result<(), Broken> {
        if self.report.records == 0 {
            self.report.first_seq = good.seq;
        }
        self.report.records += 1;
        self.link = Link { seq: good.seq, hash: good.hash };
        if self.anchor.is_some_and(|anchor| anchor.link.seq == good.seq && anchor.link.hash != good.hash) {
            return Err(self.broken(Problem::Rewritten { anchored: good.seq }));
        }
        if good.about_log { self.heed(line) } else { Ok(()) }
    }

    /// What the log says about itself.
    fn heed(&mut self, line: &[u8]) -> Result<(), Broken> {
        #[derive(Deserialize)]
        struct About {
            body: LogEvent,
        }
        // An event of a later version is none of ours to judge; its chain value is right.
        let Ok(About { body }) = serde_json::from_slice(line) else { return Ok(()) };
        match &body {
            LogEvent::Damaged { problem, .. } => {
                return Err(self.broken(Problem::FoundDamaged(problem.clone())));
            }
            LogEvent::Retention { through, seq, hash } => {
                let hash = unhex(hash).ok_or_else(|| self.broken(Problem::Changed))?;
                self.retained = Some((*through, Link { seq: *seq, hash }));
                self.report.notes.push((self.place, body));
            }
            LogEvent::Repaired { .. } | LogEvent::AnchorLost => self.report.notes.push((self.place, body)),
            LogEvent::Segment { .. } | LogEvent::Opened { .. } | LogEvent::Shut => {}
        }
        Ok(())
    }

    /// Tells what it means that a line with number `found` stands where the next record should.
    fn judge(&self, found: u64, rest: &mut Lines<std::fs::File>) -> Broken {
        let expected = self.link.seq + 1;
        if found == expected {
            return self.broken(Problem::Changed);
        }
        if found < expected || later(rest, expected) {
            return self.broken(Problem::Moved { found });
        }
        self.broken(Problem::Removed { first: expected, last: found - 1 })
    }

    fn finish(mut self) -> Result<Report, Broken> {
        self.report.last_seq = self.link.seq;
        if let Some((first, origin)) = self.start.filter(|(first, _)| *first > 1) {
            let accounted = self.retained.is_some_and(|(through, link)| match through.cmp(&(first - 1)) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => link == origin,
                // A crash came between the record and the removal of the later ones.
                std::cmp::Ordering::Greater => true,
            });
            if !accounted {
                let place = Place { segment: first, line: 0, seq: origin.seq };
                return Err(Broken {
                    place,
                    problem: Problem::SegmentsMissing { first: 1, last: first - 1 },
                });
            }
        }
        let Some(anchor) = self.anchor else { return Err(self.broken(Problem::NoAnchor)) };
        let (found, anchored) = (self.link.seq, anchor.link.seq);
        if found < anchored {
            return Err(self.broken(Problem::Cut { found, anchored }));
        }
        // An anchor older than what retention left cannot be ours: retention renews it first.
        if self.start.is_some_and(|(_, origin)| anchored < origin.seq) {
            return Err(self.broken(Problem::Rewritten { anchored }));
        }
        self.report.anchored_seq = anchored;
        Ok(self.report)
    }
}

fn unreadable(place: Place, what: &str, error: io::Error) -> Broken {
    Broken { place, problem: Problem::Unreadable(what.to_owned(), error) }
}

/// Whether a line with this number stands later in the segment.
fn later(rest: &mut Lines<std::fs::File>, seq: u64) -> bool {
    #[derive(Deserialize)]
    struct Number {
        seq: u64,
    }
    while let Ok(Some(Line::Whole(line))) = rest.next() {
        if serde_json::from_slice::<Number>(line).is_ok_and(|number| number.seq == seq) {
            return true;
        }
    }
    false
}
