//! The keeper's life: an empty sandbox, then what a plan makes of it, until that is gone.
//!
//! ```text
//! Isolate -> [PID 1 cloned, settled] -> Isolated -> (waits) -> Launch -> Started -> Exited -> Gone
//!    |               |                                            |
//!    +-> Failed <----+--------------------------------------------+    end of the channel, at any time: all killed
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use skep_kernel::clone::{enter_mount_namespace_of, signal};
use skep_kernel::process::readable;
use skep_kernel::seqpacket::{Channel, ChannelError, Message};
use skep_kernel::{pseudo, pty};
use skep_policy::launch::{Ending, Ids, KeeperEvent, KeeperRequest, Stage};

use crate::failure::{At, Failure};
use crate::inner::{Progress, Report};
use crate::launch::{self, Launched, Place};
use crate::sources::Maps;

/// Serves a channel to its end.
pub fn serve(channel: &Channel) {
    if let Err(failure) = answer(channel) {
        // Nobody left to hear it is no further failure.
        channel.send(&KeeperEvent::from(failure), &[]).ok();
    }
}

fn answer(channel: &Channel) -> Result<(), Failure> {
    match channel.receive::<KeeperRequest>().at(Stage::Plan)? {
        Some((KeeperRequest::BuildTemplate, descriptors)) => {
            let memory = launch::next(&mut descriptors.into_iter(), "the plan")?;
            let plan = launch::read_plan(memory.as_fd())?;
            let namespace = launch::build_template(&plan)?;
            channel.send(&KeeperEvent::Template, &[namespace.as_fd()]).at(Stage::Root)
        }
        Some((KeeperRequest::Isolate { sandbox, network, own }, descriptors)) => {
            let place = launch::place(descriptors)?;
            let mut maps = Maps::default();
            maps.of(ROOT, own)?;
            let outside = launch::isolate(&network)?;
            let own: Vec<_> = outside.iter().map(AsFd::as_fd).chain([channel.as_fd()]).collect();
            let launched = launch::start(&sandbox, &place, &own)?;
            let (agent, phase) = (None, Phase::Empty);
            Keeper { channel, sandbox, place, launched, agent, phase, maps }.live(outside)
        }
        Some((request, _)) => Err(unexpected(&request)),
        // Whoever started us is gone before saying what for.
        None => Ok(()),
    }
}

fn unexpected(request: &KeeperRequest) -> Failure {
    Failure::new(Stage::Plan, format!("{request:?} out of turn"), Errno::EPROTO)
}

/// How far the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// There is no plan for it yet.
    Empty,
    /// Its program does not run yet.
    Launching,
    /// Its program will not run; the reason is on its way.
    Stopped,
    /// It runs.
    Started,
    /// It has ended and that has been told.
    Exited,
}

/// Why the watch ended.
#[derive(Debug)]
enum End {
    /// PID 1 has ended: everything inside is gone.
    Init,
    /// The keeper cannot go on, or was asked for what it does not do.
    Broken,
    /// Whoever asked for it is gone.
    Orphaned,
    /// The launch failed.
    Failed(Failure),
}

/// Whose files are shown as the agent's where the agent has ids of its own: those of a user have more owners than
/// can be known ahead.
const ROOT: Ids = Ids { uid: 0, gid: 0 };

/// What an agent died of that went down with its sandbox.
const KILLED: u8 = 9;

struct Keeper<'a> {
    channel: &'a Channel,
    sandbox: String,
    place: Place,
    launched: Launched,
    agent: Option<Agent>,
    phase: Phase,
    maps: Maps,
}

/// The agent, from the moment it is about to execute its program.
struct Agent {
    pid: u32,
    pidfd: OwnedFd,
}

impl Keeper<'_> {
    fn live(mut self, outside: [OwnedFd; 5]) -> Result<(), Failure> {
        let end = match self.prepare(outside) {
            Ok(Some(end)) => end,
            Ok(None) => self.watch(),
            Err(failure) => self.first_cause(failure),
        };
        self.clear(end)
    }

    /// Waits for the plan and has PID 1 carry it out.
    fn prepare(&mut self, outside: [OwnedFd; 5]) -> Result<Option<End>, Failure> {
        match self.launched.channel.receive::<Report>().at(Stage::Init)? {
            Some((Report::Settled, descriptors)) => self.launched.waited_in = descriptors.into_iter().next(),
            Some((Report::Failed(failure), _)) => return Ok(Some(End::Failed(failure))),
            Some((Report::Exited(ending), _)) => return Err(died(ending)),
            None => return Ok(Some(End::Init)),
        }
        let descriptors = outside.each_ref().map(AsFd::as_fd);
        self.channel.send(&KeeperEvent::Isolated, &descriptors).at(Stage::Network)?;
        drop(outside);
        let [ended, _] =
            readable([Some(self.launched.init.pidfd.as_fd()), Some(self.channel.as_fd())]).at(Stage::Plan)?;
        // Without its PID 1 it is no sandbox: the keeper goes too, which whoever is about to use it sees.
        if ended {
            return Ok(Some(End::Init));
        }
        match self.channel.receive::<KeeperRequest>().at(Stage::Plan)? {
            Some((KeeperRequest::Launch { template }, descriptors)) => {
                self.phase = Phase::Launching;
                let maps = &mut self.maps;
                launch::hand_over(&mut self.launched, &self.sandbox, template, descriptors, maps)?;
                Ok(None)
            }
            Some((request, _)) => Err(unexpected(&request)),
            // No sandbox is needed any more.
            None => Ok(Some(End::Orphaned)),
        }
    }

    /// A step that found PID 1 gone failed because PID 1 did: what that one said is the failure to tell.
    fn first_cause(&mut self, failure: Failure) -> End {
        let gone = [Errno::EPIPE, Errno::ECONNRESET].map(|errno| errno as i32);
        match gone.contains(&failure.errno).then(|| self.drain()) {
            Some(Ok(Some(End::Failed(cause)))) => End::Failed(cause),
            _ => End::Failed(failure),
        }
    }

    /// Passes everything on between skepd, PID 1 and the agent, until there is an end.
    fn watch(&mut self) -> End {
        loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(failure) if self.phase < Phase::Started => return End::Failed(failure),
                // A sandbox whose keeper cannot do its work is ended rather than left alone.
                Err(_) => return End::Broken,
            }
        }
    }

    fn step(&mut self) -> Result<Option<End>, Failure> {
        // What the agent said comes before what PID 1 says of its end, and that before the end itself: one at a
        // time, for what is heard changes what is to be heard next.
        match self.wait()? {
            [_, _, true, _] => self.hear_agent(),
            [true, ..] => self.drain(),
            [_, true, ..] => self.hear_init(),
            [_, _, _, true] => self.obey(),
            [false, false, false, false] => Ok(None),
        }
    }

    /// Waits for news: the end of PID 1, its reports, the agent's progress, skepd's requests. They are looked at
    /// in the reverse order of their causes, so that no effect is seen without what led to it.
    fn wait(&self) -> Result<[bool; 4], Failure> {
        // A channel whose end has been seen stays readable for ever: it is asked no more (-1 is passed over).
        let init = (self.phase != Phase::Exited).then(|| self.launched.channel.as_fd());
        let progress = (self.phase == Phase::Launching).then(|| self.launched.progress.as_fd());
        let sources = [Some(self.launched.init.pidfd.as_fd()), init, progress, Some(self.channel.as_fd())];
        readable(sources).at(Stage::Init)
    }

    /// PID 1 has ended: hears what it said before.
    fn drain(&mut self) -> Result<Option<End>, Failure> {
        while self.phase != Phase::Exited {
            match self.hear_init()? {
                None => {}
                Some(End::Init) => break,
                other => return Ok(other),
            }
        }
        Ok(Some(End::Init))
    }

    fn hear_init(&mut self) -> Result<Option<End>, Failure> {
        match self.launched.channel.receive::<Report>().at(Stage::Init)? {
            Some((Report::Failed(failure), _)) => Ok(Some(End::Failed(failure))),
            Some((Report::Exited(ending), _)) if self.phase == Phase::Started => {
                self.exited(ending);
                Ok(None)
            }
            // It died without a word before its program ran.
            Some((Report::Exited(ending), _)) => Err(died(ending)),
            Some((Report::Settled, _)) => Err(settled_again()),
            None => Ok(Some(End::Init)),
        }
    }

    fn exited(&mut self, ending: Ending) {
        self.phase = Phase::Exited;
        // If nobody hears it, the end of the channel is the next thing to be noticed.
        self.channel.send(&KeeperEvent::Exited(ending), &[]).ok();
    }

    fn hear_agent(&mut self) -> Result<Option<End>, Failure> {
        match self.launched.progress.receive_from::<Progress>().at(Stage::Exec)? {
            Some(Message { value: Progress::Ready, descriptors, sender }) => {
                let pidfd = descriptors.into_iter().next();
                self.agent = pidfd.zip(sender).map(|(pidfd, pid)| Agent { pid, pidfd });
                Ok(None)
            }
            Some(Message { value: Progress::Failed(failure), .. }) => Ok(Some(End::Failed(failure))),
            Some(Message { value: Progress::GivenUp, .. }) => {
                self.phase = Phase::Stopped;
                Ok(None)
            }
            None => self.silent(),
        }
    }

    /// The agent's end of its socket is closed: by a successful `execve`, or because there will be none, and then
    /// PID 1 says why.
    fn silent(&mut self) -> Result<Option<End>, Failure> {
        let Some(agent) = &self.agent else {
            self.phase = Phase::Stopped;
            return Ok(None);
        };
        // PID 1 may have failed when the agent had only its execve left, and taken the agent with it. It says so
        // before it ends, so what it said is there by now.
        let mut init_said = None;
        if self.launched.channel.is_readable_within(Duration::ZERO).at(Stage::Init)? {
            match self.launched.channel.receive::<Report>().at(Stage::Init)? {
                Some((Report::Failed(failure), _)) => return Ok(Some(End::Failed(failure))),
                Some((Report::Exited(ending), _)) => init_said = Some(ending),
                Some((Report::Settled, _)) => return Err(settled_again()),
                None => return Ok(Some(End::Init)),
            }
        }
        let master: Vec<_> = self.launched.terminal.iter().map(AsFd::as_fd).collect();
        self.channel.send(&KeeperEvent::Started { pid: agent.pid }, &master).at(Stage::Exec)?;
        self.phase = Phase::Started;
        // A mount namespace ends with its last member. If that were PID 1, its end would wait for every unmount;
        // so it is the keeper, after all has been told. Where it cannot, that wait is all that is lost.
        enter_mount_namespace_of(self.launched.init.pidfd.as_fd()).ok();
        if let Some(ending) = init_said {
            self.exited(ending);
        }
        Ok(None)
    }

    fn obey(&mut self) -> Result<Option<End>, Failure> {
        match self.channel.receive::<KeeperRequest>() {
            Ok(Some((KeeperRequest::Signal(number), _))) if self.phase >= Phase::Started => {
                if self.phase == Phase::Started {
                    self.deliver(number);
                }
                Ok(None)
            }
            Ok(None) | Err(ChannelError::Syscall(_)) => Ok(Some(End::Orphaned)),
            Ok(Some(_)) | Err(_) => Ok(Some(End::Broken)),
        }
    }

    /// A signal that a terminal sends goes to its foreground group, as if it had been typed; any other to the agent.
    /// Neither is named by a number, which could be another process's by now. One that has ended needs no signal.
    fn deliver(&self, number: i32) {
        match (&self.launched.terminal, &self.agent) {
            (Some(master), _) if pty::TYPED.contains(&number) => {
                pty::signal_foreground(master.as_fd(), number).ok();
            }
            (_, Some(agent)) => {
                signal(agent.pidfd.as_fd(), number).ok();
            }
            (_, None) => {}
        }
    }

    /// Ends what is left, waits until it is gone and says so.
    fn clear(mut self, end: End) -> Result<(), Failure> {
        if !matches!(end, End::Init) {
            self.kill_all();
        }
        self.launched.init.wait().at(Stage::Init)?;
        match end {
            End::Failed(failure) => return Err(failure),
            End::Init if self.phase < Phase::Started => {
                return Err(Failure::new(Stage::Init, "PID 1 ended during the launch", Errno::ECHILD));
            }
            End::Orphaned => return self.remove_cgroup(),
            End::Init | End::Broken => {}
        }
        if self.phase == Phase::Started {
            self.exited(Ending::Signal(KILLED));
        }
        // Nobody left to hear it is fine: it is the last thing said.
        self.channel.send(&KeeperEvent::Gone, &[]).ok();
        Ok(())
    }

    /// Kills by cgroup and by PID 1: either is enough, and either may already be gone.
    fn kill_all(&self) {
        pseudo::write(self.place.cgroup.as_fd(), "cgroup.kill", "1").ok();
        self.launched.init.kill().ok();
    }

    /// The kernel may take a moment to notice that the last process is gone.
    fn remove_cgroup(&self) -> Result<(), Failure> {
        for _ in 0..100 {
            match unlinkat(&self.place.parent, self.sandbox.as_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(5)),
                Err(errno) => {
                    return Err(Failure::new(Stage::Init, format!("rmdir({})", self.sandbox), errno));
                }
            }
        }
        Err(Failure::new(Stage::Init, format!("rmdir({})", self.sandbox), Errno::EBUSY))
    }
}

fn settled_again() -> Failure {
    Failure::new(Stage::Init, "PID 1 waits out of turn", Errno::EPROTO)
}

fn died(ending: Ending) -> Failure {
    Failure::new(
        Stage::Credentials,
        format!("the agent ended before its program ran: {ending:?}"),
        Errno::ECHILD,
    )
}
