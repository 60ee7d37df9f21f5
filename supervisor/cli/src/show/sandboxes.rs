//! `skep ls` and `skep status`.

use serde_json::{Value, json};
use skep_runtime::audit::Text;
use skep_runtime::protocol::Sandbox;

use super::entry::duration;
use super::render::{Ink, Screen, counted, foreign, table};
use super::summary::refused;
use super::weaker::{by_reason, count};

/// All sandboxes, one a line.
#[must_use]
pub fn list(screen: &Screen, sandboxes: &[Sandbox]) -> String {
    if sandboxes.is_empty() {
        return "no sandbox is running\n".to_owned();
    }
    let row = |sandbox: &Sandbox| {
        let weaker = if sandbox.weaker.is_empty() { "" } else { "!" };
        vec![
            foreign(&sandbox.name) + weaker,
            foreign(&sandbox.state),
            duration(sandbox.age_seconds * 1000),
            foreign(&sandbox.profile),
            sandbox.owner.to_string(),
            (sandbox.counters.denied + sandbox.counters.ungranted).to_string(),
            sandbox.command.clone(),
        ]
    };
    let rows: Vec<_> = sandboxes.iter().map(row).map(escape_last).collect();
    let mut out = table(screen, &["NAME", "STATE", "AGE", "PROFILE", "UID", "DENIED", "COMMAND"], &rows);
    if sandboxes.iter().any(|sandbox| !sandbox.weaker.is_empty()) {
        out += &screen.paint(Ink::Careful, "! = rules are weaker than written, see `skep status NAME`\n");
    }
    out
}

/// The command comes escaped from the daemon; one that is not plain all the same is escaped once more.
fn escape_last(mut row: Vec<String>) -> Vec<String> {
    if let Some(last) = row.last_mut() {
        *last = super::render::lines(last).replace('\n', "\\n");
    }
    row
}

/// One sandbox in full.
#[must_use]
pub fn status(screen: &Screen, sandbox: &Sandbox) -> String {
    let c = sandbox.counters;
    let fields = [
        ("id", foreign(&sandbox.id)),
        ("state", foreign(&sandbox.state)),
        ("command", super::render::lines(&sandbox.command).replace('\n', "\\n")),
        ("workspace", Text::from(sandbox.workspace.as_path()).shown()),
        ("profile", foreign(&sandbox.profile)),
        ("owner", format!("uid {}", sandbox.owner)),
        ("pid", sandbox.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
        ("age", duration(sandbox.age_seconds * 1000)),
        (
            "so far",
            format!(
                "{} executed, {} changed, {} connected, {}",
                c.executed,
                c.changed,
                c.connected,
                refused(screen, &c)
            ),
        ),
    ];
    let mut out = screen.paint(Ink::Strong, &foreign(&sandbox.name)) + "\n";
    for (name, value) in fields {
        out += &format!("  {name:<10} {value}\n");
    }
    if c.lost > 0 {
        let were = if c.lost == 1 { "was" } else { "were" };
        let text =
            format!("  {} {were} lost; each gap is a record of the audit\n", counted(c.lost, "record"));
        out += &screen.paint(Ink::Careful, &text);
    }
    out + &weaker(screen, &sandbox.weaker) + &enforced(screen, &sandbox.enforced)
}

/// The rules that are weaker, loudly.
#[must_use]
pub fn weaker(screen: &Screen, rules: &[(String, String)]) -> String {
    if rules.is_empty() {
        return String::new();
    }
    let head = format!("{} WEAKER here than written:", count(rules.len()));
    screen.paint(Ink::Careful, &head) + "\n" + &by_reason(rules)
}

/// The rules that something holds, and after them those that nothing does.
fn enforced(screen: &Screen, rules: &[Layered]) -> String {
    let (held, others) = held(rules);
    let titled = |heads: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() { String::new() } else { table(screen, heads, &rows) }
    };
    let row = |(rule, layers): &&Layered| vec![foreign(&layers.join("+")), foreign(rule)];
    let held = held.iter().map(row).collect();
    let others = others.iter().map(|(rule, _)| vec![foreign(rule)]).collect();
    titled(&["ENFORCED BY", "RULE"], held) + &titled(&["ENFORCED BY NOTHING HERE"], others)
}

/// One rule with its layers.
type Layered = (String, Vec<String>);

fn held(rules: &[Layered]) -> (Vec<&Layered>, Vec<&Layered>) {
    rules.iter().partition(|(_, layers)| !layers.is_empty())
}

/// One sandbox as a JSON object on one line.
#[must_use]
pub fn json(sandbox: &Sandbox) -> String {
    let text = |text: &str| Text::from(text);
    let (held, others) = held(&sandbox.enforced);
    let enforced: Vec<Value> =
        held.iter().map(|(rule, layers)| json!({ "rule": text(rule), "layers": layers })).collect();
    let unenforced: Vec<Value> = others.iter().map(|(rule, _)| json!({ "rule": text(rule) })).collect();
    let weaker: Vec<Value> =
        sandbox.weaker.iter().map(|(rule, why)| json!({ "rule": text(rule), "reason": text(why) })).collect();
    json!({
        "id": text(&sandbox.id),
        "name": text(&sandbox.name),
        "owner": sandbox.owner,
        "profile": text(&sandbox.profile),
        "workspace": Text::from(sandbox.workspace.as_path()),
        "command": text(&sandbox.command),
        "state": text(&sandbox.state),
        "age_seconds": sandbox.age_seconds,
        "pid": sandbox.pid,
        "counters": sandbox.counters,
        "enforced": enforced,
        "unenforced": unenforced,
        "weaker": weaker,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use skep_runtime::protocol::Counters;

    use super::*;

    fn sandbox() -> Sandbox {
        Sandbox {
            id: "bee-1".into(),
            name: "bee".into(),
            owner: 1000,
            profile: "claude-code".into(),
            workspace: "/work/\x1b[2J".into(),
            command: "claude -p \x1b[2J".into(),
            state: "running".into(),
            age_seconds: 75,
            pid: Some(42),
            counters: Counters { denied: 3, lost: 1, ..Counters::default() },
            enforced: vec![
                ("hide **/.env*".into(), Vec::new()),
                ("write ${workspace}".into(), vec!["mounts".into(), "landlock".into()]),
            ],
            weaker: vec![("hide **/.env*".into(), "no bpf LSM\u{202e}".into())],
        }
    }

    #[test]
    fn a_list_marks_weaker_sandboxes_and_is_plain() {
        let text = list(&Screen::default(), &[sandbox()]);
        assert!(text.contains("bee!  running  1 min 15 s  claude-code  1000  3"), "{text}");
        assert!(text.contains("! = rules are weaker"));
        assert!(text.lines().all(|line| line.chars().all(skep_policy::escape::is_plain)), "{text:?}");
        assert_eq!(list(&Screen::default(), &[]), "no sandbox is running\n");
    }

    #[test]
    fn a_status_names_each_rule_with_its_layers_and_what_is_weaker() {
        let text = status(&Screen::default(), &sandbox());
        assert!(
            text.contains("1 rule is WEAKER here than written:\n  no bpf LSM\\u{202e}\n      hide **/.env*"),
            "{text}"
        );
        let tables = "ENFORCED BY      RULE\nmounts+landlock  write ${workspace}\nENFORCED BY NOTHING HERE\nhide **/.env*\n";
        assert!(text.ends_with(tables), "{text}");
        assert!(text.contains("1 record was lost"), "{text}");
        assert!(text.lines().all(|line| line.chars().all(skep_policy::escape::is_plain)), "{text:?}");
    }

    #[test]
    fn json_is_one_line_without_raw_controls() {
        let text = json(&sandbox());
        assert!(text.chars().all(skep_policy::escape::is_plain), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["name"], &value["counters"]["denied"]), (&json!("bee"), &json!(3)));
        let expected = json!([{ "rule": "write ${workspace}", "layers": ["mounts", "landlock"] }]);
        assert_eq!(value["enforced"], expected);
        assert_eq!(value["unenforced"], json!([{ "rule": "hide **/.env*" }]));
    }
}
