//! A cache lookup and its reply.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use redis::Value;

use crate::{
    cache::backend::{CacheKey, Fence, Found, Lookup, Stamp, StoredResponse, VariantId, VarySpec},
    core::error::{StoreError, StoreErrorKind},
    store::redis::{connection::script::Script, store::RedisInner},
};

static DROP: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_drop.lua")]));

/// The result of a lookup, and the remaining time for which the entry is stored.
pub(crate) struct SeenEntry {
    pub(crate) lookup: Lookup,
    pub(crate) left: Duration,
}

/// A lookup of one key.
pub(super) struct EntryQuery {
    pub(super) shared: Arc<RedisInner>,
    pub(super) key: CacheKey,
    pub(super) entry: Vec<u8>,
    pub(super) variant: VariantId,
    pub(super) is_asked_again: bool,
}

impl EntryQuery {
    /// Parses the server's reply.
    pub(super) async fn read(self, reply: Vec<Value>) -> Result<SeenEntry, StoreError> {
        let mut reply = reply.into_iter();
        let (Some(Value::Int(fence)), Some(Value::BulkString(what))) = (reply.next(), reply.next())
        else {
            return Err(corrupt());
        };
        let fence = Fence(u64::try_from(fence).unwrap_or_default());
        let mut left = Duration::ZERO;
        let found = match (&what[..], reply.next()) {
            (b"nothing", None) => Found::Nothing,
            (b"novariant", None) => Found::NoVariant,
            (b"varies", Some(Value::BulkString(names))) => self.varies(&names),
            (b"entry", Some(Value::BulkString(stamp))) => match self.entry(&stamp, reply) {
                Some((entry, kept_for)) => {
                    left = kept_for;
                    entry
                }
                None => self.drop_damaged(&stamp).await,
            },
            _ => return Err(corrupt()),
        };
        let lookup = Lookup { fence, found };
        Ok(SeenEntry { lookup, left })
    }

    /// Records the actual `Vary` fields, so that the lookup is repeated with them.
    fn varies(&self, names: &[u8]) -> Found {
        match VarySpec::from_bytes(names) {
            Ok(names) if !self.is_asked_again => {
                self.shared.cache.learn(&self.key, &names);
                Found::Varies(names)
            }
            // The entry changes concurrently or is damaged. The next fill replaces it.
            Ok(_) | Err(_) => Found::Nothing,
        }
    }

    /// Parses an entry. Returns `None` unless the data is exactly an entry that was stored under
    /// this key.
    fn entry(&self, stamp: &[u8], parts: impl Iterator<Item = Value>) -> Option<(Found, Duration)> {
        let parts: [Value; 5] = parts.collect::<Vec<_>>().try_into().ok()?;
        let [
            Value::BulkString(key),
            Value::Int(soft),
            Value::Int(left),
            Value::BulkString(head),
            Value::BulkString(body),
        ] = parts
        else {
            return None;
        };
        let entry = StoredResponse::decode(Bytes::from(head), Bytes::from(body)).ok()?;
        if key != self.key.full().as_bytes() || entry.variant() != self.variant {
            return None;
        }
        let found = Found::Entry {
            entry: Arc::new(entry),
            stamp: Stamp(std::str::from_utf8(stamp).ok()?.parse().ok()?),
            expired: soft == 1,
        };
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        Some((found, left))
    }

    /// Deletes an entry that cannot be parsed.
    async fn drop_damaged(&self, stamp: &[u8]) -> Found {
        let mut call = DROP.call(&[&self.entry]);
        call.arg(&self.variant.as_bytes()[..]).arg(stamp);
        if let Ok(turn) = self.shared.begin_cache_call(&self.entry) {
            // After a failure, the next lookup tries again.
            let _ = turn.script(call).await;
        }
        Found::Nothing
    }
}

pub(super) fn corrupt() -> StoreError {
    StoreError::with_source(StoreErrorKind::Corrupt, "the reply is not a cache entry")
}
