//! The one line of TOML that would allow what was denied, and after it, as a comment, where it goes.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{FileOp, Guard, Policy};
use crate::decision::Decision;
use crate::diagnostics::{Origin, Source};
use crate::egress;
use crate::escape::escape;
use crate::pattern::check_literal;
use crate::rule::RuleRef;

/// What every program of the host obeys, with all that lies below.
const SYSTEM: &[&str] = &[
    "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot", "/sys", "/proc", "/dev",
    "/run",
];

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
        if rule.is_some_and(|rule| rule.line == 0) {
            return None;
        }
        if let Some(guard) =
            rule.and_then(|rule| self.guards.iter().find(|guard| guard.written.rule == *rule))
        {
            // Mounts hold a whole object and no exceptions: with one, a host without the path judge would guard nothing of
            // it any more. And what has a `*` in its name would open all that it matches.
            let alone = path.to_str().filter(|path| !guard.may_be_held() && check_literal(path).is_ok());
            return alone.map(|path| self.excepting(guard, path));
        }
        // A name is made and removed in its directory. TOML holds Unicode only; other names are granted through theirs.
        let by_directory = matches!(op, FileOp::Create | FileOp::Remove) || path.to_str().is_none();
        let granted = if by_directory { path.parent()? } else { path };
        let too_much = match op {
            _ if by_directory => self.holds_what_others_obey(granted),
            FileOp::Write => self.is_shallow(granted),
            // That would open the whole home directory, or more.
            _ => self.bindings.home.starts_with(granted),
        };
        let granted = granted.to_str().filter(|path| !too_much && check_literal(path).is_ok())?;
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

    /// Whether making names in a directory would change more than one project's work: programs and settings of the
    /// system or of a person. Then no line is told at all, for it would be followed.
    fn holds_what_others_obey(&self, directory: &Path) -> bool {
        let among = |above: &Path| {
            self.is_hidden_of_a_person(above) || SYSTEM.iter().any(|own| above == Path::new(own))
        };
        self.is_shallow(directory) || directory.ancestors().any(among)
    }

    /// Whether it lies so far up that it holds what has nothing to do with each other.
    fn is_shallow(&self, path: &Path) -> bool {
        let above = path.parent().unwrap_or(path);
        self.bindings.home.starts_with(path)
            || ["/", "/home", "/var"].iter().any(|shallow| above == Path::new(shallow))
            || self.is_hidden_of_a_person(path)
    }

    /// `~/.ssh`, `~/.config` and their like, of anybody.
    fn is_hidden_of_a_person(&self, path: &Path) -> bool {
        let hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        let in_home = |above: &Path| {
            above == self.bindings.home
                || above == Path::new("/root")
                || above.parent() == Some(Path::new("/home"))
        };
        hidden && path.parent().is_some_and(in_home)
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
