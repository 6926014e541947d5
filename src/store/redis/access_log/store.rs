//! The access log on a Redis server, with one Redis stream for each log stream.

use std::sync::LazyLock;

use redis::Value;

use crate::{
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::store_future::StoreFuture,
        time::Timestamp,
    },
    store::redis::{
        connection::{client::CallTurn, script::Script},
        store::RedisStore,
    },
};

static APPEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/log_append.lua")]));
static RECENT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/log_recent.lua")]));

/// The number of entries that one call reads. The number is limited because the call blocks the
/// server.
const PIECE: usize = 1_000;

impl RedisStore {
    fn begin_log(&self, trail: LogStream) -> Result<CallTurn, StoreError> {
        let link = &self.shared.link;
        let (stream, _) = self.shared.access_log.trail(trail);
        link.begin(stream, link.timeouts().access_log)
    }

    /// Reads one piece of a stream. Returns the matching entries and the start of the next piece.
    async fn piece(
        &self,
        trail: LogStream,
        from: &[u8],
        query: &LogQuery,
        wanted: usize,
    ) -> Result<(Vec<u8>, Vec<LogEntry>), StoreError> {
        let turn = self.begin_log(trail)?;
        let (stream, _) = self.shared.access_log.trail(trail);
        let everything = query.since.is_none() && query.until.is_none();
        let looked_at = if everything { wanted.min(PIECE) } else { PIECE };
        let until = query.until.map_or(u64::MAX, Timestamp::as_micros);
        let mut call = RECENT.call(&[stream]);
        call.arg(from)
            .arg(looked_at)
            .arg(wanted)
            .arg(query.since.map_or(0, Timestamp::as_micros))
            .arg(until);
        read(&turn.script(call).await?).ok_or_else(|| StoreErrorKind::Corrupt.into())
    }
}

/// Parses the start of the next piece and the entries, each of which is a time and a text.
fn read(reply: &[Value]) -> Option<(Vec<u8>, Vec<LogEntry>)> {
    let [Value::BulkString(next), Value::Array(found)] = reply else {
        return None;
    };
    let entry = |pair: &[Value]| match pair {
        [Value::BulkString(at), Value::BulkString(json)] => {
            let at = std::str::from_utf8(at).ok()?.parse().ok()?;
            Some(LogEntry::new(Timestamp::from_micros(at), json.clone()))
        }
        _ => None,
    };
    let entries = found.chunks(2).map(entry).collect::<Option<_>>()?;
    Some((next.clone(), entries))
}

impl LogStore for RedisStore {
    fn append(&self, trail: LogStream, batch: &[LogEntry]) -> StoreFuture<()> {
        if batch.is_empty() {
            return StoreFuture::ready(());
        }
        let turn = match self.begin_log(trail) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let (stream, kept_for) = self.shared.access_log.trail(trail);
        let mut call = APPEND.call(&[stream]);
        call.arg(self.shared.bounds.max_log_records)
            .arg(kept_for.as_millis() as u64);
        for LogEntry { at, json } in batch {
            call.arg(at.as_micros()).arg(&json[..]);
        }
        StoreFuture::pending(async move { turn.script(call).await.map(drop) })
    }

    fn recent(&self, trail: LogStream, query: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        let (store, query) = (self.clone(), query.clone());
        StoreFuture::pending(async move {
            let (mut from, mut entries) = (b"+".to_vec(), Vec::new());
            while entries.len() < query.limit && !from.is_empty() {
                let wanted = query.limit - entries.len();
                let (next, found) = store.piece(trail, &from, &query, wanted).await?;
                entries.extend(found);
                from = next;
            }
            Ok(entries)
        })
    }
}
