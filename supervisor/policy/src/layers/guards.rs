//! Guards without the path judge: what mounts made at the start can hold.
//!
//! A literal object that exists is masked or made read-only, and the plan binds every directory above it on
//! itself, or `mv .git g2; mkdir -p .git/hooks` would win. What does not exist yet, and every wildcard inside
//! a tree that is granted, needs the judge.

use std::path::{Path, PathBuf};

use super::reach::Reach;
use super::{Binder, Hold, Holding, Layer, Outcome};
use crate::policy::{Guard, Policy};
use crate::profile::Guarding;
use crate::tree::{Found, Tree, Walk, walk};

pub(super) fn bind(binder: &mut Binder<'_>) {
    let policy = binder.policy;
    for guard in &policy.guards {
        let outcome = if binder.host.judge {
            Outcome::Enforced(vec![Layer::Judge])
        } else if let Some(path) = guard.literal().or_else(|| guard.file(binder.tree)) {
            literal(binder, guard, &path)
        } else {
            wildcard(binder, guard)
        };
        binder.add(&guard.written.rule, guard.written.best_effort, outcome);
    }
}

impl Guard {
    /// The object it guards, when it is one. `dir/**` is taken as `dir`, which mounts can hold and is stricter.
    fn literal(&self) -> Option<PathBuf> {
        self.except.is_empty().then(|| self.pattern.literal().or_else(|| self.pattern.literal_below()))?
    }

    /// The object it guards, when that is a file: exceptions for what lies below open nothing then.
    fn file(&self, tree: &dyn Tree) -> Option<PathBuf> {
        self.all_but_below().filter(|path| matches!(walk(tree, path).found, Found::File(_)))
    }

    /// The object it guards, when only what would lie below is excepted.
    fn all_but_below(&self) -> Option<PathBuf> {
        let path = self.pattern.literal()?;
        let only_below = self.except.iter().all(|except| except.literal_below().as_ref() == Some(&path));
        only_below.then_some(path)
    }

    /// Whether there are hosts on which mounts hold it.
    pub(crate) fn may_be_held(&self) -> bool {
        self.literal().or_else(|| self.all_but_below()).is_some()
    }

    fn reach(&self) -> Reach {
        match self.written.kind {
            Guarding::Hide | Guarding::AskRead => Reach::Readable,
            Guarding::Protect | Guarding::AskWrite => Reach::Writable,
        }
    }

    fn holding(&self) -> Holding {
        match self.reach() {
            Reach::Readable => Holding::Mask,
            Reach::Writable => Holding::ReadOnly,
        }
    }
}

fn wildcard(binder: &Binder<'_>, guard: &Guard) -> Outcome {
    let (prefix, _) = guard.pattern.literal_prefix();
    let reached = binder.policy.opened_within(guard.reach(), &prefix);
    if !reached {
        return Outcome::Enforced(vec![Layer::Mount]);
    }
    let remedy = match binder.host.bpf_lsm {
        true => "wait for the version that has the path judge, or write literal paths",
        false => {
            "boot with `bpf` at the end of the kernel's lsm= list (skep doctor prints the line), or write literal paths"
        }
    };
    Outcome::Lacking {
        layers: Vec::new(),
        why: "a pattern inside a granted tree needs the path judge, which does not run on this host"
            .to_owned(),
        remains: "nothing is denied; what happens there is recorded".to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn literal(binder: &mut Binder<'_>, guard: &Guard, path: &Path) -> Outcome {
    let policy = binder.policy;
    let reach = guard.reach();
    let walked = walk(binder.tree, path);
    let reached = policy.opened_within(reach, path) || policy.opened_within(reach, &walked.real);
    if !reached {
        return Outcome::Enforced(vec![Layer::Mount]);
    }
    let kind = walked.found.kind().filter(|_| !policy.is_private_place(&walked.real));
    let Some(kind) = kind else {
        // Where the directory above is not there for the sandbox, nothing can be made in it.
        return Outcome::Lacking {
            layers: Vec::new(),
            why: format!("{} does not exist yet, and mounts cannot stop its creation", path.display()),
            remains: "nothing is denied until it exists at a start; what happens there is recorded"
                .to_owned(),
            remedy: "create it before the start, or boot with the path judge".to_owned(),
        };
    };
    binder.binding.holds.push(Hold { at: walked.real.clone(), kind, how: guard.holding() });
    match replaceable_link(policy, &walked) {
        None => Outcome::Enforced(vec![Layer::Mount]),
        Some(link) => Outcome::Lacking {
            layers: vec![Layer::Mount],
            why: format!("{} is a symbolic link that the agent may replace", link.display()),
            remains: format!("{} itself is held", walked.real.display()),
            remedy: "put the object itself in its place".to_owned(),
        },
    }
}

/// A link on the way to the object that lies where the agent may write.
fn replaceable_link<'w>(policy: &Policy, walked: &'w Walk) -> Option<&'w Path> {
    let mut links = walked.links.iter().map(|(at, _)| at.as_path());
    links.find(|at| at.parent().is_some_and(|parent| policy.opened(Reach::Writable, parent)))
}
