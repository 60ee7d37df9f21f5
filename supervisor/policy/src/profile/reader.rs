//! Walks a parsed TOML document and collects every error instead of stopping at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::parse::TOP;
use crate::diagnostics::{Diagnostic, Source};
use crate::rule::RuleRef;

/// A value with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// Where the errors go.
pub(super) struct Reader<'s> {
    pub(super) source: &'s Source,
    pub(super) profile: String,
    pub(super) errors: Vec<Diagnostic>,
}

/// A table whose keys are taken one by one; what is left in the end is unknown.
pub(super) struct Section<'i> {
    name: String,
    keys: &'static [&'static str],
    span: Range<usize>,
    rest: DeTable<'i>,
}

impl<'i> Section<'i> {
    pub(super) fn new(
        name: &str,
        keys: &'static [&'static str],
        span: Range<usize>,
        rest: DeTable<'i>,
    ) -> Self {
        Self { name: name.to_owned(), keys, span, rest }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Node<'i>> {
        debug_assert!(self.keys.contains(&key), "{key} is not listed among the keys of {}", self.name);
        self.rest.remove(key)
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }
}

impl Reader<'_> {
    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.errors.push(self.source.error(span, message.into(), None));
    }

    pub(super) fn error_with_help(&mut self, span: Range<usize>, message: String, help: Option<String>) {
        self.errors.push(self.source.error(span, message, help));
    }

    /// Names the rule that starts at `span`.
    pub(super) fn rule(&self, span: &Range<usize>, key: &str, text: &str) -> RuleRef {
        let (line, column) = self.source.position(span.start);
        RuleRef { profile: self.profile.clone(), line, column, key: key.to_owned(), text: text.to_owned() }
    }

    pub(super) fn section<'i>(
        &mut self,
        node: Node<'i>,
        name: &str,
        keys: &'static [&'static str],
    ) -> Option<Section<'i>> {
        let span = node.span();
        match node.into_inner() {
            DeValue::Table(rest) => Some(Section::new(name, keys, span, rest)),
            other => self.expected(span, name, "a table", &other),
        }
    }

    /// Complains about every key that nobody took.
    pub(super) fn finish(&mut self, section: Section<'_>) {
        for (key, _) in section.rest {
            let name = key.get_ref().to_string();
            let place =
                if section.name.is_empty() { "a profile".to_owned() } else { format!("`{}`", section.name) };
            let message = format!("unknown key `{name}` in {place}; accepted: {}", section.keys.join(", "));
            let help = match nearest(&name, section.keys.iter().copied()) {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None if TOP.contains(&name.as_str()) => {
                    Some(format!("`{name}` belongs to the whole profile: put it above the first [table]"))
                }
                None => None,
            };
            self.error_with_help(key.span(), message, help);
        }
    }

    pub(super) fn text(&mut self, node: Node<'_>, what: &str) -> Option<(String, Range<usize>)> {
        let span = node.span();
        match node.into_inner() {
            DeValue::String(text) if text.contains('\0') => {
                self.error(span, format!("`{what}` must not contain a NUL character"));
                None
            }
            DeValue::String(text) => Some((text.into_owned(), span)),
            other => self.expected(span, what, "a string", &other),
        }
    }

    pub(super) fn flag(&mut self, node: Node<'_>, what: &str) -> Option<bool> {
        let span = node.span();
        match node.into_inner() {
            DeValue::Boolean(flag) => Some(flag),
            other => self.expected(span, what, "true or false", &other),
        }
    }

    pub(super) fn number(&mut self, node: &Node<'_>, what: &str, accepted: Range<u64>) -> Option<u64> {
        let span = node.span();
        let DeValue::Integer(integer) = node.get_ref() else {
            return self.expected(span, what, "a whole number", node.get_ref());
        };
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.filter(|value| accepted.contains(value));
        if value.is_none() {
            self.error(span, format!("`{what}` must be between {} and {}", accepted.start, accepted.end - 1));
        }
        value
    }

    pub(super) fn list<'i>(&mut self, node: Node<'i>, what: &str) -> Vec<Node<'i>> {
        let span = node.span();
        match node.into_inner() {
            DeValue::Array(items) => DeArray::into_iter(items).collect(),
            other => self.expected(span, what, "a list: [ … ]", &other).unwrap_or_default(),
        }
    }

    pub(super) fn texts(&mut self, node: Node<'_>, what: &str) -> Vec<(String, Range<usize>)> {
        let items = self.list(node, what);
        items.into_iter().filter_map(|item| self.text(item, what)).collect()
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, node: Node<'_>, what: &str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.text(node, what)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let accepted = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
            let help = nearest(&text, words.iter().map(|(word, _)| *word))
                .map(|near| format!("did you mean \"{near}\"?"));
            self.error_with_help(span, format!("`{what}` is \"{text}\"; accepted: {accepted}"), help);
        }
        found
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(
        &mut self,
        node: Node<'_>,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, span) = self.text(node, what)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(accepted) => {
                self.error(span, format!("`{what}` is \"{text}\"; {accepted}"));
                None
            }
        }
    }

    pub(super) fn expected<T>(
        &mut self,
        span: Range<usize>,
        what: &str,
        wanted: &str,
        got: &DeValue<'_>,
    ) -> Option<T> {
        let what = if what.is_empty() { "a profile" } else { what };
        self.error(span, format!("`{what}` must be {wanted}, not {}", kind(got)));
        None
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The word that was probably meant: at most a third of it differs.
pub(crate) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if typed.len() > 64 {
        return None;
    }
    let close =
        words.map(|word| (distance(typed, word), word)).filter(|(far, word)| *far * 3 <= word.len().max(3));
    close.min_by_key(|(far, _)| *far).map(|(_, word)| word)
}

/// How many letters were left out, added, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let [a, b]: [Vec<char>; 2] = [a, b].map(|text| text.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
