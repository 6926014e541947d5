//! The access log's part of the store in memory.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::store::{MemoryStore, Shelf};
use crate::{
    access_log::{LogEntry, LogQuery, LogStore, Ring, Trail},
    core::store_api::store_future::StoreFuture,
};

/// The latest entries of each trail, each trail within the bounds.
pub(super) struct Part {
    access: Mutex<Ring>,
    audit: Mutex<Ring>,
}

impl Part {
    pub(super) fn new(shelf: &Shelf) -> Self {
        let bounds = &shelf.bounds;
        let ring = || Mutex::new(Ring::new(bounds.log_records_max, bounds.log_bytes_max));
        Self {
            access: ring(),
            audit: ring(),
        }
    }

    fn trail(&self, trail: Trail) -> MutexGuard<'_, Ring> {
        let ring = match trail {
            Trail::Access => &self.access,
            Trail::Audit => &self.audit,
        };
        ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for MemoryStore {
    fn append(&self, trail: Trail, batch: &[LogEntry]) -> StoreFuture<()> {
        let mut ring = self.shared.access_log.trail(trail);
        for entry in batch {
            ring.push(entry.clone());
        }
        StoreFuture::ready(())
    }

    fn recent(&self, trail: Trail, query: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        StoreFuture::ready(self.shared.access_log.trail(trail).recent(query))
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access_log::Part")
    }
}
