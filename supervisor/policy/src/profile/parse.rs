//! The top level of a profile, its environment and its examples.

use std::ops::Range;

use toml::de::DeTable;

use super::reader::{Node, Reader, Section};
use super::{
    Attempt, Example, Identity, Mode, Profile, Rules, SCHEMA, Setting, Use, commands, files, limits, network,
};
use crate::decision::Decision;
use crate::diagnostics::{Diagnostics, MAX_SOURCE, Source, too_large};
use crate::pattern;
use crate::policy::FileOp;

pub(super) const TOP: &[&str] = &[
    "schema",
    "name",
    "match",
    "use",
    "mode",
    "nested_sandbox",
    "identity",
    "limits",
    "files",
    "guards",
    "commands",
    "egress",
    "environment",
    "example",
];

/// The words of [`Decision`] in profiles.
pub(super) const DECISIONS: [(&str, Decision); 3] =
    [("allow", Decision::Allow), ("ask", Decision::Ask), ("deny", Decision::Deny)];

/// Reads a whole profile.
pub(super) fn profile(source: &Source) -> Result<Profile, Diagnostics> {
    if source.text.len() > MAX_SOURCE {
        return Err(Diagnostics::one(too_large(&source.file, source.text.len())));
    }
    if source.text.trim().is_empty() {
        let help = format!("remove the file, or fill it: it begins with `schema = {SCHEMA}`");
        return Err(Diagnostics::one(source.error(0..0, "the profile is empty".to_owned(), Some(help))));
    }
    let (document, syntax) = DeTable::parse_recoverable(&source.text);
    let mut reader = Reader { source, profile: source.file.clone(), errors: Vec::new() };
    for error in syntax {
        let twice = error.message() == "duplicate key";
        let help = twice.then(|| "write it once: a list takes the items of both".to_owned());
        reader.error_with_help(error.span().unwrap_or(0..0), error.message().to_owned(), help);
    }
    let mut top = Section::new("", TOP, 0..0, document.into_inner());
    schema(&mut reader, &mut top);
    let name = name(&mut reader, &mut top);
    reader.profile.clone_from(&name);
    let matches = top.take("match").map(|node| reader.texts(node, "match")).unwrap_or_default();
    let matches =
        matches.into_iter().filter_map(|(text, span)| command_name(&mut reader, text, span)).collect();
    let uses = top.take("use").map(|node| uses(&mut reader, node)).unwrap_or_default();
    let rules = rules(&mut reader, &mut top);
    reader.finish(top);
    Diagnostics::unless_any(Profile { name, matches, uses, rules, source: source.clone() }, reader.errors)
}

fn schema(reader: &mut Reader<'_>, top: &mut Section<'_>) {
    match top.take("schema") {
        None => reader.error(0..0, format!("the key `schema` is missing; write `schema = {SCHEMA}`")),
        Some(node) => {
            let span = node.span();
            let version = reader.number(&node, "schema", 0..u64::MAX);
            if version.is_some_and(|version| version != SCHEMA) {
                reader.error(span, format!("this skep reads schema {SCHEMA} only"));
            }
        }
    }
}

fn name(reader: &mut Reader<'_>, top: &mut Section<'_>) -> String {
    let Some(node) = top.take("name") else {
        reader.error(0..0, "the key `name` is missing; accepted: 1 to 64 of a-z, 0-9 and -");
        return reader.source.file.clone();
    };
    let name = reader.parsed(node, "name", |text| {
        is_profile_name(text)
            .then(|| text.to_owned())
            .ok_or_else(|| "accepted: 1 to 64 of a-z, 0-9 and -".into())
    });
    name.unwrap_or_else(|| reader.source.file.clone())
}

/// Is this a name for a profile: 1 to 64 of `a-z`, `0-9` and `-`? So it names no other directory.
#[must_use]
pub fn is_profile_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

fn command_name(reader: &mut Reader<'_>, text: String, span: Range<usize>) -> Option<String> {
    if text.is_empty() || text.contains('/') {
        reader
            .error(span, "an entry of `match` is the name of a command without a directory, like \"claude\"");
        return None;
    }
    Some(text)
}

fn uses(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<Use> {
    let mut uses = Vec::new();
    for (name, span) in reader.texts(node, "use") {
        if is_profile_name(&name) {
            let rule = reader.rule(&span, "use", &name);
            uses.push(Use { name, rule });
        } else {
            reader.error(span, "an entry of `use` is the name of a profile: 1 to 64 of a-z, 0-9 and -");
        }
    }
    uses
}

fn rules(reader: &mut Reader<'_>, top: &mut Section<'_>) -> Rules {
    let mut rules = Rules::default();
    if let Some(node) = top.take("mode") {
        let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
        rules.mode = setting(reader, node, "mode", |reader, node| reader.choice(node, "mode", &words));
    }
    if let Some(node) = top.take("nested_sandbox") {
        rules.nested_sandbox =
            setting(reader, node, "nested_sandbox", |reader, node| reader.flag(node, "nested_sandbox"));
    }
    if let Some(node) = top.take("identity") {
        let words = [("caller", Identity::Caller), ("own", Identity::Own)];
        rules.identity =
            setting(reader, node, "identity", |reader, node| reader.choice(node, "identity", &words));
    }
    if let Some(node) = top.take("limits") {
        rules.limits = limits::limits(reader, node);
    }
    if let Some(node) = top.take("files") {
        rules.grants = files::grants(reader, node);
    }
    if let Some(node) = top.take("guards") {
        rules.guards = files::guards(reader, node);
    }
    if let Some(node) = top.take("commands") {
        commands::commands(reader, node, &mut rules);
    }
    if let Some(node) = top.take("egress") {
        rules.egress = network::egress(reader, node);
    }
    if let Some(node) = top.take("environment") {
        environment(reader, node, &mut rules);
    }
    if let Some(node) = top.take("example") {
        rules.examples = examples(reader, node);
    }
    rules
}

/// A single value at the top of a table, with its rule.
pub(super) fn setting<'i, T>(
    reader: &mut Reader<'_>,
    node: Node<'i>,
    key: &str,
    read: impl FnOnce(&mut Reader<'_>, Node<'i>) -> Option<T>,
) -> Vec<Setting<T>> {
    let rule = reader.rule(&node.span(), key, "");
    read(reader, node).map(|value| Setting { value, rule }).into_iter().collect()
}

fn environment(reader: &mut Reader<'_>, node: Node<'_>, rules: &mut Rules) {
    let Some(mut section) = reader.section(node, "environment", &["pass", "set"]) else { return };
    let pass = section.take("pass").map(|node| reader.texts(node, "environment.pass")).unwrap_or_default();
    for (name, span) in pass {
        if is_variable(name.strip_suffix('*').unwrap_or(&name)) {
            let rule = reader.rule(&span, "environment.pass", &name);
            rules.pass.push(Setting { value: name, rule });
        } else {
            reader.error(
                span,
                "an entry of `environment.pass` is a variable's name, or the start of one and `*`",
            );
        }
    }
    if let Some(node) = section.take("set") {
        set(reader, node, rules);
    }
    reader.finish(section);
}

fn set(reader: &mut Reader<'_>, node: Node<'_>, rules: &mut Rules) {
    let span = node.span();
    let toml::de::DeValue::Table(table) = node.into_inner() else {
        return reader.error(span, "`environment.set` must be a table: { NAME = \"value\" }");
    };
    for (key, node) in table {
        let (name, span) = (key.get_ref().to_string(), key.span());
        if !is_variable(&name) {
            reader.error(
                span.clone(),
                "the name of a variable has letters, digits and _ and starts with no digit",
            );
        }
        let Some((value, value_span)) = reader.text(node, "environment.set") else { continue };
        if let Err(message) = pattern::check_variables(&value) {
            reader.error(value_span, message);
        }
        let rule = reader.rule(&span, "environment.set", &name);
        rules.set.push(Setting { value: (name, value), rule });
    }
}

fn is_variable(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(good) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn examples(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<Example> {
    let items = reader.list(node, "example");
    items.into_iter().filter_map(|item| example(reader, item)).collect()
}

fn example(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Example> {
    let mut section = reader.section(node, "example", &["do", "expect"])?;
    let (span, attempt, expect) = (section.span(), section.take("do"), section.take("expect"));
    let attempt = match attempt {
        Some(node) => reader.text(node, "do").and_then(|(text, span)| {
            let rule = reader.rule(&span, "example", &text);
            attempted(&text)
                .map_err(|message| reader.error(span, message))
                .ok()
                .map(|attempt| (attempt, rule))
        }),
        None => {
            reader.error(span.clone(), "the key `do` is missing in `example`");
            None
        }
    };
    let expect = match expect {
        Some(node) => reader.choice(node, "expect", &DECISIONS),
        None => {
            reader.error(
                span,
                "the key `expect` is missing in `example`; accepted: \"allow\", \"ask\", \"deny\"",
            );
            None
        }
    };
    reader.finish(section);
    let ((attempt, rule), expect) = (attempt?, expect?);
    Some(Example { attempt, expect, rule })
}

fn attempted(text: &str) -> Result<Attempt, String> {
    const ACCEPTED: &str = "`do` is one of: read, write, create, remove or exec and a path; connect and NAME:PORT \
                            or a path; run and a command";
    let (verb, object) = text.split_once(' ').ok_or(ACCEPTED)?;
    let object = object.trim();
    let op = match verb {
        "run" if !object.is_empty() => return Ok(Attempt::Run(object.to_owned())),
        "connect" if !object.starts_with(['/', '~', '$']) => {
            let (name, port) = object.rsplit_once(':').ok_or(ACCEPTED)?;
            let port =
                port.parse().ok().filter(|&port| port > 0).ok_or("the port is a number from 1 to 65535")?;
            return Ok(Attempt::Connect(name.to_owned(), port));
        }
        "read" => FileOp::Read,
        "write" => FileOp::Write,
        "create" => FileOp::Create,
        "remove" => FileOp::Remove,
        "exec" => FileOp::Exec,
        "connect" => FileOp::Connect,
        _ => return Err(ACCEPTED.into()),
    };
    pattern::check_literal(object)?;
    Ok(Attempt::File(op, object.to_owned()))
}
