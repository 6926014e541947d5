//! The tiered store's access log, which is stored on the server.

use super::store::TieredStore;
use crate::{
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    core::store_api::store_future::StoreFuture,
};

impl LogStore for TieredStore {
    fn append(&self, trail: LogStream, batch: &[LogEntry]) -> StoreFuture<()> {
        self.far.append(trail, batch)
    }

    fn recent(&self, trail: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        self.far.recent(trail, query)
    }
}
