//! Path patterns: a component is a literal, `prefix*`, `*suffix` or `prefix*suffix`; `**` is any number of whole
//! components. Everything is bytes, for that is what the kernel has.
//!
//! A pattern matches what it names **and everything below it**. `**` at the end stands for at least one
//! component, so that `hooks/**` is what lies in `hooks` and not the directory itself.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::policy::Bindings;

/// Longest path in a profile, as the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Component {
    /// This name.
    Literal(Vec<u8>),
    /// A name that starts and ends like this, the two not overlapping.
    Affix(Vec<u8>, Vec<u8>),
    /// Any number of names.
    Any,
}

/// A pattern with its variables bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pattern {
    components: Vec<Component>,
}

impl Pattern {
    /// Binds a checked pattern; `None` when it has a variable that has no value here.
    #[must_use]
    pub fn bind(text: &str, bindings: &Bindings) -> Option<Self> {
        let (base, rest) = split_variable(text);
        let base = match base {
            Base::Root => Path::new("/"),
            other => bindings.base(other)?,
        };
        let literal = names(base.as_os_str().as_bytes()).map(|name| Component::Literal(name.to_vec()));
        Some(Self { components: literal.chain(names(rest.as_bytes()).map(component)).collect() })
    }

    /// Whether the pattern matches the path of these [`names`], or a directory above it. The path is absolute and
    /// resolved.
    ///
    /// It takes at most as many comparisons as the path has names times the pattern components, and usually as many as
    /// there are names: whoever writes a profile, or a path, must not choose how long a verdict takes.
    #[must_use]
    pub(crate) fn matches(&self, names: &[&[u8]]) -> bool {
        let mut parts = self.components.split(|component| *component == Component::Any);
        let (mut rest, mut ends_open) = (names, false);
        if let Some(first) = parts.next() {
            let Some(behind) = behind(first, rest) else { return false };
            rest = behind;
        }
        // Behind a `**` a part is taken where it comes first, which leaves the most for those that follow.
        for part in parts {
            let Some(behind) = (0..=rest.len()).find_map(|at| behind(part, &rest[at..])) else {
                return false;
            };
            (rest, ends_open) = (behind, part.is_empty());
        }
        !(ends_open && rest.is_empty())
    }

    /// The path, when every component is a literal. A `**` at the end counts as literal where `below` accepts
    /// what lies under a directory.
    #[must_use]
    pub fn literal(&self) -> Option<PathBuf> {
        let (prefix, all) = self.literal_prefix();
        all.then_some(prefix)
    }

    /// The directory of a pattern `literal/**`.
    #[must_use]
    pub fn literal_below(&self) -> Option<PathBuf> {
        let (last, rest) = self.components.split_last()?;
        (*last == Component::Any).then(|| Self { components: rest.to_vec() }.literal()).flatten()
    }

    /// The literal components in front, and whether that is all of them.
    #[must_use]
    pub fn literal_prefix(&self) -> (PathBuf, bool) {
        let mut path = PathBuf::from("/");
        for component in &self.components {
            match component {
                Component::Literal(name) => path.push(std::ffi::OsStr::from_bytes(name)),
                _ => return (path, false),
            }
        }
        (path, true)
    }
}

/// What follows the names that these components, none of them `**`, stand for.
fn behind<'n, 'p>(components: &[Component], names: &'n [&'p [u8]]) -> Option<&'n [&'p [u8]]> {
    let (front, behind) = names.split_at_checked(components.len())?;
    components.iter().zip(front).all(|(component, name)| component.is_of(name)).then_some(behind)
}

impl Component {
    /// Is it the name of one component.
    fn is_of(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => false,
            Self::Literal(wanted) => wanted == name,
            Self::Affix(prefix, suffix) => has_affixes(name, prefix, suffix),
        }
    }
}

fn has_affixes(name: &[u8], prefix: &[u8], suffix: &[u8]) -> bool {
    name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix)
}

/// The names of a path, without the empty ones.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn component(name: &[u8]) -> Component {
    match name.iter().position(|byte| *byte == b'*') {
        _ if name == b"**" => Component::Any,
        Some(star) => Component::Affix(name[..star].to_vec(), name[star + 1..].to_vec()),
        None => Component::Literal(name.to_vec()),
    }
}

/// What a path of a profile starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Root,
    Home,
    Workspace,
    AgentState,
    Program,
}

const VARIABLES: [(&str, Base); 3] =
    [("${workspace}", Base::Workspace), ("${agent_state}", Base::AgentState), ("${program}", Base::Program)];

fn split_variable(text: &str) -> (Base, &str) {
    if let Some(rest) = text.strip_prefix('~') {
        return (Base::Home, rest);
    }
    let found = VARIABLES.iter().find_map(|(name, base)| text.strip_prefix(name).map(|rest| (*base, rest)));
    found.unwrap_or((Base::Root, text))
}

/// Binds a checked literal path; `None` when its variable has no value here.
pub(crate) fn bind_literal(text: &str, bindings: &Bindings) -> Option<PathBuf> {
    Pattern::bind(text, bindings)?.literal()
}

/// Replaces `${…}` in a value of the environment. What is put in is taken as it is, whatever it is called.
pub(crate) fn expand(text: &str, bindings: &Bindings) -> Vec<u8> {
    let known = || VARIABLES.iter().chain(&[("${home}", Base::Home)]);
    let (mut value, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        value.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let variable = known().find_map(|(name, base)| rest.strip_prefix(name).map(|after| (*base, after)));
        // Checked when the profile was read: there is none without.
        let Some((base, after)) = variable else { break };
        value.extend(bindings.base(base).into_iter().flat_map(|path| path.as_os_str().as_bytes()));
        rest = after;
    }
    value.extend_from_slice(rest.as_bytes());
    value
}

/// Checks the variables of a value of the environment.
pub(crate) fn check_variables(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices("${") {
        let known = VARIABLES.iter().map(|(name, _)| *name).chain(["${home}"]);
        if !known.clone().any(|name| text[at..].starts_with(name)) {
            return Err(format!("unknown variable; accepted: {}", known.collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(())
}

/// Checks a path of a grant: no wildcards.
pub(crate) fn check_literal(text: &str) -> Result<(), String> {
    if text.contains('*') {
        return Err(format!("`{text}`: a grant is a literal path; wildcards belong to guards"));
    }
    check_pattern(text)
}

/// Checks a pattern of a guard.
pub(crate) fn check_pattern(text: &str) -> Result<(), String> {
    let (base, rest) = split_variable(text);
    let starts = match base {
        Base::Root => text.starts_with('/') || text.starts_with("**/") || text == "**",
        _ => rest.is_empty() || rest.starts_with('/'),
    };
    if !starts {
        return Err(format!(
            "`{text}`: a path starts with /, ~/, ${{workspace}}/, ${{agent_state}}/ or ${{program}}/, a guard also with **/"
        ));
    }
    if text.len() > MAX_PATH || text.contains(char::is_control) {
        return Err("a path has at most 4096 bytes and no control characters".into());
    }
    let relative = rest.strip_prefix('/').unwrap_or(rest);
    if relative.is_empty() {
        return Ok(());
    }
    relative.split('/').try_for_each(|name| check_name(text, name))
}

fn check_name(text: &str, name: &str) -> Result<(), String> {
    let problem = match name {
        "" => "has an empty component (// or / at the end)",
        "." | ".." => "has a component . or ..",
        "**" => return Ok(()),
        _ if name.len() > 255 => "has a component of more than 255 bytes",
        _ if name.matches('*').count() > 1 => {
            "has more than one * in a component; accepted: literal, prefix*, *suffix, prefix*suffix, **"
        }
        _ if name.contains("${") => "has a variable that is not at its start",
        _ => return Ok(()),
    };
    Err(format!("`{text}` {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        check_pattern(pattern).expect("a good pattern");
        Pattern::bind(pattern, &Bindings::for_tests())
            .expect("bound")
            .matches(&names(path.as_bytes()).collect::<Vec<_>>())
    }

    /// What a match is, without regard to how long it takes.
    fn stands_for(components: &[Component], names: &[&[u8]]) -> bool {
        match (components, names) {
            ([], _) => true,
            ([Component::Any], names) => !names.is_empty(),
            ([Component::Any, rest @ ..], names) => {
                stands_for(rest, names) || !names.is_empty() && stands_for(components, &names[1..])
            }
            ([component, rest @ ..], [name, deeper @ ..]) => {
                component.is_of(name) && stands_for(rest, deeper)
            }
            (_, []) => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn a_part_taken_where_it_comes_first_misses_no_match(
            pattern in "(/(a|b|a\\*|\\*b|\\*\\*|\\*\\*)){1,7}",
            path in "(/(a|b|ab)){0,9}",
        ) {
            let pattern = Pattern::bind(&pattern, &Bindings::for_tests()).expect("bound");
            let names: Vec<&[u8]> = names(path.as_bytes()).collect();
            proptest::prop_assert_eq!(pattern.matches(&names), stands_for(&pattern.components, &names));
        }
    }

    #[test]
    fn a_pattern_matches_what_it_names_and_everything_below() {
        assert!(matches("/a/b", "/a/b") && matches("/a/b", "/a/b/c/d"));
        assert!(!matches("/a/b", "/a") && !matches("/a/b", "/a/bc"));
    }

    #[test]
    fn a_double_star_is_any_number_of_components_and_at_the_end_at_least_one() {
        assert!(matches("**/.env*", "/.env") && matches("**/.env*", "/x/y/.env.local/z"));
        assert!(matches("/a/**/z", "/a/z") && matches("/a/**/z", "/a/b/c/z"));
        assert!(
            !matches("**/.git/hooks/**", "/ws/.git/hooks") && matches("**/.git/hooks/**", "/ws/.git/hooks/x")
        );
        assert!(matches("**/**/a/**/**", "/a/b/c") && !matches("/a/**/z", "/b/z"));
    }

    #[test]
    fn prefix_and_suffix_do_not_overlap() {
        assert!(matches("/a/ab*ba", "/a/abba") && !matches("/a/ab*ba", "/a/aba"));
        assert!(matches("/a/*.sample", "/a/x.sample") && matches("/a/*", "/a/x") && !matches("/a/*", "/a"));
    }

    #[test]
    fn variables_stand_only_in_front() {
        assert!(matches("~/.ssh/id_*", "/home/u/.ssh/id_ed25519"));
        assert!(matches("${workspace}/x", "/home/u/project/x"));
        for wrong in [
            "x",
            "~user/x",
            "${other}/x",
            "/a/${workspace}",
            "${workspace}x",
            "/a//b",
            "/a/",
            "/a/../b",
            "/a/*b*",
            "/a\n",
            "",
        ] {
            assert!(check_pattern(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn values_are_expanded_once() {
        let bindings = Bindings { home: "/h/${home}".into(), program: None, ..Bindings::for_tests() };
        let expanded = expand("a${home}:${workspace}/b:${program}", &bindings);
        assert_eq!(String::from_utf8_lossy(&expanded), "a/h/${home}:/home/u/project/b:");
        assert_eq!(expand("${", &bindings), b"${");
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_by_their_bytes() {
        let pattern = Pattern::bind("/a/x*", &Bindings::for_tests()).expect("bound");
        assert!(pattern.matches(&[b"a", b"x\xff"]) && !pattern.matches(&[b"a", b"\xffx"]));
    }
}
