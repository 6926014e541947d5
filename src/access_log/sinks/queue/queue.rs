//! Records on their way to a store, which no request waits for.

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

/// Hands records to a [`LogStore`](crate::access_log::LogStore) in batches, beside the requests.
///
/// A request pays for encoding and for one push onto a bounded queue. A batch is stored when it is
/// full or when the oldest record has waited long enough; the task that stores ends when nothing is
/// left to do, and the next record starts another.
///
/// When the store is slow or down, what matters least is lost first: requests that went well may
/// take three quarters of the room, and those that failed or were denied seven eighths. What is lost
/// is counted, and the count is stored as an entry `portcullis.log.lost` as soon as the store takes
/// one.
///
/// It is an [`Auditor`] too. Audit events have the last eighth of the room to themselves, a task of
/// their own, so that no record stands in their way, and a trail of their own, in the same store or
/// in [another](crate::access_log::sinks::LogQueueBuilder::audit_store).
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
/// // Before the process ends: what still waits is stored.
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
    /// Returns how many records and events wait to be stored.
    pub fn pending(&self) -> usize {
        self.shared.access.waiting() + self.shared.audit.waiting()
    }

    /// Returns how many entries of this trail were lost so far, and why.
    pub fn drop_counts(&self, trail: LogStream) -> DropCounts {
        self.shared.lane(trail).state().backlog.drop_counts()
    }

    /// Stores an audit event now, and returns once the store has it: for what may not be lost
    /// unseen, such as the revocation of a key.
    ///
    /// # Errors
    ///
    /// If the store failed, or did not answer in time.
    pub async fn audit_now(&self, event: &AuditEvent) -> Result<(), StoreError> {
        let entry = self.shared.audited(event);
        self.shared.append(&self.shared.audit, &[entry]).await
    }

    /// Stores all that waits, unless a store fails, and waits for what is on its way: for the end of
    /// the process.
    ///
    /// Returns whether nothing is left waiting.
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
