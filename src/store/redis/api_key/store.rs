//! API key records on a Redis server.
//!
//! All records are in one slot of a Cluster, so that a record and its index entries change
//! atomically. Each index is a sorted set with equal scores, which the server sorts by member. A
//! member starts with a timestamp.

use super::state::ApiKeyNames;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::Value;

use crate::{
    api_key::{
        ApiKeyStore, KeyId, KeyQuery,
        backend::{ChangeNotifications, KeyCount, KeyCreation, KeyUse},
        record::{KeyCursor, KeyPage, KeyRecord, ListedKey, StoredKey},
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::{
            binary::{BinaryReader, BinaryWriter},
            store_future::StoreFuture,
        },
        time::Timestamp,
    },
    store::redis::{
        connection::{
            client::CallTurn,
            script::{Script, ScriptCall},
        },
        store::RedisStore,
    },
};

static FIND: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_find.lua")]));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_put.lua")]));
static LIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_list.lua")]));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_touch.lua")]));
static PURGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_purge.lua")]));

/// The minimum timeout of management calls, for which no request waits.
const MIN_MANAGEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum number of records that one call removes. The number is limited because the call
/// blocks the server.
const PURGE_MAX: usize = 1_000;

/// Returns a record in the server's format. It starts with the fields that scripts read: format,
/// version, creation time, end time and owner. Numbers are big-endian, so that sorting by bytes
/// sorts by number.
fn to_bytes(record: &StoredKey, owner: &str) -> Vec<u8> {
    let end = record.ended_at().map_or(u64::MAX, Timestamp::as_micros);
    let whole = record.to_bytes();
    let mut out = BinaryWriter::with_capacity(FRONT_BYTES + whole.len());
    out.u8(FORM);
    out.sortable_u64(record.version());
    out.sortable_u64(record.created_at().as_micros());
    out.sortable_u64(end);
    out.raw(owner.as_bytes());
    out.raw(&whole);
    out.into_bytes()
}

const FORM: u8 = 1;
const FRONT_BYTES: usize = 57;

/// Parses the bytes that [`to_bytes`] returns.
fn from_bytes(bytes: &[u8]) -> Result<StoredKey, StoreError> {
    let mut reader = BinaryReader::new(bytes);
    match reader.array::<FRONT_BYTES>() {
        Some([FORM, ..]) => Ok(StoredKey::new(KeyRecord::from_bytes(reader.rest())?)),
        Some(_) | None => Err(StoreErrorKind::Corrupt.into()),
    }
}

/// Returns the requested record. If the reply contains another key's record, returns an error.
fn found(reply: &[Value], id: KeyId) -> Result<Option<StoredKey>, StoreError> {
    match reply {
        [Value::Nil] => Ok(None),
        [Value::BulkString(bytes)] => {
            let record = from_bytes(bytes)?;
            match record.id() == id {
                true => Ok(Some(record)),
                false => Err(corrupt("the record belongs to another key")),
            }
        }
        _ => Err(corrupt("the reply is not a record")),
    }
}

fn page(reply: &[Value]) -> Result<KeyPage, StoreError> {
    let [Value::Array(records), Value::Array(uses), Value::Int(more)] = reply else {
        return Err(corrupt("the reply is not a page of records"));
    };
    let mut keys = Vec::with_capacity(records.len());
    for (record, used) in records.iter().zip(uses) {
        let Value::BulkString(bytes) = record else {
            return Err(corrupt("a record is missing"));
        };
        let (last_used_at, uses) = read_use(used);
        keys.push(ListedKey::new(from_bytes(bytes)?, last_used_at, uses));
    }
    let last = keys.last().filter(|_| *more == 1);
    let next = last.map(|last| KeyCursor::from(&last.record));
    Ok(KeyPage::new(keys, next))
}

/// Parses the time of a key's last use and the number of its uses, which are separated by a space.
fn read_use(used: &Value) -> (Option<Timestamp>, u64) {
    let Value::BulkString(bytes) = used else {
        return (None, 0);
    };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (last, uses) = text.split_once(' ').unwrap_or_default();
    let last = last.parse().ok().map(Timestamp::from_micros);
    (last, uses.parse().unwrap_or_default())
}

fn corrupt(what: &str) -> StoreError {
    StoreError::with_source(StoreErrorKind::Corrupt, what)
}

impl RedisStore {
    /// Starts a call for API keys with at least this timeout.
    fn begin_key(&self, at_least: Duration) -> Result<CallTurn, StoreError> {
        let link = &self.shared.link;
        let timeout = link.timeouts().api_key.max(at_least);
        link.begin(&self.shared.api_key.names.records, timeout)
    }

    /// Sends a management call.
    fn manage<T: 'static>(
        &self,
        call: ScriptCall,
        read: impl FnOnce(Vec<Value>) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        match self.begin_key(MIN_MANAGEMENT_TIMEOUT) {
            Ok(turn) => StoreFuture::pending(async move { read(turn.script(call).await?) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    /// Stores a record if the stored version is `expected` and the owner has fewer than `max_keys`
    /// keys.
    fn put_key(
        &self,
        record: &StoredKey,
        expected: &[u8],
        max_keys: Option<usize>,
    ) -> StoreFuture<KeyCreation> {
        let ApiKeyNames { names, .. } = &self.shared.api_key;
        let order = self.shared.api_key.order_of(record.owner());
        let mut call = PUT.call(&[&names.records, &names.all, &names.ends, &order]);
        let owner = self.shared.api_key.owner(record.owner());
        call.arg(record.id().as_str())
            .arg(to_bytes(record, &owner))
            .arg(expected)
            .arg(&names.owners)
            .arg(&names.channel)
            .arg(format!("{} {}", record.id(), record.version()));
        match max_keys {
            Some(max_keys) => {
                call.arg(max_keys)
                    .arg(max_keys.saturating_mul(KeyCount::RECORDS_PER_KEY))
                    .arg(&record.created_at().as_micros().to_be_bytes());
            }
            None => {
                call.arg("").arg("").arg("");
            }
        }
        self.manage(call, |reply| match reply.first() {
            Some(Value::BulkString(said)) => match &said[..] {
                b"kept" => Ok(KeyCreation::Created),
                b"full" => Ok(KeyCreation::OwnerLimitReached),
                b"missing" => Err(StoreErrorKind::NotFound.into()),
                b"conflict" => Err(StoreErrorKind::Conflict.into()),
                _ => Err(corrupt("the record cannot be read")),
            },
            Some(_) | None => Err(corrupt("the reply has an unknown status")),
        })
    }
}

impl ApiKeyStore for RedisStore {
    fn has_timeout(&self) -> bool {
        true
    }

    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        let turn = match self.begin_key(Duration::ZERO) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut call = FIND.call(&[&self.shared.api_key.names.records]);
        call.arg(id.as_str());
        let shared = Arc::clone(&self.shared);
        StoreFuture::pending(async move {
            shared.api_key.listen(&shared.link);
            found(&turn.script(call).await?, id)
        })
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        let created = self.put_key(&record, b"", None);
        StoreFuture::pending(async move { created.await.map(|_| ()) })
    }

    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        Some(self.put_key(&record, b"", Some(max_keys)))
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        let updated = self.put_key(&record, &expected.to_be_bytes(), None);
        StoreFuture::pending(async move { updated.await.map(|_| ()) })
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        let ApiKeyNames { names, .. } = &self.shared.api_key;
        let order = match &query.owner {
            Some(owner) => self.shared.api_key.order_of(owner),
            None => names.all.clone(),
        };
        let from = match query.after {
            Some(KeyCursor { created_at, id }) => {
                let created_at = created_at.as_micros().to_be_bytes();
                [b"(", &created_at[..], id.as_str().as_bytes()].concat()
            }
            None => b"-".to_vec(),
        };
        let mut call = LIST.call(&[&names.records, &names.uses, &order]);
        call.arg(from)
            .arg(query.limit.clamp(1, KeyQuery::MAX_LIMIT));
        self.manage(call, |reply| page(&reply))
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        if uses.is_empty() {
            return StoreFuture::ready(());
        }
        let ApiKeyNames { names, .. } = &self.shared.api_key;
        let mut call = TOUCH.call(&[&names.records, &names.uses]);
        for KeyUse { id, at, uses, .. } in uses {
            call.arg(id.as_str()).arg(at.as_micros()).arg(uses);
        }
        self.manage(call, |_| Ok(()))
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        let store = self.clone();
        StoreFuture::pending(async move {
            let mut purged = 0;
            while purged < max {
                let at_once = (max - purged).min(PURGE_MAX);
                let removed = store.purge_keys(before, at_once).await?;
                purged += removed;
                if removed < at_once {
                    break;
                }
            }
            Ok(purged)
        })
    }

    fn changes(&self) -> ChangeNotifications {
        self.shared.server_check.note_api_keys();
        ChangeNotifications::Feed(self.shared.api_key.changes.clone())
    }
}

impl RedisStore {
    fn purge_keys(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        let ApiKeyNames { names, .. } = &self.shared.api_key;
        let mut call = PURGE.call(&[&names.records, &names.uses, &names.all, &names.ends]);
        call.arg(&before.as_micros().to_be_bytes())
            .arg(max)
            .arg(&names.owners)
            .arg(&names.channel);
        self.manage(call, |reply| match reply[..] {
            [Value::Int(removed)] => Ok(usize::try_from(removed).unwrap_or_default()),
            _ => Err(corrupt("the reply is not a number")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &[u8] = b"\
        \x01\x10\x00\x00\x001AAAAAAAAAAAAAAA\x04\x00\x00\x00acme\x04\x00\x00\x00live\x01\x00\x00\
        \x00\x00\x00\x00\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\x01\x00\x04\x00\x00\x00a\
        cme\x10\x00\x00\x001AAAAAAAAAAAAAAA\x00\x01\x03\x00\x00\x00pro\x02\x00\x00\x00\x01\x00\
        \x00\x00a\x01\x00\x00\x00b\x00\x00\x10\xa5\xd4\xe8\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

    const FRONT: &[u8] = b"\
        \x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\xe8\xd4\xa5\x10\x00\xff\xff\xff\xff\xff\
        \xff\xff\xffan owner's digest of 32 digits..";

    const ENDING_FRONT: &[u8] = b"\
        \x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\xe8\xd4\xa5\x10\x00\x01\x02\x03\x04\x05\
        \x06\x07\x08an owner's digest of 32 digits..";

    /// The scripts and processes of other versions read these bytes.
    #[test]
    fn written_front_never_changes() {
        let mut record = KeyRecord::from_bytes(RECORD).unwrap();
        let written = |record: &KeyRecord| {
            let bytes = to_bytes(
                &StoredKey::new(record.clone()),
                "an owner's digest of 32 digits..",
            );
            let (front, whole) = bytes.split_at(FRONT_BYTES);
            assert_eq!(whole, record.to_bytes());
            front.to_vec()
        };
        assert_eq!(written(&record), FRONT);
        record.expires_at = Some(Timestamp::from_micros(0x0102_0304_0506_0708));
        assert_eq!(written(&record), ENDING_FRONT);
    }

    #[test]
    fn malformed_records_and_replies_are_corrupt() {
        for bytes in [&b""[..], b"\x01", &[1; FRONT_BYTES], &[1; 300], &[2; 300]] {
            assert_eq!(
                from_bytes(bytes).unwrap_err().kind(),
                StoreErrorKind::Corrupt
            );
        }
        let id: KeyId = "1AAAAAAAAAAAAAAA".parse().unwrap();
        for odd in [vec![], vec![Value::Int(1)], vec![Value::Nil, Value::Nil]] {
            assert!(found(&odd, id).is_err());
            assert!(page(&odd).is_err());
        }
    }

    #[test]
    fn a_use_that_cannot_be_read_is_none() {
        for odd in ["", "1", "x y", "-1 -1", "99999999999999999999 1"] {
            let (last, _) = read_use(&Value::BulkString(odd.into()));
            assert_eq!(last, None, "{odd}");
        }
        let (last, uses) = read_use(&Value::BulkString("5 7".into()));
        assert_eq!((last, uses), (Some(Timestamp::from_micros(5)), 7));
    }
}
