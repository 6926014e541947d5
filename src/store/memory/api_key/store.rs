//! The in-memory API key store.

use crate::{
    api_key::{
        ApiKeyStore, KeyId, KeyQuery,
        backend::{ChangeNotifications, KeyCreation, KeyUse},
        record::{KeyPage, StoredKey},
    },
    core::{store_api::store_future::StoreFuture, time::Timestamp},
    store::memory::store::MemoryStore,
};

impl ApiKeyStore for MemoryStore {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        let kept = self.shared.api_key.kept.get(&id);
        StoreFuture::ready(kept.map(|kept| kept.record.clone()))
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        let kept = self.shared.api_key.create(record);
        kept.map_err(Into::into).into()
    }

    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        let kept = self.shared.api_key.create_within(record, max_keys);
        Some(kept.map_err(Into::into).into())
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        let kept = self.shared.api_key.update(record, expected);
        kept.map_err(Into::into).into()
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        StoreFuture::ready(self.shared.api_key.list(&query))
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.shared.api_key.record_uses(&uses);
        StoreFuture::ready(())
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        StoreFuture::ready(self.shared.api_key.purge(before, max))
    }

    fn changes(&self) -> ChangeNotifications {
        ChangeNotifications::Immediate
    }
}
