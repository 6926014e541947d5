//! A store that answers a poll later than the one in memory: what a server would do.

use std::time::Duration;

use portcullis::{
    StoreFuture, StoreKey, StoreKeys, Timestamp,
    api_key::{ApiKeyStore, KeyId, KeyPage, KeyQuery, KeyUse, StoredKey},
    cache::{
        CacheKey, CacheStore, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put, PutOutcome,
        Selection, Touch,
    },
    rate_limit::{Charge, Decisions, Policy, RateLimitStore, Refund},
    store::MemoryStore,
};

use super::strict::YieldOnce;

/// The store in memory, each of whose answers is pending once.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlowStore(pub(crate) MemoryStore);

/// Does what was asked at once, and says so a poll later.
fn later<T: Send + 'static>(answer: StoreFuture<T>) -> StoreFuture<T> {
    StoreFuture::pending(async move {
        YieldOnce::new().await;
        answer.await
    })
}

impl RateLimitStore for SlowStore {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.0)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        later(self.0.take(partition, charges))
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        later(self.0.peek(partition, charges))
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        later(self.0.charge(partition, charges))
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        later(self.0.refund(partition, refunds))
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        later(self.0.reset(partition, policies))
    }
}

impl ApiKeyStore for SlowStore {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        later(self.0.find(id))
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        later(self.0.create(record))
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        later(self.0.update(record, expected))
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        later(self.0.list(query))
    }

    fn touch(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        later(ApiKeyStore::touch(&self.0, uses))
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        later(ApiKeyStore::purge(&self.0, before, max))
    }
}

impl CacheStore for SlowStore {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.0)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        later(self.0.get(key, selection))
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        later(self.0.put(put))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        later(CacheStore::touch(&self.0, touch))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        later(CacheStore::purge(&self.0, targets, mode))
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        later(self.0.lease(key, at_most))
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        later(self.0.release(key, token))
    }
}
