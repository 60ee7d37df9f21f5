//! The one reader of the kernel's records.
//!
//! It runs on a thread of its own, which all sandboxes share, so each has its [turns](crate::turns): whatever is in
//! the ring is put where its sandbox's records wait, and a turn handles a few of one sandbox and writes them to the
//! audit in one go. A sandbox whose records wait has no more room in the ring than they leave, so its flood is
//! its own loss, in time as in room.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skep_kernel::SyscallError;
use skep_kernel::bpf::{Event, EventReader, Taken};
use tokio::sync::{mpsc, oneshot};

use crate::absence::Absence;
use crate::audit::Record;
use crate::observe;
use crate::record::Recorder;
use crate::registry::Registry;
use crate::turns::Turns;

/// Records taken out of the ring, and handled, in one go: bounded, so that the audit's lock is not held for long.
const BATCH: usize = 512;

/// How long a turn goes on to its next record.
const TURN: Duration = Duration::from_millis(4);

/// Bytes of the ring whose records may wait. One sandbox holds a quarter of that at most, so it takes several that
/// flood before the one that floods most has its records counted only.
const MOST_BYTES: u64 = 16 << 20;

/// How long the records of a sandbox that ends are handled, others' turns left aside, before they are counted only.
/// A flood of ordinary records, as many as there is room for, takes a twentieth of that.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the reader sleeps when nothing happens, before it looks for requests again.
const TICK: Duration = Duration::from_millis(200);

/// Milliseconds that are given to more records to come, before the first of them is handled.
const GATHERING: u8 = 2;

/// Somebody wants to know that everything is in the audit.
struct Request {
    /// The cgroup of the sandbox it is about; `None` for all.
    sandbox: Option<u64>,
    done: oneshot::Sender<()>,
}

/// A handle on the reader.
#[derive(Debug)]
pub struct Events {
    requests: mpsc::UnboundedSender<Request>,
    wake: std::os::fd::OwnedFd,
}

impl Events {
    /// Starts the reader.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        reader: EventReader,
        registry: Arc<Registry>,
        recorder: Arc<Recorder>,
    ) -> Result<Self, SyscallError> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (woken, wake) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
            .map_err(|errno| SyscallError::from_nix("pipe2", "event reader", errno))?;
        let absence = Absence::default();
        let (turns, waiting) = (Turns::default(), Vec::new());
        let task = Task { reader, registry, recorder, absence, turns, requests: receiver, waiting, woken };
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || task.run())
            .map_err(|error| SyscallError::from_io("clone", "event reader", &error))?;
        Ok(Self { requests, wake })
    }

    /// Waits until everything the kernel has recorded up to now of a sandbox, or of all, is in the audit. The sandbox has
    /// ended: if its records take too long, it has lost them.
    pub async fn drained(&self, sandbox: Option<u64>) {
        let (done, is_done) = oneshot::channel();
        if self.requests.send(Request { sandbox, done }).is_err() {
            return;
        }
        // A full pipe wakes the reader just as well.
        let _full = nix::unistd::write(&self.wake, b"x");
        // The reader ends only with the daemon.
        let _ended = is_done.await;
    }
}

struct Task {
    reader: EventReader,
    registry: Arc<Registry>,
    recorder: Arc<Recorder>,
    absence: Absence,
    turns: Turns<Taken>,
    requests: mpsc::UnboundedReceiver<Request>,
    waiting: Vec<Waiting>,
    woken: std::os::fd::OwnedFd,
}

/// A request that was taken.
struct Waiting {
    request: Request,
    /// What had been read by then, of which the ring had no more.
    up_to: u64,
    /// What its sandbox may have used before its records are counted only.
    until: Duration,
}

/// What is done with the records of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    /// They are judged and written.
    Whole,
    /// They are counted as lost, but for starts and ends of programs, which need no judging.
    Counted,
}

impl Task {
    fn run(mut self) {
        loop {
            let has_requests = self.take_requests();
            if !has_requests {
                self.take_in(BATCH);
            }
            // After each turn requests are looked for again: a sandbox that never rests keeps nobody waiting.
            match self.next_turn() {
                Some((sandbox, handling)) => self.turn(sandbox, handling),
                // Also where nothing is left to take: what never arrived is told.
                None if has_requests => self.write(Vec::new()),
                None => self.sleep(),
            }
            self.answer();
            if self.requests.is_closed() {
                return;
            }
        }
    }

    /// Hears what is asked, and then takes in everything recorded up to now, and the gaps that no later record has shown.
    fn take_requests(&mut self) -> bool {
        let known = self.waiting.len();
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push(Waiting { request, up_to: 0, until: Duration::ZERO });
        }
        if self.waiting.len() == known {
            return false;
        }
        if let Err(error) = self.reader.settle() {
            tracing::error!(%error, "lost records cannot be counted");
        }
        self.take_in(self.reader.queued());
        for waiting in &mut self.waiting[known..] {
            let used = waiting.request.sandbox.map_or(Duration::MAX, |sandbox| self.turns.used(sandbox));
            (waiting.up_to, waiting.until) = (self.turns.now(), used.saturating_add(PATIENCE));
        }
        true
    }

    /// Puts up to `most` records where those of their sandboxes wait.
    fn take_in(&mut self, most: usize) {
        for _ in 0..most {
            let Some(taken) = self.reader.next() else { return };
            self.turns.push(taken.cgroup, taken.bytes, taken);
        }
    }

    /// Whose turn it is, and what is done with what he has waiting.
    fn next_turn(&mut self) -> Option<(u64, Handling)> {
        if let Some(sandbox) = self.turns.heaviest_beyond(MOST_BYTES) {
            return Some((sandbox, Handling::Counted));
        }
        let sandbox = self.turns.whose()?;
        let used = self.turns.used(sandbox);
        let is_late = |waiting: &Waiting| waiting.request.sandbox == Some(sandbox) && used > waiting.until;
        let handling = if self.waiting.iter().any(is_late) { Handling::Counted } else { Handling::Whole };
        Some((sandbox, handling))
    }

    /// Handles a few records of a sandbox, which has used the time that took.
    fn turn(&mut self, sandbox: u64, handling: Handling) {
        let begun = Instant::now();
        let (mut records, mut lost) = (Vec::new(), 0);
        for _ in 0..BATCH {
            let Some(taken) = self.turns.take(sandbox) else { break };
            self.reader.give_back(&taken);
            if handling == Handling::Counted && !matches!(taken.event, Event::Exec(_) | Event::Exit(_)) {
                lost += 1;
                continue;
            }
            observe::record(&self.registry, &mut self.absence, taken.event, &mut records);
            if begun.elapsed() > TURN {
                break;
            }
        }
        observe::unjudged(&self.registry, sandbox, lost, &mut records);
        self.write(records);
        self.turns.charge(sandbox, begun.elapsed());
    }

    /// Writes records, and what was lost meanwhile.
    fn write(&mut self, mut records: Vec<Record>) {
        match self.reader.account() {
            Ok(losses) => losses.into_iter().for_each(|loss| {
                observe::record(&self.registry, &mut self.absence, loss, &mut records);
            }),
            Err(error) => {
                tracing::error!(%error, "what was read stays counted as unread: records will be lost");
            }
        }
        if !records.is_empty() && self.recorder.write_all(records).is_err() {
            tracing::debug!("records of the kernel are lost, every sandbox ends");
        }
    }

    /// Answers those whose sandbox has nothing waiting any more from before they asked.
    fn answer(&mut self) {
        let turns = &self.turns;
        let is_done = |waiting: &mut Waiting| turns.are_past(waiting.up_to, waiting.request.sandbox);
        for waiting in self.waiting.extract_if(.., is_done) {
            // Whoever asked may have given up.
            let _gone = waiting.request.done.send(());
        }
    }

    fn sleep(&self) {
        let mut ready = [
            PollFd::new(self.reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        // An interrupted wait is a short one.
        let _interrupted = poll(&mut ready, timeout);
        // Records seldom come alone, and many cost little more than one. A request is heard at once.
        let _more = poll(&mut ready[1..], GATHERING);
        let mut byte = [0; 64];
        // Nonblocking: nothing to read is the usual case.
        let _empty = nix::unistd::read(&self.woken, &mut byte);
    }
}
