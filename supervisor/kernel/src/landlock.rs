//! The Landlock hull of an agent.

use std::error::Error;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use skep_policy::launch::LandlockRule;

use crate::error::SyscallError;

/// The youngest rights we hand out; older kernels enforce those they know (the hull is one layer of several).
const ABI_KNOWN: ABI = ABI::V5;

/// Confines the calling thread to the rules: reading, and where a rule says so writing or executing, below
/// each path. A path that is missing or out of reach is skipped, for it then needs no permission.
///
/// Minimum kernel version: 5.13. Required configuration: `landlock` in the LSM list.
///
/// # Errors
/// When the kernel has no Landlock or refuses the ruleset; the thread is then not confined.
pub fn apply(rules: &[LandlockRule]) -> Result<(), SyscallError> {
    let mut ruleset = ruleset().map_err(|error| failure("landlock_create_ruleset", "", &error))?;
    for rule in rules {
        ruleset = match open(rule)? {
            Some(path) => add(ruleset, path, rule)?,
            None => ruleset,
        };
    }
    let status = ruleset.restrict_self().map_err(|error| failure("landlock_restrict_self", "", &error))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(SyscallError::new("landlock_restrict_self", "not enforced", libc::ENOSYS));
    }
    Ok(())
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_KNOWN))?
        .create()
}

fn open(rule: &LandlockRule) -> Result<Option<PathFd>, SyscallError> {
    match PathFd::new(&rule.at) {
        Ok(path) => Ok(Some(path)),
        Err(error) => {
            let error = path_failure(&rule.at.display().to_string(), &error);
            match error.errno {
                libc::ENOENT | libc::ENOTDIR | libc::EACCES => Ok(None),
                _ => Err(error),
            }
        }
    }
}

fn add(ruleset: RulesetCreated, path: PathFd, rule: &LandlockRule) -> Result<RulesetCreated, SyscallError> {
    // Rights that only a directory has are dropped for a file: that is best effort here, not weakness.
    ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .add_rule(PathBeneath::new(path, rights(rule)))
        .map_err(|error| failure("landlock_add_rule", &rule.at.display().to_string(), &error))
}

fn rights(rule: &LandlockRule) -> BitFlags<AccessFs> {
    let mut rights = AccessFs::ReadFile | AccessFs::ReadDir;
    if rule.write {
        rights |= AccessFs::from_write(ABI_KNOWN);
    }
    if rule.exec {
        rights |= AccessFs::Execute;
    }
    rights
}

fn path_failure(object: &str, error: &PathFdError) -> SyscallError {
    failure("open", object, error)
}

/// The errno at the end of an error's chain of causes.
fn failure(call: &'static str, object: &str, error: &(dyn Error + 'static)) -> SyscallError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return SyscallError::new(call, object, errno);
        }
        cause = error.source();
    }
    SyscallError::new(call, format!("{object} {error}"), libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(write: bool, exec: bool) -> LandlockRule {
        LandlockRule { at: "/".into(), write, exec }
    }

    #[test]
    fn a_rule_always_reads_and_otherwise_gives_what_it_says() {
        assert!(rights(&rule(false, false)).contains(AccessFs::ReadFile));
        assert!(!rights(&rule(false, true)).contains(AccessFs::WriteFile));
        assert!(!rights(&rule(true, false)).contains(AccessFs::Execute));
        assert!(rights(&rule(true, false)).contains(AccessFs::Refer));
    }

    #[test]
    fn a_missing_path_is_skipped() {
        let missing = LandlockRule { at: "/no/such/path".into(), ..rule(false, false) };
        assert!(open(&missing).unwrap().is_none());
    }
}
