//! The one line of TOML that would allow what was denied.

use std::path::Path;

use super::{FileOp, Policy};
use crate::rule::RuleRef;

impl Policy {
    /// The line for an operation on a file, to be put into the profile. For a guard it is the guard's own line
    /// with an exception, for nothing else opens it.
    #[must_use]
    pub fn allowing(&self, op: FileOp, path: &Path, rule: Option<&RuleRef>) -> String {
        // TOML holds Unicode only; other names are granted through their directory.
        let Some(shown) = path.to_str() else {
            return path.parent().map_or_else(String::new, |parent| self.allowing(op, parent, rule));
        };
        match rule.and_then(|rule| rule.key.strip_prefix("guards.").map(|key| (rule, key))) {
            Some((rule, _)) if rule.line == 0 => {
                "# nothing does: it is changed outside the sandbox".to_owned()
            }
            Some((rule, key)) => format!(
                "guards.{key} = [{{ path = {}, except = [{}] }}]  # instead of {}:{}",
                quoted(&rule.text),
                quoted(shown),
                rule.profile,
                rule.line
            ),
            None => format!("files.{} = [{}]", op.list(), quoted(shown)),
        }
    }

    /// The line for a connection.
    #[must_use]
    pub fn allowing_connect(name: &str, port: u16) -> String {
        format!("egress = [{{ to = [{}] }}]", quoted(&format!("{name}:{port}")))
    }
}

impl FileOp {
    fn list(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write | Self::Create | Self::Remove => "write",
            Self::Exec => "exec",
            Self::Connect => "connect",
        }
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
