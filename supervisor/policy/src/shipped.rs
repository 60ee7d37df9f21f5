//! The profiles that come with skep.

use crate::compose::Library;
use crate::diagnostics::Source;
use crate::profile::Profile;

/// Name and text of each shipped profile.
pub const PROFILES: [(&str, &str); 8] = [
    ("base", include_str!("../../../profiles/base.toml")),
    ("git", include_str!("../../../profiles/git.toml")),
    ("persistence", include_str!("../../../profiles/persistence.toml")),
    ("workspace", include_str!("../../../profiles/workspace.toml")),
    ("claude-code", include_str!("../../../profiles/claude-code.toml")),
    ("codex", include_str!("../../../profiles/codex.toml")),
    ("locked", include_str!("../../../profiles/locked.toml")),
    ("host-floor", include_str!("../../../profiles/host-floor.toml")),
];

/// The profile for commands that no profile names.
pub const FALLBACK: &str = "workspace";

/// The shipped profiles as a library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shipped;

impl Library for Shipped {
    fn find(&self, name: &str) -> Option<Source> {
        shipped().into_iter().find(|source| source.file == name)
    }
}

/// The texts of the shipped profiles; each is called by its name.
#[must_use]
pub fn shipped() -> Vec<Source> {
    PROFILES.iter().map(|(name, text)| Source::shipped(*name, *text)).collect()
}

/// The profile whose `match` has the command, given by the base name of its program.
#[must_use]
pub fn for_command<'p>(profiles: &'p [Profile], command: &str) -> Option<&'p Profile> {
    profiles.iter().find(|profile| profile.matches.iter().any(|name| name == command))
}
