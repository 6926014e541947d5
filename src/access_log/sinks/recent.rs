//! The latest records in memory: for tests, and for a page that shows them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ring::Ring, sink::Sink};
use crate::access_log::{
    record::{record::Record, schema::FieldNaming},
    store::LogEntry,
};

/// Keeps the latest records in memory, encoded: for tests, and for a page that shows them.
///
/// A clone shows the same records, so one goes into the layer and one stays with the reader. The
/// oldest record goes when either bound is reached.
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
    /// Keeps this many records of this many bytes together, at most.
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring::new(max_records, max_bytes))),
            names: FieldNaming::default(),
        }
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    #[must_use]
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
        self.names = names;
        self
    }

    /// Returns the latest record, as JSON.
    pub fn last(&self) -> Option<String> {
        self.ring().latest_first().next().map(text)
    }

    /// Returns all records that are kept, as JSON, the oldest first.
    pub fn all(&self) -> Vec<String> {
        let mut all: Vec<_> = self.ring().latest_first().map(text).collect();
        all.reverse();
        all
    }

    /// Forgets all records.
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
    /// Keeps 1 000 records of 1 MiB together, at most.
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
