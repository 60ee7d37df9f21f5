//! From composed profiles to a policy.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::suggest::written;
use super::{Bindings, Grant, Guard, Policy, Verdict, places};
use crate::compose::Effective;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::egress;
use crate::pattern::{Pattern, bind_literal};
use crate::profile::{self, Attempt, Destination, EgressRule, Example, Granting};
use crate::tree::{Imagined, Tree};

pub(super) fn compile(
    effective: &Effective,
    bindings: &Bindings,
    tree: &dyn Tree,
) -> Result<Policy, Diagnostics> {
    let policy = bind(effective, bindings, tree);
    let errors = impossible_grants(&policy, effective);
    Diagnostics::unless_any(policy, errors)
}

pub(super) fn check_examples(effective: &Effective) -> Result<(), Diagnostics> {
    Diagnostics::unless_any((), failed_examples(effective))
}

pub(super) fn compile_checked(
    effective: &Effective,
    bindings: &Bindings,
    tree: &dyn Tree,
) -> Result<Policy, Diagnostics> {
    let policy = bind(effective, bindings, tree);
    let mut errors = impossible_grants(&policy, effective);
    errors.extend(failed_examples(effective));
    Diagnostics::unless_any(policy, errors)
}

fn failed_examples(effective: &Effective) -> Vec<Diagnostic> {
    let imagined = bind(effective, &Bindings::imagined(), &Imagined);
    let failed = |example| failed(&imagined, example, effective);
    effective.rules.examples.iter().filter_map(failed).collect()
}

fn bind(effective: &Effective, bindings: &Bindings, tree: &dyn Tree) -> Policy {
    let mut grants = places::built_in();
    grants.extend(effective.rules.grants.iter().filter_map(|grant| bind_grant(grant, bindings)));
    for grant in grants.iter_mut().filter(|grant| !grant.is_built_in()) {
        grant.resolve(tree);
    }
    let guards = effective.rules.guards.iter().filter_map(|guard| bind_guard(guard, bindings)).collect();
    let (name, bindings) = (effective.name.clone(), bindings.clone());
    let egress = egress_rules(&effective.rules.egress);
    let written = written(&effective.sources);
    Policy { name, bindings, grants, guards, egress, rules: Arc::clone(&effective.rules), written }
}

fn bind_grant(grant: &profile::Grant, bindings: &Bindings) -> Option<Grant> {
    let path = match (grant.kind, grant.path.strip_prefix('$')) {
        (Granting::Connect, Some(name)) if !name.starts_with('{') => {
            let value = bindings.environment.get(name.as_bytes())?;
            let path = Path::new(std::ffi::OsStr::from_bytes(value));
            path.is_absolute().then(|| path.to_owned())?
        }
        _ => bind_literal(&grant.path, bindings)?,
    };
    Some(Grant::unresolved(grant.clone(), path))
}

fn bind_guard(guard: &profile::Guard, bindings: &Bindings) -> Option<Guard> {
    Some(Guard {
        written: guard.clone(),
        pattern: Pattern::bind(&guard.path, bindings)?,
        except: guard.except.iter().filter_map(|text| Pattern::bind(text, bindings)).collect(),
    })
}

/// Grants that would undo the sandbox. An ask is none: it opens nothing by itself.
fn impossible_grants(policy: &Policy, effective: &Effective) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let granting = |grant: &&Grant| grant.written.kind != Granting::Ask && !grant.is_built_in();
    for grant in policy.grants.iter().filter(granting) {
        let help = Some("grant the directories below it that are needed".to_owned());
        let shown = grant.real.display();
        if grant.real == Path::new("/") {
            errors.push(effective.error(
                &grant.written.rule,
                "a grant of / would grant the whole host".into(),
                help,
            ));
        } else if is_place(grant) {
            let message = format!("{shown} cannot be granted: a sandbox has its own /proc, /dev and /tmp");
            let help = "of these only `exec` of /tmp is a choice; what lies below /tmp can be granted";
            errors.push(effective.error(&grant.written.rule, message, Some(help.to_owned())));
        } else if grant.written.rule.text.starts_with("${") && policy.bindings.home.starts_with(&grant.real) {
            let message =
                format!("{} is {shown}, which holds the whole home directory", grant.written.rule.text);
            let help =
                "work in a directory of its own; for the command's program, install it in one".to_owned();
            // What the variable stands for is wrong, and not each rule that names it.
            if !errors.iter().any(|error| error.message == message) {
                errors.push(effective.error(&grant.written.rule, message, Some(help)));
            }
        } else if let Some(reserved) = reserved(policy, grant) {
            let message =
                format!("{} is {shown}, but {} is skepd's own", grant.written.rule.text, reserved.display());
            errors.push(effective.error(&grant.written.rule, message, help));
        }
    }
    errors
}

/// What of skepd itself the grant would open: its audit could be changed, its socket be spoken to.
fn reserved<'p>(policy: &'p Policy, grant: &Grant) -> Option<&'p Path> {
    let reserved = policy.bindings.reserved.iter().map(PathBuf::as_path);
    let mut opened = reserved.filter(|own| own.starts_with(&grant.real) || grant.real.starts_with(own));
    opened.find(|_| !grant.real.starts_with(&policy.bindings.agent_state))
}

/// Whether the grant would put something of the host in the place of what every sandbox has to itself.
fn is_place(grant: &Grant) -> bool {
    let tmp = Path::new("/tmp");
    [&grant.real, &grant.path].iter().any(|path| {
        let own_tmp = *path == tmp && (grant.written.kind != Granting::Exec || grant.real != tmp);
        own_tmp || path.starts_with("/proc") || path.starts_with("/dev")
    })
}

fn failed(policy: &Policy, example: &Example, effective: &Effective) -> Option<Diagnostic> {
    let verdict = attempt(policy, example)?;
    if verdict.decision == example.expect {
        return None;
    }
    let word = |decision| format!("{decision:?}").to_lowercase();
    let by = verdict.rule.map_or_else(|| "no rule matches".to_owned(), |rule| rule.to_string());
    let message = format!(
        "the example expects {} but the profile says {}: {by} ({})",
        word(example.expect),
        word(verdict.decision),
        verdict.reason
    );
    Some(effective.error(&example.rule, message, None))
}

/// `None` for what cannot be judged here: rules on commands are refused when layers are bound.
fn attempt(policy: &Policy, example: &Example) -> Option<Verdict> {
    match &example.attempt {
        Attempt::File(op, path) => Some(policy.judge(*op, &bind_literal(path, &policy.bindings)?)),
        Attempt::Connect(name, port) => Some(policy.judge_connect(name, *port)),
        Attempt::Run(_) => None,
    }
}

/// Names and ports are in force; what else a rule says is refused when layers are bound, and where it is let
/// through as best effort the rule grants nothing.
fn egress_rules(rules: &[EgressRule]) -> egress::Rules {
    let rule = |rule: &EgressRule| match &rule.to {
        Destination::Name(labels, port) => Some(egress::Rule {
            labels: labels.clone(),
            port: *port,
            decision: rule.decision,
            display: rule.rule.to_string(),
        }),
        Destination::Network(..) => None,
    };
    egress::Rules { rules: rules.iter().filter_map(rule).collect() }
}
