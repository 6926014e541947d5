//! The store interface of API keys.

use std::sync::Arc;

use super::{
    key::format::KeyId,
    record::record::{KeyRecord, StoredKey},
    ring::change_feed::ChangeNotifications,
};
use crate::core::{store_api::store_future::StoreFuture, time::Timestamp};

/// A store of API key records.
///
/// A store never receives a secret. It receives only a public id and a record that contains a
/// digest. Each method is atomic with respect to concurrent callers and needs only one server
/// command. On Redis, a store can use a hash of records, a hash of uses, and sorted sets of ids.
/// There is one sorted set per owner, one of all ids and one ordered by end time. These structures
/// share one hash tag, and one script changes them. In SQL, a store can use one table with a unique
/// id and one statement per method.
///
/// If a store loses a record, a valid key is denied. If a store restores an old record, a revoked
/// key is accepted again. If `update` is not atomic, a change to the scopes can undo a concurrent
/// revocation.
pub trait ApiKeyStore: Send + Sync + 'static {
    /// Returns the record with this public id. This method is called for each request, so an
    /// implementation should read one field of a hash or use a primary key lookup.
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>>;

    /// Stores a new record.
    ///
    /// Fails with [`Conflict`](crate::StoreErrorKind::Conflict) if the id exists. Fails with
    /// [`Full`](crate::StoreErrorKind::Full) if the store would have to evict another record.
    fn create(&self, record: StoredKey) -> StoreFuture<()>;

    /// Creates a record unless its owner already has the maximum number of keys. The check and the
    /// creation are one step, so concurrent calls never exceed the maximum.
    ///
    /// Pass each of the owner's records to a [`KeyCount`], which determines whether the maximum is
    /// reached. This method fails with the same errors as [`create`](Self::create).
    ///
    /// The default implementation returns `None`, which means that the store cannot check and
    /// create in one step. The managers of a ring then list the owner's records before they create
    /// a record. Within one process, the managers never exceed the maximum. They can reject
    /// concurrent calls although the owner is still a few keys below the maximum. Calls from
    /// several processes can exceed the maximum by the number of concurrent calls.
    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        let _ = (record, max_keys);
        None
    }

    /// Replaces the record with the same id if its version is `expected`.
    ///
    /// Fails with [`NotFound`](crate::StoreErrorKind::NotFound) if there is no such record. Fails
    /// with [`Conflict`](crate::StoreErrorKind::Conflict) if the record has another version.
    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()>;

    /// Returns a page of records in the order of their creation.
    ///
    /// A record that exists throughout the listing is on exactly one page, even if other records
    /// are created concurrently.
    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage>;

    /// Adds uses to the stored usage. For each key, the store retains the latest time and adds up
    /// the numbers of uses. Unknown ids are skipped.
    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()>;

    /// Removes up to `max` records of keys that ended before the given time, together with their
    /// usage, and returns the number of removed records. See [`KeyRecord::ended_at`].
    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize>;

    /// Returns the source of notifications about changes by other processes, which determines
    /// whether records can be cached. A ring calls this method once, when it is built.
    ///
    /// The default implementation returns [`ChangeNotifications::None`], so there are no
    /// notifications and records are not cached by default.
    fn changes(&self) -> ChangeNotifications {
        ChangeNotifications::None
    }

    /// Returns `true` if the store enforces its own timeout for each call. Otherwise, the ring
    /// applies a timeout. The default implementation returns `false`.
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
    /// The owner has the maximum number of keys. Nothing was created.
    OwnerLimitReached,
}

/// Counts an owner's keys against a maximum.
///
/// Revoked and expired keys do not count as keys, but their records count as records. The number of
/// records is limited to [ten times](Self::RECORDS_PER_KEY) the maximum number of keys.
#[derive(Clone, Debug)]
pub struct KeyCount {
    now: Timestamp,
    max_keys: usize,
    keys: usize,
    records: usize,
}

impl KeyCount {
    /// The maximum number of records per key that the key limit permits. Records of revoked and
    /// expired keys also count.
    pub const RECORDS_PER_KEY: usize = 10;

    /// Creates an empty count. `now` is the creation time of the new key.
    pub fn new(now: Timestamp, max_keys: usize) -> Self {
        Self {
            now,
            max_keys,
            keys: 0,
            records: 0,
        }
    }

    /// Adds keys that are being created concurrently.
    pub(super) fn ahead(mut self, keys: usize) -> Self {
        self.keys += keys;
        self.records += keys;
        self
    }

    /// Counts one of the owner's records and returns `true` if another key would exceed the
    /// maximum.
    pub fn is_full_with(&mut self, record: &KeyRecord) -> bool {
        self.records += 1;
        let has_ended = record.ended_at().is_some_and(|end| end <= self.now);
        self.keys += usize::from(!has_ended);
        self.is_full()
    }

    /// Returns `true` if another key would exceed the maximum.
    pub fn is_full(&self) -> bool {
        let max_records = self.max_keys.saturating_mul(Self::RECORDS_PER_KEY);
        self.keys >= self.max_keys || self.records >= max_records
    }
}

/// A query for a page of records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyQuery {
    /// The owner of the listed keys, or `None` for all owners.
    pub owner: Option<String>,
    /// The cursor at the end of the previous page, or `None` for the first page.
    pub after: Option<KeyCursor>,
    /// The maximum number of records on a page, from 1 to [`KeyQuery::MAX_LIMIT`].
    pub limit: usize,
}

impl KeyQuery {
    /// The maximum [`limit`](Self::limit()).
    pub const MAX_LIMIT: usize = 1_000;

    /// Creates a query for the first page of all owners' keys.
    pub fn all() -> Self {
        Self {
            owner: None,
            after: None,
            limit: 100,
        }
    }

    /// Creates a query for the first page of an owner's keys.
    pub fn for_owner(owner: impl Into<String>) -> Self {
        Self {
            owner: Some(owner.into()),
            ..Self::all()
        }
    }

    /// Returns the query for the page after this cursor.
    #[must_use]
    pub fn after(mut self, cursor: KeyCursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Sets the maximum number of records on a page. Defaults to 100. Larger values are reduced to
    /// [`KeyQuery::MAX_LIMIT`].
    #[must_use]
    pub fn limit(mut self, records: usize) -> Self {
        self.limit = records.clamp(1, Self::MAX_LIMIT);
        self
    }
}

/// The end of a page: the position of its last record in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct KeyCursor {
    /// The creation time of the record.
    pub created_at: Timestamp,
    /// The id of the record.
    pub id: KeyId,
}

impl KeyCursor {
    /// Creates a cursor at this position. There does not need to be a record at the position.
    pub fn new(created_at: Timestamp, id: KeyId) -> Self {
        Self { created_at, id }
    }
}

/// Returns the position of the record. The page after this cursor starts with the next record.
impl From<&KeyRecord> for KeyCursor {
    fn from(record: &KeyRecord) -> Self {
        Self {
            created_at: record.created_at(),
            id: record.id(),
        }
    }
}

/// Returns the position of the record. The page after this cursor starts with the next record.
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
    /// The cursor from which to continue, or `None` on the last page.
    pub next: Option<KeyCursor>,
}

impl KeyPage {
    /// Creates a page of records.
    pub fn new(keys: Vec<ListedKey>, next: Option<KeyCursor>) -> Self {
        Self { keys, next }
    }
}

/// A listed record and its usage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListedKey {
    /// The record.
    pub record: StoredKey,
    /// The time of the last use, or `None` if the key was never used.
    pub last_used_at: Option<Timestamp>,
    /// The number of uses.
    pub uses: u64,
}

impl ListedKey {
    /// Creates a list entry.
    pub fn new(record: StoredKey, last_used_at: Option<Timestamp>, uses: u64) -> Self {
        Self {
            record,
            last_used_at,
            uses,
        }
    }
}

/// The uses of a key since the previous usage report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUse {
    /// The id of the key.
    pub id: KeyId,
    /// The time of the last use.
    pub at: Timestamp,
    /// The number of uses.
    pub uses: u64,
}

impl KeyUse {
    /// Creates a usage report for one key.
    pub fn new(id: KeyId, at: Timestamp, uses: u64) -> Self {
        Self { id, at, uses }
    }
}
