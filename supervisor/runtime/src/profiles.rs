//! Where profiles come from: installed by the operator, shipped with skep, or a file of the caller's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use skep_policy::compose::{Effective, Library, compose};
use skep_policy::diagnostics::Source;
use skep_policy::policy::Policy;
use skep_policy::profile::{Profile, is_profile_name};
use skep_policy::shipped;

use crate::hex::hex;
use crate::protocol::{self, Refusal};

/// Installed and shipped profiles. An installed one hides a shipped one of the same name.
#[derive(Debug)]
pub struct Shelf {
    installed: PathBuf,
    /// Composed profiles whose examples passed, as of the installed files' state.
    known: Mutex<Known>,
}

/// A profile with everything it uses, fit for use.
#[derive(Debug)]
pub struct Composed {
    /// Its rules.
    pub effective: Effective,
    /// Names its texts in records: the same texts have the same version on every host.
    pub version: String,
}

/// Profiles that were composed before, by what was asked for.
#[derive(Debug, Default)]
struct Known {
    installed: Installed,
    composed: HashMap<(bool, Vec<u8>), Arc<Composed>>,
}

/// Name, size, inode and time of change of each installed file: any edit shows in one of them.
type Installed = Vec<(OsString, u64, u64, (i64, i64))>;

/// How many different requests are remembered; profiles are few, but commands come from callers.
const MOST_KNOWN: usize = 64;

/// The longest name of a file.
const LONGEST_NAME: usize = 255;

impl Shelf {
    /// Profiles in `<configuration>/profiles.d`, then the shipped ones.
    #[must_use]
    pub fn new(configuration: &Path) -> Self {
        Self { installed: configuration.join("profiles.d"), known: Mutex::default() }
    }

    fn installed_files(&self) -> Installed {
        let files = fs::read_dir(&self.installed).into_iter().flatten().filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Some((entry.file_name(), metadata.size(), metadata.ino(), changed))
        });
        let mut files: Installed = files.collect();
        files.sort();
        files
    }

    /// Every profile that can be named, installed ones first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let installed = fs::read_dir(&self.installed).into_iter().flatten().filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_profile = path.extension().is_some_and(|ending| ending == "toml");
            is_profile.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        });
        let mut names: Vec<String> = installed.collect();
        names.sort();
        names.extend(shipped::PROFILES.iter().map(|(name, _)| (*name).to_owned()));
        names
    }

    /// The profile a request means, composed with all it uses, and its name.
    ///
    /// # Errors
    /// When there is none of that name, or anything in it is wrong: all errors at once.
    pub fn choose(&self, choice: &protocol::Profile, command: &[u8]) -> Result<Arc<Composed>, Refusal> {
        let key = match choice {
            protocol::Profile::Named(name) => (true, name.as_bytes().to_vec()),
            // No program has such a name, and it is not worth the memory.
            protocol::Profile::Matching if base_name(command).len() > LONGEST_NAME => {
                return self.compose(&self.named(shipped::FALLBACK)?);
            }
            protocol::Profile::Matching => (false, base_name(command).to_vec()),
            protocol::Profile::Text { path, text } => {
                return self.compose(&parse(&Source::new(path.clone(), text.clone()))?);
            }
        };
        let installed = self.installed_files();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.installed != installed || known.composed.len() >= MOST_KNOWN {
            *known = Known { installed, composed: HashMap::new() };
        }
        if let Some(composed) = known.composed.get(&key) {
            return Ok(Arc::clone(composed));
        }
        let profile = match choice {
            protocol::Profile::Named(name) => self.named(name)?,
            _ => self.matching(command)?,
        };
        let composed = self.compose(&profile)?;
        known.composed.insert(key, Arc::clone(&composed));
        Ok(composed)
    }

    /// Composes a profile and checks its examples.
    fn compose(&self, profile: &Profile) -> Result<Arc<Composed>, Refusal> {
        let checked = compose(profile, self).and_then(|effective| {
            Policy::check_examples(&effective)?;
            Ok(effective)
        });
        let effective = checked.map_err(|errors| wrong(&errors.to_string()))?;
        let version = version(&effective);
        Ok(Arc::new(Composed { effective, version }))
    }

    fn named(&self, name: &str) -> Result<Profile, Refusal> {
        let source = self.find(name).ok_or_else(|| {
            let known = self.names().join(", ");
            Refusal::new(
                "profile",
                format!("there is no profile {}", name.escape_debug()),
                format!("there are: {known}; a file is named by its path, like ./{name}.toml"),
            )
        })?;
        parse(&source)
    }

    /// The first profile, in the order of [`Shelf::names`], whose `match` has the base name of the command.
    fn matching(&self, command: &[u8]) -> Result<Profile, Refusal> {
        let base = base_name(command);
        for name in self.names() {
            let profile = self.named(&name)?;
            if profile.matches.iter().any(|matched| matched.as_bytes() == base) {
                return Ok(profile);
            }
        }
        self.named(shipped::FALLBACK)
    }
}

impl Library for Shelf {
    fn find(&self, name: &str) -> Option<Source> {
        // No name of a profile leaves the directory.
        if !is_profile_name(name) {
            return None;
        }
        let path = self.installed.join(format!("{name}.toml"));
        if let Some(text) = trusted(&path) {
            return Some(Source::new(path.display().to_string(), text));
        }
        let (name, text) = shipped::PROFILES.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Source::shipped(format!("{name}.toml"), *text))
    }
}

fn version(effective: &Effective) -> String {
    let mut digest = Sha256::new();
    for (name, source) in &effective.sources {
        for part in [name, &source.text] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    hex(&digest.finalize()[..6])
}

/// What a command is called by.
fn base_name(command: &[u8]) -> &[u8] {
    command.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Reads a file that root trusts: root's own, and nobody else may write to it or to a directory above it.
fn trusted(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    for place in path.ancestors() {
        let metadata = fs::symlink_metadata(place).ok()?;
        let sticky_directory = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        let writable_by_others = metadata.mode() & 0o022 != 0 && !sticky_directory;
        if metadata.uid() != 0 || writable_by_others || metadata.file_type().is_symlink() {
            tracing::error!(path = %place.display(), "not root's alone: the installed profile below it is ignored");
            return None;
        }
    }
    Some(text)
}

fn parse(source: &Source) -> Result<Profile, Refusal> {
    Profile::parse(source).map_err(|errors| wrong(&errors.to_string()))
}

fn wrong(errors: &str) -> Refusal {
    Refusal::new("profile", errors, "skep profile check FILE says this without starting anything")
}
