//! The tiered store's cache calls, which try the near cache first and then the Redis server.

use super::state::Near;
use std::{sync::Arc, time::Duration};

use crate::{
    cache::{
        CacheStore, PurgeMode,
        backend::{
            CacheKey, Fence, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Selection,
            StoredResponse, Touch,
        },
    },
    core::store_api::{
        store_future::{ReadyOrPending, StoreFuture},
        store_key::StoreKeys,
    },
    store::{purges::Name, tiered::store::TieredStore},
};

impl CacheStore for TieredStore {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.far)
    }

    fn has_timeout(&self) -> bool {
        CacheStore::has_timeout(&self.far)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let names = self.far.names_for(key, selection);
        if let Some(lookup) = self.near.get(key, selection.variant(&names)) {
            return StoreFuture::ready(lookup);
        }
        let since = self.near.purges.now();
        let asked = match self.far.look_up(key, selection) {
            Ok(asked) => asked,
            Err(error) => return StoreFuture::failed(error),
        };
        let (store, key) = (self.clone(), *key);
        StoreFuture::pending(async move {
            store.near.listen(&store.far);
            let seen = asked.await?;
            store.near.keep(&key, &seen, since);
            Ok(seen.lookup)
        })
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let key = put.key;
        self.changing(self.far.put(put), move |near| near.forget(&key))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let key = touch.key;
        self.changing(self.far.touch(touch), move |near| near.forget(&key))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let names: Vec<_> = targets.iter().map(Name::of).collect();
        let purging = self.far.purge(targets, mode);
        self.changing(purging, move |near| near.purge(names.iter().copied()))
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.far.is_purged_since(key, entry, fence)
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        // The leader of a fill must see entries of other instances on the server.
        self.near.forget(key);
        self.far.lease(key, at_most)
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        self.far.release(key, token)
    }
}

impl TieredStore {
    /// Invalidates near entries before the call, in case the call is canceled. Also invalidates
    /// them after the call, even if the call failed, because the server may have executed it.
    fn changing<T: Send + 'static>(
        &self,
        asked: StoreFuture<T>,
        forget: impl Fn(&Near) + Send + 'static,
    ) -> StoreFuture<T> {
        forget(&self.near);
        match asked.into_ready() {
            ReadyOrPending::Ready(result) => result.into(),
            ReadyOrPending::Pending(pending) => {
                let near = Arc::clone(&self.near);
                StoreFuture::pending(async move {
                    let result = pending.await;
                    forget(&near);
                    result
                })
            }
        }
    }
}
