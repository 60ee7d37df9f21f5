//! The outer half of a launch: from a request to a cloned PID 1.

#![expect(unsafe_code, reason = "PID 1 is forked")]
// UNSAFETY: `fork` wants a process of one thread, which a keeper is.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use skep_kernel::SyscallError;
use skep_kernel::clone::{self, Child, SANDBOX_NAMESPACES, Side};
use skep_kernel::memfd;
use skep_kernel::netns::{self, Listeners};
use skep_kernel::process::close_for_good;
use skep_kernel::seqpacket::Channel;
use skep_policy::launch::{Plan, Stage, Terminal, VERSION, is_sandbox_name};

use crate::failure::{At, Failure};
use crate::init::{self, Inheritance};
use crate::root::{self, Part, Ready};
use crate::sources;

/// The descriptors of `KeeperRequest::Launch`, taken apart.
#[derive(Debug)]
pub struct Passed {
    /// The sandbox's cgroup.
    pub cgroup: OwnedFd,
    /// Its parent.
    pub parent: OwnedFd,
    streams: Option<[OwnedFd; 3]>,
    template: Option<OwnedFd>,
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
}

/// Reads the plan that came with a request.
///
/// # Errors
/// EPERM when it is not sealed, EPROTO for another version, EBADMSG when it does not decode.
pub fn read_plan(descriptor: Option<OwnedFd>) -> Result<Plan, Failure> {
    let missing = || Failure::new(Stage::Plan, "no descriptor of a plan", Errno::EBADF);
    let bytes = memfd::read(descriptor.ok_or_else(missing)?).at(Stage::Plan)?;
    let plan: Plan = postcard::from_bytes(&bytes)
        .map_err(|error| Failure::new(Stage::Plan, error.to_string(), Errno::EBADMSG))?;
    if plan.version != VERSION {
        return Err(Failure::new(Stage::Plan, format!("plan of version {}", plan.version), Errno::EPROTO));
    }
    if !is_sandbox_name(&plan.sandbox) {
        return Err(Failure::new(Stage::Plan, "name of the sandbox", Errno::EINVAL));
    }
    Ok(plan)
}

/// Sorts the descriptors that follow the plan's.
///
/// # Errors
/// EBADF when their number is not the one the request implies.
pub fn sort(
    mut rest: std::vec::IntoIter<OwnedFd>,
    terminal: Terminal,
    template: bool,
) -> Result<Passed, Failure> {
    let mut next = |name: &str| {
        rest.next().ok_or_else(|| Failure::new(Stage::Plan, format!("no descriptor of {name}"), Errno::EBADF))
    };
    let cgroup = next("the cgroup")?;
    let parent = next("the cgroup's parent")?;
    let streams = match terminal {
        Terminal::Pipes => Some([next("standard input")?, next("standard output")?, next("standard error")?]),
        Terminal::Pty { .. } => None,
    };
    let template = template.then(|| next("the template")).transpose()?;
    Ok(Passed { cgroup, parent, streams, template })
}

/// Opens the sources, enters the template and clones PID 1. The descriptors of `outer`
/// are the keeper's alone and closed in PID 1.
///
/// # Errors
/// Whatever fails before there is a PID 1; nothing is left then but what this process holds.
pub fn start(plan: &Plan, passed: &mut Passed, outer: &[BorrowedFd<'_>]) -> Result<Launched, Failure> {
    let part = if passed.template.is_some() { Part::Own } else { Part::Whole };
    let shared = if part == Part::Whole { plan.template.as_slice() } else { &[] };
    let sources = sources::open(plan, shared.iter().chain(&plan.private))?;
    if let Some(template) = passed.template.take() {
        clone::enter_mount_namespace(template.as_fd()).at(Stage::Namespaces)?;
    }
    let (channel, inner) = Channel::pair().at(Stage::Namespaces)?;
    let (progress, inner_progress) = Channel::pair().at(Stage::Namespaces)?;
    progress.ask_for_senders().at(Stage::Namespaces)?;
    let streams = passed.streams.take();
    // SAFETY: the keeper has one thread.
    match unsafe { clone::fork(SANDBOX_NAMESPACES, Some(passed.cgroup.as_fd())) }.at(Stage::Namespaces)? {
        Side::Parent(init) => Ok(Launched { init, channel, progress }),
        Side::Child => {
            let keep = Inheritance { progress: inner_progress, streams, sources, part };
            let own = [channel.as_fd(), progress.as_fd(), passed.cgroup.as_fd(), passed.parent.as_fd()];
            own.iter().chain(outer).copied().for_each(close_for_good);
            init::run(plan, &inner, keep)
        }
    }
}

/// Enters the sandbox's network namespace, sets it up and opens its listeners. Descriptors as in
/// `KeeperEvent::Prepared`, without the terminal's.
///
/// It is the keeper's work because PID 1 has other: on two CPUs a launch is 0.15 ms shorter for it.
///
/// # Errors
/// The first step that failed.
pub fn network(plan: &Plan, init: &Child) -> Result<Vec<OwnedFd>, Failure> {
    clone::enter_network_namespace_of(init.pidfd.as_fd()).at(Stage::Network)?;
    netns::configure(&plan.network).at(Stage::Network)?;
    let Listeners { tcp4, tcp6, udp4, udp6 } =
        Listeners::open(plan.network.gateway_port).at(Stage::Network)?;
    let namespace = netns::of_socket(tcp4.as_fd()).at(Stage::Network)?;
    Ok(vec![namespace, tcp4, tcp6, udp4, udp6])
}

/// Makes a mount namespace with the shared part of the plan's root, for later launches to enter. The caller is
/// in it afterwards.
///
/// # Errors
/// The first step that failed.
pub fn build_template(plan: &Plan) -> Result<OwnedFd, Failure> {
    let mut sources = sources::open(plan, plan.template.iter())?;
    clone::unshare(CloneFlags::CLONE_NEWNS).at(Stage::Namespaces)?;
    // Opened while the host's procfs is in sight; it names the new namespace already.
    let path = Path::new("/proc/self/ns/mnt");
    let namespace = File::open(path)
        .map_err(|error| SyscallError::from_io("open", path.display().to_string(), &error))
        .at(Stage::Namespaces)?;
    root::start_empty()?;
    root::build(plan, Part::Shared, &mut sources, Ready { proc: None, devpts: None })?;
    Ok(namespace.into())
}
