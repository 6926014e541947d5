//! A store that answers a poll later than the one in memory: what a server would do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portcullis::{
    StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyStore, KeyId, KeyQuery,
        record::{KeyPage, StoredKey},
    },
    cache::{CacheStore, PurgeMode},
    rate_limit::{Policy, RateLimitStore},
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Charge, Decisions, Fence, KeyUse, Lease, LeaseToken, Lookup, PurgeTarget,
            Put, PutOutcome, Refund, Selection, StoreKey, StoredResponse, Touch,
        },
    },
};

use super::strict::YieldOnce;

/// A memory store whose replies are pending once. While `is_down` is set, calls fail; while
/// `is_silent` is set, they never complete.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlowStore {
    store: MemoryStore,
    is_down: Arc<AtomicBool>,
    is_silent: Arc<AtomicBool>,
}

impl SlowStore {
    pub(crate) fn over(store: MemoryStore) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    pub(crate) fn is_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    pub(crate) fn is_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Runs the call at once, and returns its result a poll later.
    fn later<T: Send + 'static>(&self, future: StoreFuture<T>) -> StoreFuture<T> {
        let is_down = self.is_down.load(Ordering::Relaxed);
        let is_silent = self.is_silent.load(Ordering::Relaxed);
        StoreFuture::pending(async move {
            YieldOnce::new().await;
            if is_silent {
                std::future::pending::<()>().await;
            }
            match is_down {
                true => Err(StoreErrorKind::Unavailable.into()),
                false => future.await,
            }
        })
    }
}

impl RateLimitStore for SlowStore {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.store)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.later(self.store.take(partition, charges))
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.later(self.store.peek(partition, charges))
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        self.later(self.store.charge(partition, charges))
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        self.later(self.store.refund(partition, refunds))
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.later(self.store.reset(partition, policies))
    }
}

impl ApiKeyStore for SlowStore {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.later(self.store.find(id))
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.later(self.store.create(record))
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.later(self.store.update(record, expected))
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.later(self.store.list(query))
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.later(ApiKeyStore::record_uses(&self.store, uses))
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.later(ApiKeyStore::purge(&self.store, before, max))
    }
}

impl CacheStore for SlowStore {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.store)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.later(self.store.get(key, selection))
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.later(self.store.put(put))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.later(CacheStore::touch(&self.store, touch))
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.later(self.store.is_purged_since(key, entry, fence))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        self.later(CacheStore::purge(&self.store, targets, mode))
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        self.later(self.store.lease(key, at_most))
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        self.later(self.store.release(key, token))
    }
}
