//! The number of requests that are under way, and what became of their records.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counts requests under way and what became of their records. A clone shows the same counts.
#[derive(Clone, Debug, Default)]
pub struct LogStats {
    counts: Arc<LogCounters>,
}

#[derive(Debug, Default)]
struct LogCounters {
    active: AtomicU64,
    started: AtomicU64,
    emitted: AtomicU64,
    failed: AtomicU64,
    folded: AtomicU64,
    sampled_out: AtomicU64,
}

impl LogStats {
    /// Returns how many requests are under way: arrived, and their response's body not yet at its
    /// end. A request that is dropped or panics counts until then, and no longer.
    pub fn active(&self) -> u64 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// Returns the number of start records that were handed to the sinks. [`emitted`](Self::emitted) does
    /// not include them.
    pub fn started(&self) -> u64 {
        self.counts.started.load(Ordering::Relaxed)
    }

    /// Returns the number of records of ended requests that were handed to the sinks.
    pub fn emitted(&self) -> u64 {
        self.counts.emitted.load(Ordering::Relaxed)
    }

    /// Returns how many records were lost because a sink, or a function of the user's, panicked.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Returns how many denials were folded into the record of another.
    pub fn folded(&self) -> u64 {
        self.counts.folded.load(Ordering::Relaxed)
    }

    /// Returns how many records were left out because others stand for them.
    pub fn sampled_out(&self) -> u64 {
        self.counts.sampled_out.load(Ordering::Relaxed)
    }

    pub(super) fn count_folded(&self) {
        self.counts.folded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_sampled_out(&self) {
        self.counts.sampled_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_started(&self) {
        self.counts.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_emitted(&self) {
        self.counts.emitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request as under way until what is returned is dropped.
    pub(crate) fn enter(&self) -> Active {
        self.counts.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.counts))
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Active(Arc<LogCounters>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
