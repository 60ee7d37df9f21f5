//! The end of a run: a few lines, or one JSON object.

use serde_json::json;
use skep_policy::launch::Ending;
use skep_runtime::audit::Text;
use skep_runtime::protocol::{Counters, Summary, exit_code};

use super::render::{Ink, Screen, counted, foreign};

/// What was executed, changed and refused, and where the audit is; before that, if skepd ended the run, why and what to
/// do. Without a line end after the last line.
///
/// ```text
/// skep: ended by skepd: its time is over (900s)
///       its profile sets how long it may run: limits.time
/// skep: 41 executed, 7 changed, 1 connected, 2 denied by rules, 3 not granted (write /w/.mcp.json; connect a.b:443)
/// skep: audit: skep audit bee --denied   (/var/lib/skep/audit)
/// ```
#[must_use]
pub fn lines(screen: &Screen, name: &str, summary: &Summary) -> String {
    let c = summary.counters;
    let lost = if c.lost > 0 {
        screen.paint(Ink::Careful, &format!(", {} LOST", counted(c.lost, "record")))
    } else {
        String::new()
    };
    let start = format!("skep: {} executed, {} changed, {} connected, ", c.executed, c.changed, c.connected);
    let used = start.len() + refused(&Screen::default(), &c).len();
    let refused = refused(screen, &c);
    let examples = examples(screen, summary, used);
    let only = if c.denied + c.ungranted > 0 { " --denied" } else { "" };
    let audit = Text::from(summary.audit.as_path()).shown();
    let end = match (summary.ending, summary.cause) {
        (Ending::Signal(signal), None) => format!("; ended by signal {signal}"),
        _ => String::new(),
    };
    let cause = summary.cause.map_or_else(String::new, |cause| {
        let said = screen.paint(Ink::Bad, &format!("skep: ended by skepd: {cause}"));
        format!("{said}\n      {}\n", cause.advice())
    });
    format!(
        "{cause}{start}{refused}{lost}{examples}\nskep: audit: skep audit {}{only}   ({audit}){end}",
        foreign(name)
    )
}

/// How much was refused, apart by whether a rule did or only none grants it.
pub(super) fn refused(screen: &Screen, counters: &Counters) -> String {
    let kinds =
        [(counters.denied, "denied by rules", Ink::Bad), (counters.ungranted, "not granted", Ink::Careful)];
    let some = kinds.into_iter().filter(|(count, ..)| *count > 0);
    let parts: Vec<_> =
        some.map(|(count, what, ink)| screen.paint(ink, &format!("{count} {what}"))).collect();
    if parts.is_empty() { "0 denied".to_owned() } else { parts.join(", ") }
}

/// As many of the denials as the line has room for, and how many more there are; the next line says where.
fn examples(screen: &Screen, summary: &Summary, used: usize) -> String {
    let shown: Vec<String> = summary.denials.iter().map(|denial| foreign(&denial.what)).collect();
    if shown.is_empty() {
        return String::new();
    }
    let more = match summary.denials_in_all.saturating_sub(shown.len() as u64) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    screen.rest(&format!(" ({}", shown.join("; ")), used + more.len() + 1) + &more + ")"
}

/// The same for programs: one JSON object on one line.
#[must_use]
pub fn json(name: &str, summary: &Summary) -> String {
    let denials: Vec<_> = summary
        .denials
        .iter()
        .map(|denial| {
            let text = |text: &Option<String>| text.as_deref().map(Text::from);
            json!({
                "what": Text::from(denial.what.as_str()),
                "rule": text(&denial.rule),
                "allow_with": text(&denial.allow_with),
            })
        })
        .collect();
    let signal = match summary.ending {
        Ending::Signal(signal) => Some(signal),
        Ending::Code(_) => None,
    };
    let cause = summary
        .cause
        .map(|cause| json!({ "code": cause.code(), "message": cause.to_string(), "advice": cause.advice() }));
    json!({
        "v": 1,
        "event": "ended",
        "sandbox": Text::from(name),
        "exit": exit_code(summary.ending),
        "signal": signal,
        "cause": cause,
        "counters": summary.counters,
        "denials": denials,
        "denials_in_all": summary.denials_in_all,
        "audit": Text::from(summary.audit.as_path()),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use skep_runtime::protocol::{Cause, Denial};

    use super::*;

    fn denial(what: &str) -> Denial {
        Denial { what: what.to_owned(), ..Denial::default() }
    }

    fn summary() -> Summary {
        Summary {
            ending: Ending::Code(0),
            cause: None,
            counters: Counters {
                executed: 41,
                changed: 7,
                denied: 2,
                ungranted: 3,
                connected: 1,
                ..Counters::default()
            },
            denials: vec![denial("write /w/\x1b[2J"), denial("connect x:443")],
            denials_in_all: 2,
            audit: "/var/lib/skep/audit".into(),
        }
    }

    #[test]
    fn a_run_ends_with_two_lines() {
        let text = lines(&Screen::default(), "bee", &summary());
        let expected = "skep: 41 executed, 7 changed, 1 connected, 2 denied by rules, 3 not granted \
                        (write /w/\\u{1b}[2J; connect x:443)\n\
                        skep: audit: skep audit bee --denied   (/var/lib/skep/audit)";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_readmes_picture_shows_these_lines() {
        let numberless = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        let picture = include_str!("../../../../docs/picture.svg").split('<');
        let shown: String = picture.filter_map(|part| Some(part.split_once('>')?.1)).collect();
        let run = lines(&Screen::default(), "bee", &Summary { denials: Vec::new(), ..summary() });
        for line in run.lines() {
            assert!(
                numberless(&shown).contains(&numberless(line)),
                "{line}: cargo xtask picture takes it anew"
            );
        }
    }

    #[test]
    fn a_run_that_skepd_ended_begins_its_end_with_why_and_what_to_do() {
        let ended_by = |cause| {
            let summary = Summary { ending: Ending::Signal(9), cause: Some(cause), ..summary() };
            (lines(&Screen::default(), "bee", &summary), json("bee", &summary))
        };
        let (text, json) = ended_by(Cause::Share { bytes: 256 << 20 });
        let said = "skep: ended by skepd: its records have used up its share of the audit (256MiB)\n      run it again";
        assert!(text.starts_with(said) && text.lines().count() == 4, "{text}");
        assert!(!text.contains("signal") && text.contains("SKEP_AUDIT_SIZE"), "{text}");
        assert!(json.contains(r#""code":"audit-share""#), "{json}");
        let (text, _) = ended_by(Cause::WallClock { milliseconds: 900_000 });
        assert!(text.starts_with("skep: ended by skepd: its time is over (900s)\n"), "{text}");
    }

    #[test]
    fn a_narrow_screen_gets_two_lines_all_the_same() {
        let screen = Screen { width: Some(60), colour: false };
        let text = lines(&screen, "bee", &Summary { denials: vec![denial(&"x".repeat(300))], ..summary() });
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().next().unwrap().chars().count() < 110, "{text}");
    }

    #[test]
    fn how_many_denials_are_not_named_is_said_however_narrow_the_screen() {
        for (width, long) in [(None, 300), (Some(60), 300), (Some(60), 3)] {
            let denials = vec![denial(&"x".repeat(long)); 5];
            let summary = Summary { denials, denials_in_all: 12, ..summary() };
            let text = lines(&Screen { width, colour: false }, "bee", &summary);
            assert!(text.contains("; and 7 more)\nskep: audit: skep audit bee --denied "), "{text}");
            assert!(json("bee", &summary).contains("\"denials_in_all\":12"));
        }
    }

    #[test]
    fn what_did_not_happen_is_not_counted() {
        let quiet = |counters| refused(&Screen::default(), &counters);
        assert_eq!(quiet(Counters::default()), "0 denied");
        assert_eq!(quiet(Counters { ungranted: 1, ..Counters::default() }), "1 not granted");
    }

    #[test]
    fn json_has_the_exit_code_a_shell_would_see() {
        let text = json("bee", &Summary { ending: Ending::Signal(9), ..summary() });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["exit"], &value["signal"]), (&json!(137), &json!(9)));
    }
}
