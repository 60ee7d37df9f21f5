//! Grants: what is bound into the root, and how.

use super::reach::Reach;
use super::{Binder, Hold, Holding, Layer, Outcome};
use crate::policy::{Grant, Policy};
use crate::profile::{Granting, Op};
use crate::tree::within;

pub(super) fn bind(binder: &mut Binder<'_>) {
    let policy = binder.policy;
    for grant in policy.grants.iter().filter(|grant| !grant.is_built_in()) {
        let outcome = match grant.written.kind {
            Granting::Read | Granting::Write | Granting::Exec => opening(binder, grant),
            Granting::Ask => asking(binder, grant),
            Granting::Connect => Outcome::not_in_force("a rule on sockets", "the socket is not reachable"),
        };
        binder.add(&grant.written.rule, grant.written.best_effort, outcome);
    }
}

fn opening(binder: &Binder<'_>, grant: &Grant) -> Outcome {
    let mut layers = vec![Layer::Mount];
    if binder.binding.landlock {
        layers.push(Layer::Landlock);
    }
    // A read grant says that its tree is not written. Where it is missing inside a writable tree the agent
    // can make it, and then it writes there.
    if grant.written.kind == Granting::Read && !grant.exists() && inside_writable(binder.policy, grant) {
        return Outcome::Lacking {
            layers,
            why: format!("{} does not exist yet, and mounts cannot stop its creation", grant.path.display()),
            remains: "if the agent makes it, the agent may write in it".to_owned(),
            remedy: "create it before the start".to_owned(),
        };
    }
    Outcome::Enforced(layers)
}

fn inside_writable(policy: &Policy, grant: &Grant) -> bool {
    let writable = |parent| policy.opened(Reach::Writable, parent) && !policy.is_private_place(parent);
    grant.real.parent().is_some_and(writable)
}

/// Until there are approvals an ask takes away what other grants open: with mounts, as guards do.
fn asking(binder: &mut Binder<'_>, grant: &Grant) -> Outcome {
    let policy = binder.policy;
    let parent = grant.real.parent().unwrap_or(&grant.real);
    let inside = |reach| policy.opened(reach, parent) || policy.openers_at(reach, grant);
    let how = match grant.written.ops.as_slice() {
        ops if ops.contains(&Op::Read) && inside(Reach::Readable) => Holding::Mask,
        ops if ops.contains(&Op::Write) && inside(Reach::Writable) => Holding::ReadOnly,
        _ => return Outcome::Enforced(vec![Layer::Mount]),
    };
    let deeper = policy.grants.iter().any(|other| {
        !other.is_built_in() && other.exists() && other.real != grant.real && within(&other.real, &grant.real)
    });
    match grant.object {
        Some(kind) if !(deeper && how == Holding::Mask) => {
            binder.binding.holds.push(Hold { at: grant.real.clone(), kind, how });
            Outcome::Enforced(vec![Layer::Mount])
        }
        Some(_) => Outcome::Lacking {
            layers: vec![Layer::Mount],
            why: "it lies inside one grant and holds another, which mounts cannot express".to_owned(),
            remains: "nothing is asked or denied there".to_owned(),
            remedy: "remove the ask, or the grant below it".to_owned(),
        },
        None => Outcome::Lacking {
            layers: vec![Layer::Mount],
            why: format!("{} does not exist yet, and mounts cannot stop its creation", grant.path.display()),
            remains: "if it is created, nothing is asked or denied there".to_owned(),
            remedy: "create it before the start".to_owned(),
        },
    }
}

impl Policy {
    /// Whether another grant opens exactly this path: the tie, which the ask wins.
    fn openers_at(&self, reach: Reach, ask: &Grant) -> bool {
        self.grants.iter().any(|grant| {
            let opens = match grant.written.kind {
                Granting::Write => true,
                Granting::Read | Granting::Exec => reach == Reach::Readable,
                Granting::Ask | Granting::Connect => false,
            };
            opens && grant.real == ask.real
        })
    }
}
