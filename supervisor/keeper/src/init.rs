//! PID 1 of a sandbox: waits for a plan, builds it, starts the agent, gives its own rights away and reaps until
//! the agent ends.
//!
//! It stays in the initial user namespace, so that the agent, in one of its own, can neither trace nor signal it;
//! it ends when the keeper does (its socket closes, and PDEATHSIG), and with it ends everything in its PID
//! namespace. In order:
//!
//! 1. names and keys of the sandbox's own, and in an empty mount namespace its procfs, covered where it must be; then
//!    it waits for [`Order::Build`];
//! 2. a mount namespace for the agent, the template's or an empty one;
//! 3. the agent's process, cloned into its user namespace: it takes its rights away while
//! 4. PID 1 builds the root file system, from mounts that the keeper opens meanwhile;
//! 5. the agent goes on to what needs the root, PID 1 becomes an id of nobody's without capabilities, under its own
//!    filter; only then may the agent `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::sethostname;
use skep_kernel::clone::{Child, Ended, enter_mount_namespace, reap_any, unshare};
use skep_kernel::process::{child_events, readable};
use skep_kernel::seqpacket::Channel;
use skep_kernel::{SyscallError, caps, idmap, keyring, pseudo, seccomp};
use skep_policy::launch::{Ending, Plan, Stage};

use crate::agent;
use crate::failure::{At, Failure};
use crate::inner::{Order, Report};
use crate::launch;
use crate::proc;
use crate::root::{self, Part, Ready};
use crate::sources::Sources;

/// Runs as PID 1 and never comes back to the keeper's code. `progress` is the agent's socket to the keeper.
pub fn run(sandbox: &str, channel: &Channel, progress: Channel) -> ! {
    let code = match course(sandbox, channel, progress) {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody left to tell is no further failure: the sandbox ends either way.
            channel.send(&Report::Failed(failure), &[]).ok();
            1
        }
    };
    std::process::exit(code)
}

fn course(sandbox: &str, channel: &Channel, progress: Channel) -> Result<(), Failure> {
    caps::die_with_parent().at(Stage::Init)?;
    settle(sandbox)?;
    let proc = procfs(channel)?;
    let children = child_events().at(Stage::Init)?;
    let Some((plan, template)) = work(channel)? else { return Ok(()) };
    caps::replace_groups(&[plan.agent.gid]).at(Stage::Init)?;
    let part = enter(template.as_ref().map(AsFd::as_fd))?;
    drop(template);
    let (devpts, streams) = streams(channel)?;
    let (agent, gate) = agent::start(&plan, &progress, &streams)?;
    drop((progress, streams));
    own_up(&plan, proc.as_fd(), agent.pid)?;
    gate.open().at(Stage::UserNamespace)?;
    let mut sources = sources(channel)?;
    let ready = Ready { proc: Some(proc.as_fd()), devpts: Some(devpts.as_fd()) };
    root::build(&plan, part, &mut sources, ready)?;
    drop((proc, devpts));
    gate.open().at(Stage::Root)?;
    give_up_rights(&plan)?;
    gate.open().at(Stage::Init)?;
    drop(gate);
    reap_until_end(channel, &children, &agent)
}

/// Waits for the plan, and the template's mount namespace if there is one; `None` when the keeper is gone, or no
/// sandbox is needed.
fn work(channel: &Channel) -> Result<Option<(Plan, Option<OwnedFd>)>, Failure> {
    match channel.receive::<Order>().at(Stage::Plan)? {
        Some((Order::Build { template }, descriptors)) => {
            let mut descriptors = descriptors.into_iter();
            let plan = launch::read_plan(launch::next(&mut descriptors, "the plan")?.as_fd())?;
            let template = template.then(|| launch::next(&mut descriptors, "the template")).transpose()?;
            Ok(Some((plan, template)))
        }
        None => Ok(None),
        other => Err(out_of_turn(other.as_ref())),
    }
}

/// The devpts and the agent's standard streams.
fn streams(channel: &Channel) -> Result<(OwnedFd, [OwnedFd; 3]), Failure> {
    match channel.receive::<Order>().at(Stage::Plan)? {
        Some((Order::Streams, descriptors)) => {
            let mut descriptors = descriptors.into_iter();
            let mut next = || launch::next(&mut descriptors, "a terminal");
            Ok((next()?, [next()?, next()?, next()?]))
        }
        other => Err(out_of_turn(other.as_ref())),
    }
}

fn out_of_turn(order: Option<&(Order, Vec<OwnedFd>)>) -> Failure {
    match order {
        Some((order, _)) => Failure::new(Stage::Plan, format!("{order:?} out of turn"), Errno::EPROTO),
        None => Failure::new(Stage::Init, "the keeper is gone", Errno::EPIPE),
    }
}

/// The detached mounts the keeper opens meanwhile.
fn sources(channel: &Channel) -> Result<Sources, Failure> {
    let mut mounts = Vec::new();
    loop {
        match channel.receive::<Order>().at(Stage::Plan)? {
            Some((Order::Sources { last }, descriptors)) => {
                mounts.extend(descriptors);
                if last {
                    return Ok(mounts.into_iter());
                }
            }
            other => return Err(out_of_turn(other.as_ref())),
        }
    }
}

/// The sandbox's procfs, made in an empty mount namespace, for only what is attached can be covered. Nothing of the
/// host is in sight from here on.
fn procfs(channel: &Channel) -> Result<OwnedFd, Failure> {
    let namespace = root::enter_empty()?;
    let proc = proc::covered()?;
    channel.send(&Report::Settled, &[namespace.as_fd()]).at(Stage::Init)?;
    Ok(proc)
}

/// Makes the agent's mount namespace, from the template or an empty root.
fn enter(template: Option<BorrowedFd<'_>>) -> Result<Part, Failure> {
    if let Some(template) = template {
        enter_mount_namespace(template).at(Stage::Namespaces)?;
    }
    unshare(CloneFlags::CLONE_NEWNS).at(Stage::Namespaces)?;
    if template.is_some() {
        return Ok(Part::Own);
    }
    root::start_empty()?;
    Ok(Part::Whole)
}

/// Makes a process just cloned the agent's in the eyes of its user namespace, and no better protected from the
/// killer of memory hogs than any other: a service may be, and its children inherit it.
fn own_up(plan: &Plan, proc: BorrowedFd<'_>, pid: i32) -> Result<(), Failure> {
    idmap::write_maps(proc, pid, plan.agent, plan.agent).at(Stage::UserNamespace)?;
    pseudo::write(proc, &format!("{pid}/oom_score_adj"), "0").at(Stage::Limits)
}

/// Names and keys of the sandbox's own.
fn settle(sandbox: &str) -> Result<(), Failure> {
    // The namespace is made here and not with the process, so that its root is the sandbox's cgroup.
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::Namespaces)?;
    sethostname(sandbox)
        .map_err(|errno| SyscallError::from_nix("sethostname", sandbox, errno))
        .at(Stage::Init)?;
    keyring::fresh_session().at(Stage::Init)
}

/// After this PID 1 can wait, report and exit.
fn give_up_rights(plan: &Plan) -> Result<(), Failure> {
    caps::replace_groups(&[]).at(Stage::Init)?;
    caps::no_new_privileges().at(Stage::Init)?;
    caps::drop_bounding().at(Stage::Init)?;
    caps::become_ids(plan.init).at(Stage::Init)?;
    caps::empty_sets().at(Stage::Init)?;
    // The change of ids has cleared the first and may have reset the second.
    caps::die_with_parent().at(Stage::Init)?;
    caps::not_dumpable().at(Stage::Init)?;
    seccomp::load(&plan.init_filter).at(Stage::Init)
}

/// Reaps whatever ends; when the agent does, or the keeper is gone, returns.
fn reap_until_end(channel: &Channel, children: &OwnedFd, agent: &Child) -> Result<(), Failure> {
    loop {
        let [_, keeper] = readable([Some(children.as_fd()), Some(channel.as_fd())]).at(Stage::Init)?;
        // Nothing more is said to PID 1: whatever comes, the end above all, ends the sandbox.
        if keeper {
            return Ok(());
        }
        // The signal is only a wake-up; how many children it stands for is not known.
        nix::unistd::read(children, &mut [0; 128]).ok();
        if let Some(ending) = reap(agent)? {
            return channel.send(&Report::Exited(ending), &[]).at(Stage::Init);
        }
    }
}

/// Reaps all that have ended; the agent's ending if it was among them.
fn reap(agent: &Child) -> Result<Option<Ending>, Failure> {
    while let Some((pid, ended)) = reap_any().at(Stage::Init)? {
        if pid == agent.pid {
            return Ok(Some(ending(ended)));
        }
    }
    Ok(None)
}

/// The kernel keeps eight bits of a status and has signals up to 64.
fn ending(ended: Ended) -> Ending {
    match ended {
        Ended::Code(code) => Ending::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        Ended::Signal(signal) => Ending::Signal(u8::try_from(signal & 0x7f).unwrap_or(u8::MAX)),
    }
}
