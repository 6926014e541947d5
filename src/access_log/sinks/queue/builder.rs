//! The builder of a log queue.

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
    /// Creates a builder for a queue that writes to this store. The queue's tasks run on this
    /// runtime.
    pub fn builder(store: impl LogStore, runtime: impl Runtime) -> LogQueueBuilder {
        LogQueueBuilder {
            store: Arc::new(store),
            audit_store: None,
            observers: Vec::new(),
            runtime: Arc::new(runtime),
            clock: None,
            names: FieldNaming::default(),
            bounds: BacklogBounds {
                max_entries: 8_192,
                max_bytes: 8 << 20,
            },
            max_batch: 512,
            flush_interval: Duration::from_secs(1),
            store_timeout: Duration::from_secs(5),
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
    store_timeout: Duration,
}

impl LogQueueBuilder {
    /// Sets a separate store for audit events. By default, audit events are written to a separate
    /// stream in the same store as the records.
    ///
    /// With a separate store, audit events also report when the record store becomes unavailable
    /// and when it recovers.
    pub fn audit_store(mut self, store: impl LogStore) -> Self {
        self.audit_store = Some(Arc::new(store));
        self
    }

    /// Adds an observer of store calls and their duration, such as `Metrics` (feature `metrics`).
    /// Defaults to none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets the maximum number of waiting records. Defaults to 8 192. [`build`](Self::build)
    /// returns an error if it is below 8.
    pub fn max_queued_records(mut self, records: usize) -> Self {
        self.bounds.max_entries = records;
        self
    }

    /// Sets the maximum size of waiting records, in bytes. Defaults to 8 MiB.
    /// [`build`](Self::build) returns an error if it is below 64 KiB.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_bytes = bytes;
        self
    }

    /// Sets the maximum number of records per store call. Defaults to 512. [`build`](Self::build)
    /// returns an error if it is 0.
    pub fn max_batch(mut self, records: usize) -> Self {
        self.max_batch = records;
        self
    }

    /// Sets the maximum time that a record waits for its batch to fill. Defaults to 1 second.
    pub fn flush_interval(mut self, flush_interval: Duration) -> Self {
        self.flush_interval = flush_interval;
        self
    }

    /// Sets the timeout of a store call. Defaults to 5 seconds. A batch that times out is lost.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Sets the naming convention of the fields. Defaults to [`FieldNaming::Otel`].
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
        self.names = names;
        self
    }

    /// Sets the clock that provides the time of audit events and loss counts. Defaults to the
    /// system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the queue.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if [`max_queued_records`](Self::max_queued_records) is below 8, if
    /// [`max_queued_bytes`](Self::max_queued_bytes) is below 65 536, or if
    /// [`max_batch`](Self::max_batch) is 0.
    pub fn build(self) -> Result<LogQueue, ConfigError> {
        if self.bounds.max_entries < 8 {
            return Err(ConfigError::new(
                "max_queued_records",
                self.bounds.max_entries,
                "it must be at least 8",
            )
            .fix("raise it, or drop the call to use 8192"));
        }
        if self.bounds.max_bytes < 64 << 10 {
            return Err(ConfigError::new(
                "max_queued_bytes",
                self.bounds.max_bytes,
                "it must be at least 65536",
            )
            .fix("raise it, or drop the call to use 8 MiB"));
        }
        if self.max_batch == 0 {
            return Err(ConfigError::new("max_batch", 0, "it must be at least 1")
                .fix("raise it, or drop the call to use 512"));
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
                store_timeout: self.store_timeout,
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
