//! Promise 1: every rule of the effective profile is bound to layers this host has, or the start is refused.
//!
//! What was requested (the policy) and what is enforced (the binding) are kept apart, and both are shown. A rule
//! that no layer enforces refuses the start unless the profile says `best_effort = true` or the caller names
//! it with `--accept-weaker`; then it is bound as [`Weaker`] and everything that shows the sandbox says so.

mod grants;
mod guards;
mod others;
mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::launch::ObjectKind;
use crate::policy::Policy;
use crate::rule::{RuleRef, bare};
use crate::tree::Tree;
use crate::units::Percent;

pub(crate) use reach::Reach;

/// What this host can enforce with, proven by probes. Mounts, user namespaces and resource limits of
/// processes are always there, or no sandbox starts at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The Landlock ABI, `None` where there is none.
    pub landlock_abi: Option<u32>,
    /// Whether `bpf` is in the kernel's LSM list.
    pub bpf_lsm: bool,
    /// Whether the path judge runs and has denied its canary.
    pub judge: bool,
    /// Whether seccomp filters load.
    pub seccomp: bool,
    /// Whether network namespaces get their connections handed to the gateway.
    pub sk_lookup: bool,
    /// Whether idmapped mounts work.
    pub idmapped_mounts: bool,
    /// The cgroup v2 controllers a sandbox gets: `memory`, `pids`, `cpu`, `io`.
    pub controllers: BTreeSet<String>,
    /// Whether the supervisor ends a sandbox when its wall-clock time is over.
    pub wall_clock: bool,
}

/// What enforces a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The mount namespace: what is not there cannot be reached, what is read-only cannot be written.
    Mount,
    /// The Landlock hull.
    Landlock,
    /// The path judge in the kernel.
    Judge,
    /// Resource limits of processes.
    Rlimit,
    /// The control group.
    Cgroup,
    /// The network namespace and the gateway.
    Network,
    /// The user namespace and the ids.
    Identity,
    /// The environment the agent starts with.
    Environment,
    /// The supervisor itself.
    Supervisor,
    /// Checked when the profile was loaded.
    Load,
}

/// A rule and what enforces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The rule.
    pub rule: RuleRef,
    /// The layers that enforce it, or what of it they can.
    pub layers: Vec<Layer>,
    /// Where less is enforced than is written.
    pub weaker: Option<Weaker>,
}

/// Why a rule holds less than it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weaker {
    /// What is missing.
    pub why: String,
    /// What remains of the rule.
    pub remains: String,
    /// Who agreed.
    pub consent: Consent,
}

/// Who agreed that a rule is weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// The rule itself, with `best_effort = true`.
    BestEffort,
    /// The caller, with `--accept-weaker`.
    Accepted,
}

/// What enforces each rule of a policy on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Every rule, in the order of the profiles.
    pub rules: Vec<Bound>,
    /// What mounts hold for guards and asks.
    pub holds: Vec<Hold>,
    /// What the control group gets.
    pub cgroup: CgroupLimits,
    /// `RLIMIT_*` number and value.
    pub rlimits: Vec<(u32, u64)>,
    /// Whether the agent gets a Landlock hull.
    pub landlock: bool,
    /// The supervisor ends the sandbox after this many milliseconds.
    pub wall_clock_ms: Option<u64>,
    /// Names given to `--accept-weaker` that name no rule of this policy.
    pub accepted_nothing: Vec<String>,
}

/// An object that a mount takes something away from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Where, without symbolic links.
    pub at: PathBuf,
    /// What it is.
    pub kind: ObjectKind,
    /// What is taken away.
    pub how: Holding,
}

/// What a hold takes away. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// Writing.
    ReadOnly,
    /// Everything: an empty, unreadable object lies over it.
    Mask,
}

/// Limits for the sandbox's control group; `None` leaves it unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// `memory.max` in bytes.
    pub memory: Option<u64>,
    /// `pids.max`.
    pub pids: Option<u64>,
    /// `cpu.max`.
    pub cpu: Option<Percent>,
}

/// The rules that refuse the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// All of them.
    pub rules: Vec<Unenforced>,
}

/// A rule that nothing here enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unenforced {
    /// The rule.
    pub rule: RuleRef,
    /// What is missing.
    pub why: String,
    /// What would remain of it, were it accepted.
    pub remains: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of the profile's rules cannot be enforced here:", self.rules.len())?;
        for Unenforced { rule, why, remedy, .. } in &self.rules {
            write!(out, "\n  {rule}\n    why: {why}\n    do:  {remedy}")?;
        }
        Ok(())
    }
}

impl Binding {
    /// The rules that are weaker here.
    pub fn weaker(&self) -> impl Iterator<Item = (&RuleRef, &Weaker)> {
        self.rules.iter().filter_map(|bound| Some((&bound.rule, bound.weaker.as_ref()?)))
    }
}

/// What a host makes of one rule.
enum Outcome {
    Enforced(Vec<Layer>),
    Lacking { layers: Vec<Layer>, why: String, remains: String, remedy: String },
}

impl Outcome {
    /// For keys that are read and not in force in this version.
    fn not_in_force(what: &str, remains: &str) -> Self {
        Self::Lacking {
            layers: Vec::new(),
            why: format!("{what} is read but not yet in force in this version of skep"),
            remains: remains.to_owned(),
            remedy: "remove the rule".to_owned(),
        }
    }
}

/// Binds every rule.
///
/// # Errors
/// With all rules that nothing enforces and nobody agreed to do without.
pub fn bind(policy: &Policy, host: &Host, tree: &dyn Tree, accepted: &[String]) -> Result<Binding, Refusal> {
    let mut binder = Binder {
        policy,
        host,
        tree,
        accepted: accepted.iter().map(|name| (bare(name), false)).collect(),
        binding: Binding { landlock: host.landlock_abi.is_some(), ..Binding::default() },
        refused: Vec::new(),
    };
    grants::bind(&mut binder);
    guards::bind(&mut binder);
    others::bind(&mut binder);
    binder.finish(accepted)
}

struct Binder<'a> {
    policy: &'a Policy,
    host: &'a Host,
    tree: &'a dyn Tree,
    /// The rules that may be weaker, by their bare names, and whether there is one of that name.
    accepted: BTreeMap<String, bool>,
    binding: Binding,
    refused: Vec<Unenforced>,
}

impl Binder<'_> {
    fn add(&mut self, rule: &RuleRef, best_effort: bool, outcome: Outcome) {
        let mut accepted = false;
        let names = (!self.accepted.is_empty()).then(|| rule.bare_names());
        for name in names.into_iter().flatten() {
            if let Some(met) = self.accepted.get_mut(&name) {
                (*met, accepted) = (true, true);
            }
        }
        let consent = match (accepted, best_effort) {
            (true, _) => Some(Consent::Accepted),
            (false, true) => Some(Consent::BestEffort),
            (false, false) => None,
        };
        let rule = rule.clone();
        match (outcome, consent) {
            (Outcome::Enforced(layers), _) => self.binding.rules.push(Bound { rule, layers, weaker: None }),
            (Outcome::Lacking { layers, why, remains, .. }, Some(consent)) => {
                let weaker = Some(Weaker { why, remains, consent });
                self.binding.rules.push(Bound { rule, layers, weaker });
            }
            (Outcome::Lacking { why, remains, remedy, .. }, None) => {
                let remedy = format!("{remedy}; or go without it: --accept-weaker '{}'", rule.name());
                self.refused.push(Unenforced { rule, why, remains, remedy });
            }
        }
    }

    fn finish(mut self, accepted: &[String]) -> Result<Binding, Refusal> {
        if !self.refused.is_empty() {
            return Err(Refusal { rules: self.refused });
        }
        let names_none = |name: &&String| self.accepted.get(&bare(name)) == Some(&false);
        self.binding.accepted_nothing = accepted.iter().filter(names_none).cloned().collect();
        Ok(self.binding)
    }
}
