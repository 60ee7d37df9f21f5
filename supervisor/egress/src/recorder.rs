//! Telling `skepd` what was judged, and waiting until it is written down.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Instant;

use skep_policy::gateway::{GatewayEvent, Subject};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::judge::Verdict;

/// Most events that wait for `skepd` to read them before nothing new is taken from any sandbox.
const BACKLOG: usize = 4096;

/// Most verdicts that `skepd` has not answered, likewise: it answers none that it cannot write down.
const UNANSWERED: usize = 4 * BACKLOG;

/// Numbers the events of this gateway and matches the answers to them.
#[derive(Debug)]
pub struct Recorder {
    next: Cell<u64>,
    /// The verdicts that are not written down yet.
    waiting: RefCell<HashMap<u64, Unanswered>>,
    outbox: mpsc::UnboundedSender<GatewayEvent>,
    backlog: Cell<usize>,
    relief: Notify,
}

/// A verdict that is not written down yet.
#[derive(Debug)]
struct Unanswered {
    sandbox: String,
    /// Who waits for it.
    waiting: Vec<oneshot::Sender<()>>,
}

/// `skepd` answered an event that was never sent.
#[derive(Debug, thiserror::Error)]
#[error("event {0} was recorded but never sent")]
pub struct NeverSent(u64);

impl Recorder {
    /// A recorder, and the end its events come out at.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<GatewayEvent>) {
        let (outbox, events) = mpsc::unbounded_channel();
        let recorder = Self {
            next: Cell::new(0),
            waiting: RefCell::default(),
            outbox,
            backlog: Cell::new(0),
            relief: Notify::new(),
        };
        (recorder, events)
    }

    /// Queues an event. The queue is bounded by who calls this: what a sandbox can cause without end is only
    /// taken from it after [`Recorder::room`].
    pub fn say(&self, event: GatewayEvent) {
        self.backlog.set(self.backlog.get() + 1);
        // Nobody reads any more only when the gateway is ending.
        let _ending = self.outbox.send(event);
    }

    /// An event has left the queue.
    pub fn sent(&self) {
        self.backlog.set(self.backlog.get().saturating_sub(1));
        self.relieve();
    }

    /// Waits until the queue has room, and enough has been answered.
    pub async fn room(&self) {
        while !self.has_room() {
            self.relief.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        self.backlog.get() < BACKLOG && self.waiting.borrow().len() < UNANSWERED
    }

    fn relieve(&self) {
        if self.has_room() {
            self.relief.notify_waiters();
        }
    }

    /// Forgets what a sandbox still waits for. All of it has ended: nobody asks for these numbers any more.
    pub fn forget(&self, sandbox: &str) {
        self.waiting.borrow_mut().retain(|_, unanswered| unanswered.sandbox != sandbox);
        self.relieve();
    }

    /// Tells a verdict. The number is for [`Recorder::written`].
    pub fn tell(&self, sandbox: &str, subject: Subject, verdict: Verdict) -> u64 {
        let number = self.next.replace(self.next.get() + 1);
        let unanswered = Unanswered { sandbox: sandbox.to_owned(), waiting: Vec::new() };
        self.waiting.borrow_mut().insert(number, unanswered);
        self.say(GatewayEvent::Judged {
            number,
            sandbox: sandbox.to_owned(),
            subject,
            decision: verdict.decision,
            rule: verdict.rule,
            reason: verdict.reason.to_owned(),
        });
        number
    }

    /// Whether a verdict that was told is written down.
    #[must_use]
    pub fn is_written(&self, number: u64) -> bool {
        !self.waiting.borrow().contains_key(&number)
    }

    /// Waits until a verdict that was told is written down.
    pub async fn written(&self, number: u64) {
        let (written, wait) = oneshot::channel();
        match self.waiting.borrow_mut().get_mut(&number) {
            Some(unanswered) => unanswered.waiting.push(written),
            None => return,
        }
        if wait.await.is_err() {
            // The sender lives in `waiting` until it is used: the gateway is ending, and nothing may go on.
            std::future::pending::<()>().await;
        }
    }

    /// Tells a verdict and returns its number once it is written down.
    pub async fn write(&self, sandbox: &str, subject: Subject, verdict: Verdict) -> u64 {
        let number = self.tell(sandbox, subject, verdict);
        self.written(number).await;
        number
    }

    /// Takes the answer of `skepd`.
    ///
    /// # Errors
    /// When no such event was sent.
    pub fn recorded(&self, number: u64) -> Result<(), NeverSent> {
        if number >= self.next.get() {
            return Err(NeverSent(number));
        }
        let answered = self.waiting.borrow_mut().remove(&number);
        for written in answered.into_iter().flat_map(|answered| answered.waiting) {
            // Whoever waited may have been cut meanwhile.
            let _cut = written.send(());
        }
        self.relieve();
        Ok(())
    }
}

/// The record of one allowed connection, written when this is dropped: also when the connection is cut.
#[derive(Debug)]
pub struct Connection<'a> {
    recorder: &'a Recorder,
    sandbox: &'a str,
    number: u64,
    opened: Instant,
    /// Bytes to the server.
    pub sent: Cell<u64>,
    /// Bytes from the server.
    pub received: Cell<u64>,
    error: Option<String>,
}

impl<'a> Connection<'a> {
    /// A connection allowed by the event of this number.
    #[must_use]
    pub fn new(recorder: &'a Recorder, sandbox: &'a str, number: u64, opened: Instant) -> Self {
        let error = Some("cut: the sandbox was dismissed".to_owned());
        Self { recorder, sandbox, number, opened, sent: Cell::new(0), received: Cell::new(0), error }
    }

    /// The connection ended by itself, or by this error.
    pub fn end(mut self, error: Option<String>) {
        self.error = error;
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.recorder.say(GatewayEvent::Closed {
            number: self.number,
            sandbox: self.sandbox.to_owned(),
            sent: self.sent.get(),
            received: self.received.get(),
            milliseconds: u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            error: self.error.take(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject::Name { name: "a.example".to_owned(), addresses: None }
    }

    #[tokio::test]
    async fn a_write_returns_only_after_its_own_record() {
        let (recorder, mut events) = Recorder::new();
        recorder.tell("s", subject(), Verdict::denied("why"));
        let write = recorder.write("s", subject(), Verdict::denied("why"));
        tokio::pin!(write);
        assert!(futures_pending(write.as_mut()).await);
        recorder.recorded(0).unwrap();
        assert!(futures_pending(write.as_mut()).await);
        recorder.recorded(1).unwrap();
        assert_eq!(write.await, 1);
        assert!(matches!(events.recv().await, Some(GatewayEvent::Judged { number: 0, .. })));
        assert!(matches!(events.recv().await, Some(GatewayEvent::Judged { number: 1, .. })));
        assert!(recorder.recorded(2).is_err());
    }

    #[tokio::test]
    async fn a_full_queue_stops_what_waits_for_room() {
        let (recorder, _events) = Recorder::new();
        for _ in 0..BACKLOG {
            recorder.tell("s", subject(), Verdict::denied("why"));
        }
        let room = recorder.room();
        tokio::pin!(room);
        assert!(futures_pending(room.as_mut()).await);
        recorder.sent();
        room.await;
    }

    #[tokio::test]
    async fn what_is_never_answered_stops_what_waits_for_room_and_goes_with_its_sandbox() {
        let (recorder, _events) = Recorder::new();
        for _ in 0..UNANSWERED {
            recorder.tell("s", subject(), Verdict::denied("why"));
            recorder.sent();
        }
        let other = recorder.tell("other", subject(), Verdict::denied("why"));
        recorder.sent();
        let room = recorder.room();
        tokio::pin!(room);
        assert!(futures_pending(room.as_mut()).await);
        recorder.forget("s");
        room.await;
        assert!(!recorder.is_written(other) && recorder.waiting.borrow().len() == 1);
    }

    /// Whether one poll leaves a future pending.
    async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending()))
            .await
    }
}
