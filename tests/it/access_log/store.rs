//! Requirements on a store of log entries, checked against the memory store.

use portcullis::{
    StoreFuture,
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    conformance,
    store::MemoryStore,
};

#[tokio::test]
async fn the_store_in_memory_keeps_all_promises() {
    conformance::log_store(&MemoryStore::new()).await;
}

#[tokio::test]
#[should_panic(expected = "streams are separate")]
async fn a_store_that_mixes_its_trails_is_found_out() {
    struct Mixed(MemoryStore);

    impl LogStore for Mixed {
        fn append(&self, _: LogStream, batch: &[LogEntry]) -> StoreFuture<()> {
            self.0.append(LogStream::Access, batch)
        }

        fn recent(&self, _: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
            self.0.recent(LogStream::Access, query)
        }
    }

    conformance::log_store(&Mixed(MemoryStore::new())).await;
}
