//! `skep profile check`, `explain` and `show`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skep_policy::decision::Decision;
use skep_policy::diagnostics::Diagnostics;
use skep_policy::layers::{Binding, Refusal};
use skep_policy::policy::{Bindings, FileOp, Policy, Verdict};
use skep_policy::rule::RuleRef;
use skep_policy::tree::{Tree, walk};
use skep_runtime::audit::Text;

use super::render::{Ink, Screen, counted, foreign, lines, table};
use super::weaker::{count, grouped, refused_json, weaker_json};

/// What checking a profile found.
pub type Checked = Result<(Policy, Result<Binding, Refusal>), Diagnostics>;

/// Whether a profile is right and starts on this host.
#[must_use]
pub fn starts(checked: &Checked) -> bool {
    matches!(checked, Ok((_, Ok(_))))
}

/// What was found in the text alone.
#[must_use]
pub fn check_text(screen: &Screen, name: &str, written: Result<&Policy, &Diagnostics>) -> String {
    let name = foreign(name);
    match written {
        Ok(policy) => {
            let right = screen.paint(Ink::Good, "right");
            let (rules, examples) = (counted(written_rules(policy), "rule"), policy.rules.examples.len());
            let hold = if examples == 1 { "holds" } else { "hold" };
            format!("{name}: {right}, {rules}, {} {hold}", counted(examples, "example"))
        }
        Err(errors) => {
            let verdict = screen.paint(Ink::Bad, &counted(errors.errors.len(), "error"));
            format!("{}\n{name}: {verdict}", lines(&errors.to_string()))
        }
    }
}

/// The outcome of a check: the text, and whether the profile starts on this host.
#[must_use]
pub fn check(screen: &Screen, name: &str, checked: &Checked) -> String {
    let text = check_text(screen, name, checked.as_ref().map(|(policy, _)| policy));
    match checked {
        Ok((_, Ok(binding))) => format!("{text}\n{}", started(screen, binding)),
        Ok((_, Err(refusal))) => {
            let verdict = screen.paint(Ink::Bad, "it does not start on this host");
            format!("{text}\n{verdict}: {}", lines(&refusal.to_string()))
        }
        Err(_) => text,
    }
}

fn started(screen: &Screen, binding: &Binding) -> String {
    let weaker = binding.weaker().count();
    if weaker == 0 {
        return "it starts on this host with every rule enforced".to_owned();
    }
    let head = format!("it starts on this host, {} weaker than written:", count(weaker));
    format!("{}\n{}", screen.paint(Ink::Careful, &head), grouped(binding))
}

/// [`check_text`] as one JSON object.
#[must_use]
pub fn check_text_json(name: &str, written: Result<&Policy, &Diagnostics>) -> Value {
    let name = foreign(name);
    match written {
        Ok(_) => json!({ "profile": name, "right": true }),
        Err(errors) => {
            let errors: Vec<Value> = errors
                .errors
                .iter()
                .map(|error| {
                    json!({
                        "file": foreign(&error.file),
                        "line": error.line,
                        "column": error.column,
                        "message": foreign(&error.message),
                        "help": error.help.as_deref().map(foreign),
                    })
                })
                .collect();
            json!({ "profile": name, "right": false, "errors": errors })
        }
    }
}

/// [`check`] as one JSON object.
#[must_use]
pub fn check_json(name: &str, checked: &Checked) -> Value {
    let mut object = check_text_json(name, checked.as_ref().map(|(policy, _)| policy));
    if let Ok((_, bound)) = checked {
        let (weaker, refused) = match bound {
            Ok(binding) => (weaker_json(binding), Vec::new()),
            Err(refusal) => (Vec::new(), refused_json(refusal)),
        };
        object["starts"] = json!(bound.is_ok());
        object["weaker"] = json!(weaker);
        object["refused"] = json!(refused);
    }
    object
}

/// What somebody wants explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation on a file, by an absolute path.
    File(FileOp, PathBuf),
    /// A connection to a name and port.
    Connect(String, u16),
}

impl Question {
    /// Reads the words of a command line: `write src/main.rs`, `connect api.anthropic.com:443`. Relative paths
    /// are of `directory`; `~` and `${workspace}` mean what they mean in profiles.
    ///
    /// # Errors
    /// What can be asked.
    pub fn parse(words: &[OsString], bindings: &Bindings, directory: &Path) -> Result<Self, String> {
        const ASK: &str =
            "ask for: read, write, create, remove, exec or connect and a PATH; or connect and NAME:PORT";
        let text = words.join(std::ffi::OsStr::new(" ")).into_vec();
        let space = text.iter().position(|b| *b == b' ').ok_or(ASK)?;
        let (verb, object) = (&text[..space], &text[space + 1..]);
        let op = match verb {
            b"read" => FileOp::Read,
            b"write" => FileOp::Write,
            b"create" => FileOp::Create,
            b"remove" => FileOp::Remove,
            b"exec" => FileOp::Exec,
            b"connect"
                if !object.starts_with(b"/") && !object.starts_with(b"~") && !object.starts_with(b"$") =>
            {
                let object =
                    std::str::from_utf8(object).map_err(|error| format!("a name is text: {error}"))?;
                let (name, port) = object.rsplit_once(':').ok_or(ASK)?;
                let port = port.parse().map_err(|error| format!("the port {}: {error}", foreign(port)))?;
                return Ok(Self::Connect(name.to_ascii_lowercase(), port));
            }
            b"connect" => FileOp::Connect,
            _ => return Err(ASK.to_owned()),
        };
        Ok(Self::File(op, path(object, bindings, directory)))
    }

    /// The answer of a policy. Symbolic links are followed first, as the kernel does; returns where a path led.
    #[must_use]
    pub fn ask(&self, policy: &Policy, tree: &dyn Tree) -> (Verdict, Option<PathBuf>) {
        match self {
            Self::File(op, path) => {
                let real = walk(tree, path).real;
                (policy.judge(*op, &real), (real != *path).then_some(real))
            }
            Self::Connect(name, port) => (policy.judge_connect(name, *port), None),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File(op, path) => format!("{} {}", word(*op), Text::from(path.as_path()).shown()),
            Self::Connect(name, port) => format!("connect {}:{port}", foreign(name)),
        }
    }
}

/// A path of a command line, absolute.
fn path(text: &[u8], bindings: &Bindings, directory: &Path) -> PathBuf {
    let variables: [(&[u8], &Path); 3] = [
        (b"~", &bindings.home),
        (b"${workspace}", &bindings.workspace),
        (b"${agent_state}", &bindings.agent_state),
    ];
    for (variable, path) in variables {
        match text.strip_prefix(variable) {
            Some(b"") => return path.to_owned(),
            Some([b'/', rest @ ..]) => return path.join(std::ffi::OsStr::from_bytes(rest)),
            _ => {}
        }
    }
    directory.join(std::ffi::OsStr::from_bytes(text))
}

fn word(op: FileOp) -> &'static str {
    match op {
        FileOp::Read => "read",
        FileOp::Write => "write",
        FileOp::Create => "create",
        FileOp::Remove => "remove",
        FileOp::Exec => "exec",
        FileOp::Connect => "connect",
    }
}

fn decision(decision: Decision) -> (&'static str, Ink) {
    match decision {
        Decision::Allow => ("allow", Ink::Good),
        Decision::Ask => ("ask", Ink::Careful),
        Decision::Deny => ("deny", Ink::Bad),
    }
}

/// The line of TOML that would allow it; `None` where it is allowed, or no line would.
fn allow_with(
    policy: &Policy,
    question: &Question,
    verdict: &Verdict,
    real: Option<&Path>,
) -> Option<String> {
    if verdict.decision == Decision::Allow {
        return None;
    }
    match question {
        Question::File(op, path) => policy.allowing(*op, real.unwrap_or(path), verdict.rule.as_ref()),
        Question::Connect(name, port) => policy.allowing_connect(name, *port),
    }
}

/// The decision, the rule that made it, and why.
#[must_use]
pub fn explain(screen: &Screen, policy: &Policy, question: &Question, tree: &dyn Tree) -> String {
    let (verdict, real) = question.ask(policy, tree);
    let (said, ink) = decision(verdict.decision);
    let rule = verdict
        .rule
        .as_ref()
        .map_or("none matches, and no match is deny".to_owned(), |rule| foreign(&rule.to_string()));
    let mut out = format!("{}: {}\n", screen.paint(ink, said), question.shown());
    if let Some(real) = &real {
        out += &format!("  leads to    {}\n", Text::from(real.as_path()).shown());
    }
    out += &format!("  rule        {rule}\n  reason      {}\n", foreign(&verdict.reason));
    if let Some(toml) = allow_with(policy, question, &verdict, real.as_deref()) {
        out += &format!("  allow with  {}\n", foreign(&toml));
    }
    out
}

/// The same as one JSON object.
#[must_use]
pub fn explain_json(policy: &Policy, question: &Question, tree: &dyn Tree) -> String {
    let (verdict, real) = question.ask(policy, tree);
    let allow_with = allow_with(policy, question, &verdict, real.as_deref());
    json!({
        "do": question.shown(),
        "decision": decision(verdict.decision).0,
        "leads_to": real.as_deref().map(Text::from),
        "rule": verdict.rule.map(|rule| foreign(&rule.to_string())),
        "reason": foreign(&verdict.reason),
        "allow_with": allow_with.map(Text::from),
    })
    .to_string()
}

/// One rule as it is shown.
struct Row {
    rule: RuleRef,
    what: String,
    reason: String,
}

/// How many rules profiles have written; what every sandbox has and the examples are none.
#[must_use]
pub fn written_rules(policy: &Policy) -> usize {
    rules(policy).iter().filter(|row| row.rule.line != 0).count()
}

/// Every rule in force, in the order people ask for them.
fn rules(policy: &Policy) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |rule: &RuleRef, what: String, reason: Option<&String>| {
        let reason = reason.map(|reason| foreign(reason)).unwrap_or_default();
        rows.push(Row { rule: rule.clone(), what, reason });
    };
    for grant in &policy.grants {
        add(&grant.written.rule, Text::from(grant.path.as_path()).shown(), grant.written.reason.as_ref());
    }
    for guard in &policy.guards {
        let except = if guard.except.is_empty() { "" } else { " (with exceptions)" };
        add(&guard.written.rule, foreign(&guard.written.rule.text) + except, guard.written.reason.as_ref());
    }
    let rules = &policy.rules;
    for limit in &rules.limits {
        add(&limit.rule, foreign(&limit.rule.text), limit.reason.as_ref());
    }
    for default in &rules.command_default {
        add(&default.rule, decision(default.value).0.to_owned(), None);
    }
    for command in &rules.commands {
        let what = format!("{} {}", decision(command.decision).0, foreign(&command.run.join(" ")));
        add(&command.rule, what, command.reason.as_ref());
    }
    for egress in &rules.egress {
        let what = format!("{} {}", decision(egress.decision).0, foreign(&egress.rule.text));
        add(&egress.rule, what, egress.reason.as_ref());
    }
    for pass in &rules.pass {
        add(&pass.rule, foreign(&pass.value), None);
    }
    for set in &rules.set {
        add(&set.rule, format!("{}={}", foreign(&set.value.0), foreign(&set.value.1)), None);
    }
    for identity in &rules.identity {
        add(&identity.rule, format!("{:?}", identity.value).to_lowercase(), None);
    }
    for mode in &rules.mode {
        add(&mode.rule, format!("{:?}", mode.value).to_lowercase(), None);
    }
    for nested in &rules.nested_sandbox {
        add(&nested.rule, nested.value.to_string(), None);
    }
    rows
}

/// All rules of a profile and of what it uses, with where each is written.
#[must_use]
pub fn show(screen: &Screen, policy: &Policy) -> String {
    let row = |row: &Row| {
        let from = match row.rule.line {
            0 => foreign(&row.rule.profile),
            line => format!("{}:{line}", foreign(&row.rule.profile)),
        };
        vec![foreign(&row.rule.key), from, row.what.clone(), row.reason.clone()]
    };
    let rows: Vec<_> = rules(policy).iter().map(row).collect();
    let heads = ["KEY", "FROM", "WHAT", "REASON"];
    format!("profile {}\n\n{}", foreign(&policy.name), table(screen, &heads, &rows))
}

/// The same as one JSON object.
#[must_use]
pub fn show_json(policy: &Policy) -> String {
    let rows: Vec<Value> = rules(policy)
        .into_iter()
        .map(|row| {
            json!({
                "key": foreign(&row.rule.key),
                "profile": foreign(&row.rule.profile),
                "line": row.rule.line,
                "what": row.what,
                "reason": row.reason,
            })
        })
        .collect();
    json!({ "profile": foreign(&policy.name), "rules": rows }).to_string()
}

#[cfg(test)]
mod tests {
    use skep_policy::compose::compose;
    use skep_policy::diagnostics::Source;
    use skep_policy::launch::Ids;
    use skep_policy::layers::{Host, bind};
    use skep_policy::profile::Profile;
    use skep_policy::tree::{Found, Imagined, Sketch};

    use super::*;

    const TEXT: &str = r#"
schema = 1
name = "bee"
[files]
write = ["${workspace}"]
[guards]
protect = [{ path = "${workspace}/.git/hooks", reason = "runs outside the sandbox" }]
[[egress]]
to = ["api.example.com:443"]
"#;

    struct Empty;

    impl skep_policy::compose::Library for Empty {
        fn find(&self, _name: &str) -> Option<Source> {
            None
        }
    }

    fn checked(text: &str) -> Checked {
        let profile = Profile::parse(&Source::new("bee.toml", text))?;
        let effective = compose(&profile, &Empty)?;
        let policy = Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined)?;
        let bound = bind(&policy, &Host::default(), &Imagined, &[]);
        Ok((policy, bound))
    }

    fn question(text: &str) -> Result<Question, String> {
        let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        Question::parse(&words, &Bindings::for_tests(), Path::new("/home/u/project/src"))
    }

    #[test]
    fn a_wrong_profile_shows_all_its_errors_and_no_raw_control() {
        let wrong = checked("schema = 1\nname = \"bee\"\nx = \"\x1b[2J\"\ny = 1\n");
        assert!(!starts(&wrong));
        let text = check(&Screen::default(), "bee.toml", &wrong);
        assert!(text.contains("errors"), "{text}");
        assert!(text.lines().all(|line| line.chars().all(skep_policy::escape::is_plain)), "{text:?}");
        assert_eq!(check_json("bee.toml", &wrong)["right"], false);
    }

    #[test]
    fn a_right_profile_says_whether_it_starts_here() {
        let refused = checked(TEXT);
        let text = check(&Screen::default(), "bee", &refused);
        assert!(
            text.starts_with("bee: right, 3 rules, 0 examples hold\nit does not start on this host: "),
            "{text}"
        );
        assert!(text.contains("bee:9 egress") && !starts(&refused), "{text}");
        let value = check_json("bee", &refused);
        assert_eq!((&value["right"], &value["starts"]), (&json!(true), &json!(false)));
        assert_eq!(value["refused"].as_array().map(Vec::len), Some(1), "{value}");
        let alone = "schema = 1\nname = \"bee\"\n[[example]]\ndo = \"read /x\"\nexpect = \"deny\"\n";
        let text = check(&Screen::default(), "bee", &checked(alone));
        assert!(
            text.starts_with("bee: right, 0 rules, 1 example holds\nit starts on this host with"),
            "{text}"
        );
    }

    #[test]
    fn every_rule_is_counted_that_something_enforces() {
        for (name, text) in &skep_policy::shipped::PROFILES {
            let profile = Profile::parse(&Source::new(*name, *text)).unwrap();
            let effective = compose(&profile, &skep_policy::shipped::Shipped).unwrap();
            let policy = Policy::compile(&effective, &Bindings::for_tests(), &Imagined).unwrap();
            let host = Host { sk_lookup: true, ..Host::default() };
            let bound = bind(&policy, &host, &Imagined, &[]).unwrap().rules.len();
            assert_eq!(written_rules(&policy) + policy.rules.examples.len(), bound, "{name}");
        }
    }

    #[test]
    fn an_explanation_names_the_rule_and_the_line_that_would_allow_it() {
        let (policy, _) = checked(TEXT).unwrap();
        let hook = question("write ${workspace}/.git/hooks/pre-commit").unwrap();
        let text = explain(&Screen::default(), &policy, &hook, &Imagined);
        assert!(text.starts_with("deny: write /home/u/project/.git/hooks/pre-commit\n"), "{text}");
        assert!(text.contains("rule        bee:7 guards.protect"), "{text}");
        assert!(text.contains("reason      runs outside the sandbox"), "{text}");
        assert!(!text.contains("allow with"), "mounts hold that guard, without exceptions: {text}");
        let other = question("read /srv/x").unwrap();
        let text = explain(&Screen::default(), &policy, &other, &Imagined);
        assert!(text.contains("allow with  read = [\"/srv/x\"]  # in bee.toml, below [files]\n"), "{text}");
    }

    #[test]
    fn relative_paths_and_links_are_resolved_before_the_verdict() {
        let (policy, _) = checked(TEXT).unwrap();
        assert_eq!(question("read a").unwrap(), Question::File(FileOp::Read, "/home/u/project/src/a".into()));
        let ids = Ids { uid: 1, gid: 1 };
        let mut tree = Sketch::default();
        for path in ["/", "/home", "/home/u", "/home/u/project", "/home/u/project/src", "/etc"] {
            tree = tree.with(path, Found::Directory(ids));
        }
        let tree = tree.with("/home/u/project/src/a", Found::Symlink("/etc/passwd".into()));
        let text = explain(&Screen::default(), &policy, &question("write a").unwrap(), &tree);
        assert!(text.starts_with("deny: ") && text.contains("leads to    /etc/passwd"), "{text}");
    }

    #[test]
    fn questions_nobody_can_answer_are_refused() {
        for text in ["", "write", "frobnicate /x", "connect x", "connect x:70000"] {
            assert!(question(text).is_err(), "{text}");
        }
        assert_eq!(
            question("connect API.example.com:443").unwrap(),
            Question::Connect("api.example.com".into(), 443)
        );
    }

    #[test]
    fn a_shown_profile_has_each_rule_with_its_place() {
        let (policy, _) = checked(TEXT).unwrap();
        let text = show(&Screen::default(), &policy);
        assert!(text.contains("guards.protect"), "{text}");
        assert!(text.contains("bee:7"), "{text}");
        assert!(serde_json::from_str::<Value>(&show_json(&policy)).is_ok());
    }
}
