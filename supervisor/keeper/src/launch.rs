//! The outer half of a launch: a PID 1 in its namespaces, and all it needs to carry a plan out.

#![expect(unsafe_code, reason = "PID 1 is forked")]
// UNSAFETY: `fork` wants a process of one thread, which a keeper is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use skep_kernel::clone::{self, Child, Side};
use skep_kernel::memfd;
use skep_kernel::netns::{self, Listeners};
use skep_kernel::process::{close_for_good, duplicate};
use skep_kernel::pty::{self, Pty};
use skep_kernel::seqpacket::{Channel, MAX_DESCRIPTORS};
use skep_policy::launch::{Network, Plan, Stage, Terminal, VERSION, is_sandbox_name};

use crate::failure::{At, Failure};
use crate::init;
use crate::inner::Order;
use crate::root::{self, Part, Ready};
use crate::sources::{self, Maps};

/// Where the sandbox is accounted for: the descriptors of `KeeperRequest::Isolate`.
#[derive(Debug)]
pub struct Place {
    /// The sandbox's cgroup.
    pub cgroup: OwnedFd,
    /// Its parent.
    pub parent: OwnedFd,
}

/// A sandbox whose PID 1 is at work.
#[derive(Debug)]
pub struct Launched {
    /// PID 1.
    pub init: Child,
    /// To PID 1.
    pub channel: Channel,
    /// From the agent.
    pub progress: Channel,
    /// The master of the agent's terminal, once it has one.
    pub terminal: Option<OwnedFd>,
    /// The mount namespace PID 1 waited in.
    pub waited_in: Option<OwnedFd>,
}

/// Takes the descriptors of `KeeperRequest::Isolate` apart.
///
/// # Errors
/// EBADF when one is missing.
pub fn place(descriptors: Vec<OwnedFd>) -> Result<Place, Failure> {
    let mut descriptors = descriptors.into_iter();
    Ok(Place {
        cgroup: next(&mut descriptors, "the cgroup")?,
        parent: next(&mut descriptors, "the cgroup's parent")?,
    })
}

/// The next descriptor of a message.
///
/// # Errors
/// EBADF when there is none.
pub fn next(descriptors: &mut std::vec::IntoIter<OwnedFd>, what: &str) -> Result<OwnedFd, Failure> {
    descriptors
        .next()
        .ok_or_else(|| Failure::new(Stage::Plan, format!("no descriptor of {what}"), Errno::EBADF))
}

/// Reads a plan.
///
/// # Errors
/// EPERM when it is not sealed, EPROTO for another version, EBADMSG when it does not decode.
pub fn read_plan(memory: BorrowedFd<'_>) -> Result<Plan, Failure> {
    let bytes = memfd::read(memory, memfd::MAX_SIZE).at(Stage::Plan)?;
    let plan: Plan = postcard::from_bytes(&bytes)
        .map_err(|error| Failure::new(Stage::Plan, error.to_string(), Errno::EBADMSG))?;
    if plan.version != VERSION {
        return Err(Failure::new(Stage::Plan, format!("plan of version {}", plan.version), Errno::EPROTO));
    }
    Ok(plan)
}

/// The namespaces the keeper makes for itself, and PID 1 inherits.
const OUTER_NAMESPACES: CloneFlags =
    CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWIPC).union(CloneFlags::CLONE_NEWUTS);

/// Makes the namespaces that need no plan, and in the network's everything the gateway serves it through.
/// Descriptors as in `KeeperEvent::Isolated`.
///
/// # Errors
/// The first step that failed.
pub fn isolate(network: &Network) -> Result<[OwnedFd; 5], Failure> {
    clone::unshare(OUTER_NAMESPACES).at(Stage::Namespaces)?;
    netns::configure(network).at(Stage::Network)?;
    let Listeners { tcp4, tcp6, udp4, udp6 } = Listeners::open(network.gateway_port).at(Stage::Network)?;
    let namespace = netns::of_socket(tcp4.as_fd()).at(Stage::Network)?;
    Ok([namespace, tcp4, tcp6, udp4, udp6])
}

/// Clones PID 1 into its namespaces and its cgroup, where it waits for orders. The descriptors of `outer` are the
/// keeper's alone and closed in PID 1.
///
/// # Errors
/// Whatever fails before there is a PID 1; nothing is left then but what this process holds.
pub fn start(sandbox: &str, place: &Place, outer: &[BorrowedFd<'_>]) -> Result<Launched, Failure> {
    if !is_sandbox_name(sandbox) {
        return Err(Failure::new(Stage::Plan, "name of the sandbox", Errno::EINVAL));
    }
    let (channel, inner) = Channel::pair().at(Stage::Namespaces)?;
    let (progress, inner_progress) = Channel::pair().at(Stage::Namespaces)?;
    progress.ask_for_senders().at(Stage::Namespaces)?;
    // The other namespaces come later: the mount namespace from a template, the cgroup namespace when its root is
    // the sandbox's cgroup and not the parent's, the user namespace for the agent alone.
    // SAFETY: the keeper has one thread.
    match unsafe { clone::fork(CloneFlags::CLONE_NEWPID, Some(place.cgroup.as_fd())) }
        .at(Stage::Namespaces)?
    {
        Side::Parent(init) => Ok(Launched { init, channel, progress, terminal: None, waited_in: None }),
        Side::Child => {
            let own = [channel.as_fd(), progress.as_fd(), place.cgroup.as_fd(), place.parent.as_fd()];
            own.iter().chain(outer).copied().for_each(close_for_good);
            init::run(sandbox, &inner, inner_progress)
        }
    }
}

/// Gives PID 1 a plan and all it needs for it: the descriptors of `KeeperRequest::Launch`, and what only this
/// process can open, for it is still among the host's files.
///
/// # Errors
/// When the plan is not for this sandbox or anything it names cannot be had.
pub fn hand_over(
    launched: &mut Launched,
    sandbox: &str,
    template: bool,
    descriptors: Vec<OwnedFd>,
    maps: &mut Maps,
) -> Result<(), Failure> {
    let mut descriptors = descriptors.into_iter();
    let memory = next(&mut descriptors, "the plan")?;
    let namespace = template.then(|| next(&mut descriptors, "the template")).transpose()?;
    let build: Vec<_> = [&memory].into_iter().chain(&namespace).map(AsFd::as_fd).collect();
    launched.channel.send(&Order::Build { template }, &build).at(Stage::Init)?;
    // PID 1 is at work from here on.
    let plan = read_plan(memory.as_fd())?;
    if plan.sandbox != sandbox {
        return Err(Failure::new(Stage::Plan, format!("plan of sandbox {}", plan.sandbox), Errno::EPROTO));
    }
    let devpts = pty::new_instance(plan.agent).at(Stage::Terminal)?;
    let [input, output, error] = match plan.terminal {
        Terminal::Pty { rows, columns } => {
            let Pty { master, slave } = pty::open(devpts.as_fd(), rows, columns).at(Stage::Terminal)?;
            launched.terminal = Some(master);
            let input = duplicate(&slave).at(Stage::Terminal)?;
            let output = duplicate(&slave).at(Stage::Terminal)?;
            [input, output, slave]
        }
        Terminal::Pipes => [
            next(&mut descriptors, "standard input")?,
            next(&mut descriptors, "standard output")?,
            next(&mut descriptors, "standard error")?,
        ],
    };
    let streams = [&devpts, &input, &output, &error].map(AsFd::as_fd);
    launched.channel.send(&Order::Streams, &streams).at(Stage::Init)?;
    let shared = if template { &[] } else { plan.template.as_slice() };
    let sources = sources::open(&plan, shared.iter().chain(&plan.private), maps)?;
    let mut rest = sources.as_slice();
    loop {
        let (piece, after) = rest.split_at(rest.len().min(MAX_DESCRIPTORS));
        let piece: Vec<_> = piece.iter().map(AsFd::as_fd).collect();
        launched.channel.send(&Order::Sources { last: after.is_empty() }, &piece).at(Stage::Init)?;
        rest = after;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Makes a mount namespace with the shared part of the plan's root, for later launches to enter. The caller is
/// in it afterwards.
///
/// # Errors
/// The first step that failed.
pub fn build_template(plan: &Plan) -> Result<OwnedFd, Failure> {
    let mut sources = sources::open(plan, plan.template.iter(), &mut Maps::default())?.into_iter();
    let namespace = root::enter_empty()?;
    root::build(plan, Part::Shared, &mut sources, Ready { proc: None, devpts: None })?;
    Ok(namespace)
}
