//! The log as a whole: what tampering is found, what a crash leaves, what rotation keeps.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

fn state() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn origin(name: &str, owner: u32) -> Arc<Origin> {
    with_share(name, owner, u64::MAX)
}

fn with_share(name: &str, owner: u32, share: u64) -> Arc<Origin> {
    let sandbox = Sandbox {
        id: format!("{name}-1"),
        name: name.into(),
        owner,
        profile: "workspace".into(),
        version: "0".repeat(64),
        weaker: None,
    };
    let secret = ("API_KEY".to_owned(), b"hunter2hunter2".to_vec());
    Arc::new(Origin { sandbox, redactor: Redactor::new([secret]).unwrap(), share: Share::of(share) })
}

fn open_of(path: &str) -> Body {
    Body::Open(Open { path: path.into(), ..Open::default() })
}

fn small() -> Options {
    Options { segment_bytes: 4000, anchor_every: Duration::from_millis(1), ..Options::default() }
}

/// A closed log of four segments or so.
fn filled(state: &Path, options: Options) {
    let mut log = Log::open(state, options).unwrap();
    let bee = origin("bee", 1000);
    for number in 0..40 {
        log.append(Record::of(&bee, open_of(&format!("/work/{number}"))), Durability::Buffered).unwrap();
    }
    log.close().unwrap();
}

fn segment(state: &Path, number: u64) -> PathBuf {
    segment::path(state, number)
}

fn lines(state: &Path, number: u64) -> Vec<String> {
    fs::read_to_string(segment(state, number)).unwrap().lines().map(str::to_owned).collect()
}

fn put_lines(state: &Path, number: u64, lines: &[String]) {
    fs::write(segment(state, number), lines.concat_with_ends()).unwrap();
}

trait Ends {
    fn concat_with_ends(&self) -> String;
}

impl Ends for [String] {
    fn concat_with_ends(&self) -> String {
        self.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// An untouched log verifies; after `tamper` it does not, and says `expected`; and so it stays when skepd opens
/// it again and goes on.
fn check(expected: &str, tamper: impl Fn(&Path)) {
    let dir = state();
    filled(dir.path(), small());
    let intact = verify(dir.path()).unwrap();
    assert!(intact.segments >= 4 && intact.last_seq == intact.records, "{intact:?}");
    assert_eq!(intact.anchored_seq, intact.last_seq);
    tamper(dir.path());
    let broken = verify(dir.path()).expect_err(expected).to_string();
    assert!(broken.contains(expected), "{broken}");
    let mut log = Log::open(dir.path(), small()).unwrap();
    log.append(Record::general(open_of("/later")), Durability::Durable).unwrap();
    log.close().unwrap();
    verify(dir.path()).expect_err("a damaged log stays damaged");
}

#[test]
fn a_changed_record_is_found() {
    for number in [1, 2, 4] {
        check("the record was changed", |state| {
            let mut all = lines(state, number);
            all[2] = all[2].replace("/work/", "/harm/");
            put_lines(state, number, &all);
        });
    }
}

#[test]
fn a_removed_record_is_found() {
    check("segment 000002, line 4, record", |state| {
        let mut all = lines(state, 2);
        all.remove(3);
        put_lines(state, 2, &all);
    });
    check("were removed", |state| {
        let mut all = lines(state, 1);
        all.drain(3..6);
        put_lines(state, 1, &all);
    });
}

#[test]
fn records_in_another_order_are_found() {
    check("not in order", |state| {
        let mut all = lines(state, 2);
        all.swap(3, 4);
        put_lines(state, 2, &all);
    });
    check("not in order", |state| {
        let mut all = lines(state, 2);
        all.insert(5, all[2].clone());
        put_lines(state, 2, &all);
    });
}

#[test]
fn a_cut_end_is_found() {
    let last = |state: &Path| segment::list(state).unwrap().pop().unwrap();
    check("the end was cut off", |state| {
        let number = last(state);
        let mut all = lines(state, number);
        all.pop();
        put_lines(state, number, &all);
    });
    check("the end was cut off", |state| fs::remove_file(segment(state, last(state))).unwrap());
    check("the end was cut off", |state| fs::write(segment(state, last(state)), "").unwrap());
}

#[test]
fn missing_segments_are_found() {
    check("segments 000001 to 000002 are missing", |state| {
        fs::remove_file(segment(state, 1)).unwrap();
        fs::remove_file(segment(state, 2)).unwrap();
    });
    check("segments 000002 to 000002 are missing", |state| fs::remove_file(segment(state, 2)).unwrap());
    check("the end was cut off: the log ends with record 0", |state| {
        for number in segment::list(state).unwrap() {
            fs::remove_file(segment(state, number)).unwrap();
        }
    });
}

#[test]
fn a_log_that_was_written_anew_is_found() {
    check("the log was rewritten", |state| {
        // Another log of the same form: every chain value is right, and it reaches further.
        let other = self::state();
        let whole = Options { segment_bytes: 1 << 20, ..small() };
        filled(other.path(), whole.clone());
        filled(other.path(), whole);
        fs::remove_dir_all(segment::directory(state)).unwrap();
        fs::rename(segment::directory(other.path()), segment::directory(state)).unwrap();
    });
}

#[test]
fn a_missing_anchor_is_found() {
    let dir = state();
    filled(dir.path(), small());
    fs::remove_file(anchor::path(dir.path())).unwrap();
    assert!(matches!(verify(dir.path()).unwrap_err().problem, Problem::NoAnchor));
    Log::open(dir.path(), small()).unwrap().close().unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(report.notes.iter().any(|(_, note)| *note == LogEvent::AnchorLost), "{report:?}");
}

#[test]
fn hostile_files_break_the_verification_and_nothing_else() {
    let long = "x".repeat(3 << 20);
    for garbage in ["", "\n\n", "{}", "\0\0\0\n", &long, "{\"v\":1,\"seq\":18446744073709551615}\n"] {
        let dir = state();
        filled(dir.path(), small());
        fs::write(segment(dir.path(), 2), garbage).unwrap();
        verify(dir.path()).unwrap_err();
        assert!(read(dir.path(), Filter::default()).take(1000).count() < 1000);
        fs::write(anchor::path(dir.path()), garbage).unwrap();
        verify(dir.path()).unwrap_err();
        Log::open(dir.path(), small()).unwrap();
    }
    let dir = state();
    assert!(matches!(verify(dir.path()).unwrap_err().problem, Problem::NoLog));
}

#[test]
fn a_tail_torn_at_any_byte_is_repaired_and_noted() {
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    log.append(Record::general(open_of("/kept")), Durability::Buffered).unwrap();
    let path = log.path();
    let before = fs::metadata(&path).unwrap().len();
    let body = open_of("/torn\n\u{1b}[2J");
    log.append(Record::general(body), Durability::Buffered).unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for length in before..=whole.len() as u64 {
        let dir = state();
        fs::create_dir_all(segment::directory(dir.path())).unwrap();
        // A crash leaves an anchor from before the torn write.
        anchor::Anchor::default().write(dir.path()).unwrap();
        fs::write(segment(dir.path(), 1), &whole[..usize::try_from(length).unwrap()]).unwrap();
        let torn = length - before;
        assert_eq!(verify(dir.path()).unwrap().torn_bytes, torn % (whole.len() as u64 - before));
        Log::open(dir.path(), Options::default()).unwrap().close().unwrap();
        let report = verify(dir.path()).unwrap();
        let repaired = report
            .notes
            .iter()
            .any(|(_, note)| matches!(note, LogEvent::Repaired { bytes, segment: 1, .. } if *bytes == torn));
        let expected = torn > 0 && length < whole.len() as u64;
        assert_eq!(repaired, expected, "at {length}: {report:?}");
    }
}

#[test]
fn a_segment_torn_at_its_first_record_gives_way_to_a_new_one() {
    let dir = state();
    filled(dir.path(), small());
    let number = segment::list(dir.path()).unwrap().pop().unwrap() + 1;
    fs::write(segment(dir.path(), number), b"{\"v\":1,").unwrap();
    Log::open(dir.path(), small()).unwrap().close().unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(matches!(report.notes[..], [(_, LogEvent::Repaired { bytes: 7, .. })]), "{report:?}");
}

/// What skepd leaves when it is killed during its very first start, step by step.
#[test]
fn a_log_whose_first_start_was_killed_at_any_step_begins_anew_and_intact() {
    let started = state();
    let options = Options { anchor_every: Duration::from_secs(3600), ..Options::default() };
    // A log that is closed, or dropped, has renewed its first anchor.
    std::mem::forget(Log::open(started.path(), options).unwrap());
    let directories = |state: &Path| {
        for directory in ["audit", "anchor"] {
            fs::create_dir(state.join(directory)).unwrap();
        }
    };
    let anchored = |state: &Path| {
        directories(state);
        fs::copy(anchor::path(started.path()), anchor::path(state)).unwrap();
    };
    let steps: [&dyn Fn(&Path); 5] = [
        &|state| directories(state),
        &|state| {
            directories(state);
            fs::write(state.join("anchor/head.new"), "{\"v\":1").unwrap();
        },
        &anchored,
        &|state| {
            anchored(state);
            fs::write(segment(state, 1), "").unwrap();
        },
        &|state| {
            anchored(state);
            fs::write(segment(state, 1), "{\"v\":1,\"seq\":1").unwrap();
        },
    ];
    for (number, step) in steps.into_iter().enumerate() {
        let dir = state();
        step(dir.path());
        let log = Log::open(dir.path(), small()).unwrap_or_else(|error| panic!("step {number}: {error}"));
        log.close().unwrap();
        let report = verify(dir.path()).unwrap_or_else(|broken| panic!("step {number}: {broken}"));
        let repaired = |note: &LogEvent| matches!(note, LogEvent::Repaired { .. });
        assert_eq!((report.first_seq, report.segments), (1, 1), "step {number}: {report:?}");
        assert!(report.notes.iter().all(|(_, note)| repaired(note)), "step {number}: {report:?}");
    }
}

#[test]
fn rotation_keeps_the_chain_and_retention_is_told_from_deletion() {
    let dir = state();
    let options = Options { retain_bytes: 10_000, ..small() };
    filled(dir.path(), options.clone());
    filled(dir.path(), options);
    let report = verify(dir.path()).unwrap();
    let numbers = segment::list(dir.path()).unwrap();
    assert!(numbers[0] > 1 && numbers.len() <= 4 && report.first_seq > 1, "{numbers:?} {report:?}");
    assert!(report.notes.iter().any(|(_, note)| matches!(note, LogEvent::Retention { .. })));
    fs::remove_file(segment(dir.path(), numbers[0])).unwrap();
    let broken = verify(dir.path()).unwrap_err();
    assert!(matches!(broken.problem, Problem::SegmentsMissing { first: 1, .. }), "{broken}");
}

#[test]
fn every_byte_of_a_sandboxs_lines_counts_to_its_share_and_nobody_elses_does() {
    let line = || {
        let dir = state();
        let mut log = Log::open(dir.path(), Options::default()).unwrap();
        let before = fs::metadata(log.path()).unwrap().len();
        log.append(Record::of(&origin("bee", 1000), open_of("/w")), Durability::Buffered).unwrap();
        fs::metadata(log.path()).unwrap().len() - before
    };
    let (bee, wasp) = (with_share("bee", 1000, 3 * line()), with_share("wasp", 1000, 1));
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    let (used_up, others) = (bee.share.used_up(), wasp.share.used_up());
    for number in 1..=4 {
        log.append(Record::general(open_of("/w")), Durability::Buffered).unwrap();
        log.append(Record::of(&bee, open_of("/w")), Durability::Buffered).unwrap();
        assert_eq!(*used_up.borrow(), number >= 3, "{number}");
    }
    assert!(!*others.borrow());
}

#[test]
fn segments_end_and_go_by_age() {
    let dir = state();
    let options = Options { segment_age: Duration::ZERO, retain_age: Duration::ZERO, ..Options::default() };
    let mut log = Log::open(dir.path(), options).unwrap();
    for _ in 0..3 {
        log.append(Record::general(open_of("/x")), Durability::Buffered).unwrap();
    }
    log.close().unwrap();
    assert_eq!(segment::list(dir.path()).unwrap(), [4]);
    verify(dir.path()).unwrap();
}

/// What a failed write-back of the directory, or a full disk, leaves is an empty next segment.
#[test]
fn a_rotation_that_failed_is_tried_again_and_takes_only_what_is_empty() {
    let dir = state();
    let mut log = Log::open(dir.path(), Options { segment_bytes: 1, ..small() }).unwrap();
    let mut append = |path: &str| log.append(Record::general(open_of(path)), Durability::Buffered);
    fs::write(segment(dir.path(), 2), "").unwrap();
    append("/a").unwrap();
    fs::write(segment(dir.path(), 3), "evidence").unwrap();
    for _ in 0..2 {
        append("/b").unwrap_err();
        assert_eq!(fs::read_to_string(segment(dir.path(), 3)).unwrap(), "evidence");
    }
    fs::remove_file(segment(dir.path(), 3)).unwrap();
    log.close().unwrap();
    assert_eq!(verify(dir.path()).unwrap().segments, 3);
    assert!(lines(dir.path(), 3).iter().any(|line| line.contains("\"shut\"")));
}

#[test]
fn a_log_can_be_verified_and_followed_while_it_is_written() {
    let dir = state();
    let path = dir.path().to_owned();
    let options = Options { segment_bytes: 20_000, retain_bytes: 1 << 20, ..small() };
    let writer = std::thread::spawn(move || {
        let mut log = Log::open(&path, options).unwrap();
        let bee = origin("bee", 1000);
        for number in 0..2000 {
            let record = Record::of(&bee, open_of(&format!("/w/{number}")));
            log.append(record, Durability::Buffered).unwrap();
        }
        log.close().unwrap();
    });
    let mut reader = read(dir.path(), Filter::default());
    let mut seen = Vec::new();
    while !writer.is_finished() {
        seen.extend(reader.by_ref().map(|entry| entry.unwrap().seq));
        match verify(dir.path()) {
            Ok(_) | Err(Broken { problem: Problem::NoLog | Problem::NoAnchor, .. }) => {}
            Err(broken) => panic!("{broken}"),
        }
    }
    writer.join().unwrap();
    seen.extend(reader.map(|entry| entry.unwrap().seq));
    let last = verify(dir.path()).unwrap().last_seq;
    assert!(seen.iter().copied().eq(1..=last), "{} of {last}", seen.len());
}

#[test]
fn filters_let_through_what_they_name() {
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    let (bee, wasp) = (origin("bee", 1000), origin("wasp", 1001));
    let denied = Body::Denied(Denied { object: "/home/a/.ssh/id".into(), count: 1, ..Denied::default() });
    let refused = Body::Connection(Connection {
        task: None,
        number: 1,
        to: "example.com:443".into(),
        decision: skep_policy::decision::Decision::Deny,
        rule: None,
        reason: "no rule".into(),
        allow_with: None,
    });
    for record in [
        Record::of(&bee, open_of("/work/a")),
        Record::of(&wasp, open_of("/workshop/b")),
        Record::of(&wasp, denied),
        Record::of(&bee, refused).at(7),
    ] {
        log.append(record, Durability::Buffered).unwrap();
    }
    let seqs =
        |filter: Filter| -> Vec<u64> { read(dir.path(), filter).map(|entry| entry.unwrap().seq).collect() };
    let all = Filter::default;
    assert_eq!(seqs(all()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs(Filter { sandbox: Some("bee".into()), ..all() }), [3, 6]);
    assert_eq!(seqs(Filter { sandbox: Some("wasp-1".into()), ..all() }), [4, 5]);
    assert_eq!(seqs(Filter { owner: Some(1001), ..all() }), [4, 5]);
    assert_eq!(seqs(Filter { denied: true, ..all() }), [5, 6]);
    assert_eq!(seqs(Filter { kinds: vec!["open".into(), "log".into()], ..all() }), [1, 2, 3, 4]);
    assert_eq!(seqs(Filter { path: Some("/work".into()), ..all() }), [3]);
    let now = std::time::SystemTime::now();
    let minute = Duration::from_secs(60);
    assert!(seqs(Filter { since: Some(now + minute), ..all() }).is_empty());
    assert_eq!(seqs(Filter { since: Some(now - minute), until: Some(now + minute), ..all() }).len(), 6);
}

#[test]
fn every_kind_is_read_back_as_it_was_written() {
    let task = Task { pid: 7, parent: Some(1), comm: Some("a\nb".into()), program: Some("/bin/x".into()) };
    let failure = Failure { what: "x".into(), message: "y".into() };
    let bodies = vec![
        Body::Start(Start { command: vec!["a".into()], ..Start::default() }),
        Body::Exec(Exec { task: task.clone(), argv: vec![Text::from(vec![0xff, b'\n'])], ..Exec::default() }),
        Body::Exit(Exit { task, code: None, signal: Some(9) }),
        open_of("/x\u{202e}"),
        Body::ReadFirst(ReadFirst::default()),
        Body::Change(Change { op: "rename".into(), to: Some("/y".into()), ..Change::default() }),
        Body::Denied(Denied { count: 3, ..Denied::default() }),
        Body::Closed(Closed::default()),
        Body::Lost(Lost { source: "ring".into(), cpu: Some(1), first: Some(2), last: Some(9), count: 8 }),
        Body::End(End::default()),
        Body::Error(failure.clone()),
        Body::Recovered(failure),
    ];
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    let records = bodies.iter().map(|body| Record::general(body.clone())).collect();
    log.append_all(records, Durability::Durable).unwrap();
    let entries: Vec<Entry> = read(dir.path(), Filter::default()).map(Result::unwrap).skip(2).collect();
    assert_eq!(entries.len(), bodies.len());
    for (entry, body) in entries.iter().zip(bodies) {
        assert_eq!(entry.kind, body.kind());
        assert_eq!(entry.body.as_ref(), Some(&body));
    }
}

#[test]
fn a_forged_line_in_an_argument_stays_an_argument() {
    let forged = "x\"}}\n{\"v\":1,\"seq\":4,\"kind\":\"end\"}\n";
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    let body = Body::Exec(Exec { argv: vec![forged.into()], ..Exec::default() });
    log.append(Record::general(body), Durability::Buffered).unwrap();
    let bytes = fs::read(log.path()).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 3);
    let Some(Body::Exec(exec)) = read(dir.path(), Filter::default()).last().unwrap().unwrap().body else {
        panic!("not exec")
    };
    assert_eq!(exec.argv[0].as_bytes(), forged.as_bytes());
    verify(dir.path()).unwrap();
}

#[test]
fn secrets_of_a_sandbox_never_reach_its_records() {
    let dir = state();
    let mut log = Log::open(dir.path(), Options::default()).unwrap();
    let argv = vec!["--key=hunter2hunter2".into(), Text::from(b"\xff\nhunter2hunter2".to_vec())];
    let body = Body::Exec(Exec { argv, path: "/x/hunter2hunter2".into(), ..Exec::default() });
    log.append(Record::of(&origin("bee", 1000), body), Durability::Buffered).unwrap();
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("hunter2") && text.matches("‹redacted:API_KEY›").count() == 3, "{text}");
    let Some(Body::Exec(exec)) = read(dir.path(), Filter::default()).last().unwrap().unwrap().body else {
        panic!("not exec")
    };
    assert_eq!(exec.argv[1].as_bytes(), [b"\xff\n", "‹redacted:API_KEY›".as_bytes()].concat());
}

#[test]
fn needs_root_a_full_disk_is_an_error_and_the_log_goes_on_when_there_is_space() {
    let dir = state();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(dir.path()).status();
        assert!(status.unwrap().success(), "{arguments:?} needs root");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=128k", "skep-audit-test"]);
    let outcome = std::panic::catch_unwind(|| {
        let mut log = Log::open(dir.path(), Options::default()).unwrap();
        let body = || Record::general(open_of(&"x".repeat(9000)));
        let error = (0..100).find_map(|_| log.append(body(), Durability::Buffered).err());
        assert!(matches!(error, Some(AuditError::Full { .. })), "{error:?}");
        let last = log.seq();
        mount(&["mount", "-o", "remount,size=1m"]);
        assert_eq!(log.append(body(), Durability::Durable).unwrap().0, last.0 + 1);
        log.close().unwrap();
        verify(dir.path()).unwrap()
    });
    mount(&["umount"]);
    assert_eq!(outcome.unwrap().torn_bytes, 0);
}

/// Prints what the log takes here; asserts nothing about time. `cargo test --profile quick` gives the numbers
/// of a release.
#[test]
fn hundred_thousand_records_are_written_and_verified() {
    let bee = origin("bee", 1000);
    let record = |number: u32| {
        let task = Task { pid: number, comm: Some("node".into()), ..Task::default() };
        Record::of(&bee, Body::Open(Open { task, path: "/work/src/main.rs".into(), ..Open::default() }))
    };
    let total = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    for (group, durability) in [
        (1, Durability::Buffered),
        (64, Durability::Buffered),
        (64, Durability::Durable),
        (512, Durability::Durable),
    ] {
        let dir = state();
        let mut log = Log::open(dir.path(), Options::default()).unwrap();
        let start = Instant::now();
        for first in (0..total).step_by(group as usize) {
            log.append_all((first..(first + group).min(total)).map(record).collect(), durability).unwrap();
        }
        let written = start.elapsed();
        log.close().unwrap();
        let start = Instant::now();
        assert_eq!(verify(dir.path()).unwrap().records, u64::from(total) + 3);
        let per_second = |time: Duration| (f64::from(total) / time.as_secs_f64()).round();
        if durability == Durability::Durable {
            // What the disk takes for the same bytes without a log, measured in the same run.
            let plain = plain_writes(dir.path(), total.div_ceil(group), 460 * group as usize);
            println!("the bare write and fdatasync: {}/s", per_second(plain));
        }
        println!(
            "{durability:?}, groups of {group}: {}/s written, {}/s verified",
            per_second(written),
            per_second(start.elapsed())
        );
    }
}

fn plain_writes(directory: &Path, times: u32, bytes: usize) -> Duration {
    use std::io::Write as _;
    let mut file = fs::File::create(directory.join("plain")).unwrap();
    let start = Instant::now();
    for _ in 0..times {
        file.write_all(&vec![b'x'; bytes]).unwrap();
        file.sync_data().unwrap();
    }
    start.elapsed()
}
