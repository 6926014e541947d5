//! The options of a log queue.

use std::{fmt, sync::Arc, time::Duration};

use super::{inner::LogQueueInner, lane::Lane, queue::LogQueue};
use crate::{
    access_log::{
        emit::observer::Observer,
        record::schema::FieldNaming,
        sinks::backlog::BacklogBounds,
        store::{LogStore, LogStream},
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
            names: FieldNaming::default(),
            bounds: BacklogBounds {
                entries_max: 8_192,
                max_bytes: 8 << 20,
            },
            max_batch: 512,
            flush_interval: Duration::from_secs(1),
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
    names: FieldNaming,
    bounds: BacklogBounds,
    max_batch: usize,
    flush_interval: Duration,
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
    pub fn max_records(mut self, records: usize) -> Self {
        self.bounds.entries_max = records;
        self
    }

    /// Sets how many bytes of records may wait. 8 MiB by default.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_bytes = bytes;
        self
    }

    /// Sets how many records are stored by one call. 512 by default.
    pub fn max_batch(mut self, records: usize) -> Self {
        self.max_batch = records;
        self
    }

    /// Sets how long a record waits for others to be stored with. 1 s by default.
    pub fn flush_interval(mut self, flush_interval: Duration) -> Self {
        self.flush_interval = flush_interval;
        self
    }

    /// Sets how long the store has to take a batch. 5 s by default; then the batch is lost.
    pub fn store_timeout(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
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
                ConfigError::new("max_records", self.bounds.entries_max, problem)
                    .fix("give at least 8, or leave the default"),
            );
        }
        if self.bounds.max_bytes < 64 << 10 {
            return Err(
                ConfigError::new("max_bytes", self.bounds.max_bytes, problem)
                    .fix("give at least 65536, or leave the default"),
            );
        }
        if self.max_batch == 0 {
            return Err(
                ConfigError::new("max_batch", 0, "an empty batch stores nothing")
                    .fix("give at least 1, or leave the default"),
            );
        }
        let watches = self.audit_store.is_some();
        let audit_store = self.audit_store.unwrap_or_else(|| Arc::clone(&self.store));
        Ok(LogQueue {
            shared: Arc::new(LogQueueInner {
                access: Lane::new(LogStream::Access, self.store, self.bounds),
                audit: Lane::new(LogStream::Audit, audit_store, self.bounds),
                watches,
                observers: self.observers,
                runtime: self.runtime,
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
                names: self.names,
                max_batch: self.max_batch,
                flush_interval: self.flush_interval,
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
