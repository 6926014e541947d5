//! Counters of requests and records.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counters of requests in progress and of records. Clones share the counters.
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
    /// Returns the number of requests in progress. A request is in progress from its arrival until
    /// its response body ends or the request is dropped or panics.
    pub fn active(&self) -> u64 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// Returns the number of start records that were written to the sinks. They are not included in
    /// [`emitted`](Self::emitted).
    pub fn started(&self) -> u64 {
        self.counts.started.load(Ordering::Relaxed)
    }

    /// Returns the number of records of ended requests that were written to the sinks.
    pub fn emitted(&self) -> u64 {
        self.counts.emitted.load(Ordering::Relaxed)
    }

    /// Returns the number of records and function calls that failed because a sink or an
    /// application function panicked.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Returns the number of denials that were aggregated into the record of another denial.
    pub fn folded(&self) -> u64 {
        self.counts.folded.load(Ordering::Relaxed)
    }

    /// Returns the number of records that were not written because of sampling.
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

    /// Counts a request as in progress until the returned guard is dropped.
    pub(crate) fn enter(&self) -> Active {
        self.counts.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.counts))
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Active(Arc<LogCounters>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
