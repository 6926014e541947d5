//! The API keys of the tiered store. This store does not cache keys, because a key ring caches
//! them.

use super::store::TieredStore;
use crate::{
    api_key::{
        ApiKeyStore, KeyId, KeyQuery,
        backend::{ChangeNotifications, KeyCreation, KeyUse},
        record::{KeyPage, StoredKey},
    },
    core::{store_api::store_future::StoreFuture, time::Timestamp},
};

impl ApiKeyStore for TieredStore {
    fn has_timeout(&self) -> bool {
        ApiKeyStore::has_timeout(&self.far)
    }

    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.far.find(id)
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.far.create(record)
    }

    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        self.far.create_within(record, max_keys)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.far.update(record, expected)
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.far.list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.far.record_uses(uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.far.purge(before, max)
    }

    fn changes(&self) -> ChangeNotifications {
        ApiKeyStore::changes(&self.far)
    }
}
