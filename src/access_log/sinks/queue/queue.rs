//! A sink that stores records in the background.

use std::{fmt, future::poll_fn, sync::Arc};

use super::inner::LogQueueInner;
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        record::record::Record,
        sinks::sink::Sink,
        store::{LogEntry, LogStream},
    },
    core::{
        audit::{AuditEvent, Auditor},
        error::StoreError,
    },
};

/// Stores records in a [`LogStore`](crate::access_log::LogStore) in batches, in the background.
///
/// A request only encodes its record and pushes it onto a bounded queue. A batch is stored when it
/// is full or when the flush interval has elapsed. The delivery task ends when the queue is empty,
/// and the next record starts another task.
///
/// If the store is slow or unavailable, the least important records are lost first. Records of
/// successful requests can use three quarters of the queue, and records of failed or denied
/// requests can use seven eighths. Lost records are counted. When the store accepts entries again,
/// a `portcullis.log.lost` entry reports their number.
///
/// `LogQueue` is also an [`Auditor`]. One eighth of the capacity is reserved for audit events. A
/// separate task stores them, so that records do not delay them. Audit events have a separate
/// stream, in the same store or in [another
/// store](crate::access_log::sinks::LogQueueBuilder::audit_store).
///
/// ```
/// use portcullis::{
///     TokioRuntime,
///     access_log::{AccessLogLayer, sinks::LogQueue},
///     store::MemoryStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), portcullis::ConfigError> {
/// let queue = LogQueue::builder(MemoryStore::new(), TokioRuntime).build()?;
/// let layer = AccessLogLayer::new(queue.clone());
/// // Before the process ends, store the remaining records.
/// queue.flush().await;
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LogQueue {
    pub(super) shared: Arc<LogQueueInner>,
}

impl LogQueue {
    /// Returns the number of records and events that wait to be stored.
    pub fn pending(&self) -> usize {
        self.shared.access.waiting() + self.shared.audit.waiting()
    }

    /// Returns the number of lost entries of this stream, by reason.
    pub fn drop_counts(&self, trail: LogStream) -> DropCounts {
        self.shared.lane(trail).state().backlog.drop_counts()
    }

    /// Stores an audit event immediately, and returns when it is stored. Use this method for events
    /// that must not be lost unnoticed, such as the revocation of a key.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the store failed or timed out.
    pub async fn audit_now(&self, event: &AuditEvent) -> Result<(), StoreError> {
        let entry = self.shared.audited(event);
        self.shared.append(&self.shared.audit, &[entry]).await
    }

    /// Stores all waiting entries, unless a store fails, and waits for batches that are being
    /// stored. Call this method at the end of the process.
    ///
    /// Returns `true` if no entry is left.
    pub async fn flush(&self) -> bool {
        let shared = &self.shared;
        let audit = shared.deliver(&shared.audit).await;
        let access = shared.deliver(&shared.access).await;
        for lane in [&shared.audit, &shared.access] {
            poll_fn(|cx| lane.poll_idle(cx)).await;
        }
        audit.is_ok() && access.is_ok() && self.pending() == 0
    }

    fn offer(&self, weight: Weight, entry: LogEntry) {
        let trail = match weight {
            Weight::Routine | Weight::Important => LogStream::Access,
            Weight::Audit => LogStream::Audit,
        };
        LogQueueInner::offer(&self.shared, trail, weight, entry);
    }
}

impl Sink for LogQueue {
    fn write(&self, record: &Record<'_>) {
        let entry = record.with_json_line(self.shared.names, |line| {
            let json = bytes::Bytes::copy_from_slice(line.trim_ascii_end());
            LogEntry::new(record.arrived_at(), json)
        });
        self.offer(Weight::of(record), entry);
    }

    fn drop_counts(&self) -> DropCounts {
        Self::drop_counts(self, LogStream::Access)
    }
}

impl Auditor for LogQueue {
    fn audit(&self, event: &AuditEvent) {
        self.shared
            .each_observer(|observer| observer.on_audit(event));
        self.offer(Weight::Audit, self.shared.audited(event));
    }

    fn lost(&self) -> u64 {
        self.drop_counts(LogStream::Audit).total()
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue")
            .field("waiting", &self.pending())
            .field("drop_counts", &self.drop_counts(LogStream::Access))
            .field("audit_drop_counts", &self.drop_counts(LogStream::Audit))
            .finish_non_exhaustive()
    }
}
