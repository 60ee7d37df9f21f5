//! PID 1 of a sandbox: builds it, starts the agent, gives its own rights away and reaps until the agent ends.
//!
//! It stays in the initial user namespace, so that the agent, in one of its own, can neither trace nor signal it;
//! it ends when the keeper does (its socket closes, and PDEATHSIG), and with it ends everything in its PID
//! namespace. In order:
//!
//! 1. the terminal, which the keeper passes on with the listeners it opens meanwhile;
//! 2. the agent's process, cloned into its user namespace: it takes its rights away while
//! 3. PID 1 builds the root file system;
//! 4. `Go` -> the agent goes on to what needs the root, PID 1 becomes an id of nobody's without capabilities, under
//!    its own filter; only then may the agent `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::sethostname;
use skep_kernel::clone::{Child, Ended, reap_any, unshare};
use skep_kernel::process::{child_events, duplicate, readable};
use skep_kernel::pty::{self, Pty};
use skep_kernel::seqpacket::Channel;
use skep_kernel::{SyscallError, caps, idmap, keyring, pseudo, seccomp};
use skep_policy::launch::{Ending, Plan, Stage, Terminal};

use crate::agent;
use crate::failure::{At, Failure};
use crate::inner::{Order, Report};
use crate::proc;
use crate::root::{self, Part, Ready};
use crate::sources::Sources;

/// What PID 1 has from the keeper.
#[derive(Debug)]
pub struct Inheritance {
    /// The agent's socket to the keeper.
    pub progress: Channel,
    /// The agent's standard streams, with [`Terminal::Pipes`].
    pub streams: Option<[OwnedFd; 3]>,
    /// Detached mounts of the host's objects.
    pub sources: Sources,
    /// How much of the root is there already.
    pub part: Part,
}

/// Runs as PID 1 and never comes back to the keeper's code.
pub fn run(plan: &Plan, channel: &Channel, inheritance: Inheritance) -> ! {
    let code = match course(plan, channel, inheritance) {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody left to tell is no further failure: the sandbox ends either way.
            channel.send(&Report::Failed(failure), &[]).ok();
            1
        }
    };
    std::process::exit(code)
}

fn course(plan: &Plan, channel: &Channel, mut inheritance: Inheritance) -> Result<(), Failure> {
    caps::die_with_parent().at(Stage::Init)?;
    caps::replace_groups(&[plan.agent.gid]).at(Stage::Init)?;
    settle(plan)?;
    let devpts = pty::new_instance(plan.agent).at(Stage::Terminal)?;
    let streams = match plan.terminal {
        Terminal::Pty { rows, columns } => terminal(channel, devpts.as_fd(), rows, columns)?,
        Terminal::Pipes => inheritance.streams.take().ok_or_else(no_streams)?,
    };
    let proc = proc::new_instance()?;
    let children = child_events().at(Stage::Init)?;
    let (agent, gate) = agent::start(plan, &inheritance.progress, &streams)?;
    drop((inheritance.progress, streams));
    own_up(plan, proc.as_fd(), agent.pid)?;
    gate.open().at(Stage::UserNamespace)?;
    if inheritance.part == Part::Whole {
        root::start_empty()?;
    }
    let ready = Ready { proc: Some(proc.as_fd()), devpts: Some(devpts.as_fd()) };
    root::build(plan, inheritance.part, &mut inheritance.sources, ready)?;
    drop((proc, devpts));
    if !order_to_go(channel)? {
        return Ok(());
    }
    gate.open().at(Stage::Root)?;
    give_up_rights(plan)?;
    gate.open().at(Stage::Init)?;
    drop(gate);
    reap_until_end(channel, &children, &agent)
}

/// Opens the agent's terminal and sends its master to the keeper.
fn terminal(
    channel: &Channel,
    devpts: BorrowedFd<'_>,
    rows: u16,
    columns: u16,
) -> Result<[OwnedFd; 3], Failure> {
    let Pty { master, slave } = pty::open(devpts, rows, columns).at(Stage::Terminal)?;
    channel.send(&Report::Terminal, &[master.as_fd()]).at(Stage::Terminal)?;
    let input = duplicate(&slave).at(Stage::Terminal)?;
    let output = duplicate(&slave).at(Stage::Terminal)?;
    Ok([input, output, slave])
}

fn no_streams() -> Failure {
    Failure::new(Stage::Terminal, "standard streams", Errno::EBADF)
}

/// Makes a process just cloned the agent's in the eyes of its user namespace, and no better protected from the
/// killer of memory hogs than any other: a service may be, and its children inherit it.
fn own_up(plan: &Plan, proc: BorrowedFd<'_>, pid: i32) -> Result<(), Failure> {
    idmap::write_maps(proc, pid, plan.agent, plan.agent).at(Stage::UserNamespace)?;
    pseudo::write(proc, &format!("{pid}/oom_score_adj"), "0").at(Stage::Limits)
}

/// Names and keys of the sandbox's own.
fn settle(plan: &Plan) -> Result<(), Failure> {
    // The namespace is made here and not with the process, so that its root is the sandbox's cgroup.
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::Namespaces)?;
    sethostname(&plan.sandbox)
        .map_err(|errno| SyscallError::from_nix("sethostname", &plan.sandbox, errno))
        .at(Stage::Init)?;
    keyring::fresh_session().at(Stage::Init)
}

/// Waits for the keeper; its end is no order.
fn order_to_go(channel: &Channel) -> Result<bool, Failure> {
    match channel.receive::<Order>().at(Stage::Init)? {
        Some((Order::Go, _)) => Ok(true),
        None => Ok(false),
    }
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
        // Nothing is said to PID 1 after `Go`: whatever comes, the end above all, ends the sandbox.
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
