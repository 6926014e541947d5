//! The storage interface for records and audit events.

use bytes::Bytes;

use crate::core::{store_api::store_future::StoreFuture, time::Timestamp};

/// Stores records and returns the latest records.
///
/// A [`LogQueue`](crate::access_log::sinks::LogQueue) calls the store in the background, so
/// requests do not wait for it. Entries that the store does not accept are counted as lost. A store
/// can evict the oldest entries to stay within its limits. If a store can lose the latest entries
/// in a crash, do not rely on it as evidence.
///
/// On Redis, `append` is one `EVALSHA` of a script that runs `XADD key MAXLEN ~ n * v 1 t at d
/// json` for each entry. There is one stream per [`LogStream`]. The server assigns the ids, because
/// entries do not arrive in the order of their timestamps. `recent` is one `XREVRANGE key + - COUNT
/// limit`. For a time range, it is one `EVALSHA` of a script that reads the stream backward.
/// `conformance::log_store` (feature `test-util`) checks a store.
pub trait LogStore: Send + Sync + 'static {
    /// Appends these entries, oldest first. If this method returns an error, no entry is stored.
    fn append(&self, trail: LogStream, batch: &[LogEntry]) -> StoreFuture<()>;

    /// Returns the latest entries that match the query, latest first.
    fn recent(&self, trail: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>>;
}

/// A stream of log entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogStream {
    /// One record per request.
    Access,
    /// Audit events: denials, bans and changes to keys. They have a separate stream, so that a
    /// flood of requests does not evict them.
    Audit,
}

/// One encoded record or event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEntry {
    /// The time of the request or event.
    pub at: Timestamp,
    /// A JSON object on one line, without a line feed.
    pub json: Bytes,
}

impl LogEntry {
    /// Creates an entry.
    pub fn new(at: Timestamp, json: impl Into<Bytes>) -> Self {
        Self {
            at,
            json: json.into(),
        }
    }
}

/// A query for the latest entries. The default query returns at most 100 entries from any time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// The maximum number of entries.
    pub limit: usize,
    /// The earliest time, inclusive. `None` means no limit.
    pub since: Option<Timestamp>,
    /// The latest time, inclusive. `None` means no limit.
    pub until: Option<Timestamp>,
}

impl LogQuery {
    /// Creates a query for at most `limit` entries.
    pub fn latest(limit: usize) -> Self {
        Self {
            limit,
            since: None,
            until: None,
        }
    }

    /// Restricts the query to entries at or after this time.
    #[must_use]
    pub fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// Restricts the query to entries at or before this time.
    #[must_use]
    pub fn until(mut self, until: Timestamp) -> Self {
        self.until = Some(until);
        self
    }

    /// Returns `true` if an entry with this time matches the query.
    pub fn covers(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }
}

impl Default for LogQuery {
    fn default() -> Self {
        Self::latest(100)
    }
}
