//! One record as a line for people.

use skep_policy::decision::Decision;
use skep_runtime::audit::{Body, Connection, Denied, Entry, Exec, LogEvent, Lost, Start, Task, Text};

use super::render::{Ink, Screen, argument, counted, foreign, pad, width};
use super::summary::refused;

/// Columns of the time, the sandbox and the word; the description takes the rest. A name that skep made is shown
/// whole (`claude-code-1c6d`), for its end is what tells it from the next one.
const SANDBOX: usize = 18;
const WORD: usize = 9;

/// The record as a line, and below it, for a denial, the line of TOML that would allow it.
#[must_use]
pub fn line(screen: &Screen, entry: &Entry) -> String {
    let time = foreign(entry.at.get(..19).unwrap_or(&entry.at)).replace('T', " ");
    let sandbox = entry.sandbox.as_ref().map_or("-".to_owned(), |sandbox| sandbox.name.shown());
    let (word, ink, description) = describe(entry);
    let weaker = entry.sandbox.as_ref().is_some_and(|sandbox| sandbox.weaker.is_some());
    let sandbox = super::render::cut(&sandbox, SANDBOX - 2) + if weaker { "!" } else { "" };
    let used = width(&time) + 2 + SANDBOX + WORD + 2;
    let hint = allow_with(entry);
    // A denial is what people look for: it wraps, and its hint stands where it can be copied.
    let description = if hint.is_some() { description } else { screen.rest(&description, used) };
    let mut out = format!(
        "{}  {}{}  {}",
        screen.paint(Ink::Faint, &time),
        pad(&sandbox, SANDBOX),
        paint(screen, ink, &pad(&word, WORD)),
        description
    );
    if let Some(toml) = hint {
        let hint = format!("    allow with: {}", toml.shown());
        out += &format!("\n{}", screen.paint(Ink::Faint, &hint));
    }
    out
}

fn paint(screen: &Screen, ink: Option<Ink>, text: &str) -> String {
    ink.map_or_else(|| text.to_owned(), |ink| screen.paint(ink, text))
}

fn allow_with(entry: &Entry) -> Option<&Text> {
    match entry.body.as_ref()? {
        Body::Denied(denied) => denied.allow_with.as_ref(),
        Body::Connection(connection) => connection.allow_with.as_ref(),
        _ => None,
    }
}

/// The word of a record, its colour, and what it says.
fn describe(entry: &Entry) -> (String, Option<Ink>, String) {
    let Some(body) = &entry.body else {
        return (foreign(&entry.kind), None, "(written by a later version of skep; see --json)".to_owned());
    };
    let (word, ink, text) = match body {
        Body::Start(start) => ("start", Some(Ink::Strong), start_text(start)),
        Body::Exec(exec) => ("exec", None, exec_text(exec)),
        Body::Exit(exit) => {
            ("exit", Some(Ink::Faint), format!("{} {}", ending(exit.code, exit.signal), task(&exit.task)))
        }
        Body::Open(open) => {
            let how = if open.created { " (new)" } else { "" };
            ("write", None, format!("{}{how} {}", open.path.shown(), task(&open.task)))
        }
        Body::ReadFirst(read) => {
            ("read", Some(Ink::Faint), format!("{} {}", read.path.shown(), task(&read.task)))
        }
        Body::Change(change) => {
            let to = change.to.as_ref().map(|to| format!(" -> {}", to.shown())).unwrap_or_default();
            let text = format!("{} {}{to} {}", foreign(&change.op), change.path.shown(), task(&change.task));
            ("change", None, text)
        }
        Body::Denied(denied) => ("DENIED", Some(Ink::Bad), denied_text(denied)),
        Body::Connection(connection) => connection_text(connection),
        Body::Closed(closed) => {
            let error = closed.error.as_ref().map(|error| format!(": {}", error.shown())).unwrap_or_default();
            let (sent, received) = (closed.sent, closed.received);
            (
                "closed",
                Some(Ink::Faint),
                format!("{} out, {received} in, {} ms{error}", counted(sent, "byte"), closed.milliseconds),
            )
        }
        Body::Lost(lost) => ("LOST", Some(Ink::Careful), lost_text(lost)),
        Body::End(end) => {
            let c = end.counters;
            let text = format!(
                "{} after {}: {} executed, {} changed, {} connected, {}, {} lost",
                end.status.shown(),
                duration(end.milliseconds),
                c.executed,
                c.changed,
                c.connected,
                refused(&Screen::default(), &c),
                c.lost
            );
            ("end", Some(Ink::Strong), text)
        }
        Body::Error(failure) => {
            ("ERROR", Some(Ink::Bad), format!("{}: {}", foreign(&failure.what), failure.message.shown()))
        }
        Body::Recovered(failure) => (
            "recovered",
            Some(Ink::Careful),
            format!("{}: {}", foreign(&failure.what), failure.message.shown()),
        ),
        Body::Log(event) => log_text(event),
    };
    (word.to_owned(), ink, text.trim_end().to_owned())
}

fn task(task: &Task) -> String {
    match &task.comm {
        Some(comm) => format!("[{} {}]", comm.shown(), task.pid),
        None if task.pid > 0 => format!("[{}]", task.pid),
        None => String::new(),
    }
}

fn words(argv: &[Text]) -> String {
    argv.iter().map(|word| argument(&word.shown())).collect::<Vec<_>>().join(" ")
}

fn start_text(start: &Start) -> String {
    let weaker = match start.weaker.len() {
        0 => String::new(),
        count => format!(" ({} weaker here)", counted(count, "rule")),
    };
    format!("{} in {}{weaker}", words(&start.command), start.workspace.shown())
}

fn exec_text(exec: &Exec) -> String {
    let cut = match exec.cut.as_ref().map(|cut| cut.bytes) {
        Some(Some(bytes)) => format!(" … ({} in all)", counted(bytes, "byte")),
        Some(None) => " …".to_owned(),
        None => String::new(),
    };
    // The file is what ran; what the process calls itself is shown after it where it says something else.
    let name = exec.argv.first().map(Text::as_bytes);
    let same = name.is_some_and(|name| {
        name == exec.path.as_bytes() || exec.path.as_bytes().rsplit(|b| *b == b'/').next() == Some(name)
    });
    let arguments = words(exec.argv.get(usize::from(same)..).unwrap_or_default());
    let called = if same || exec.argv.is_empty() { "" } else { " called as:" };
    format!("{}{called} {arguments}{cut} {}", argument(&exec.path.shown()), task(&exec.task))
}

fn ending(code: Option<u8>, signal: Option<u8>) -> String {
    match (code, signal) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => format!("exit {code}"),
        (None, None) => "ended".to_owned(),
    }
}

fn denied_text(denied: &Denied) -> String {
    let count = if denied.count > 1 { format!(" ×{}", denied.count) } else { String::new() };
    let errno = denied.errno.as_ref().map(|errno| format!(" {}", foreign(errno))).unwrap_or_default();
    let rule = denied.rule.as_ref().map(|rule| format!(" [{}]", rule.shown())).unwrap_or_default();
    let task = denied.task.as_ref().map(task).unwrap_or_default();
    format!(
        "{} {}{errno}{count}: {}{rule} {task}",
        foreign(&denied.op),
        denied.object.shown(),
        denied.reason.shown()
    )
}

fn lost_text(lost: &Lost) -> String {
    let why = match (lost.source.as_str(), lost.cpu) {
        ("sandbox", _) => "more at once than one sandbox has room for".to_owned(),
        ("ring", Some(cpu)) => format!("the ring was full on cpu {cpu}"),
        ("programs", _) => "the kernel skipped the programs that make them".to_owned(),
        (source, _) => format!("of {}", foreign(source)),
    };
    format!("{}: {why}", counted(lost.count, "record"))
}

fn connection_text(connection: &Connection) -> (&'static str, Option<Ink>, String) {
    let rule = connection.rule.as_ref().map(|rule| format!(" [{}]", rule.shown())).unwrap_or_default();
    let task = connection.task.as_ref().map(task).unwrap_or_default();
    let (to, reason) = (connection.to.shown(), connection.reason.shown());
    if connection.decision == Decision::Allow {
        return ("connect", Some(Ink::Good), format!("{to}{rule} {task}"));
    }
    ("DENIED", Some(Ink::Bad), format!("connect {to}: {reason}{rule} {task}"))
}

fn log_text(event: &LogEvent) -> (&'static str, Option<Ink>, String) {
    let text = match event {
        LogEvent::Segment { segment, .. } => {
            return ("log", Some(Ink::Faint), format!("segment {segment} begins"));
        }
        LogEvent::Opened { version, pid } => {
            return ("log", Some(Ink::Faint), format!("opened by skepd {} (pid {pid})", foreign(version)));
        }
        LogEvent::Shut => return ("log", Some(Ink::Faint), "closed in good order".to_owned()),
        LogEvent::Retention { through, .. } => {
            return ("log", Some(Ink::Faint), format!("segments up to {through} were removed by retention"));
        }
        LogEvent::Repaired { bytes, .. } => format!("a torn tail of {} was cut off", counted(*bytes, "byte")),
        LogEvent::Damaged { anchored_seq, found_seq, problem, .. } => {
            let problem = foreign(problem);
            format!(
                "found damaged: {problem}; intact up to record {found_seq}, anchored up to {anchored_seq}"
            )
        }
        LogEvent::AnchorLost => "the anchor was missing; a cut end before this cannot be excluded".to_owned(),
    };
    let word = if matches!(event, LogEvent::Damaged { .. }) { "DAMAGED" } else { "REPAIRED" };
    (word, Some(Ink::Careful), text)
}

/// Milliseconds as people say them.
#[must_use]
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use skep_runtime::audit::Cut;

    use super::*;

    fn shown(body: Body) -> String {
        let entry = Entry {
            line: String::new(),
            seq: 7,
            at: "2026-11-20T20:24:51.000123Z".to_owned(),
            sandbox: None,
            event_ns: None,
            kind: body.kind().to_owned(),
            body: Some(body),
        };
        line(&Screen::default(), &entry)
    }

    #[test]
    fn a_denial_says_what_why_and_how_to_allow_it() {
        let text = shown(Body::Denied(Denied {
            op: "write".into(),
            object: "/work/.git/hooks/pre-commit".into(),
            errno: Some("EACCES".into()),
            rule: Some("protect **/.git/hooks/**".into()),
            reason: "runs outside the sandbox".into(),
            allow_with: Some("write = [\"x\"]".into()),
            count: 3,
            ..Denied::default()
        }));
        let expected = "2026-11-20 20:24:51  -                 DENIED     write /work/.git/hooks/pre-commit EACCES ×3: \
                        runs outside the sandbox [protect **/.git/hooks/**]\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\n    allow with: write = [\"x\"]"), "{text}");
    }

    #[test]
    fn terminal_commands_in_any_field_are_shown_escaped() {
        let evil = || Text::from("\x1b]8;;http://x\x07\r\n\u{202e}");
        let task = Task { pid: 1, comm: Some(evil()), ..Task::default() };
        let op = "\x1b[2J".to_owned();
        for body in [
            Body::Exec(Exec { task: task.clone(), path: evil(), argv: vec![evil()], ..Exec::default() }),
            Body::Denied(Denied {
                task: Some(task),
                op,
                object: evil(),
                reason: evil(),
                ..Denied::default()
            }),
            Body::Start(Start { command: vec![evil()], workspace: evil(), ..Start::default() }),
        ] {
            let text = shown(body);
            assert!(text.chars().all(skep_policy::escape::is_plain), "{text:?}");
        }
    }

    #[test]
    fn an_exec_shows_the_file_and_a_false_name_beside_it() {
        let exec = |path: &str, argv: &[&str]| {
            let argv = argv.iter().map(|word| Text::from(*word)).collect();
            exec_text(&Exec { path: path.into(), argv, ..Exec::default() })
        };
        assert_eq!(
            exec("/usr/bin/git", &["git", "commit", "-m", "a b"]).trim_end(),
            "/usr/bin/git commit -m 'a b'"
        );
        assert_eq!(exec("/tmp/evil", &["git", "status"]).trim_end(), "/tmp/evil called as: git status");
    }

    #[test]
    fn what_was_lost_says_where() {
        let text = |source: &str, cpu| {
            shown(Body::Lost(Lost { source: source.into(), cpu, count: 3, ..Lost::default() }))
        };
        assert!(text("sandbox", None).ends_with("3 records: more at once than one sandbox has room for"));
        assert!(text("ring", Some(1)).ends_with("3 records: the ring was full on cpu 1"));
        assert!(
            text("programs", None).ends_with("3 records: the kernel skipped the programs that make them")
        );
        assert!(text("\x1b[2J", None).ends_with("3 records: of \\u{1b}[2J"));
    }

    #[test]
    fn arguments_that_were_cut_say_how_long_they_were() {
        let cut = Some(Cut { bytes: Some(9000), ..Cut::default() });
        let exec =
            Exec { path: "/bin/echo".into(), argv: vec!["echo".into(), "xx".into()], cut, ..Exec::default() };
        assert_eq!(exec_text(&exec).trim_end(), "/bin/echo xx … (9000 bytes in all)");
    }
}
