//! Everything that the layer was told, once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{collapse::Flights, jitter::Jitter, key::KeyMaker, rules::Rules, store::CacheStore};
use crate::{runtime::Runtime, time::Clock};

/// Everything that the layer was told.
pub(super) struct Config {
    pub(super) store: Arc<dyn CacheStore>,
    pub(super) keys: KeyMaker,
    pub(super) rules: Rules,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    /// The cache's name in `Cache-Status`; no such field without one.
    pub(super) name: Option<Arc<str>>,
    /// How many variants of one URL a partition keeps at most.
    pub(super) variants_max: usize,
    /// For how long an answer that can be validated is kept after it went stale.
    pub(super) validated_for: Duration,
    pub(super) jitter: Jitter,
    pub(super) filling: Budget,
    pub(super) flights: Arc<Flights>,
    /// For how long a request waits for another one's answer.
    pub(super) wait_at_most: Duration,
    /// Whether it was said that credentials come without anybody who vouches for them.
    pub(super) unvouched_said: AtomicBool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("rules", &self.rules)
            .field("name", &self.name)
            .field("variants_max", &self.variants_max)
            .field("validated_for", &self.validated_for)
            .field("filling", &self.filling)
            .finish_non_exhaustive()
    }
}

/// How many bytes all answers that are being stored at one moment may take together.
#[derive(Debug)]
pub(super) struct Budget {
    taken_bytes: AtomicU64,
    pub(super) bytes_max: u64,
}

impl Budget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            taken_bytes: AtomicU64::new(0),
            bytes_max,
        }
    }

    /// Takes some bytes. Returns whether they were there to be taken.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let taken = self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = taken.saturating_add(bytes) <= self.bytes_max;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_gives_nothing_until_some_is_given_back() {
        let budget = Budget::new(10);
        assert!(budget.take(6));
        assert!(!budget.take(5));
        assert!(budget.take(4));
        budget.give_back(6);
        assert!(budget.take(6));
    }
}
