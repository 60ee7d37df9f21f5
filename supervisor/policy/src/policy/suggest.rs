//! The one line of TOML that would allow what was denied, and after it, as a comment, where it goes.

use std::path::Path;

use super::{FileOp, Guard, Policy};
use crate::decision::Decision;
use crate::diagnostics::{Origin, Source};
use crate::egress;
use crate::escape::escape;
use crate::pattern::check_literal;
use crate::rule::RuleRef;

/// A profile as far as it takes to say where a line goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    profile: String,
    /// `None` for a shipped profile, which nobody changes in its place.
    file: Option<String>,
    /// The headers of its tables, `[files]` and `[[egress]]`: below one, keys are written without its name. Only of the
    /// profile at the top, into which lines go.
    headers: Vec<String>,
}

/// Of each profile, in their order.
pub(super) fn written(sources: &[(String, Source)]) -> Vec<Written> {
    let mut written: Vec<_> = sources.iter().map(|(name, source)| Written::of(name, source)).collect();
    if let (Some(top), Some((_, source))) = (written.last_mut(), sources.last()) {
        let headers = source.text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
        top.headers = headers.filter(|line| line.starts_with('[')).map(str::to_owned).collect();
    }
    written
}

impl Written {
    fn of(profile: &str, source: &Source) -> Self {
        let file = match source.origin {
            Origin::File => Some(escape(source.file.as_bytes()).into_owned()),
            Origin::Shipped => None,
        };
        Self { profile: profile.to_owned(), file, headers: Vec::new() }
    }
}

impl Policy {
    /// The line for an operation on a file. For a guard it is the guard's own item with one more exception, for
    /// nothing else opens it. `None` where no line of a profile does, or would open more: for the places every sandbox
    /// has, for what is changed outside only, and for part of what mounts guard.
    #[must_use]
    pub fn allowing(&self, op: FileOp, path: &Path, rule: Option<&RuleRef>) -> Option<String> {
        // TOML holds Unicode only; other names are granted through their directory.
        let Some(shown) = path.to_str() else { return self.allowing(op, path.parent()?, rule) };
        if rule.is_some_and(|rule| rule.line == 0) {
            return None;
        }
        if let Some(guard) =
            rule.and_then(|rule| self.guards.iter().find(|guard| guard.written.rule == *rule))
        {
            // Mounts hold a whole object and no exceptions: with one, a host without the path judge would guard nothing of
            // it any more. And what has a `*` in its name would open all that it matches.
            let opens_it_alone = !guard.may_be_held() && check_literal(shown).is_ok();
            return opens_it_alone.then(|| self.excepting(guard, shown));
        }
        // A name is made and removed in its directory.
        let granted = match op {
            FileOp::Create | FileOp::Remove => path.parent().and_then(Path::to_str).unwrap_or(shown),
            FileOp::Read | FileOp::Write | FileOp::Exec | FileOp::Connect => shown,
        };
        if self.bindings.home.starts_with(granted) {
            // That would open the whole home directory, or more.
            return None;
        }
        let key = op.list();
        let list = |grant: &&crate::profile::Grant| grant.kind.key() == key;
        let beside = self.rules.grants.iter().filter(list).map(|grant| &grant.rule);
        let line = format!("{key} = [{}]", quoted(granted));
        Some(self.added("files", "[files]", &line, beside))
    }

    /// The line for a connection; `None` where a rule denies it whatever another says.
    #[must_use]
    pub fn allowing_connect(&self, name: &str, port: u16) -> Option<String> {
        let name = egress::canonical_name(name)?;
        let labels = name.split('.').map(str::to_owned).collect();
        let added =
            egress::Rule { labels, port: Some(port), decision: Decision::Allow, display: String::new() };
        let mut rules = self.egress.clone();
        rules.rules.push(added);
        if rules.judge(&name, port).decision != Decision::Allow {
            return None;
        }
        let to = format!("to = [{}]", quoted(&format!("{name}:{port}")));
        let beside = self.rules.egress.iter().map(|egress| &egress.rule);
        Some(self.added("egress", "[[egress]]", &to, beside))
    }

    /// A line that adds to the profile at the top, and where it goes there. `beside` are the rules it would stand among.
    fn added<'r>(
        &self,
        table: &str,
        header: &str,
        line: &str,
        mut beside: impl Iterator<Item = &'r RuleRef>,
    ) -> String {
        let whole = match header {
            "[[egress]]" => format!("egress = [{{ {line} }}]"),
            _ => format!("{table}.{line}"),
        };
        let top = self.written.last();
        let Some(file) = top.and_then(|top| top.file.as_deref()) else {
            return format!("{whole}  # in a profile of your own, below use = [{}]", quoted(&self.name));
        };
        let has_header = top.is_some_and(|top| top.headers.iter().any(|known| known == header));
        let list = beside.find(|rule| rule.profile == self.name);
        match (has_header, list) {
            (true, _) if header == "[[egress]]" => format!("{line}  # in {file}, below another [[egress]]"),
            (true, None) => format!("{line}  # in {file}, below {header}"),
            (true, Some(list)) => format!("{line}  # in {file}, into the list of line {}", list.line),
            (false, None) => format!("{whole}  # in {file}, above the first [table]"),
            (false, Some(list)) => format!("{whole}  # in {file}, into the list of line {}", list.line),
        }
    }

    /// The item of a guard with one more exception, and which item it replaces. It ends with the comma that the others
    /// of its list need.
    fn excepting(&self, guard: &Guard, path: &str) -> String {
        let written = &guard.written;
        let except = written.except.iter().map(String::as_str).chain([path]).map(quoted);
        let mut item = format!(
            "{{ path = {}, except = [{}]",
            quoted(&written.path),
            except.collect::<Vec<_>>().join(", ")
        );
        if let Some(reason) = &written.reason {
            item += &format!(", reason = {}", quoted(reason));
        }
        if written.best_effort {
            item += ", best_effort = true";
        }
        let RuleRef { profile, line, .. } = &written.rule;
        let source = self.written.iter().find(|source| source.profile == *profile);
        let place = match source.and_then(|source| source.file.as_deref()) {
            Some(file) => format!("in {file}, instead of the item in line {line}"),
            // Not straight into the directory: the shell would empty a file there before skep reads it.
            None => format!(
                "instead of the item in line {line} of your own copy: skep profile show --toml {profile} > \
                 {profile}.toml, and when changed: sudo install -D -m 644 {profile}.toml \
                 /etc/skep/profiles.d/{profile}.toml"
            ),
        };
        format!("{item} }},  # {place}")
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
