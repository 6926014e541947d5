//! The store interface of the cache.

use std::{sync::Arc, time::Duration};

use super::{
    entry::{entry::StoredResponse, key::CacheKey},
    http::vary::{Selection, VarySpec},
};
use crate::core::store_api::{
    store_future::StoreFuture,
    store_key::{StoreKey, StoreKeys},
};

/// A store of cache entries.
///
/// A store makes three guarantees:
///
/// - A lookup returns only an entry that was put under exactly that key.
/// - A lookup never returns a purged entry, even one that was being filled during the purge.
/// - The memory of the store is bounded.
///
/// The cache itself handles freshness.
///
/// A store can evict an entry at any time, which costs a call to the handler. A store that returns
/// an entry under another key discloses one caller's response to another. A store that returns a
/// purged entry serves outdated content.
///
/// # Purges and fills
///
/// A purge can arrive between the lookup that missed and the [`put`](CacheStore::put) of the
/// response. Each lookup therefore returns a [`Fence`], which is the store's time at that moment.
/// The fill passes the fence back to the store. An entry is invalid if its fence is not later than
/// a purge of its URL, its partition, one of its tags or everything. The `put` of an invalid entry
/// is rejected, and lookups do not find it.
///
/// # Purges of other names
///
/// Each unsafe request purges its URL, so a client can purge any number of URLs for which no entry
/// is stored. **Purges of other names never remove or expire a stored entry**, regardless of their
/// number, and the cost of a purge does not depend on the number of stored entries. The memory for
/// purges must be bounded. A store that cannot record all recent purges may reject a fill that an
/// unrecorded purge might affect ([`PutOutcome::Purged`]); the next fill of that URL is stored.
///
/// Two designs satisfy these requirements. `MemoryStore` holds the exact time of the last purge for
/// each name that a stored entry has. `MemoryStore` records all other purges in a table of fixed
/// size. These records affect only fills. `RedisStore` has a token for each name that a stored
/// entry has. A purge deletes the token, which invalidates every entry that lists it.
/// `conformance::cache` checks these requirements.
///
/// # Server-based stores
///
/// In a server-based store, each method is one command. `RedisStore` stores the entries under
/// [`CacheKey::full`] in one hash with fields for each variant. Recent purges are in a set of
/// names, sorted by the server's time. The hashes and the set are in the same slot as the tokens.
/// `get` is a script that compares an entry with its tokens; `put`, `touch` and `purge` are one
/// script each, and `lease` sets a key unless it exists. A Cluster has several such slots, selected
/// by [`CacheKey::uri`]; a purge by tag or partition is sent to each of them.
///
/// An entry is stored as the output of [`StoredResponse::encode_head`] and the body. The request
/// fields that the entry varies by are stored as the output of [`VarySpec::to_bytes`]. For a value
/// that cannot be decoded, a lookup returns [`Found::Nothing`] rather than an error: the next fill
/// replaces the value.
pub trait CacheStore: Send + Sync + 'static {
    /// Returns the secrets that the cache uses to compute key digests. All processes that share the
    /// store must have the same secrets.
    fn keys(&self) -> &StoreKeys;

    /// Looks up the entry under a key that matches the request.
    ///
    /// A store with several variants under the key selects one by [`Selection::variant`]. If a
    /// store assumed fields other than those by which the entries vary, it returns
    /// [`Found::Varies`]; the cache then repeats the lookup with [`Selection::hint`] set.
    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup>;

    /// Stores an entry, and replaces any entry with the same key and variant.
    fn put(&self, put: Put) -> StoreFuture<PutOutcome>;

    /// Replaces the head of an entry, but not its body, if the entry still has the given stamp.
    /// Returns `true` if the head was replaced.
    fn touch(&self, touch: Touch) -> StoreFuture<bool>;

    /// Purges every entry that matches one of the targets, and no other entry.
    ///
    /// Once the future has completed, no later lookup returns such an entry, not even after a
    /// [`put`](CacheStore::put) whose lookup preceded the purge.
    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()>;

    /// Returns `true` if an entry that is being filled has been purged, hard or soft, since the
    /// lookup that returned the fence.
    ///
    /// The cache calls this method before it streams a response to a further request while the
    /// response is still being stored. `entry` contains the names by which the response can be
    /// purged, but no body. The default implementation returns `true`: such requests then wait
    /// until the entry is stored.
    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        let _ = (key, entry, fence);
        StoreFuture::ready(true)
    }

    /// Tries to acquire the lease for filling an entry. At most one of the processes that share the
    /// store holds that lease at a time.
    ///
    /// The default implementation returns [`Lease::Unsupported`]. This suits a store that only one
    /// process uses, because the cache collapses requests within a process.
    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        let _ = (key, at_most);
        StoreFuture::ready(Lease::Unsupported)
    }

    /// Releases a lease before it expires.
    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        let _ = (key, token);
        StoreFuture::ready(())
    }

    /// Returns `true` if the store applies a timeout to each call. The cache then applies its own
    /// timeout only if [`store_timeout`](crate::cache::CacheLayerBuilder::store_timeout) is set.
    /// The default implementation returns `false`.
    fn has_timeout(&self) -> bool {
        false
    }
}

impl<S: CacheStore + ?Sized> CacheStore for Arc<S> {
    fn keys(&self) -> &StoreKeys {
        (**self).keys()
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        (**self).get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        (**self).put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        (**self).touch(touch)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        (**self).purge(targets, mode)
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        (**self).is_purged_since(key, entry, fence)
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        (**self).lease(key, at_most)
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        (**self).release(key, token)
    }

    fn has_timeout(&self) -> bool {
        (**self).has_timeout()
    }
}

/// The store's time at a lookup, for comparison with purges.
///
/// The value is any number that increases with each purge: a counter in one process, or the
/// server's time in microseconds. An entry is valid if its fence is later than every purge that
/// matches the entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// The revision of an entry. Each `put` and `touch` of a key and variant creates a new revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp(pub u64);

/// The result of a lookup.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lookup {
    /// The time of the lookup, on the store's clock.
    pub fence: Fence,
    /// The entry that the lookup found, if any.
    pub found: Found,
}

impl Lookup {
    /// Creates the result of a lookup.
    pub fn new(fence: Fence, found: Found) -> Self {
        Self { fence, found }
    }
}

/// The entry, if any, that a lookup found under a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Found {
    /// No entry.
    Nothing,
    /// Entries of other variants only.
    NoVariant,
    /// Entries that vary by these fields, although the store assumed other fields.
    Varies(VarySpec),
    /// The matching entry. Created by [`Found::entry`].
    #[non_exhaustive]
    Entry {
        /// The entry.
        entry: Arc<StoredResponse>,
        /// Its revision.
        stamp: Stamp,
        /// `true` if a soft purge has occurred since the entry was stored. Such an entry must be
        /// revalidated before it is served.
        expired: bool,
    },
}

impl Found {
    /// Creates the result for a matching entry. `expired` is `true` if a soft purge has occurred
    /// since the entry was stored.
    pub fn entry(entry: Arc<StoredResponse>, stamp: Stamp, expired: bool) -> Self {
        Self::Entry {
            entry,
            stamp,
            expired,
        }
    }
}

/// The default maximum number of variants under a key.
pub(super) const DEFAULT_MAX_VARIANTS: usize = 16;

/// An entry to store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Put {
    /// The key.
    pub key: CacheKey,
    /// The entry.
    pub entry: Arc<StoredResponse>,
    /// The fence of the lookup that preceded the fill.
    pub fence: Fence,
    /// The time for which the store retains the entry.
    pub retain: Duration,
    /// The maximum number of variants under the key, including this one. The oldest variant is
    /// evicted first.
    pub max_variants: usize,
}

impl Put {
    /// Creates a request to store an entry for the time `retain`, with at most 16 variants under
    /// its key.
    pub fn new(key: CacheKey, entry: Arc<StoredResponse>, fence: Fence, retain: Duration) -> Self {
        Self {
            key,
            entry,
            fence,
            retain,
            max_variants: DEFAULT_MAX_VARIANTS,
        }
    }

    /// Sets the maximum number of variants under the key, including this one. Defaults to 16.
    #[must_use]
    pub fn max_variants(mut self, variants: usize) -> Self {
        self.max_variants = variants;
        self
    }
}

/// The outcome of a [`put`](CacheStore::put).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutOutcome {
    /// The entry is stored.
    Stored,
    /// The entry was purged while it was being filled.
    Purged,
    /// The entry exceeds the store's maximum entry size.
    TooLarge,
}

/// An entry whose head is to be replaced.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Touch {
    /// The key.
    pub key: CacheKey,
    /// The entry with its new head and its stored body.
    pub entry: Arc<StoredResponse>,
    /// The revision to replace.
    pub stamp: Stamp,
    /// The fence of the lookup that preceded the revalidation.
    pub fence: Fence,
    /// The time for which the store retains the entry, from now.
    pub retain: Duration,
}

impl Touch {
    /// Creates a request to replace the head of the entry with this stamp.
    pub fn new(
        key: CacheKey,
        entry: Arc<StoredResponse>,
        stamp: Stamp,
        fence: Fence,
        retain: Duration,
    ) -> Self {
        Self {
            key,
            entry,
            stamp,
            fence,
            retain,
        }
    }
}

/// The entries to purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PurgeTarget {
    /// All entries of a URL, for every caller: [`CacheKey::uri`].
    Uri(StoreKey),
    /// All entries with a tag: one of [`StoredResponse::tags`].
    Tag(StoreKey),
    /// All entries of one caller: [`StoredResponse::partition`].
    Partition(StoreKey),
    /// Everything.
    All,
}

/// The effect of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PurgeMode {
    /// Removes the entries.
    Hard,
    /// Marks the entries as stale, so that they are revalidated before they are served.
    ///
    /// A stale entry is served without revalidation only if its directives permit that: during its
    /// revalidation by the next request (`stale-while-revalidate`), or instead of an error
    /// (`stale-if-error`). The purge does not extend either period.
    Soft,
}

/// The result of a request for a [`lease`](CacheStore::lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lease {
    /// The caller has the lease and fills the entry.
    Leader(LeaseToken),
    /// Another process has the lease, and is expected to finish within this time.
    Busy(Duration),
    /// The store does not support leases.
    Unsupported,
}

/// Proof that the caller holds a lease. The token is required for releasing the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub u64);
