//! The in-memory log store.

use crate::{
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    core::store_api::store_future::StoreFuture,
    store::memory::store::MemoryStore,
};

impl LogStore for MemoryStore {
    fn append(&self, trail: LogStream, batch: &[LogEntry]) -> StoreFuture<()> {
        let mut ring = self.shared.access_log.trail(trail);
        for entry in batch {
            ring.push(entry.clone());
        }
        StoreFuture::ready(())
    }

    fn recent(&self, trail: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        StoreFuture::ready(self.shared.access_log.trail(trail).recent(query))
    }
}
