//! The in-memory cache store.
//!
//! A single map contains everything. The slot of a key contains the entry if the entry does not
//! vary. Otherwise, it contains an index of the variants, each of which has a slot under the key
//! and the variant's id. A weighted, scan-resistant policy evicts entries.

use crate::{
    cache::{
        CacheStore, PurgeMode,
        backend::{
            CacheKey, Fence, Lookup, PurgeTarget, Put, PutOutcome, Selection, StoredResponse, Touch,
        },
    },
    core::store_api::{store_future::StoreFuture, store_key::StoreKeys},
    store::{
        memory::store::MemoryStore,
        purges::{Name, names_of},
    },
};

impl CacheStore for MemoryStore {
    fn keys(&self) -> &StoreKeys {
        &self.shared.context.keys
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let now = self.shared.context.clock.coarse();
        StoreFuture::ready(self.shared.cache.look_up(key, selection, now))
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let now = self.shared.context.clock.coarse();
        StoreFuture::ready(self.shared.cache.put(put, now))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let now = self.shared.context.clock.coarse();
        StoreFuture::ready(self.shared.cache.touch(touch, now))
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        let purges = &self.shared.cache.purges;
        StoreFuture::ready(purges.is_purged_since(names_of(key, entry), fence.0))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let names = targets.iter().map(Name::of);
        self.shared.cache.purges.purge(names, mode);
        StoreFuture::ready(())
    }
}
