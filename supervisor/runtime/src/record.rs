//! From what happens to what is written down.
//!
//! One log for the daemon behind one lock. **A log that cannot be written ends every sandbox**: what nobody can
//! account for must not go on. Those that start later depend on whether it can be written then.

use std::sync::{Arc, Mutex, PoisonError};

use skep_policy::decision::Decision;
use skep_policy::gateway::{GatewayEvent, Subject};
use tokio::sync::watch;

use crate::audit::{self, AuditError, Body, Durability, Log, Record, Text};
use crate::distinct::Met;
use crate::protocol::Denial;
use crate::registry::{Live, Progress, Registry, Repeated};

/// The audit as the rest of skepd writes it.
pub struct Recorder {
    /// `None` once it is closed.
    log: Mutex<Option<Log>>,
    registry: Arc<Registry>,
    /// Told of each failure; says whether the last attempt was one.
    failed: watch::Sender<bool>,
}

/// Hears of records that could not be written. A clone has heard as much as the first.
#[derive(Clone)]
pub struct Failures(watch::Receiver<bool>);

impl Failures {
    /// Resolves when one could not be since this was made.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody writes any more: the daemon is ending anyway.
            std::future::pending::<()>().await;
        }
    }
}

impl Recorder {
    /// Writes to `log` about the sandboxes of `registry`.
    #[must_use]
    pub fn new(log: Log, registry: Arc<Registry>) -> Self {
        Self { log: Mutex::new(Some(log)), registry, failed: watch::channel(false).0 }
    }

    /// Hears of each record that cannot be written from now on, whatever comes after it.
    #[must_use]
    pub fn failures(&self) -> Failures {
        Failures(self.failed.subscribe())
    }

    /// Writes one record; when this returns, what it records may take effect.
    ///
    /// # Errors
    /// When it is not in the log: then it must not take effect.
    pub fn write(&self, record: Record) -> Result<(), AuditError> {
        self.write_all(vec![record])
    }

    /// Writes several records with one system call.
    ///
    /// # Errors
    /// As [`Recorder::write`], for all of them.
    pub fn write_all(&self, records: Vec<Record>) -> Result<(), AuditError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || AuditError::Broken("it is closed".to_owned());
        let appended = log.as_mut().ok_or_else(closed)?.append_all(records, Durability::Buffered);
        match appended {
            Ok(_) => {
                // Nobody is told of it: who ends for a failure ends all the same.
                self.failed.send_if_modified(|failed| {
                    *failed = false;
                    false
                });
                Ok(())
            }
            Err(error) => {
                if !self.failed.send_replace(true) {
                    tracing::error!(%error, "the audit cannot be written: every sandbox ends");
                }
                Err(error)
            }
        }
    }

    /// Writes a gateway's event; `false` if it is not in the log.
    pub fn gateway(&self, event: &GatewayEvent) -> bool {
        match event {
            GatewayEvent::Ready | GatewayEvent::Serving { .. } | GatewayEvent::Dismissed { .. } => true,
            GatewayEvent::Judged { number, sandbox, subject, decision, rule, reason } => {
                // A sandbox that is gone has nothing left to decide.
                let Some(live) = self.registry.of_id(sandbox) else { return false };
                let body = judged(&live, *number, subject, *decision, *rule, reason);
                self.write(Record::of(&live.origin, body)).is_ok()
            }
            GatewayEvent::Closed { number, sandbox, sent, received, milliseconds, error } => {
                let Some(live) = self.registry.of_id(sandbox) else { return false };
                let body = Body::Closed(audit::Closed {
                    number: *number,
                    sent: *sent,
                    received: *received,
                    milliseconds: *milliseconds,
                    error: error.as_deref().map(Text::from),
                });
                self.write(Record::of(&live.origin, body)).is_ok()
            }
        }
    }

    /// Writes what became of a running sandbox's gateway.
    pub fn gateway_failed(&self, sandbox: &str, message: &str) {
        let Some(live) = self.registry.of_id(sandbox) else { return };
        let body = Body::Error(audit::Failure { what: "gateway".to_owned(), message: Text::from(message) });
        if self.write(Record::of(&live.origin, body)).is_err() {
            tracing::debug!("every sandbox ends, so this one needs no gateway");
        }
    }

    /// Closes the log in good order.
    ///
    /// # Errors
    /// When its end could not be anchored.
    pub fn close(&self) -> Result<(), AuditError> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        log.map_or(Ok(()), Log::close)
    }
}

/// The record of a judged name or connection, counted on the way.
fn judged(
    live: &Live,
    number: u64,
    subject: &Subject,
    decision: Decision,
    rule: Option<u32>,
    reason: &str,
) -> Body {
    let rules = &live.policy.egress.rules;
    let rule =
        rule.and_then(|index| rules.get(usize::try_from(index).ok()?)).map(|rule| rule.display.clone());
    let to = match subject {
        Subject::Name { name, addresses } => {
            live.progress().learn(name, *addresses);
            name.clone()
        }
        Subject::Connection { name, port, .. } => format!("{name}:{port}"),
        Subject::Address { address, .. } => address.to_string(),
    };
    let allow_with = match subject {
        _ if decision == Decision::Allow => None,
        // Whoever looked a name up most likely wanted HTTPS; the line is a suggestion for a person.
        Subject::Name { name, .. } => live.policy.allowing_connect(name, 443),
        Subject::Connection { name, port, .. } => live.policy.allowing_connect(name, *port),
        Subject::Address { .. } => None,
    };
    if decision == Decision::Allow {
        if matches!(subject, Subject::Connection { .. }) {
            live.progress().counters.connected += 1;
        }
    } else {
        let (rule, allow_with) = (rule.clone(), allow_with.clone());
        // The record names its number, by which another one says that the connection ended: each is written.
        let _met = count_denial(live, Denial { what: format!("connect {to}"), rule, allow_with });
    }
    Body::Connection(audit::Connection {
        task: None,
        number,
        to: Text::from(to),
        decision,
        rule: rule.map(Text::from),
        reason: Text::from(reason),
        allow_with: allow_with.map(Text::from),
    })
}

/// Counts a denial and says whether it was met before.
pub fn count_denial(live: &Live, denial: Denial) -> Met {
    let Denial { what, rule, allow_with } = denial;
    let mut progress = live.progress();
    match rule {
        Some(_) => progress.counters.denied += 1,
        None => progress.counters.ungranted += 1,
    }
    let texts = [Some(&what), rule.as_ref(), allow_with.as_ref()];
    let bytes = texts.into_iter().flatten().map(String::len).sum();
    let (met, known) = progress.denials.meet(what, Repeated { count: 0, rule, allow_with }, bytes);
    if let Some(known) = known {
        known.count += 1;
    }
    met
}

/// What a sandbox that had no room for `lost` records since it was admitted has lost since this was said last.
pub fn losses(live: &Live, lost: u64) -> Option<Body> {
    let mut progress = live.progress();
    let lost = lost + progress.unjudged;
    lose(&mut progress, lost)
}

/// What a sandbox has lost of which `count` more records were read and not judged.
pub fn left_unjudged(live: &Live, count: u64) -> Option<Body> {
    let mut progress = live.progress();
    progress.unjudged += count;
    let lost = progress.counters.lost + count;
    lose(&mut progress, lost)
}

/// Notes that `lost` records are lost, and says how many of them are new.
fn lose(progress: &mut Progress, lost: u64) -> Option<Body> {
    let count = lost.checked_sub(progress.counters.lost).filter(|count| *count > 0)?;
    progress.counters.lost = lost;
    Some(Body::Lost(audit::Lost { source: "sandbox".to_owned(), count, ..audit::Lost::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Failure, Options};

    fn write(recorder: &Recorder) -> Result<(), AuditError> {
        let message = Text::from("x".repeat(2000));
        recorder.write(Record::general(Body::Error(Failure { what: "test".to_owned(), message })))
    }

    async fn has_heard(failures: &mut Failures) -> bool {
        tokio::select! {
            biased;
            () = failures.next() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn a_record_that_fails_ends_what_runs_and_nothing_that_starts_later() {
        let state = tempfile::tempdir().unwrap();
        let log = Log::open(state.path(), Options { segment_bytes: 1 << 10, ..Options::default() }).unwrap();
        let recorder = Recorder::new(log, Arc::default());
        let mut running = recorder.failures();
        write(&recorder).unwrap();
        assert!(!has_heard(&mut running).await);
        let evidence = state.path().join("audit/000002.jsonl");
        std::fs::write(&evidence, "x").unwrap();
        write(&recorder).unwrap_err();
        let mut between = recorder.failures();
        std::fs::remove_file(&evidence).unwrap();
        write(&recorder).unwrap();
        assert!(has_heard(&mut running).await, "it goes on although a record is missing");
        assert!(!has_heard(&mut between).await);
        assert!(!has_heard(&mut recorder.failures()).await);
    }
}
