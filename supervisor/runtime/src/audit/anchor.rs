//! The anchor: how far the log reached, written outside of the log's directory.
//!
//! A chain alone misses a cut tail: what is left is a valid chain. So a thread of the log writes number and
//! hash of its head to `<state>/anchor/head` now and then, off the path of the writer, after the segment itself
//! has reached the disk; therefore a log that ends before its anchor was cut, not torn by a power failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::segment::Link;
use crate::hex::{hex, unhex};

/// What the anchor file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) link: Link,
    pub(super) segment: u64,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    seq: u64,
    hash: String,
    segment: u64,
}

/// Path of the anchor file in a state directory.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("anchor").join("head")
}

impl Anchor {
    /// Reads the anchor; `None` if it is missing or is none.
    pub(super) fn read(state: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path(state)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let parse = || {
            let wire: Wire = serde_json::from_slice(&bytes).ok()?;
            let link = Link { seq: wire.seq, hash: unhex(&wire.hash)? };
            Some(Self { link, segment: wire.segment })
        };
        Ok(parse())
    }

    /// Replaces the anchor: durable when this returns.
    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        let path = path(state);
        let directory = state.join("anchor");
        if !directory.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        }
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let wire = Wire { v: 1, seq: self.link.seq, hash: hex(&self.link.hash), segment: self.segment };
        file.write_all(&serde_json::to_vec(&wire)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&directory)?.sync_all()
    }
}

/// The thread that keeps the anchor close behind the head.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: PathBuf,
    records: u64,
    pause: Duration,
    work: Mutex<Work>,
    wake: Condvar,
    /// Held while the file is replaced; the number it names. An older head never replaces a newer one.
    written: Mutex<u64>,
}

#[derive(Default)]
struct Work {
    /// The head, with its segment's file, if the anchor is behind.
    head: Option<(Anchor, Arc<File>)>,
    /// Number of the last record that is anchored.
    anchored: u64,
    stop: bool,
    failed: Option<io::Error>,
}

impl Keeper {
    pub(super) fn start(state: &Path, anchored: u64, records: u64, pause: Duration) -> io::Result<Self> {
        let work = Mutex::new(Work { anchored, ..Work::default() });
        let shared = Arc::new(Shared {
            state: state.to_owned(),
            records,
            pause,
            work,
            wake: Condvar::new(),
            written: Mutex::new(0),
        });
        let for_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("audit-anchor".into()).spawn(move || for_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Tells the thread where the head is.
    ///
    /// # Errors
    /// The error that stopped the thread: a failed write-back of the segment or a failed anchor.
    pub(super) fn advance(&self, head: Anchor, file: &Arc<File>) -> io::Result<()> {
        let mut work = self.shared.lock();
        if let Some(failed) = work.failed.take() {
            return Err(failed);
        }
        let idle = work.head.is_none();
        let due = head.link.seq - work.anchored >= self.shared.records;
        work.head = Some((head, Arc::clone(file)));
        if idle || due {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Anchors this head, which must be on the disk, before it returns.
    pub(super) fn write_now(&self, head: &Anchor) -> io::Result<()> {
        self.shared.write(head)
    }

    /// Ends the thread after its last anchor.
    pub(super) fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the anchor stays behind, which verification tolerates.
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, head: &Anchor) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if head.link.seq > *written {
            head.write(&self.state)?;
            *written = head.link.seq;
        }
        Ok(())
    }

    fn run(&self) {
        while let Some((head, file)) = self.next() {
            let done = file.sync_data().and_then(|()| self.write(&head));
            let mut work = self.lock();
            match done {
                Ok(()) => work.anchored = head.link.seq,
                Err(error) => {
                    work.failed = Some(error);
                    return;
                }
            }
        }
    }

    /// Waits for a head, then for the pause or enough records; `None` when it is time to stop.
    fn next(&self) -> Option<(Anchor, Arc<File>)> {
        let idle = |work: &mut Work| work.head.is_none() && !work.stop;
        let work = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let early = |work: &mut Work| {
            let ahead = work.head.as_ref().map_or(0, |(head, _)| head.link.seq - work.anchored);
            ahead < self.records && !work.stop
        };
        let waited = self.wake.wait_timeout_while(work, self.pause, early);
        let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        work.head.take()
    }
}
