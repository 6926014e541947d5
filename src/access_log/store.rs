//! The port: where records are kept, to be read again.

use bytes::Bytes;

use crate::core::{store_api::store_future::StoreFuture, time::Timestamp};

/// Keeps records, and shows the latest again.
///
/// It stands behind a queue, so no request waits for it, and what it does not take is counted as
/// lost. A store may forget the oldest entries to stay within its bounds; one that loses the latest
/// on a crash is a convenience, not evidence.
///
/// On a Redis server `append` is one `EVALSHA` of a script that does `XADD key MAXLEN ~ n * v 1 t at d json`
/// for each entry, one stream a trail, ids by the server, because entries do not come in the order of
/// their times; `recent` is one `XREVRANGE key + - COUNT limit`, or, where a span of time is asked for,
/// one `EVALSHA` of a script that walks the stream from its end. `conformance::log_store` (feature
/// `test-util`) checks a store.
pub trait LogStore: Send + Sync + 'static {
    /// Keeps these entries, the oldest first: all of them, or it fails and kept none.
    fn append(&self, trail: LogStream, batch: &[LogEntry]) -> StoreFuture<()>;

    /// Returns the latest entries that the query asks for, the latest first.
    fn recent(&self, trail: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>>;
}

/// What kind of entries are kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogStream {
    /// One record for each request.
    Access,
    /// What an auditor asks for: denials, bans, changes of keys. Kept apart, so that a flood of
    /// requests does not push it out.
    Audit,
}

/// One record, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEntry {
    /// The time of what it tells of.
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

/// Which entries are asked for: the latest 100, unless it is said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// How many at most.
    pub limit: usize,
    /// Only those from this moment on.
    pub since: Option<Timestamp>,
    /// Only those up to this moment, itself included.
    pub until: Option<Timestamp>,
}

impl LogQuery {
    /// Asks for the latest entries, this many at most.
    pub fn latest(limit: usize) -> Self {
        Self {
            limit,
            since: None,
            until: None,
        }
    }

    /// Asks only for entries from this moment on.
    #[must_use]
    pub fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// Asks only for entries up to this moment, itself included.
    #[must_use]
    pub fn until(mut self, until: Timestamp) -> Self {
        self.until = Some(until);
        self
    }

    /// Returns whether an entry of this time is asked for.
    pub fn covers(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }
}

impl Default for LogQuery {
    fn default() -> Self {
        Self::latest(100)
    }
}
