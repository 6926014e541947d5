//! Where records are kept: the port.

use std::sync::Arc;

use super::{
    key::format::KeyId,
    record::record::{KeyRecord, StoredKey},
    ring::change_feed::ChangeNotifications,
};
use crate::core::{store_api::store_future::StoreFuture, time::Timestamp};

/// Where the service keeps what it knows of its keys.
///
/// A store never sees a secret: it gets a public id and a record with a digest. Each method is one
/// step for any two callers, and one command of a server: on Redis a hash of records and one of uses,
/// one sorted set of ids for each owner and one of all, and one of ends, under one hash tag, changed
/// by one script; in SQL one table with a unique id, and one statement each.
///
/// A store that loses a record denies a key that was good. One that brings back an old record
/// brings a revoked key back to life. One whose `update` is not atomic lets a change of scopes undo
/// a revocation that happened meanwhile.
pub trait ApiKeyStore: Send + Sync + 'static {
    /// Finds a record by the public id. This is what each request asks: one
    /// field of a hash, or a primary key.
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>>;

    /// Keeps a new record.
    ///
    /// Fails with [`Conflict`](crate::StoreErrorKind::Conflict) if the id exists, and with
    /// [`Full`](crate::StoreErrorKind::Full) where nothing can be kept without forgetting.
    fn create(&self, record: StoredKey) -> StoreFuture<()>;

    /// Creates a record unless its owner has too many, in one step: concurrent calls never exceed the
    /// maximum.
    ///
    /// [`KeyCount`] decides: feed it the owner's records. Fails as [`create`](Self::create) does.
    ///
    /// The default returns `None`: the store cannot do this in one step. The managers of a ring then list
    /// the owner's records before they create one. Together they never exceed the maximum, but concurrent
    /// calls may be refused a few keys below it, and calls of several processes can exceed it by as many
    /// keys as there are calls.
    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        let _ = (record, max_keys);
        None
    }

    /// Puts a record in the place of the one of the same id, if that has the version `expected`.
    ///
    /// Fails with [`NotFound`](crate::StoreErrorKind::NotFound) if there is none, and with
    /// [`Conflict`](crate::StoreErrorKind::Conflict) if its version is another.
    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()>;

    /// Returns a page of records in the order of their creation.
    ///
    /// A record that stands throughout is on exactly one page, whatever is created meanwhile.
    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage>;

    /// Adds up uses: the latest moment stays, counts are added. An id that is gone is skipped.
    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()>;

    /// Removes at most `max` records that ended before a moment (see [`KeyRecord::ended_at`]) and
    /// what is known of their use, and returns how many.
    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize>;

    /// Returns how a change that another process made is heard of, and with it whether answers may
    /// be remembered. A ring asks once, when it is built. By default nobody hears of changes, and
    /// nothing is remembered.
    fn changes(&self) -> ChangeNotifications {
        ChangeNotifications::None
    }

    /// Returns whether each answer comes within a time that the store sees to itself. A layer waits
    /// no longer than a deadline of its own if not, and so it is by default.
    fn has_timeout(&self) -> bool {
        false
    }
}

impl<S: ApiKeyStore + ?Sized> ApiKeyStore for Arc<S> {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        (**self).find(id)
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        (**self).create(record)
    }

    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        (**self).create_within(record, max_keys)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        (**self).update(record, expected)
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        (**self).list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        (**self).record_uses(uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        (**self).purge(before, max)
    }

    fn changes(&self) -> ChangeNotifications {
        (**self).changes()
    }

    fn has_timeout(&self) -> bool {
        (**self).has_timeout()
    }
}

/// The result of [`ApiKeyStore::create_within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyCreation {
    /// The record was created.
    Created,
    /// The owner has as many keys as it may have. Nothing was created.
    OwnerLimitReached,
}

/// Counts the keys of an owner against a maximum.
///
/// Keys that have ended do not count, but an owner has at most
/// [ten](Self::RECORDS_PER_KEY) times as many records.
#[derive(Clone, Debug)]
pub struct KeyCount {
    now: Timestamp,
    max_keys: usize,
    keys: usize,
    records: usize,
}

impl KeyCount {
    /// The number of records, those of ended keys included, that an owner may have for each key.
    pub const RECORDS_PER_KEY: usize = 10;

    /// Begins a count at the moment at which the new key is created.
    pub fn new(now: Timestamp, max_keys: usize) -> Self {
        Self {
            now,
            max_keys,
            keys: 0,
            records: 0,
        }
    }

    /// Counts keys that are being created.
    pub(super) fn ahead(mut self, keys: usize) -> Self {
        self.keys += keys;
        self.records += keys;
        self
    }

    /// Counts a record of the owner, and returns whether there is no room for another.
    pub fn is_full_with(&mut self, record: &KeyRecord) -> bool {
        self.records += 1;
        let has_ended = record.ended_at().is_some_and(|end| end <= self.now);
        self.keys += usize::from(!has_ended);
        self.is_full()
    }

    /// Returns whether there is no room for another key.
    pub fn is_full(&self) -> bool {
        let max_records = self.max_keys.saturating_mul(Self::RECORDS_PER_KEY);
        self.keys >= self.max_keys || self.records >= max_records
    }
}

/// Which records to list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyQuery {
    /// Whose keys; everybody's, if `None`.
    pub owner: Option<String>,
    /// Where the former page ended.
    pub after: Option<KeyCursor>,
    /// The number of records that a page has at most: from 1 to [`KeyQuery::MAX_LIMIT`].
    pub limit: usize,
}

impl KeyQuery {
    /// The most records that a page has.
    pub const MAX_LIMIT: usize = 1_000;

    /// Asks for the first page of everybody's keys.
    pub fn all() -> Self {
        Self {
            owner: None,
            after: None,
            limit: 100,
        }
    }

    /// Asks for the first page of an owner's keys.
    pub fn for_owner(owner: impl Into<String>) -> Self {
        Self {
            owner: Some(owner.into()),
            ..Self::all()
        }
    }

    /// Asks for what stands behind a page.
    #[must_use]
    pub fn after(mut self, cursor: KeyCursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Sets how many records a page has at most. 100 by default, [`KeyQuery::MAX_LIMIT`] at most.
    #[must_use]
    pub fn limit(mut self, records: usize) -> Self {
        self.limit = records.clamp(1, Self::MAX_LIMIT);
        self
    }
}

/// Where a page ends: the place of its last record in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyCursor {
    /// When the record was created.
    pub created_at: Timestamp,
    /// The record's id.
    pub id: KeyId,
}

/// Returns the position of a record: the page after the cursor starts behind it.
impl From<&KeyRecord> for KeyCursor {
    fn from(record: &KeyRecord) -> Self {
        Self {
            created_at: record.created_at(),
            id: record.id(),
        }
    }
}

/// See [`From<&KeyRecord>`](#impl-From%3C%26KeyRecord%3E-for-KeyCursor).
impl From<&StoredKey> for KeyCursor {
    fn from(record: &StoredKey) -> Self {
        Self::from(&**record)
    }
}

/// A page of records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyPage {
    /// The records, oldest first.
    pub keys: Vec<ListedKey>,
    /// Where to go on, if there is more.
    pub next: Option<KeyCursor>,
}

impl KeyPage {
    /// Creates a page.
    pub fn new(keys: Vec<ListedKey>, next: Option<KeyCursor>) -> Self {
        Self { keys, next }
    }
}

/// A record in a list, with what is known of its use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListedKey {
    /// The record.
    pub record: StoredKey,
    /// When it was last used, if it ever was.
    pub last_used_at: Option<Timestamp>,
    /// How often it was used.
    pub uses: u64,
}

impl ListedKey {
    /// Creates an entry of a list.
    pub fn new(record: StoredKey, last_used_at: Option<Timestamp>, uses: u64) -> Self {
        Self {
            record,
            last_used_at,
            uses,
        }
    }
}

/// How a key was used since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUse {
    /// Which key.
    pub id: KeyId,
    /// When it was last used.
    pub at: Timestamp,
    /// How often.
    pub uses: u64,
}

impl KeyUse {
    /// Creates a report of uses.
    pub fn new(id: KeyId, at: Timestamp, uses: u64) -> Self {
        Self { id, at, uses }
    }
}
