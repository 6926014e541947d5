//! What is told of a store: its counts, and once for each change whether it answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    audit::{AuditEvent, Auditor},
    error::StoreErrorKind,
    notice,
};

/// What a [`RedisStore`](super::RedisStore) has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// How many calls were put to a server; of decisions that went together, each is one.
    pub calls: u64,
    /// How many of them were not answered in time.
    pub timeouts: u64,
    /// How many of them lost their connection, or were answered by what no server says.
    pub broken: u64,
    /// How many calls were not put to a server, as it did not answer or too many were waiting.
    pub refused: u64,
    /// How many requests were denied without asking, as the server had denied them before.
    pub local_denials: u64,
    /// How often a connection was made or tried.
    pub connects: u64,
    /// How often a server stopped answering.
    pub downs: u64,
    /// How many servers do not answer now.
    pub down: u64,
}

/// Counts, and tells of changes.
#[derive(Debug)]
pub(super) struct Watch {
    name: Arc<str>,
    auditor: Option<Arc<dyn Auditor>>,
    pub(super) calls: Counter,
    pub(super) timeouts: Counter,
    pub(super) broken: Counter,
    pub(super) refused: Counter,
    pub(super) connects: Counter,
    pub(super) local_denials: Counter,
    downs: Counter,
    ups: Counter,
}

/// Counts what happens.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Watch {
    pub(super) fn new(name: Arc<str>, auditor: Option<Arc<dyn Auditor>>) -> Self {
        Self {
            name,
            auditor,
            calls: Counter::default(),
            timeouts: Counter::default(),
            broken: Counter::default(),
            refused: Counter::default(),
            connects: Counter::default(),
            local_denials: Counter::default(),
            downs: Counter::default(),
            ups: Counter::default(),
        }
    }

    pub(super) fn stats(&self) -> RedisStats {
        // The ups first: no more servers seem to have come back than were gone.
        let ups = self.ups.get();
        let downs = self.downs.get();
        RedisStats {
            calls: self.calls.get(),
            timeouts: self.timeouts.get(),
            broken: self.broken.get(),
            refused: self.refused.get(),
            connects: self.connects.get(),
            local_denials: self.local_denials.get(),
            downs,
            down: downs.saturating_sub(ups),
        }
    }

    /// Tells that a server has stopped answering.
    pub(super) fn down(&self, server: &str, kind: StoreErrorKind, cause: &str) {
        self.downs.add_one();
        let store = &self.name;
        let message = || format!("store `{store}`: {server} does not answer: {kind}{cause}");
        notice::once(&AtomicBool::new(false), message);
        self.audit(|store| AuditEvent::StoreDown { store, kind });
    }

    /// Tells that a server answers again.
    pub(super) fn up(&self, server: &str) {
        self.ups.add_one();
        let store = &self.name;
        let message = || format!("store `{store}`: {server} answers again");
        notice::once(&AtomicBool::new(false), message);
        self.audit(|store| AuditEvent::StoreUp { store });
    }

    /// Tells that a server that did not answer is no longer asked.
    pub(super) fn forgotten(&self) {
        self.ups.add_one();
    }

    fn audit(&self, event: impl FnOnce(Arc<str>) -> AuditEvent) {
        if let Some(auditor) = &self.auditor {
            auditor.audit(&event(Arc::clone(&self.name)));
        }
    }
}
