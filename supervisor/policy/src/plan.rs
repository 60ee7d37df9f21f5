//! From a bound policy to the launch as data: root file system, Landlock hull, limits, environment.
//!
//! Nothing here looks at the host but through [`Tree`]; the result can be printed and compared without root.

mod contents;
mod environment;
mod mounts;
mod points;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::launch::{Ids, LandlockRule, RootOp};
use crate::layers::{Binding, Reach};
use crate::policy::{FileOp, Policy};
use crate::tree::{Found, Tree, walk};

/// Size limit of the private `/tmp`; what it holds counts as the sandbox's memory.
const TMP_BYTES: u64 = 2 << 30;

/// Size limit of `/dev/shm`.
const SHM_BYTES: u64 = 512 << 20;

/// What the plan needs beside the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The agent's ids.
    pub agent: Ids,
    /// The caller's ids. Where the agent has others, what the caller owns and the profile grants for writing is
    /// shown as the agent's, but no other group; root's agents get that for any owner and group.
    pub caller: Ids,
    /// Name of the user the agent works for, shown in passwd and `USER`.
    pub user: String,
    /// Where the command was called: the workspace or below it, without symbolic links.
    pub directory: PathBuf,
}

/// The parts of a [`crate::launch::Plan`] that a policy decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// [`crate::launch::Plan::template`].
    pub template: Vec<RootOp>,
    /// [`crate::launch::Plan::private`].
    pub private: Vec<RootOp>,
    /// [`crate::launch::Plan::landlock`].
    pub landlock: Option<Vec<LandlockRule>>,
    /// [`crate::launch::Plan::rlimits`].
    pub rlimits: Vec<(u32, u64)>,
    /// [`crate::launch::Command::environment`].
    pub environment: Vec<Vec<u8>>,
    /// [`crate::launch::Command::directory`].
    pub directory: PathBuf,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The workspace is not a directory, or the caller may not reach it.
    #[error("the workspace {path} {problem}", path = .path.display())]
    Workspace {
        /// The workspace.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A directory the profile grants for writing should have been made before.
    #[error("the agent's state directory {path} does not exist", path = .0.display())]
    AgentState(PathBuf),
}

/// Computes the plan.
///
/// # Errors
/// When the workspace or the agent's state is not there.
pub fn prepare(
    policy: &Policy,
    binding: &Binding,
    tree: &dyn Tree,
    context: &Context,
) -> Result<Prepared, PlanError> {
    check_workspace(policy, tree)?;
    let points = points::points(policy, binding, context);
    let mut root = mounts::Root::default();
    mounts::skeleton(&mut root, policy);
    mounts::add(&mut root, policy, binding, &points);
    let contents = contents::add(&mut root, &points, tree, policy, context);
    let landlock = binding.landlock.then(|| mounts::hull(policy, &points, &contents));
    let (template, private) = root.finish();
    Ok(Prepared {
        template,
        private,
        landlock,
        rlimits: binding.rlimits.clone(),
        environment: environment::environment(policy, tree, context),
        directory: directory(policy, &points, context),
    })
}

fn check_workspace(policy: &Policy, tree: &dyn Tree) -> Result<(), PlanError> {
    let path = policy.bindings.workspace.clone();
    let problem = match walk(tree, &path).found {
        Found::Directory(_) => None,
        Found::Missing => Some("does not exist".to_owned()),
        Found::Unreachable(errno) => Some(format!("cannot be reached with your rights (errno {errno})")),
        Found::File(_) | Found::Other(_) | Found::Symlink(_) => Some("is not a directory".to_owned()),
    };
    if let Some(problem) = problem {
        return Err(PlanError::Workspace { path, problem });
    }
    let state = &policy.bindings.agent_state;
    let missing = policy.grants.iter().any(|grant| &grant.path == state && !grant.exists());
    if missing { Err(PlanError::AgentState(state.clone())) } else { Ok(()) }
}

/// Where the command starts: where it was called, if that is in the sandbox. A place that no bind shows is not there,
/// whatever the rules say of it: below /tmp the sandbox has directories of its own.
fn directory(policy: &Policy, points: &points::Points, context: &Context) -> PathBuf {
    let workspace = &policy.bindings.workspace;
    let places = [&context.directory, workspace].into_iter().filter(|place| place.starts_with(workspace));
    let shown = |place: &&PathBuf| policy.opened(Reach::Readable, place) && points.covering(place).is_some();
    let mut inside = places.filter(shown);
    inside.next().map_or_else(|| Path::new("/").to_owned(), PathBuf::clone)
}

/// Whether programs at this place may run.
fn may_execute(policy: &Policy, at: &Path) -> bool {
    policy.grants_allow(FileOp::Exec, at)
}
