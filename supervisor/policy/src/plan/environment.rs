//! The environment the agent starts with: what the profile passes and sets, and a sane minimum.
//!
//! Variables that make a loader or an interpreter run other code are dropped unless the profile names them in
//! full: a wildcard in `pass` never lets them through.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Context, may_execute};
use crate::pattern::expand;
use crate::policy::Policy;
use crate::tree::{Found, Tree, walk};

/// Variables by which the environment chooses what code runs.
const INJECTION: [&str; 40] = [
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASHOPTS",
    "CDPATH",
    "CLASSPATH",
    "DYLD_*",
    "ENV",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GIT_ASKPASS",
    "GIT_CONFIG*",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH*",
    "GIT_TEMPLATE_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LD_*",
    "LOCPATH",
    "LUA_*",
    "MALLOC_*",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PERL5*",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHON*",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "ZDOTDIR",
];

/// What every agent gets from its caller where the caller has it.
const USUAL: [&str; 7] = ["TERM", "LANG", "LANGUAGE", "LC_*", "COLORTERM", "NO_COLOR", "TZ"];

const PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// The whole environment as `NAME=value`, sorted.
pub(super) fn environment(policy: &Policy, tree: &dyn Tree, context: &Context) -> Vec<Vec<u8>> {
    let mut variables: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut fixed = |name: &str, value: &[u8]| variables.insert(name.as_bytes().to_vec(), value.to_vec());
    fixed("TERM", b"dumb");
    fixed("LANG", b"C.UTF-8");
    let passed = policy.bindings.environment.iter().filter(|(name, _)| passes(policy, name));
    variables.extend(passed.map(|(name, value)| (name.clone(), value.clone())));
    // What the sandbox itself determines is not taken from the caller.
    let mut fixed = |name: &str, value: &[u8]| variables.insert(name.as_bytes().to_vec(), value.to_vec());
    fixed("HOME", policy.bindings.home.as_os_str().as_bytes());
    fixed("USER", context.user.as_bytes());
    fixed("LOGNAME", context.user.as_bytes());
    fixed("SHELL", shell(policy, tree).as_os_str().as_bytes());
    fixed("TMPDIR", b"/tmp");
    fixed("PATH", &path(policy));
    for setting in &policy.rules.set {
        let (name, value) = &setting.value;
        variables.insert(name.as_bytes().to_vec(), expand(value, &policy.bindings));
    }
    let sound = |(name, value): &(Vec<u8>, Vec<u8>)| !name.contains(&0) && !value.contains(&0);
    variables.into_iter().filter(sound).map(|(name, value)| [name, value].join(&b'=')).collect()
}

/// `PATH` with its absolute entries: a relative one would run what the workspace holds.
fn path(policy: &Policy) -> Vec<u8> {
    let given = policy.bindings.environment.get(b"PATH".as_slice());
    let entries = given.into_iter().flat_map(|path| path.split(|byte| *byte == b':'));
    let absolute: Vec<&[u8]> = entries.filter(|entry| entry.starts_with(b"/")).collect();
    if absolute.is_empty() { PATH.to_vec() } else { absolute.join(&b':') }
}

/// The caller's shell if it may run inside, else one that may.
pub(super) fn shell(policy: &Policy, tree: &dyn Tree) -> PathBuf {
    let given = policy.bindings.environment.get(b"SHELL".as_slice());
    let given = given.map(|shell| PathBuf::from(std::ffi::OsStr::from_bytes(shell)));
    let usual = ["/bin/bash", "/bin/sh"].map(PathBuf::from);
    let runs = |shell: &PathBuf| {
        let walked = walk(tree, shell);
        matches!(walked.found, Found::File(_)) && may_execute(policy, &walked.real)
    };
    let known = given.into_iter().filter(|shell| shell.is_absolute()).chain(usual);
    known.into_iter().find(runs).unwrap_or_else(|| Path::new("/bin/sh").to_owned())
}

fn passes(policy: &Policy, name: &[u8]) -> bool {
    let named = policy.rules.pass.iter().map(|setting| setting.value.as_str());
    let exactly = named.clone().any(|rule| rule.as_bytes() == name);
    let dangerous = INJECTION.iter().any(|rule| covers(rule, name));
    exactly || (!dangerous && named.chain(USUAL).any(|rule| covers(rule, name)))
}

/// `NAME`, or `PREFIX*`.
fn covers(rule: &str, name: &[u8]) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix.as_bytes()),
        None => rule.as_bytes() == name,
    }
}
