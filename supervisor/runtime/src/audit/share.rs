//! How much of the log the records of one sandbox may take.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// One sandbox's share of the log, from its first record to its last.
///
/// Old records go when new ones need their room, so whoever writes without end pushes out what is known of everybody.
/// A sandbox that has used its share up is to be ended: what nobody can account for must not go on.
#[derive(Debug)]
pub struct Share {
    bytes: u64,
    used: AtomicU64,
    used_up: watch::Sender<bool>,
}

impl Share {
    /// A share of so many bytes.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        Self { bytes, used: AtomicU64::new(0), used_up: watch::channel(false).0 }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Becomes true when it is used up.
    #[must_use]
    pub fn used_up(&self) -> watch::Receiver<bool> {
        self.used_up.subscribe()
    }

    /// A record took so many bytes.
    pub(super) fn take(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used >= self.bytes {
            self.used_up.send_if_modified(|used_up| !std::mem::replace(used_up, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_with_its_last_byte() {
        let share = Share::of(10);
        let used_up = share.used_up();
        for (bytes, expected) in [(4, false), (5, false), (1, true), (9, true)] {
            share.take(bytes);
            assert_eq!(*used_up.borrow(), expected, "{bytes}");
        }
    }
}
