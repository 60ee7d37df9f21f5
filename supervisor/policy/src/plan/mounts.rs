//! The order of mounts: binds from the outside in, then what holds take away, each directory above a held
//! object bound on itself so that it cannot be moved away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::points::{Point, Points};
use super::{SHM_BYTES, TMP_BYTES, may_execute};
use crate::launch::{LandlockRule, ObjectKind, RootOp};
use crate::layers::{Binding, Hold, Holding};
use crate::policy::Policy;
use crate::tree::within;

/// The operations in the making.
#[derive(Debug, Default)]
pub(super) struct Root {
    template: Vec<RootOp>,
    private: Vec<RootOp>,
}

/// The usual permissions of a directory on the way to something.
const DIRECTORY: u32 = 0o755;

impl Root {
    pub(super) fn push(&mut self, private: bool, op: RootOp) {
        let ops = if private { &mut self.private } else { &mut self.template };
        if !ops.contains(&op) {
            ops.push(op);
        }
    }

    /// The directories above a path, as far as nothing else shows them.
    pub(super) fn parents(&mut self, private: bool, points: &Points, at: &Path) {
        let mut parents: Vec<&Path> = at.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents.into_iter().filter(|parent| *parent != Path::new("/")) {
            let op = RootOp::Directory { at: parent.to_owned(), mode: DIRECTORY };
            let shown =
                points.covering(parent).is_some() || PLACES.iter().any(|place| parent == Path::new(place));
            if !shown && !self.template.contains(&op) {
                self.push(private, op);
            }
        }
    }

    pub(super) fn finish(self) -> (Vec<RootOp>, Vec<RootOp>) {
        (self.template, self.private)
    }
}

const PLACES: [&str; 3] = ["/tmp", "/proc", "/dev"];

/// What every root has. The keeper splits these operations itself into what launches share and what not.
pub(super) fn skeleton(root: &mut Root, policy: &Policy) {
    let tmp = Path::new("/tmp");
    root.push(false, RootOp::Devices { shm_bytes: SHM_BYTES });
    root.push(false, RootOp::Proc);
    let exec = may_execute(policy, tmp);
    root.push(false, RootOp::Tmpfs { at: tmp.into(), bytes: TMP_BYTES, mode: 0o1777, exec });
}

/// One step at a path; several at one path run in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Steps {
    bind: Option<RootOp>,
    pin: Option<RootOp>,
    mask: Option<RootOp>,
    private: bool,
}

/// Binds, pins, masks and links.
pub(super) fn add(root: &mut Root, policy: &Policy, binding: &Binding, points: &Points) {
    let mut steps: BTreeMap<PathBuf, Steps> = BTreeMap::new();
    for (at, point) in &points.binds {
        let step = Steps { bind: Some(bind(at, point)), pin: None, mask: None, private: point.private };
        steps.insert(at.clone(), step);
        // A read-only bind in a writable one stays where it is only if nothing above it can be renamed.
        if let Some((outer, around)) = at.parent().and_then(|parent| points.covering(parent))
            && around.write
            && !point.write
        {
            pin_ancestors(&mut steps, policy, binding, (outer, around), at);
        }
    }
    for hold in &binding.holds {
        if let Some(covering) = points.covering(&hold.at) {
            add_hold(&mut steps, policy, binding, covering, hold);
        }
    }
    for at in steps.keys() {
        let private = steps[at].private;
        root.parents(private, points, at);
    }
    // Home itself must be there too, so the directories above something in it.
    root.parents(false, points, &policy.bindings.home.join("anything"));
    for (at, (target, private)) in &points.links {
        root.parents(*private, points, at);
        root.push(*private, RootOp::Symlink { at: at.clone(), target: target.clone() });
    }
    let masked =
        |at: &Path| binding.holds.iter().any(|hold| hold.how == Holding::Mask && within(at, &hold.at));
    for (at, step) in steps {
        let own_mask = step.mask.is_some();
        if !masked(&at) || own_mask {
            step.bind.into_iter().chain(step.pin).chain(step.mask).for_each(|op| root.push(step.private, op));
        }
    }
}

fn bind(at: &Path, point: &Point) -> RootOp {
    RootOp::Bind {
        from: at.to_owned(),
        at: at.to_owned(),
        kind: point.kind,
        write: point.write,
        exec: point.exec,
        owner_as_agent: point.owner_as_agent,
    }
}

type Covering<'p> = (&'p Path, &'p Point);

fn add_hold(
    steps: &mut BTreeMap<PathBuf, Steps>,
    policy: &Policy,
    binding: &Binding,
    (outer, around): Covering<'_>,
    hold: &Hold,
) {
    let at = &hold.at;
    // Another mask around this one covers it already; the bind itself is read-only already.
    let inside_mask = binding
        .holds
        .iter()
        .any(|other| other.how == Holding::Mask && other.at != *at && within(at, &other.at));
    if inside_mask || (hold.how == Holding::ReadOnly && !around.write) {
        return;
    }
    if around.write {
        pin_ancestors(steps, policy, binding, (outer, around), at);
    }
    let step = steps.entry(at.clone()).or_insert(Steps {
        bind: None,
        pin: None,
        mask: None,
        private: around.private,
    });
    match hold.how {
        Holding::Mask => step.mask = Some(RootOp::Mask { at: at.clone(), kind: hold.kind }),
        Holding::ReadOnly => {
            let exec = may_execute(policy, at);
            step.pin = Some(RootOp::Pin { at: at.clone(), kind: hold.kind, write: false, exec });
        }
    }
}

/// Binds each directory between a mount and an object in it on itself.
fn pin_ancestors(
    steps: &mut BTreeMap<PathBuf, Steps>,
    policy: &Policy,
    binding: &Binding,
    (outer, around): Covering<'_>,
    at: &Path,
) {
    let read_only = |path: &Path| {
        binding.holds.iter().any(|hold| hold.how == Holding::ReadOnly && within(path, &hold.at))
    };
    for above in at.ancestors().skip(1).take_while(|above| *above != outer && within(above, outer)) {
        let step = steps.entry(above.to_owned()).or_insert(Steps {
            bind: None,
            pin: None,
            mask: None,
            private: around.private,
        });
        if step.bind.is_none() && step.pin.is_none() {
            step.pin = Some(RootOp::Pin {
                at: above.to_owned(),
                kind: ObjectKind::Directory,
                write: around.write && !read_only(above),
                exec: may_execute(policy, above),
            });
        }
    }
}

/// The Landlock hull: what binds and built-in places open, nothing that lies in them taken away.
pub(super) fn hull(policy: &Policy, points: &Points, contents: &[PathBuf]) -> Vec<LandlockRule> {
    let built_in = [
        ("/tmp", true, may_execute(policy, Path::new("/tmp"))),
        ("/proc", false, false),
        ("/dev", true, false),
    ];
    let mut rules: Vec<LandlockRule> =
        built_in.into_iter().map(|(at, write, exec)| LandlockRule { at: at.into(), write, exec }).collect();
    let binds = points.binds.iter();
    rules.extend(binds.map(|(at, point)| LandlockRule {
        at: at.clone(),
        write: point.write,
        exec: point.exec,
    }));
    let alone = contents.iter().filter(|at| points.covering(at).is_none());
    rules.extend(alone.map(|at| LandlockRule { at: at.clone(), write: false, exec: false }));
    rules
}
