//! The one reader of the kernel's records.
//!
//! It runs on a thread of its own, reads whatever is there, and writes it to the audit in one go, so that a
//! busy sandbox costs one system call for many records.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skep_kernel::SyscallError;
use skep_kernel::bpf::EventReader;
use tokio::sync::{mpsc, oneshot};

use crate::absence::Absence;
use crate::audit::Record;
use crate::observe;
use crate::record::Recorder;
use crate::registry::Registry;

/// Records handled in one go: bounded, so that the audit's lock is not held for long.
const BATCH: usize = 512;

/// How long the reader sleeps when nothing happens, before it looks for requests again.
const TICK: Duration = Duration::from_millis(200);

/// A handle on the reader.
#[derive(Debug)]
pub struct Events {
    requests: mpsc::UnboundedSender<oneshot::Sender<()>>,
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
        let task = Task { reader, registry, recorder, absence, requests: receiver, woken };
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || task.run())
            .map_err(|error| SyscallError::from_io("clone", "event reader", &error))?;
        Ok(Self { requests, wake })
    }

    /// Waits until everything the kernel has recorded up to now is in the audit.
    pub async fn drained(&self) {
        let (done, is_done) = oneshot::channel();
        if self.requests.send(done).is_err() {
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
    requests: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    woken: std::os::fd::OwnedFd,
}

impl Task {
    fn run(mut self) {
        loop {
            // Requests first: what was recorded before a request is read after it was taken.
            let mut waiting = Vec::new();
            while let Ok(request) = self.requests.try_recv() {
                waiting.push(request);
            }
            if !waiting.is_empty() {
                self.catch_up();
            }
            for request in waiting {
                // Whoever asked may have given up.
                let _gone = request.send(());
            }
            if self.requests.is_closed() {
                return;
            }
            // After each batch requests are looked for again: a sandbox that never rests keeps nobody waiting.
            if self.batch(BATCH) < BATCH {
                self.sleep();
            }
        }
    }

    /// Handles everything recorded up to now, and the gaps that no later record has shown yet.
    fn catch_up(&mut self) {
        if let Err(error) = self.reader.settle() {
            tracing::error!(%error, "lost records cannot be counted");
        }
        let mut left = self.reader.queued();
        loop {
            // Also where nothing is left to take: what never arrived is told by a batch.
            left -= self.batch(left.min(BATCH));
            if left == 0 {
                return;
            }
        }
    }

    /// Handles up to `most` records and what was lost meanwhile, and says how many records there were.
    fn batch(&mut self, most: usize) -> usize {
        let mut records: Vec<Record> = Vec::new();
        let mut taken = 0;
        while taken < most {
            let Some(event) = self.reader.next() else { break };
            taken += 1;
            observe::record(&self.registry, &mut self.absence, event, &mut records);
        }
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
        taken
    }

    fn sleep(&self) {
        let mut ready = [
            PollFd::new(self.reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        // An interrupted wait is a short one.
        let _interrupted = poll(&mut ready, timeout);
        let mut byte = [0; 64];
        // Nonblocking: nothing to read is the usual case.
        let _empty = nix::unistd::read(&self.woken, &mut byte);
    }
}
