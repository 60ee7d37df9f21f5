//! Errors in profiles as people need them: all at once, each with its line, its column and what is accepted.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The largest profile that is read, in bytes. Real ones have a few kilobytes, and finding a rule's line reads what is
/// before it.
pub const MAX_SOURCE: usize = 64 << 10;

/// Errors shown of one profile; more are counted, for the first ones usually cause the rest.
const MAX_ERRORS: usize = 100;

/// Characters of a source line that are shown around an error.
const EXCERPT: usize = 160;

/// The text of a profile and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What errors call it: a path, or the name of a shipped profile.
    pub file: String,
    /// The TOML text.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where the text of a profile came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A file, which [`Source::file`] names.
    File,
    /// It is part of skep: what is changed is a copy.
    Shipped,
}

impl Source {
    /// Takes text that is already UTF-8. Its size is checked when it is parsed.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into(), origin: Origin::File }
    }

    /// Takes the text of a profile that comes with skep.
    pub fn shipped(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin: Origin::Shipped, ..Self::new(file, text) }
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// When the file is larger than [`MAX_SOURCE`] or not UTF-8.
    pub fn from_bytes(file: impl Into<String>, bytes: &[u8]) -> Result<Self, Diagnostics> {
        let file = file.into();
        if bytes.len() > MAX_SOURCE {
            return Err(Diagnostics::one(too_large(&file, bytes.len())));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(file, text)),
            Err(error) => {
                let good = Self::new(file, String::from_utf8_lossy(bytes));
                let at = error.valid_up_to();
                Err(Diagnostics::one(good.error(
                    at..at + 1,
                    "profiles are UTF-8; this byte is not".into(),
                    None,
                )))
            }
        }
    }

    /// Line and column, both counted from 1, the column in characters.
    #[must_use]
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let before = &self.text[..self.floor(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (count(before.matches('\n').count() + 1), count(before[line_start..].chars().count() + 1))
    }

    /// Builds the error for a span of the text.
    #[must_use]
    pub fn error(&self, span: Range<usize>, message: String, help: Option<String>) -> Diagnostic {
        let start = self.floor(span.start);
        let end = self.floor(span.end).max(start);
        let (line, column) = self.position(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let whole = self.text[line_start..].lines().next().unwrap_or_default();
        let within = self.text[start..end].lines().next().unwrap_or_default();
        Diagnostic {
            file: self.file.clone(),
            line,
            column,
            message,
            help,
            excerpt: whole.chars().take(EXCERPT).collect(),
            width: count(within.chars().count().max(1)),
        }
    }

    /// The error for a position that was remembered from parsing.
    #[must_use]
    pub fn error_at(&self, line: u32, column: u32, message: String, help: Option<String>) -> Diagnostic {
        let excerpt = self.text.lines().nth((line.max(1) - 1) as usize).unwrap_or_default();
        let excerpt = excerpt.chars().take(EXCERPT).collect();
        Diagnostic { file: self.file.clone(), line, column, message, help, excerpt, width: 1 }
    }

    fn floor(&self, offset: usize) -> usize {
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// The error for a profile that is larger than [`MAX_SOURCE`].
pub(crate) fn too_large(file: &str, bytes: usize) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line: 1,
        column: 1,
        message: format!("the profile has {bytes} bytes; at most {MAX_SOURCE} are read"),
        help: None,
        excerpt: String::new(),
        width: 1,
    }
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// One error in a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, as [`Source::file`] names it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong, and what is accepted.
    pub message: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
    /// The source line; may hold anything a file can hold, printing escapes it.
    pub excerpt: String,
    /// Characters the error covers.
    pub width: u32,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}:{}:{}: error: {}",
            escape(&self.file),
            self.line,
            self.column,
            escape(&self.message)
        )?;
        if !self.excerpt.is_empty() {
            let number = self.line.to_string();
            let before: String = self.excerpt.chars().take(self.column.saturating_sub(1) as usize).collect();
            let under = self.width.min(u32::try_from(EXCERPT).unwrap_or(u32::MAX)) as usize;
            let pad = " ".repeat(number.len());
            write!(out, "\n {number} | {}", escape(&self.excerpt))?;
            write!(out, "\n {pad} | {}{}", " ".repeat(escape(&before).chars().count()), "^".repeat(under))?;
        }
        match &self.help {
            Some(help) => write!(out, "\n   = help: {}", escape(help)),
            None => Ok(()),
        }
    }
}

/// All errors of a profile, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Diagnostics {
    /// The errors.
    pub errors: Vec<Diagnostic>,
}

impl Diagnostics {
    /// A single error.
    #[must_use]
    pub fn one(error: Diagnostic) -> Self {
        Self { errors: vec![error] }
    }

    /// `value` when nothing went wrong, else all errors, sorted.
    ///
    /// # Errors
    /// When `errors` is not empty.
    pub(crate) fn unless_any<T>(value: T, mut errors: Vec<Diagnostic>) -> Result<T, Self> {
        if errors.is_empty() {
            return Ok(value);
        }
        errors.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        errors.dedup();
        Err(Self { errors })
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().take(MAX_ERRORS).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}{error}")?;
        }
        match self.errors.len().saturating_sub(MAX_ERRORS) {
            0 => Ok(()),
            1 => write!(out, "\n... and 1 more error"),
            more => write!(out, "\n... and {more} more errors"),
        }
    }
}

/// Text of unknown origin, safe to print.
fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    crate::escape::escape(text.as_bytes())
}
