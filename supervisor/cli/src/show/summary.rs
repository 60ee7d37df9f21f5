//! The end of a run: two lines, or one JSON object.

use serde_json::json;
use skep_policy::launch::Ending;
use skep_runtime::audit::Text;
use skep_runtime::protocol::{Summary, exit_code};

use super::render::{Ink, Screen, foreign};

/// What was executed, changed and denied, and where the audit is. Without a line end after the second line.
///
/// ```text
/// skep: 41 executed, 7 changed, 2 denied (write /work/.git/hooks/pre-commit; connect example.com:443)
/// skep: audit: skep audit bee --denied   (/var/lib/skep/audit)
/// ```
#[must_use]
pub fn lines(screen: &Screen, name: &str, summary: &Summary) -> String {
    let c = summary.counters;
    let denied = format!("{} denied", c.denied);
    let denied = if c.denied > 0 { screen.paint(Ink::Bad, &denied) } else { denied };
    let lost = if c.lost > 0 {
        screen.paint(Ink::Careful, &format!(", {} records LOST", c.lost))
    } else {
        String::new()
    };
    let start = format!("skep: {} executed, {} changed, {} connected, ", c.executed, c.changed, c.connected);
    let examples = examples(screen, summary, start.len() + 20);
    let only = if c.denied > 0 { " --denied" } else { "" };
    let audit = Text::from(summary.audit.as_path()).shown();
    let end = match summary.ending {
        Ending::Signal(signal) => format!("; ended by signal {signal}"),
        Ending::Code(_) => String::new(),
    };
    format!(
        "{start}{denied}{lost}{examples}\nskep: audit: skep audit {}{only}   ({audit}){end}",
        foreign(name)
    )
}

/// As many of the denials as the line has room for.
fn examples(screen: &Screen, summary: &Summary, used: usize) -> String {
    let shown: Vec<String> = summary.denials.iter().map(|(what, _)| foreign(what)).collect();
    if shown.is_empty() {
        return String::new();
    }
    screen.rest(&format!(" ({})", shown.join("; ")), used)
}

/// The same for programs: one JSON object on one line.
#[must_use]
pub fn json(name: &str, summary: &Summary) -> String {
    let c = summary.counters;
    let denials: Vec<_> = summary
        .denials
        .iter()
        .map(|(what, toml)| {
            json!({ "what": Text::from(what.as_str()), "allow_with": toml.as_deref().map(Text::from) })
        })
        .collect();
    let signal = match summary.ending {
        Ending::Signal(signal) => Some(signal),
        Ending::Code(_) => None,
    };
    json!({
        "v": 1,
        "event": "ended",
        "sandbox": Text::from(name),
        "exit": exit_code(summary.ending),
        "signal": signal,
        "executed": c.executed,
        "changed": c.changed,
        "denied": c.denied,
        "connected": c.connected,
        "lost": c.lost,
        "denials": denials,
        "audit": Text::from(summary.audit.as_path()),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use skep_runtime::protocol::Counters;

    use super::*;

    fn summary() -> Summary {
        Summary {
            ending: Ending::Code(0),
            counters: Counters { executed: 41, changed: 7, denied: 2, connected: 1, lost: 0 },
            denials: vec![
                ("write /w/\x1b[2J".into(), Some("write = [\"/w\"]".into())),
                ("connect x:443".into(), None),
            ],
            audit: "/var/lib/skep/audit".into(),
        }
    }

    #[test]
    fn a_run_ends_with_two_lines() {
        let text = lines(&Screen::default(), "bee", &summary());
        let expected = "skep: 41 executed, 7 changed, 1 connected, 2 denied (write /w/\\u{1b}[2J; connect x:443)\n\
                        skep: audit: skep audit bee --denied   (/var/lib/skep/audit)";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_screen_gets_two_lines_all_the_same() {
        let screen = Screen { width: Some(60), colour: false };
        let text = lines(&screen, "bee", &Summary { denials: vec![("x".repeat(300), None)], ..summary() });
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().next().unwrap().chars().count() < 90, "{text}");
    }

    #[test]
    fn json_has_the_exit_code_a_shell_would_see() {
        let text = json("bee", &Summary { ending: Ending::Signal(9), ..summary() });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["exit"], &value["signal"]), (&json!(137), &json!(9)));
    }
}
