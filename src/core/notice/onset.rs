//! Detection of the first occurrence of a recurring fault.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::core::time::Timestamp;

/// The time without an occurrence after which a fault is considered over.
const QUIET: Duration = Duration::from_secs(60);

/// Detects the start of a fault whose end cannot be observed, such as failing writes while reads
/// succeed.
#[derive(Debug, Default)]
pub(crate) struct Onset {
    /// The time of the last occurrence in microseconds, plus one. Zero before the first occurrence.
    seen_at: AtomicU64,
}

impl Onset {
    /// Records an occurrence. Returns `true` if it is the first occurrence within a minute.
    pub(crate) fn begins(&self, now: Timestamp) -> bool {
        let now = now.as_micros().saturating_add(1);
        let last = self.seen_at.swap(now, Ordering::Relaxed);
        let quiet = Duration::from_micros(now.saturating_sub(last));
        last == 0 || quiet >= QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_begins_again_only_after_a_quiet_minute() {
        let onset = Onset::default();
        let begins = |secs| onset.begins(Timestamp::from_secs(secs));
        assert!(begins(0));
        assert!(!begins(0));
        // Each occurrence extends the fault.
        for at in [30, 60, 90, 149] {
            assert!(!begins(at), "at {at} s");
        }
        assert!(begins(209));
    }
}
