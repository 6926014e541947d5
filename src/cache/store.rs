//! The port: where the cache keeps answers.

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
/// A store guarantees that a lookup returns only what was put under that very key, that nothing is
/// returned after it was purged, also if it was being filled at the time, and that its memory is
/// bounded. Freshness is the concern of the cache.
///
/// A store may evict an entry at any time: that costs a call of the handler. A store that returns an
/// entry under another key discloses one caller's response to another, and a store that returns a
/// purged entry serves outdated content.
///
/// # Purges and fills
///
/// A purge may arrive between the lookup that found nothing and the [`put`](CacheStore::put) of the
/// response. So each lookup returns a [`Fence`], the time of the store at that moment, and the fill
/// passes it back. An entry is dead if its fence is not later than a purge of its URL, of its
/// partition, of one of its tags or of everything: its `put` is refused, and a lookup does not find
/// it.
///
/// # Purges of other names
///
/// Each unsafe request purges its URL, so any client can purge any number of names that no entry
/// has. **Purges of other names never remove or expire a stored entry**, however many there are, and
/// the cost of a purge does not depend on what is stored. The memory that a store spends on purges
/// must be bounded nevertheless. A store that cannot record all recent purges may refuse a fill that
/// one of them might concern ([`PutOutcome::Purged`]); the next fill of that URL is stored.
///
/// Two structures satisfy this. `MemoryStore` holds the exact time of the last purge for each name
/// that a stored entry has, and records all other purges in a table of fixed size, with which only
/// fills are compared. `RedisStore` has a token for each name that a stored entry has; a purge
/// deletes it, and so deletes every entry that lists it. `conformance::cache` checks both promises.
///
/// # On a server
///
/// Each method is one command. In `RedisStore` the entries under [`CacheKey::full`] are one hash,
/// with fields for each variant, and recent purges are a sorted set of names by the server's time,
/// all in the slot of the tokens. `get` is a script that compares an entry with its tokens; `put`,
/// `touch` and `purge` are a script each, and `lease` sets a key unless it exists. In a Cluster there
/// are several such slots, chosen by [`CacheKey::uri`]; a purge by tag or partition goes to each.
///
/// An entry is stored as [`StoredResponse::encode_head`] and its body, the fields that it varies by as
/// [`VarySpec::to_bytes`]. A value that cannot be decoded is [`Found::Nothing`] rather than an error:
/// the next fill replaces it.
pub trait CacheStore: Send + Sync + 'static {
    /// Returns the secret under which keys are digested: the same in each process that shares
    /// this store.
    fn keys(&self) -> &StoreKeys;

    /// Returns the answer under a key that fits the request.
    ///
    /// A store that holds answers which vary asks [`Selection::variant`] for the one that fits.
    /// One that had to guess what they vary by, and guessed wrong, returns [`Found::Varies`], and
    /// is asked again with [`Selection::hint`].
    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup>;

    /// Keeps an answer, in the place of one under the same key and variant.
    fn put(&self, put: Put) -> StoreFuture<PutOutcome>;

    /// Replaces the head of an answer, body untouched, if it is still the one with that stamp.
    /// Returns whether it was.
    fn touch(&self, touch: Touch) -> StoreFuture<bool>;

    /// Purges every entry that one of the targets names, and no other.
    ///
    /// Once the future has completed, no lookup that begins later returns such an entry, nor does one
    /// after a [`put`](CacheStore::put) whose lookup began before.
    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()>;

    /// Returns whether an entry that is being filled has been purged, hard or softly, since the lookup
    /// that returned the fence.
    ///
    /// The cache calls it before it streams a response to a further request while the response is
    /// still being stored. `entry` has the names by which it is purged, and no body. The default
    /// returns true: such requests then wait until the entry is stored.
    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        let _ = (key, entry, fence);
        StoreFuture::ready(true)
    }

    /// Tries to become the one that makes an answer, among all processes that share the store.
    ///
    /// A store of one process has nothing to say here: the cache sees to that itself.
    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        let _ = (key, at_most);
        StoreFuture::ready(Lease::Unsupported)
    }

    /// Gives a lease back before its time.
    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        let _ = (key, token);
        StoreFuture::ready(())
    }

    /// Returns whether each answer comes within a time that the store sees to itself. A layer waits
    /// no longer than a deadline of its own if not, and so it is by default.
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

/// The store's own time at a lookup, against which purges are held.
///
/// Any number that grows with each purge will do: a count in one process, the server's time in
/// microseconds on a server. An answer lives if its fence is later than each purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// Which one of the answers that a key and variant had over time: another one with each `put`
/// and `touch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp(pub u64);

/// What a lookup found.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// When it was, by the store's own time.
    pub fence: Fence,
    /// What it found.
    pub found: Found,
}

/// What is under a key.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Answers, none of which fits the request.
    NoVariant,
    /// Answers which vary by these fields: not what the store had expected.
    Varies(VarySpec),
    /// The answer that fits.
    Entry {
        /// The answer.
        entry: Arc<StoredResponse>,
        /// Which one it is.
        stamp: Stamp,
        /// Whether a soft purge has come since: it is to be validated before it is shown.
        expired: bool,
    },
}

/// An answer to be kept.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key.
    pub key: CacheKey,
    /// The answer.
    pub entry: Arc<StoredResponse>,
    /// What the lookup said that began its making.
    pub fence: Fence,
    /// For how long it is of use.
    pub retain: Duration,
    /// The number of variants that the key has at most, this one included; the oldest goes first.
    pub max_variants: usize,
}

/// What became of an answer that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is kept.
    Stored,
    /// It was purged while it was being made.
    Purged,
    /// It is larger than what the store takes.
    TooLarge,
}

/// A stored answer whose head is to be replaced.
#[derive(Clone, Debug)]
pub struct Touch {
    /// The key.
    pub key: CacheKey,
    /// The answer with its new head. Its body is the one that is kept already.
    pub entry: Arc<StoredResponse>,
    /// Which one is to be replaced.
    pub stamp: Stamp,
    /// What the lookup said that began the validation.
    pub fence: Fence,
    /// For how long it is of use from now on.
    pub retain: Duration,
}

/// What is to be let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PurgeTarget {
    /// All answers under a URL, for every caller: [`CacheKey::uri`].
    Uri(StoreKey),
    /// All answers with a tag: one of [`StoredResponse::tags`].
    Tag(StoreKey),
    /// All answers that one caller got: [`StoredResponse::partition`].
    Partition(StoreKey),
    /// Everything.
    All,
}

/// How it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PurgeMode {
    /// It is gone.
    Hard,
    /// It is stale: kept to be validated before it is shown.
    ///
    /// It is shown unvalidated only where it says that it may be shown stale: while it is being
    /// validated (`stale-while-revalidate`), which the first request that comes does, and in place of
    /// an error (`stale-if-error`); neither for longer than if it had not been purged.
    Soft,
}

/// Who makes an answer, among all processes that share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The caller does.
    Leader(LeaseToken),
    /// Somebody else does, and is expected to have done so after this much time.
    Busy(Duration),
    /// The store does not say.
    Unsupported,
}

/// Proves that a lease is the caller's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub u64);
