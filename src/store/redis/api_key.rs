//! The records of keys, on a Redis server.
//!
//! All of them lie in one slot of a Cluster, so that a record and its places in the orders change
//! in one step. Each order is a sorted set of one score, whose members begin with a moment: the
//! server keeps them by their bytes.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use redis::Value;

use super::{
    connection::{
        client::{Link, Turn},
        pubsub::{Listening, News, OnNews},
        script::{Script, ScriptCall},
    },
    receipts::acknowledge,
    store::RedisStore,
};
use crate::{
    api_key::{
        ApiKeyStore, ChangeFeed, KeyChanges, KeyCount, KeyCreation, KeyCursor, KeyId, KeyPage,
        KeyQuery, KeyRecord, KeyUse, ListedKey, StoredKey,
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::{
            store_future::StoreFuture,
            store_key::{KeySpace, StoreKeys},
        },
        time::Timestamp,
    },
};

static FIND: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/keys_find.lua")]));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/keys_put.lua")]));
static LIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/keys_list.lua")]));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/keys_touch.lua")]));
static PURGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/keys_purge.lua")]));

/// How long whoever manages keys waits at least: no request waits for it.
const MANAGING_MIN: Duration = Duration::from_secs(1);

/// How many records one call removes at most: the server does nothing else meanwhile.
const PURGE_MAX: usize = 1_000;

/// What this part holds on to.
pub(super) struct Part {
    names: Names,
    owners: KeySpace,
    changes: KeyChanges,
    /// What is heard of changes, from the first look-up on.
    listening: Mutex<Option<Listening>>,
}

/// The names of all that this part keeps.
struct Names {
    records: Vec<u8>,
    uses: Vec<u8>,
    all: Vec<u8>,
    ends: Vec<u8>,
    /// What the name of each owner's order begins with.
    owners: Vec<u8>,
    channel: Vec<u8>,
}

impl Part {
    pub(super) fn new(link: &Link, keys: &StoreKeys) -> Self {
        let slot = link.key("k", b"keys");
        let name = |of: &str| [&slot, of.as_bytes()].concat();
        Self {
            names: Names {
                records: name(":records"),
                uses: name(":uses"),
                all: name(":all"),
                ends: name(":ends"),
                owners: name(":owner:"),
                channel: link.name("keys"),
            },
            owners: keys.space("portcullis-v1 owner of keys"),
            changes: KeyChanges::new(),
            listening: Mutex::default(),
        }
    }

    /// Begins to hear of changes, unless that goes on already.
    fn listen(&self, link: &Arc<Link>) {
        let mut listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if listening.as_ref().is_none_or(Listening::is_over) {
            let changes = self.changes.clone();
            // The link is not kept for the sake of what is heard on it.
            let own = Arc::downgrade(link);
            let on_news: OnNews = Arc::new(move |news| match &news {
                News::Message(message) if acknowledge(&own, message) => {}
                News::Up | News::Down | News::Message(_) => pass_on(&changes, &news),
            });
            *listening = Some(link.listen(self.names.channel.clone(), on_news));
        }
    }

    /// Returns what stands for an owner, whatever it is called.
    fn owner(&self, owner: &str) -> String {
        self.owners.short_of(owner.as_bytes()).to_string()
    }

    fn order_of(&self, owner: &str) -> Vec<u8> {
        [&self.names.owners, self.owner(owner).as_bytes()].concat()
    }
}

/// Tells the rings what was heard.
fn pass_on(changes: &KeyChanges, news: &News) {
    match news {
        News::Up => changes.connected(),
        News::Down => changes.lost(),
        News::Message(message) => match id_in(message) {
            Some(id) => changes.changed(id),
            // Something has changed, and nobody knows what: everything is forgotten.
            None => changes.connected(),
        },
    }
}

/// Returns which key a message is about: behind the id may stand a version.
fn id_in(message: &[u8]) -> Option<KeyId> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Returns a record as it lies on the server. What scripts look at stands in front: a form, the
/// version, when it was created, when it ends, and whose it is. Numbers are big-endian, so that
/// bytes have their order.
fn to_bytes(record: &StoredKey, owner: &str) -> Vec<u8> {
    let end = record.ended_at().map_or(u64::MAX, Timestamp::as_micros);
    let whole = record.to_bytes();
    let mut out = Vec::with_capacity(FRONT_BYTES + whole.len());
    out.push(FORM);
    out.extend_from_slice(&record.version().to_be_bytes());
    out.extend_from_slice(&record.created_at().as_micros().to_be_bytes());
    out.extend_from_slice(&end.to_be_bytes());
    out.extend_from_slice(owner.as_bytes());
    out.extend_from_slice(&whole);
    out
}

const FORM: u8 = 1;
const FRONT_BYTES: usize = 57;

/// Reads what [`to_bytes`] wrote.
fn from_bytes(bytes: &[u8]) -> Result<StoredKey, StoreError> {
    match bytes.split_at_checked(FRONT_BYTES) {
        Some(([FORM, ..], whole)) => Ok(StoredKey::new(KeyRecord::from_bytes(whole)?)),
        Some(_) | None => Err(StoreErrorKind::Corrupt.into()),
    }
}

/// Returns the record that was asked for; that of another key is none.
fn found(answer: &[Value], id: KeyId) -> Result<Option<StoredKey>, StoreError> {
    match answer {
        [Value::Nil] => Ok(None),
        [Value::BulkString(bytes)] => {
            let record = from_bytes(bytes)?;
            match record.id() == id {
                true => Ok(Some(record)),
                false => Err(corrupt("the record is another key's")),
            }
        }
        _ => Err(corrupt("the answer is no record")),
    }
}

fn page(answer: &[Value]) -> Result<KeyPage, StoreError> {
    let [Value::Array(records), Value::Array(uses), Value::Int(more)] = answer else {
        return Err(corrupt("the answer is no page"));
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
    let next = last.map(|last| KeyCursor::of(&last.record));
    Ok(KeyPage::new(keys, next))
}

/// Reads when a key was last used, and how often: two numbers with a space between them.
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
    /// Begins a call about the keys, to be answered within this time.
    fn begin_key(&self, at_least: Duration) -> Result<Turn, StoreError> {
        let link = &self.shared.link;
        let deadline = link.deadlines().api_key.max(at_least);
        link.begin(&self.shared.api_key.names.records, deadline)
    }

    /// Puts a call that no request waits for.
    fn manage<T: 'static>(
        &self,
        call: ScriptCall,
        read: impl FnOnce(Vec<Value>) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        match self.begin_key(MANAGING_MIN) {
            Ok(turn) => StoreFuture::pending(async move { read(turn.script(call).await?) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    /// Stores a record, if the version that is there is the expected one, and its owner has fewer keys
    /// than the maximum.
    fn put_key(
        &self,
        record: &StoredKey,
        expected: &[u8],
        max_keys: Option<usize>,
    ) -> StoreFuture<KeyCreation> {
        let Part { names, .. } = &self.shared.api_key;
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
        self.manage(call, |answer| match answer.first() {
            Some(Value::BulkString(said)) => match &said[..] {
                b"kept" => Ok(KeyCreation::Created),
                b"full" => Ok(KeyCreation::OwnerFull),
                b"missing" => Err(StoreErrorKind::NotFound.into()),
                b"conflict" => Err(StoreErrorKind::Conflict.into()),
                _ => Err(corrupt("the record cannot be read")),
            },
            Some(_) | None => Err(corrupt("the answer says nothing")),
        })
    }
}

impl ApiKeyStore for RedisStore {
    fn has_deadline(&self) -> bool {
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
        let Part { names, .. } = &self.shared.api_key;
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
            .arg(query.page_max.clamp(1, KeyQuery::PAGE_MAX));
        self.manage(call, |answer| page(&answer))
    }

    fn touch(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        if uses.is_empty() {
            return StoreFuture::ready(());
        }
        let Part { names, .. } = &self.shared.api_key;
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

    fn changes(&self) -> ChangeFeed {
        self.shared.server_check.note_api_keys();
        ChangeFeed::Announced(self.shared.api_key.changes.clone())
    }
}

impl RedisStore {
    fn purge_keys(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        let Part { names, .. } = &self.shared.api_key;
        let mut call = PURGE.call(&[&names.records, &names.uses, &names.all, &names.ends]);
        call.arg(&before.as_micros().to_be_bytes())
            .arg(max)
            .arg(&names.owners)
            .arg(&names.channel);
        self.manage(call, |answer| match answer[..] {
            [Value::Int(removed)] => Ok(usize::try_from(removed).unwrap_or_default()),
            _ => Err(corrupt("the answer is no count")),
        })
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("api_key::Part")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_key_and_anything_else_forgets_everything() {
        let id: KeyId = "1AAAAAAAAAAAAAAA".parse().unwrap();
        assert_eq!(id_in(b"1AAAAAAAAAAAAAAA 7"), Some(id));
        assert_eq!(id_in(b"1AAAAAAAAAAAAAAA"), Some(id));
        for odd in [&b""[..], b" 7", b"\xff", b"FLUSHALL"] {
            assert_eq!(id_in(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_corrupt_and_makes_nothing_panic() {
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
