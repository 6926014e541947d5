//! The conformance suite for log stores.

use crate::{
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    core::time::Timestamp,
};

/// Checks that a store meets the requirements of [`LogStore`]. The store must be empty and have
/// space for 16 entries.
///
/// # Panics
///
/// Panics if the store violates a requirement. The message states the requirement.
pub async fn log_store(store: &impl LogStore) {
    returns_entries_unchanged(store).await;
    returns_latest_entries_first(store).await;
    separates_streams(store).await;
    filters_by_time(store).await;
}

async fn returns_entries_unchanged(store: &impl LogStore) {
    assert!(
        recent(store, LogStream::Access, LogQuery::default())
            .await
            .is_empty(),
        "the store is empty"
    );
    append(store, LogStream::Access, &[]).await;
    let odd = LogEntry::new(at(1), "{\"text\":\"\\u0000 \\\" grüße 🦀\"}");
    append(store, LogStream::Access, std::slice::from_ref(&odd)).await;
    let kept = recent(store, LogStream::Access, LogQuery::default()).await;
    assert_eq!(kept, [odd], "an entry is returned unchanged with its time");
}

async fn returns_latest_entries_first(store: &impl LogStore) {
    append(store, LogStream::Access, &[entry(2), entry(3)]).await;
    append(store, LogStream::Access, &[entry(4)]).await;
    let latest = recent(store, LogStream::Access, LogQuery::latest(3)).await;
    assert_eq!(
        latest,
        [entry(4), entry(3), entry(2)],
        "the latest entries are first, up to the limit"
    );
    assert!(
        recent(store, LogStream::Access, LogQuery::latest(0))
            .await
            .is_empty(),
        "a limit of 0 returns no entries"
    );
}

async fn separates_streams(store: &impl LogStore) {
    append(store, LogStream::Audit, &[entry(9)]).await;
    assert_eq!(
        recent(store, LogStream::Audit, LogQuery::default()).await,
        [entry(9)],
        "streams are separate"
    );
    let access = recent(store, LogStream::Access, LogQuery::default()).await;
    assert!(!access.contains(&entry(9)), "streams are separate");
}

async fn filters_by_time(store: &impl LogStore) {
    let span = LogQuery::default().since(at(2)).until(at(3));
    let within = recent(store, LogStream::Access, span).await;
    assert_eq!(
        within,
        [entry(3), entry(2)],
        "both ends of a time range are included"
    );
    let later = LogQuery::default().since(at(5));
    assert!(
        recent(store, LogStream::Access, later).await.is_empty(),
        "there are no later entries"
    );
}

async fn append(store: &impl LogStore, stream: LogStream, batch: &[LogEntry]) {
    store
        .append(stream, batch)
        .await
        .expect("`append` succeeds");
}

async fn recent(store: &impl LogStore, stream: LogStream, query: LogQuery) -> Vec<LogEntry> {
    store
        .recent(stream, &query)
        .await
        .expect("`recent` succeeds")
}

fn entry(number: u64) -> LogEntry {
    LogEntry::new(at(number), format!("{{\"number\":{number}}}"))
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_767_225_600 + secs)
}
