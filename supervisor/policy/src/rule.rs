//! The name of a rule: what records, refusals and `--accept-weaker` call it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::escape::escape;

/// A rule of a profile and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// The profile that holds it.
    pub profile: String,
    /// The line in that profile; 0 for what is built in.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// The key: `guards.protect`, `limits.memory`, `egress`.
    pub key: String,
    /// What the rule is about, as written; empty where the key says it all.
    pub text: String,
}

impl RuleRef {
    /// A rule that every policy has, whatever its profile says.
    pub(crate) fn built_in(key: &str, text: &str) -> Self {
        Self { profile: "built-in".into(), line: 0, column: 0, key: key.into(), text: text.into() }
    }

    /// The name without its place, which stays the same when lines move:
    /// `guards.protect "**/.git/hooks/**"`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.text.is_empty() {
            return self.key.clone();
        }
        format!("{} \"{}\"", self.key, escape(self.text.as_bytes()))
    }

    /// What a user's `--accept-weaker NAME` may call this rule, as [`bare`] writes it: its name, or its name with the
    /// place before it.
    pub(crate) fn bare_names(&self) -> [String; 2] {
        [bare(&self.name()), bare(&self.to_string())]
    }
}

/// The name of a rule as people write it: without the quotes, which shells eat.
pub(crate) fn bare(name: &str) -> String {
    name.trim().replace('"', "")
}

impl fmt::Display for RuleRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{} {}", escape(self.profile.as_bytes()), self.name()),
            line => write!(out, "{}:{line} {}", escape(self.profile.as_bytes()), self.name()),
        }
    }
}
