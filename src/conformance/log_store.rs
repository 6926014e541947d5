//! What every store of log entries must do.

use crate::{
    access_log::{LogEntry, LogQuery, LogStore, LogStream},
    core::time::Timestamp,
};

/// Checks a store of log entries that is empty and has room for sixteen.
///
/// # Panics
///
/// If the store breaks a promise that [`LogStore`] makes; the message says which.
pub async fn log_store(store: &impl LogStore) {
    keeps_entries_as_they_are(store).await;
    shows_the_latest_first(store).await;
    keeps_trails_apart(store).await;
    shows_a_span_of_time(store).await;
}

async fn keeps_entries_as_they_are(store: &impl LogStore) {
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
    assert_eq!(
        kept,
        [odd],
        "an entry comes back byte for byte, with its time"
    );
}

async fn shows_the_latest_first(store: &impl LogStore) {
    append(store, LogStream::Access, &[entry(2), entry(3)]).await;
    append(store, LogStream::Access, &[entry(4)]).await;
    let latest = recent(store, LogStream::Access, LogQuery::latest(3)).await;
    assert_eq!(
        latest,
        [entry(4), entry(3), entry(2)],
        "the latest come first, and no more than asked for"
    );
    assert!(
        recent(store, LogStream::Access, LogQuery::latest(0))
            .await
            .is_empty(),
        "none is none"
    );
}

async fn keeps_trails_apart(store: &impl LogStore) {
    append(store, LogStream::Audit, &[entry(9)]).await;
    assert_eq!(
        recent(store, LogStream::Audit, LogQuery::default()).await,
        [entry(9)],
        "trails are apart"
    );
    let access = recent(store, LogStream::Access, LogQuery::default()).await;
    assert!(!access.contains(&entry(9)), "trails are apart");
}

async fn shows_a_span_of_time(store: &impl LogStore) {
    let span = LogQuery::default().since(at(2)).until(at(3));
    let within = recent(store, LogStream::Access, span).await;
    assert_eq!(
        within,
        [entry(3), entry(2)],
        "both ends of a span of time belong to it"
    );
    let later = LogQuery::default().since(at(5));
    assert!(
        recent(store, LogStream::Access, later).await.is_empty(),
        "nothing is later than the last"
    );
}

async fn append(store: &impl LogStore, trail: LogStream, batch: &[LogEntry]) {
    store
        .append(trail, batch)
        .await
        .expect("the store takes entries");
}

async fn recent(store: &impl LogStore, trail: LogStream, query: LogQuery) -> Vec<LogEntry> {
    store
        .recent(trail, &query)
        .await
        .expect("the store shows entries")
}

fn entry(number: u64) -> LogEntry {
    LogEntry::new(at(number), format!("{{\"number\":{number}}}"))
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_767_225_600 + secs)
}
