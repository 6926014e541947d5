//! The latest records in memory, for tests and status pages.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ring::Ring, sink::Sink};
use crate::access_log::{
    record::{record::Record, schema::FieldNaming},
    store::LogEntry,
};

/// Retains the latest records in memory, encoded as JSON, for tests and status pages.
///
/// Clones share the records. Pass one clone to the layer and read the records from another. When
/// either limit is reached, the oldest record is evicted.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::RecentRecords};
///
/// let recent = RecentRecords::new(100, 1 << 20);
/// let layer = AccessLogLayer::new(recent.clone());
/// assert!(recent.last().is_none());
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct RecentRecords {
    ring: Arc<Mutex<Ring>>,
    names: FieldNaming,
}

impl RecentRecords {
    /// Creates a sink that retains at most `max_records` records with at most `max_bytes` bytes in
    /// total.
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring::new(max_records, max_bytes))),
            names: FieldNaming::default(),
        }
    }

    /// Sets the naming convention of the fields. Defaults to [`FieldNaming::Otel`].
    #[must_use]
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
        self.names = names;
        self
    }

    /// Returns the latest record, as JSON.
    pub fn last(&self) -> Option<String> {
        self.ring().latest_first().next().map(text)
    }

    /// Returns all retained records as JSON, oldest first.
    pub fn all(&self) -> Vec<String> {
        let mut all: Vec<_> = self.ring().latest_first().map(text).collect();
        all.reverse();
        all
    }

    /// Removes all records.
    pub fn clear(&self) {
        self.ring().clear();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for RecentRecords {
    fn write(&self, record: &Record<'_>) {
        let entry = record.with_json_line(self.names, |line| {
            LogEntry::new(record.arrived_at(), line.trim_ascii_end().to_vec())
        });
        self.ring().push(entry);
    }
}

impl Default for RecentRecords {
    /// Retains at most 1 000 records with at most 1 MiB in total.
    fn default() -> Self {
        Self::new(1_000, 1 << 20)
    }
}

impl fmt::Debug for RecentRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecentRecords")
    }
}

fn text(entry: &LogEntry) -> String {
    String::from_utf8_lossy(&entry.json).into_owned()
}
