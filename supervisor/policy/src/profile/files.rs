//! `[files]` and `[guards]`.

use serde::{Deserialize, Serialize};

use std::ops::Range;

use toml::de::DeValue;

use super::reader::{Node, Reader};
use super::{Grant, Guard, Op};
use crate::pattern;

/// The lists of `[files]`. Literal directories; the deepest one wins, a tie takes the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granting {
    /// May be read, and not written.
    Read,
    /// May be read and written.
    Write,
    /// A person is asked.
    Ask,
    /// May be executed, and read for it.
    Exec,
    /// Sockets that may be connected to.
    Connect,
}

/// The lists of `[guards]`. They beat every grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarding {
    /// Unreadable and not to be examined; the name is still listed.
    Hide,
    /// Readable, never changed, created or replaced.
    Protect,
    /// A person is asked before it is changed.
    AskWrite,
    /// A person is asked before it is read.
    AskRead,
}

const GRANTS: [(&str, Granting); 5] = [
    ("read", Granting::Read),
    ("write", Granting::Write),
    ("ask", Granting::Ask),
    ("exec", Granting::Exec),
    ("connect", Granting::Connect),
];

const GUARDS: [(&str, Guarding); 4] = [
    ("hide", Guarding::Hide),
    ("protect", Guarding::Protect),
    ("ask_write", Guarding::AskWrite),
    ("ask_read", Guarding::AskRead),
];

const OPS: [(&str, Op); 4] =
    [("read", Op::Read), ("write", Op::Write), ("exec", Op::Exec), ("connect", Op::Connect)];

impl Granting {
    /// The key of its list.
    #[must_use]
    pub fn key(self) -> &'static str {
        GRANTS.iter().find(|(_, kind)| *kind == self).map_or("", |(key, _)| key)
    }
}

impl Guarding {
    /// The key of its list.
    #[must_use]
    pub fn key(self) -> &'static str {
        GUARDS.iter().find(|(_, kind)| *kind == self).map_or("", |(key, _)| key)
    }
}

/// An item of a list, before it is known what for.
struct Item {
    path: String,
    span: Range<usize>,
    except: Vec<(String, Range<usize>)>,
    ops: Option<(Vec<Op>, Range<usize>)>,
    reason: Option<String>,
    best_effort: bool,
}

pub(super) fn grants(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<Grant> {
    let Some(mut section) = reader.section(node, "files", &["read", "write", "ask", "exec", "connect"])
    else {
        return Vec::new();
    };
    let mut grants = Vec::new();
    for (key, kind) in GRANTS {
        let items =
            section.take(key).map(|node| items(reader, node, &format!("files.{key}"))).unwrap_or_default();
        grants.extend(items.into_iter().filter_map(|item| grant(reader, kind, item)));
    }
    reader.finish(section);
    reject_read_beside_write(reader, &grants);
    grants
}

fn grant(reader: &mut Reader<'_>, kind: Granting, item: Item) -> Option<Grant> {
    let checked = match (kind, item.path.strip_prefix('$')) {
        (Granting::Connect, Some(name)) if !name.starts_with('{') => Ok(()),
        _ => pattern::check_literal(&item.path),
    };
    if let Err(message) = checked {
        reader.error(item.span, message);
        return None;
    }
    if let Some((_, span)) = item.except.first() {
        reader.error(
            span.clone(),
            "`except` opens a guard; a grant is narrowed by a deeper grant or by a guard",
        );
    }
    let ops = match (kind, item.ops) {
        (Granting::Ask, Some((ops, _))) => ops,
        (Granting::Ask, None) => vec![Op::Read, Op::Write],
        (_, None) => Vec::new(),
        (_, Some((_, span))) => {
            reader.error(
                span,
                "`ops` belongs to items of `files.ask`; the other lists say their operation themselves",
            );
            Vec::new()
        }
    };
    let rule = reader.rule(&item.span, &format!("files.{}", kind.key()), &item.path);
    Some(Grant { kind, path: item.path, ops, reason: item.reason, best_effort: item.best_effort, rule })
}

/// The tie between the two would silently make the path read-only.
fn reject_read_beside_write(reader: &mut Reader<'_>, grants: &[Grant]) {
    let of = |kind| grants.iter().filter(move |grant| grant.kind == kind);
    let mut errors = Vec::new();
    for read in of(Granting::Read) {
        if of(Granting::Write).any(|write| write.path == read.path) {
            let message =
                format!("`{}` is also in `files.write`, which includes reading; keep one of them", read.path);
            errors.push(reader.source.error_at(read.rule.line, read.rule.column, message, None));
        }
    }
    reader.errors.extend(errors);
}

pub(super) fn guards(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<Guard> {
    let Some(mut section) = reader.section(node, "guards", &["hide", "protect", "ask_write", "ask_read"])
    else {
        return Vec::new();
    };
    let mut guards = Vec::new();
    for (key, kind) in GUARDS {
        let items =
            section.take(key).map(|node| items(reader, node, &format!("guards.{key}"))).unwrap_or_default();
        guards.extend(items.into_iter().filter_map(|item| guard(reader, kind, item)));
    }
    reader.finish(section);
    guards
}

fn guard(reader: &mut Reader<'_>, kind: Guarding, item: Item) -> Option<Guard> {
    let mut good = true;
    let patterns =
        std::iter::once((&item.path, &item.span)).chain(item.except.iter().map(|(text, span)| (text, span)));
    for (text, span) in patterns {
        if let Err(message) = pattern::check_pattern(text) {
            reader.error(span.clone(), message);
            good = false;
        }
    }
    if let Some((_, span)) = item.ops {
        reader.error(
            span,
            "`ops` belongs to items of `files.ask`; each list of guards says its operations itself",
        );
    }
    let rule = reader.rule(&item.span, &format!("guards.{}", kind.key()), &item.path);
    let except = item.except.into_iter().map(|(text, _)| text).collect();
    good.then_some(Guard {
        kind,
        path: item.path,
        except,
        reason: item.reason,
        best_effort: item.best_effort,
        rule,
    })
}

fn items(reader: &mut Reader<'_>, node: Node<'_>, list: &str) -> Vec<Item> {
    let nodes = reader.list(node, list);
    nodes.into_iter().filter_map(|node| item(reader, node, list)).collect()
}

fn item(reader: &mut Reader<'_>, node: Node<'_>, list: &str) -> Option<Item> {
    let span = node.span();
    match node.get_ref() {
        DeValue::Table(_) => {}
        DeValue::String(_) => {
            let (path, span) = reader.text(node, list)?;
            return Some(Item {
                path,
                span,
                except: Vec::new(),
                ops: None,
                reason: None,
                best_effort: false,
            });
        }
        other => return reader.expected(span, list, "a list of strings and tables", other),
    }
    let mut section = reader.section(node, list, &["path", "except", "ops", "reason", "best_effort"])?;
    let path = section.take("path").and_then(|node| reader.text(node, "path"));
    let except = section.take("except").map(|node| reader.texts(node, "except")).unwrap_or_default();
    let ops = section.take("ops").map(|node| operations(reader, node));
    let reason = section.take("reason").and_then(|node| reader.text(node, "reason")).map(|(text, _)| text);
    let best_effort =
        section.take("best_effort").and_then(|node| reader.flag(node, "best_effort")).unwrap_or(false);
    reader.finish(section);
    let Some((path, path_span)) = path else {
        reader.error(span, format!("an item of `{list}` needs the key `path` with a string"));
        return None;
    };
    Some(Item { path, span: path_span, except, ops, reason, best_effort })
}

fn operations(reader: &mut Reader<'_>, node: Node<'_>) -> (Vec<Op>, Range<usize>) {
    let span = node.span();
    let nodes = reader.list(node, "ops");
    if nodes.is_empty() {
        reader.error(span.clone(), "`ops` is empty; accepted: \"read\", \"write\", \"exec\", \"connect\"");
    }
    (nodes.into_iter().filter_map(|node| reader.choice(node, "ops", &OPS)).collect(), span)
}
