//! The store that managers use. Its calls are audited and have a longer timeout than those of
//! requests.

use std::{fmt, sync::Arc};

use crate::{
    api_key::{
        key::format::KeyId,
        record::record::StoredKey,
        store::{ApiKeyStore, KeyCreation, KeyPage, KeyQuery, KeyUse},
    },
    core::{
        store_api::{store_future::StoreFuture, store_monitor::StoreWatch, timeout::Deadline},
        time::Timestamp,
    },
};

/// A store whose calls time out and whose failures are audited.
pub(crate) struct PatientStore {
    store: Arc<dyn ApiKeyStore>,
    watch: StoreWatch,
    deadline: Deadline,
}

impl PatientStore {
    pub(crate) fn new(store: Arc<dyn ApiKeyStore>, watch: StoreWatch, deadline: Deadline) -> Self {
        Self {
            store,
            watch,
            deadline,
        }
    }

    fn over<T: 'static>(&self, reply: StoreFuture<T>) -> StoreFuture<T> {
        self.watch.over(self.deadline.bound(reply), || None)
    }
}

impl ApiKeyStore for PatientStore {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.over(self.store.find(id))
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.over(self.store.create(record))
    }

    fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Option<StoreFuture<KeyCreation>> {
        let created = self.store.create_within(record, max_keys)?;
        Some(self.over(created))
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.over(self.store.update(record, expected))
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.over(self.store.list(query))
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.over(self.store.record_uses(uses))
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.over(self.store.purge(before, max))
    }
}

impl fmt::Debug for PatientStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatientStore")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
