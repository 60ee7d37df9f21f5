//! `skep audit` and `skep audit verify`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;
use skep_policy::escape::is_plain_text;
use skep_runtime::audit::{
    self, Broken, Entry, Filter, LogEvent, Problem, ReadError, Report, Text, parse_rfc3339,
};

use super::entry;
use super::render::{Ink, Screen, counted, foreign};
use crate::arguments;

/// How long a follower waits before it looks again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a command line asks of the log.
///
/// # Errors
/// What is wrong with `--since`, `--until` or `--path`.
pub fn filter(arguments: &arguments::Audit, now: SystemTime) -> Result<Filter, String> {
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    Ok(Filter {
        sandbox: arguments.sandbox.clone(),
        kinds: arguments.kind.clone(),
        since: time(&arguments.since)?,
        until: time(&arguments.until)?,
        denied: arguments.denied,
        path: arguments.path.as_deref().map(absolute).transpose()?,
        owner: arguments.owner,
    })
}

/// Records have absolute paths.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("--path {}: {error}", foreign(&path.to_string_lossy())))
}

/// A time as people write it: RFC 3339 in UTC, a date, or an age (`90s`, `10m`, `2h`, `7d`).
fn parse_time(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let age = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        now.checked_sub(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
    };
    age().or_else(|| parse_rfc3339(text)).ok_or_else(|| {
        let text = foreign(text);
        format!("`{text}` is no time: write 2026-11-20T20:15:00Z (UTC), 2026-11-20, or an age such as 10m")
    })
}

/// Prints records, wherever they come from.
#[derive(Debug)]
pub struct Printer {
    /// Where to.
    pub screen: Screen,
    /// As they are in the log.
    pub json: bool,
}

impl Printer {
    /// Prints one record.
    ///
    /// # Errors
    /// The writer's.
    pub fn print(&self, out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
        if !self.json {
            return writeln!(out, "{}", entry::line(&self.screen, entry));
        }
        // Our own lines are plain. One that somebody else put into the file must not command a terminal.
        if self.screen.width.is_some() && !is_plain_text(entry.line.as_bytes()) {
            return writeln!(out, "{}", foreign(&entry.line));
        }
        writeln!(out, "{}", entry.line)
    }

    /// Tells people, on standard error, that nothing was there to be shown: a misspelt name looks like peace.
    pub fn none(&self, shown: u64) {
        if shown == 0 && !self.json {
            let _nobody_reads = writeln!(io::stderr(), "skep: no record matches");
        }
    }
}

/// Why showing the log stopped.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The output is gone.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Prints what the filter lets through of the log in a state directory. Returns how many records that were.
///
/// # Errors
/// When the log cannot be read or the output not be written.
pub fn show(state: &Path, filter: Filter, printer: &Printer, out: &mut dyn Write) -> Result<u64, ShowError> {
    let mut shown = 0;
    for entry in audit::read(state, filter) {
        printer.print(out, &entry?)?;
        shown += 1;
    }
    out.flush()?;
    printer.none(shown);
    Ok(shown)
}

/// As [`show`], and then on for ever as records are written.
///
/// # Errors
/// As [`show`]; it ends no other way.
pub fn follow(state: &Path, filter: Filter, printer: &Printer, out: &mut dyn Write) -> Result<(), ShowError> {
    let mut reader = audit::read(state, filter);
    loop {
        for entry in reader.by_ref() {
            printer.print(out, &entry?)?;
        }
        out.flush()?;
        std::thread::sleep(PAUSE);
    }
}

/// The outcome of a verification as text or as one JSON object.
#[must_use]
pub fn verification(screen: &Screen, state: &Path, outcome: &Result<Report, Broken>, json: bool) -> String {
    match outcome {
        Ok(report) if json => intact_json(report),
        Ok(report) => intact(screen, state, report),
        Err(broken) if broken.is_kept_from_us() => {
            let problem = foreign(&broken.problem.to_string());
            if json {
                return json!({ "intact": null, "problem": problem }).to_string();
            }
            format!("nothing was verified: {problem}\nThe log is root's: sudo skep audit verify")
        }
        Err(broken) if json => {
            let place = broken.place;
            let (segment, line, seq) = (place.segment, place.line, place.seq);
            let problem = Text::from(broken.problem.to_string());
            json!({ "intact": false, "segment": segment, "line": line, "seq": seq, "problem": problem })
                .to_string()
        }
        Err(broken) => {
            let state = Text::from(state).shown();
            let verdict = screen.paint(Ink::Bad, "NOT INTACT");
            let text = foreign(&broken.to_string());
            let said = format!("{verdict}: the audit log in {state}\n{text}");
            if matches!(broken.problem, Problem::NoLog) {
                return said;
            }
            format!(
                "{said}\nEverything before that place is as it was written. \
                 Keep a copy of {state}/audit and {state}/anchor before anything else writes there."
            )
        }
    }
}

fn intact(screen: &Screen, state: &Path, report: &Report) -> String {
    let mut out = format!(
        "{}: {} ({} to {}) in {} of {}; the anchor vouches for all up to {}",
        screen.paint(Ink::Good, "intact"),
        counted(report.records, "record"),
        report.first_seq,
        report.last_seq,
        counted(report.segments, "segment"),
        Text::from(state).shown(),
        report.anchored_seq
    );
    for (place, note) in &report.notes {
        out += &format!("\n{place}: {}", note_text(note));
    }
    if report.torn_bytes > 0 {
        let bytes = counted(report.torn_bytes, "byte");
        out += &format!("\nthe last line is unfinished ({bytes}): it is being written, or skepd was killed");
    }
    out
}

fn note_text(note: &LogEvent) -> String {
    match note {
        LogEvent::Repaired { bytes, .. } => {
            format!("a torn tail of {} was cut off after a crash", counted(*bytes, "byte"))
        }
        LogEvent::Retention { through, .. } => {
            format!("segments up to {through:06} were removed by retention")
        }
        LogEvent::AnchorLost => {
            "the anchor was missing: an end cut off before this would not be seen".to_owned()
        }
        _ => String::new(),
    }
}

fn intact_json(report: &Report) -> String {
    let notes: Vec<_> = report
        .notes
        .iter()
        .map(|(place, note)| json!({ "segment": place.segment, "line": place.line, "note": note }))
        .collect();
    json!({
        "intact": true,
        "records": report.records,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "segments": report.segments,
        "anchored_seq": report.anchored_seq,
        "torn_bytes": report.torn_bytes,
        "notes": notes,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use skep_runtime::audit::{Body, Durability, Failure, Log, Options, Record};

    use super::*;

    fn log(messages: &[&str]) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        let mut log = Log::open(state.path(), Options::default()).unwrap();
        for message in messages {
            let body = Body::Error(Failure { what: "test".into(), message: (*message).into() });
            log.append(Record::general(body), Durability::Buffered).unwrap();
        }
        log.close().unwrap();
        state
    }

    #[test]
    fn times_are_ages_dates_or_rfc_3339() {
        let now = SystemTime::now();
        assert_eq!(parse_time("2h", now), Ok(now - Duration::from_secs(7200)));
        assert_eq!(parse_time("1970-01-02", now), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)));
        for text in ["", "m", "10", "tomorrow", "99999999999999999999d", "é"] {
            assert!(parse_time(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn records_are_shown_as_lines_and_as_they_are() {
        let state = log(&["a\x1b[2J"]);
        let mut out = Vec::new();
        let filter = || Filter { kinds: vec!["error".into()], ..Filter::default() };
        let people = Printer { screen: Screen::default(), json: false };
        assert_eq!(show(state.path(), filter(), &people, &mut out).unwrap(), 1);
        let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(text.ends_with("ERROR      test: a\\u{1b}[2J\n"), "{text:?}");
        show(state.path(), filter(), &Printer { json: true, ..people }, &mut out).unwrap();
        assert!(out.starts_with(b"{\"v\":1,\"seq\":3,"));
    }

    #[test]
    fn a_verification_tells_intact_from_broken() {
        let state = log(&["a", "b"]);
        let screen = Screen::default();
        let tell = |json| verification(&screen, state.path(), &audit::verify(state.path()), json);
        assert!(tell(false).starts_with("intact: 5 records (1 to 5) in 1 segment of "), "{}", tell(false));
        assert!(tell(true).starts_with("{\"anchored_seq\":5,"), "{}", tell(true));
        let path = state.path().join("audit/000001.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("\"a\"", "\"x\"")).unwrap();
        assert!(tell(false).contains("line 3, record 3: the record was changed"), "{}", tell(false));
        assert!(tell(true).contains("\"intact\":false"));
        assert!(tell(false).contains("Keep a copy of "), "{}", tell(false));
        let nowhere = Path::new("/nonexistent");
        let told = verification(&screen, nowhere, &audit::verify(nowhere), false);
        assert!(told.contains("there is no log here") && !told.contains("Keep a copy"), "{told}");
    }
}
