//! The store of a ring that has no keys.

use crate::{
    api_key::{
        key::format::KeyId,
        record::record::StoredKey,
        store::{ApiKeyStore, KeyPage, KeyQuery, KeyUse},
    },
    core::{error::StoreErrorKind, store_api::store_future::StoreFuture, time::Timestamp},
};

/// A store that is always empty: every key is unknown, and nothing can be created.
pub(crate) struct NoStore;

impl ApiKeyStore for NoStore {
    fn find(&self, _: KeyId) -> StoreFuture<Option<StoredKey>> {
        StoreFuture::ready(None)
    }

    fn create(&self, _: StoredKey) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Full)
    }

    fn update(&self, _: StoredKey, _: u64) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::NotFound)
    }

    fn list(&self, _: KeyQuery) -> StoreFuture<KeyPage> {
        StoreFuture::ready(KeyPage::new(Vec::new(), None))
    }

    fn record_uses(&self, _: Vec<KeyUse>) -> StoreFuture<()> {
        StoreFuture::ready(())
    }

    fn purge(&self, _: Timestamp, _: usize) -> StoreFuture<usize> {
        StoreFuture::ready(0)
    }

    fn has_timeout(&self) -> bool {
        true
    }
}
