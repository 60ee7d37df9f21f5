//! Composition: a profile and the profiles it uses become one set of rules, each with its origin.
//!
//! Nothing is overridden here. Rules are put beside each other and the strictest answer is found where they
//! are judged, so the order of `use` never decides about security; only `environment.set` takes the last.

use std::sync::Arc;

use crate::diagnostics::{Diagnostic, Diagnostics, Source};
use crate::profile::{Profile, Rules, Use};

/// How deep profiles may use each other.
pub const MAX_DEPTH: usize = 4;

/// Most rules of a profile with everything it uses, examples and exceptions counted. Real ones have a hundred or two, and what is
/// decided of a rule depends on the others, so a launch takes time by the square of their number.
pub const MAX_RULES: usize = 1024;

/// Where the profiles that others use are found.
pub trait Library {
    /// The profile of this name, if there is one.
    fn find(&self, name: &str) -> Option<Source>;
}

/// A profile with everything it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Name of the profile at the top.
    pub name: String,
    /// All rules, those of used profiles first. Every launch has them, and most of them are never changed.
    pub rules: Arc<Rules>,
    /// The texts, for errors that are found later: profile name and source.
    pub sources: Vec<(String, Source)>,
}

impl Effective {
    /// An error at a rule.
    #[must_use]
    pub fn error(&self, rule: &crate::rule::RuleRef, message: String, help: Option<String>) -> Diagnostic {
        let source = self.sources.iter().find(|(name, _)| *name == rule.profile);
        let missing = Source::new(rule.profile.clone(), "");
        source.map_or(&missing, |(_, source)| source).error_at(rule.line, rule.column, message, help)
    }
}

/// Puts a profile and everything it uses together.
///
/// # Errors
/// When a used profile is unknown, wrong, used in a circle or too deep, or all of them together have more than
/// [`MAX_RULES`] rules.
pub fn compose(top: &Profile, library: &dyn Library) -> Result<Effective, Diagnostics> {
    let (rules, sources) = (Rules::default(), Vec::new());
    let mut composer = Composer { library, rules, sources, errors: Vec::new(), seen: Vec::new() };
    composer.add(top, &mut vec![top.name.clone()]);
    let count = composer.rules.count();
    if count > MAX_RULES {
        let message =
            format!("with all it uses the profile has {count} rules; at most {MAX_RULES} are taken");
        let help = Some("grant directories instead of what lies in them".to_owned());
        composer.errors.push(top.source.error(0..0, message, help));
    }
    let Composer { rules, sources, errors, .. } = composer;
    Diagnostics::unless_any(Effective { name: top.name.clone(), rules: rules.into(), sources }, errors)
}

struct Composer<'l> {
    library: &'l dyn Library,
    rules: Rules,
    sources: Vec<(String, Source)>,
    errors: Vec<Diagnostic>,
    seen: Vec<String>,
}

impl Composer<'_> {
    fn add(&mut self, profile: &Profile, chain: &mut Vec<String>) {
        for used in &profile.uses {
            if let Some(error) = self.forbidden(profile, used, chain) {
                self.errors.push(error);
            } else if !self.seen.contains(&used.name) {
                self.seen.push(used.name.clone());
                self.find(profile, used, chain);
            }
        }
        self.sources.push((profile.name.clone(), profile.source.clone()));
        self.rules.extend(profile.rules.clone());
    }

    fn forbidden(&self, profile: &Profile, used: &Use, chain: &[String]) -> Option<Diagnostic> {
        let message = if chain.contains(&used.name) {
            format!("profiles use each other in a circle: {} -> {}", chain.join(" -> "), used.name)
        } else if chain.len() > MAX_DEPTH {
            format!("profiles are used more than {MAX_DEPTH} deep: {} -> {}", chain.join(" -> "), used.name)
        } else {
            return None;
        };
        Some(profile.source.error_at(used.rule.line, used.rule.column, message, None))
    }

    fn find(&mut self, profile: &Profile, used: &Use, chain: &mut Vec<String>) {
        let Some(source) = self.library.find(&used.name) else {
            let message = format!("there is no profile `{}`", used.name);
            self.errors.push(profile.source.error_at(used.rule.line, used.rule.column, message, None));
            return;
        };
        match Profile::parse(&source) {
            Ok(mut other) if other.name == used.name => {
                // They are promises of that file about itself, judged where it is the one at the top. What uses it may
                // grant more, for that is what it is for.
                other.rules.examples.clear();
                chain.push(used.name.clone());
                self.add(&other, chain);
                chain.pop();
            }
            Ok(other) => {
                let message =
                    format!("the profile `{}` was found, but it says name = \"{}\"", used.name, other.name);
                self.errors.push(profile.source.error_at(used.rule.line, used.rule.column, message, None));
            }
            Err(more) => self.errors.extend(more.errors),
        }
    }
}

impl Rules {
    fn count(&self) -> usize {
        let settings = self.mode.len() + self.nested_sandbox.len() + self.identity.len() + self.limits.len();
        let excepted: usize = self.guards.iter().map(|guard| guard.except.len()).sum();
        let files = self.grants.len() + self.guards.len() + excepted;
        let others = self.command_default.len() + self.commands.len() + self.egress.len();
        settings + files + others + self.pass.len() + self.set.len() + self.examples.len()
    }

    /// Puts the rules of another profile behind these.
    fn extend(&mut self, other: Self) {
        self.mode.extend(other.mode);
        self.nested_sandbox.extend(other.nested_sandbox);
        self.identity.extend(other.identity);
        self.limits.extend(other.limits);
        self.grants.extend(other.grants);
        self.guards.extend(other.guards);
        self.command_default.extend(other.command_default);
        self.commands.extend(other.commands);
        self.egress.extend(other.egress);
        self.pass.extend(other.pass);
        self.set.extend(other.set);
        self.examples.extend(other.examples);
    }
}
