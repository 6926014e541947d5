//! The options of a log queue.

use std::{fmt, sync::Arc, time::Duration};

use super::{inner::LogQueueInner, lane::Lane, queue::LogQueue};
use crate::{
    access_log::{
        emit::observer::Observer,
        record::schema::Names,
        sinks::backlog::BacklogBounds,
        store::{LogStore, Trail},
    },
    core::{
        error::ConfigError,
        runtime::Runtime,
        time::{Clock, SystemClock},
    },
};

impl LogQueue {
    /// Begins a queue to this store, whose tasks run on this runtime.
    pub fn builder(store: impl LogStore, runtime: impl Runtime) -> LogQueueBuilder {
        LogQueueBuilder {
            store: Arc::new(store),
            audit_store: None,
            observers: Vec::new(),
            runtime: Arc::new(runtime),
            clock: None,
            names: Names::default(),
            bounds: BacklogBounds {
                entries_max: 8_192,
                bytes_max: 8 << 20,
            },
            batch_max: 512,
            linger: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
        }
    }
}

/// Builds a [`LogQueue`].
#[must_use]
pub struct LogQueueBuilder {
    store: Arc<dyn LogStore>,
    audit_store: Option<Arc<dyn LogStore>>,
    observers: Vec<Arc<dyn Observer>>,
    runtime: Arc<dyn Runtime>,
    clock: Option<Arc<dyn Clock>>,
    names: Names,
    bounds: BacklogBounds,
    batch_max: usize,
    linger: Duration,
    deadline: Duration,
}

impl LogQueueBuilder {
    /// Keeps audit events in a store of their own. In the same store as the records by default, in a
    /// trail of their own.
    ///
    /// They then also tell when the records' store stops answering, and when it answers again.
    pub fn audit_store(mut self, store: impl LogStore) -> Self {
        self.audit_store = Some(Arc::new(store));
        self
    }

    /// Adds who is told how the stores answer, and how long they take: `Metrics` (feature
    /// `metrics`), say.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets how many records may wait. 8 192 by default.
    pub fn records_max(mut self, records: usize) -> Self {
        self.bounds.entries_max = records;
        self
    }

    /// Sets how many bytes of records may wait. 8 MiB by default.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bounds.bytes_max = bytes;
        self
    }

    /// Sets how many records are stored by one call. 512 by default.
    pub fn batch_max(mut self, records: usize) -> Self {
        self.batch_max = records;
        self
    }

    /// Sets how long a record waits for others to be stored with. 1 s by default.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how long the store has to take a batch. 5 s by default; then the batch is lost.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Sets the clock that dates what the queue itself has to tell. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Returns the queue.
    ///
    /// # Errors
    ///
    /// If the queue has no room for eight records, or a batch none for one.
    pub fn build(self) -> Result<LogQueue, ConfigError> {
        let problem = "a queue of no room loses each record";
        if self.bounds.entries_max < 8 {
            return Err(
                ConfigError::new("records_max", self.bounds.entries_max, problem)
                    .fix("give at least 8, or leave the default"),
            );
        }
        if self.bounds.bytes_max < 64 << 10 {
            return Err(
                ConfigError::new("bytes_max", self.bounds.bytes_max, problem)
                    .fix("give at least 65536, or leave the default"),
            );
        }
        if self.batch_max == 0 {
            return Err(
                ConfigError::new("batch_max", 0, "an empty batch stores nothing")
                    .fix("give at least 1, or leave the default"),
            );
        }
        let watches = self.audit_store.is_some();
        let audit_store = self.audit_store.unwrap_or_else(|| Arc::clone(&self.store));
        Ok(LogQueue {
            shared: Arc::new(LogQueueInner {
                access: Lane::new(Trail::Access, self.store, self.bounds),
                audit: Lane::new(Trail::Audit, audit_store, self.bounds),
                watches,
                observers: self.observers,
                runtime: self.runtime,
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
                names: self.names,
                batch_max: self.batch_max,
                linger: self.linger,
                deadline: self.deadline,
            }),
        })
    }
}

impl fmt::Debug for LogQueueBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueueBuilder")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
