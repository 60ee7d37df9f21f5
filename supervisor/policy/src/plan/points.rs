//! Which objects of the host are bound into the root, and how: one for each granted path that exists, less
//! those that an outer one shows in the same way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Context, may_execute};
use crate::launch::{Ids, ObjectKind};
use crate::layers::{Binding, Holding, Reach};
use crate::policy::{FileOp, Grant, Policy};
use crate::profile::Granting;
use crate::tree::within;

/// A bind in the making, by its path on the host, which is its path in the sandbox too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) kind: ObjectKind,
    pub(super) write: bool,
    pub(super) exec: bool,
    pub(super) owner_as_agent: Option<Ids>,
    /// Whether it belongs to this sandbox alone.
    pub(super) private: bool,
}

/// All binds, parents before children, and the links that lead to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    pub(super) binds: BTreeMap<PathBuf, Point>,
    /// Where a link is, its text, and whether it belongs to this sandbox alone.
    pub(super) links: BTreeMap<PathBuf, (PathBuf, bool)>,
}

impl Points {
    /// The innermost bind that shows a path.
    pub(super) fn covering(&self, path: &Path) -> Option<(&Path, &Point)> {
        let mut outwards = self.binds.iter().rev().map(|(at, point)| (at.as_path(), point));
        outwards.find(|(at, _)| within(path, at))
    }
}

pub(super) fn points(policy: &Policy, binding: &Binding, context: &Context) -> Points {
    let mut points = Points::default();
    let granted = policy.grants.iter().filter(|grant| !grant.is_built_in() && is_opening(grant));
    for grant in granted {
        if let Some(point) = point(policy, binding, context, grant) {
            let private = point.private;
            let known = points.binds.entry(grant.real.clone()).or_insert(point);
            known.private |= private;
            points.links.extend(grant.links.iter().map(|(at, text)| (at.clone(), (text.clone(), private))));
        }
    }
    inherit(&mut points);
    let inside = |points: &Points, at: &Path| points.covering(at).is_some();
    let links = std::mem::take(&mut points.links);
    points.links = links.into_iter().filter(|(at, _)| !inside(&points, at)).collect();
    points
}

fn is_opening(grant: &Grant) -> bool {
    matches!(grant.written.kind, Granting::Read | Granting::Write | Granting::Exec)
}

fn point(policy: &Policy, binding: &Binding, context: &Context, grant: &Grant) -> Option<Point> {
    let (at, kind) = (&grant.real, grant.object?);
    let held = |how| binding.holds.iter().any(|hold| hold.how == how && within(at, &hold.at));
    // `exec` of /tmp is about the sandbox's own, which is no bind.
    if at == Path::new("/tmp") {
        return None;
    }
    // What a mask covers is not bound at all; and a tie that an ask won opens nothing.
    if held(Holding::Mask) || !policy.opened(Reach::Readable, at) {
        return None;
    }
    let write = policy.grants_allow(FileOp::Write, at) && !held(Holding::ReadOnly);
    // An agent with the caller's own ids never needs this, and would gain by it what the caller may only use.
    let own = context.agent != context.caller && grant.written.kind == Granting::Write;
    // The group too must be the caller's: what he owns may have one that he is no member of.
    let mapped = |owner: Ids| match context.caller {
        _ if !own => None,
        Ids { uid: 0, .. } => Some(owner),
        caller => (owner.uid == caller.uid).then_some(caller),
    };
    Some(Point {
        kind,
        write,
        exec: may_execute(policy, at),
        owner_as_agent: grant.owner.and_then(mapped),
        private: is_private(grant),
    })
}

/// System directories are the same for all launches of a profile and user; the workspace, the agent's state,
/// everything that is written and what lies in the private `/tmp` are not.
fn is_private(grant: &Grant) -> bool {
    let own = ["${workspace}", "${agent_state}"].iter().any(|name| grant.written.rule.text.starts_with(name));
    own || grant.written.kind == Granting::Write || grant.real.starts_with("/tmp")
}

/// A bind inside a private one is private too; one inside a mapped one is mapped; and one that shows nothing
/// else than the bind around it is left out.
fn inherit(points: &mut Points) {
    let mut kept = Points::default();
    for (at, mut point) in std::mem::take(&mut points.binds) {
        if let Some((_, outer)) = kept.covering(&at) {
            point.private |= outer.private;
            point.owner_as_agent = point.owner_as_agent.or(outer.owner_as_agent);
            let same = point.write == outer.write && point.exec == outer.exec;
            if same && point.owner_as_agent == outer.owner_as_agent {
                continue;
            }
        }
        kept.binds.insert(at, point);
    }
    points.binds = kept.binds;
}
