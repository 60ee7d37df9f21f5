//! The compiled policy of one sandbox: profiles with their variables bound, and the verdicts they give.

mod compile;
mod judge;
mod places;
mod suggest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compose::Effective;
use crate::decision::Decision;
use crate::diagnostics::Diagnostics;
use crate::egress;
use crate::launch::Ids;
use crate::pattern::{Base, Pattern};
use crate::profile::{self, Rules};
use crate::rule::RuleRef;
use crate::tree::{Found, Tree};

/// What the variables of profiles stand for, and the caller's environment. All paths are absolute and without
/// symbolic links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    /// `${workspace}`.
    pub workspace: PathBuf,
    /// `${agent_state}`: a directory of this profile and workspace, made before the launch.
    pub agent_state: PathBuf,
    /// `~`: the home of the user the agent works for.
    pub home: PathBuf,
    /// `${program}`: directory of the package that holds the command's program; without it, rules that name it
    /// grant nothing.
    pub program: Option<PathBuf>,
    /// The environment of the caller, from which `pass` takes.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where skepd keeps its audit and its socket: never granted, but for the agent's own state in there.
    pub reserved: Vec<PathBuf>,
}

impl Bindings {
    pub(crate) fn base(&self, base: Base) -> Option<&Path> {
        match base {
            Base::Root => Some(Path::new("/")),
            Base::Home => Some(&self.home),
            Base::Workspace => Some(&self.workspace),
            Base::AgentState => Some(&self.agent_state),
            Base::Program => self.program.as_deref(),
        }
    }

    /// A user and a workspace that nobody has, for the examples of profiles: they are tests of the profile, so
    /// they come out the same wherever it is used.
    #[must_use]
    pub fn imagined() -> Self {
        let home = PathBuf::from("/home/skep-example");
        Self {
            workspace: home.join("example-workspace"),
            agent_state: home.join("example-state"),
            home,
            program: Some("/opt/skep-example".into()),
            environment: BTreeMap::new(),
            reserved: vec!["/var/lib/skep".into(), "/run/skep".into()],
        }
    }

    /// Why the workspace can be none, if that is all that keeps a profile from being compiled with these bindings: then
    /// the profile is right, and its errors would be about somebody's choice of a directory.
    #[must_use]
    pub fn unfit_workspace(&self, effective: &Effective, tree: &dyn Tree) -> Option<&'static str> {
        let workspace = &self.workspace;
        let why = if self.home.starts_with(workspace) {
            "holds the whole home directory"
        } else if workspace == Path::new("/tmp")
            || ["/proc", "/dev"].iter().any(|own| workspace.starts_with(own))
        {
            "is what every sandbox has of its own"
        } else {
            return None;
        };
        let elsewhere = Self { workspace: self.home.join("example-workspace"), ..self.clone() };
        Policy::compile(effective, &elsewhere, tree).is_ok().then_some(why)
    }

    /// Bindings for tests of ours: `/home/u` and `/home/u/project`.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            workspace: "/home/u/project".into(),
            agent_state: "/home/u/.local/share/skep/agent".into(),
            home: "/home/u".into(),
            program: Some("/opt/agent".into()),
            environment: BTreeMap::new(),
            reserved: vec!["/var/lib/skep".into(), "/run/skep".into()],
        }
    }
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileOp {
    /// Read it, list it.
    Read,
    /// Change it.
    Write,
    /// Make it.
    Create,
    /// Remove it, rename it away.
    Remove,
    /// Start it.
    Exec,
    /// Connect to it.
    Connect,
}

/// A grant with its path bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The grant as the profile has it.
    pub written: profile::Grant,
    /// Its path, variables replaced.
    pub path: PathBuf,
    /// The same path without symbolic links.
    pub real: PathBuf,
    /// The links on the way, as a root file system must show them.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Whether it is a directory or a file; `None` when it does not exist or the caller may not reach it.
    pub object: Option<crate::launch::ObjectKind>,
    /// Its owner on disk.
    pub owner: Option<Ids>,
}

/// A guard with its patterns bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The guard as the profile has it.
    pub written: profile::Guard,
    /// What it guards.
    pub pattern: Pattern,
    /// What it does not guard.
    pub except: Vec<Pattern>,
}

/// What a policy says about an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The decision; without approvals, [`Decision::Ask`] means deny.
    pub decision: Decision,
    /// The rule that decided; `None` when no rule matched.
    pub rule: Option<RuleRef>,
    /// Why: the rule's own reason, or what the kind of rule means.
    pub reason: String,
}

/// The compiled policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name of the profile.
    pub name: String,
    /// What the variables stand for.
    pub bindings: Bindings,
    /// Grants, the built-in places first.
    pub grants: Vec<Grant>,
    /// Guards.
    pub guards: Vec<Guard>,
    /// The rules of the gateway: names and ports. Rules that are not in force are left out, which denies.
    pub egress: egress::Rules,
    /// Everything else the profiles say.
    pub rules: Arc<Rules>,
    /// Where all of it is written, the profile at the top last.
    written: Vec<suggest::Written>,
}

impl Policy {
    /// Binds the variables and resolves the paths. Examples are not looked at: a daemon that keeps its profiles
    /// checks those once, not at every launch.
    ///
    /// # Errors
    /// When a rule makes no sense with these bindings.
    pub fn compile(effective: &Effective, bindings: &Bindings, tree: &dyn Tree) -> Result<Self, Diagnostics> {
        compile::compile(effective, bindings, tree)
    }

    /// Checks the examples, which do not depend on bindings or host.
    ///
    /// # Errors
    /// With every example that comes out differently.
    pub fn check_examples(effective: &Effective) -> Result<(), Diagnostics> {
        compile::check_examples(effective)
    }

    /// [`Policy::compile`] and [`Policy::check_examples`] with the errors of both at once.
    ///
    /// # Errors
    /// When either has some.
    pub fn compile_checked(
        effective: &Effective,
        bindings: &Bindings,
        tree: &dyn Tree,
    ) -> Result<Self, Diagnostics> {
        compile::compile_checked(effective, bindings, tree)
    }

    /// Judges a connection to a name and port.
    #[must_use]
    pub fn judge_connect(&self, name: &str, port: u16) -> Verdict {
        judge::connect(self, name, port)
    }

    /// As whom the agent runs; `None` when no profile says so.
    #[must_use]
    pub fn identity(&self) -> Option<profile::Identity> {
        self.rules.identity.iter().map(|setting| setting.value).max()
    }
}

impl Grant {
    /// Whether there is something to mount.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.object.is_some()
    }

    fn unresolved(written: profile::Grant, path: PathBuf) -> Self {
        Self { written, real: path.clone(), path, links: Vec::new(), object: None, owner: None }
    }

    fn resolve(&mut self, tree: &dyn Tree) {
        let walk = crate::tree::walk(tree, &self.path);
        self.object = walk.found.kind();
        self.owner = walk.found.owner();
        if !matches!(walk.found, Found::Unreachable(_)) {
            self.real = walk.real;
            self.links = walk.links;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::compose;
    use crate::diagnostics::Source;
    use crate::profile::Profile;
    use crate::shipped::Shipped;
    use crate::tree::Imagined;

    #[test]
    fn a_workspace_is_to_blame_only_for_what_is_right_elsewhere() {
        let unfit = |workspace: &str, grants: &str| {
            let text = format!("schema = 1\nname = \"p\"\n[files]\nwrite = [{grants}]\n");
            let effective = compose(&Profile::parse(&Source::new("p", text)).unwrap(), &Shipped).unwrap();
            let bindings = Bindings { workspace: workspace.into(), ..Bindings::for_tests() };
            assert!(Policy::compile(&effective, &bindings, &Imagined).is_err() || workspace == "/home/u/x");
            bindings.unfit_workspace(&effective, &Imagined).is_some()
        };
        for workspace in ["/", "/home", "/home/u", "/tmp", "/dev/shm"] {
            assert!(unfit(workspace, "\"${workspace}\""), "{workspace}");
            assert!(!unfit(workspace, "\"${workspace}\", \"/\""), "{workspace}");
        }
        assert!(!unfit("/home/u/x", "\"${workspace}\""));
    }
}
