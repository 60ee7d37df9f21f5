//! The audit log: JSON lines, hash chained, anchored outside of themselves.
//!
//! ```text
//! <state>/audit/000001.jsonl   segments: one record a line, the chain goes on from file to file
//! <state>/audit/lock           held by the one skepd that writes
//! <state>/anchor/head          number and hash of the head, a moment ago
//! ```
//!
//! A line (version 1), in this order:
//!
//! | member | what |
//! |---|---|
//! | `v` | version of the format |
//! | `seq` | number, 1 more than the line before |
//! | `at` | wall clock, RFC 3339, UTC, microseconds |
//! | `boot_ns`, `boot` | boot clock in nanoseconds, and the id of the boot |
//! | `sandbox` | `id`, `name`, `owner`, `profile`, `version` and, where rules are weaker, `weaker` |
//! | `event_ns` | boot clock of the event where the kernel saw it earlier |
//! | `kind`, `body` | see [`Body`] |
//! | `chain` | SHA-256 over the chain value before and this line up to here, see `chain.rs` |
//!
//! What the chain and the anchor prove: [`verify`] finds a record that was removed, changed, moved or added, and
//! an end that was cut off before the last anchor. Who can write as root can forge both together; copy the
//! anchor to another machine against that. The window in which a cut is not found is [`Options::anchor_every`].

use std::io;
use std::path::{Path, PathBuf};

mod anchor;
mod chain;
mod clock;
mod log;
mod read;
mod record;
mod redact;
mod segment;
mod shapes;
mod share;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod verify;

pub use clock::{parse_rfc3339, rfc3339};
pub use log::{AUDIT_SIZE, Durability, Log, Options, Seq};
pub use read::{Entry, Filter, ReadError, Reader, read};
pub use record::*;
pub use redact::{Redactor, RedactorError, looks_secret};
pub use segment::LONGEST_LINE;
pub use share::Share;
pub use text::Text;
pub use verify::{Broken, Place, Problem, Report, verify};

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process writes this log.
    #[error("{} is being written by another skepd; stop that one first", .0.display())]
    Busy(PathBuf),
    /// The directory is somebody else's, or others may write in it.
    #[error("{} must be a directory of this user that no one else can write (owner {owner}, mode {mode:o})", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// No space, or the quota is used up. The log is intact; append again when there is space.
    #[error("write({}) failed: {source}; free some space, until then everything that needs a record is denied", path.display())]
    Full {
        /// The segment.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An earlier failure left it unknown what is on the disk; open the log anew.
    #[error("the audit log cannot be written any more: {0}")]
    Broken(String),
    /// The record does not fit in a line even with every text cut.
    #[error("a record is longer than {LONGEST_LINE} bytes")]
    TooLong,
    /// [`AUDIT_SIZE`] is no size, or too small a one.
    #[error("{AUDIT_SIZE} is {0:?}: {1}")]
    Size(String, String),
    /// The record cannot be encoded.
    #[error("cannot encode a record: {0}")]
    Encode(serde_json::Error),
    /// A call failed.
    #[error("{call}({}) failed: {source}", object.display())]
    Io {
        /// The call.
        call: &'static str,
        /// What it was for.
        object: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl AuditError {
    /// For `map_err`: names the call and its object.
    fn io(call: &'static str, object: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let object = object.as_ref().to_owned();
        move |source| Self::Io { call, object, source }
    }
}
