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

    /// Whether a user's `--accept-weaker NAME` means this rule: its name, its name with the place before it,
    /// or its name without the quotes, which shells eat.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let bare = |text: &str| text.replace('"', "");
        let wanted = bare(name.trim());
        wanted == bare(&self.name()) || wanted == bare(&self.to_string())
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{} {}", escape(self.profile.as_bytes()), self.name()),
            line => write!(out, "{}:{line} {}", escape(self.profile.as_bytes()), self.name()),
        }
    }
}
