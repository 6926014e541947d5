//! The suite for stores of API keys: a correct store passes it, and it finds the faults of others.

use portcullis::{
    StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyStore, KeyId, KeyQuery,
        record::{KeyPage, StoredKey},
    },
    conformance,
    store::{
        MemoryStore,
        backend::{KeyUse, ReadyOrPending},
    },
};

#[tokio::test]
async fn the_store_in_memory_keeps_its_promises() {
    conformance::api_key(MemoryStore::new()).await;
}

/// The faults of a store.
#[derive(Clone, Copy, Debug)]
enum Fault {
    IgnoresVersions,
    CreatesOverWhatIsThere,
    CreatesByUpdating,
    ForgetsRevokedKeys,
    RepeatsAPage,
    EndsAtThePage,
    SetsTheLastUse,
    PurgesNothing,
    PurgesTooMuch,
}

#[derive(Clone, Debug)]
struct Faulty(MemoryStore, Fault);

impl Faulty {
    /// Does what the store in memory would, if only the version were right.
    fn force(&self, record: StoredKey) -> StoreFuture<()> {
        let versions = (0..9).map(|version| self.0.update(record.clone(), version));
        for result in versions.filter_map(|result| result.into_ready().ready()) {
            match result {
                Ok(()) => return StoreFuture::ready(()),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return StoreFuture::failed(error),
            }
        }
        StoreFuture::failed(StoreErrorKind::Conflict)
    }
}

impl ApiKeyStore for Faulty {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        let found = self.0.find(id);
        match (self.1, found.into_ready()) {
            (Fault::ForgetsRevokedKeys, ReadyOrPending::Ready(Ok(found))) => {
                let is_on = |key: &StoredKey| key.ended_at().is_none();
                StoreFuture::ready(found.filter(is_on))
            }
            (_, ReadyOrPending::Ready(result)) => result.into(),
            (_, ReadyOrPending::Pending(pending)) => StoreFuture::Pending(pending),
        }
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        match self.0.create(record.clone()).into_ready() {
            ReadyOrPending::Ready(Err(_)) if matches!(self.1, Fault::CreatesOverWhatIsThere) => {
                self.force(record)
            }
            ReadyOrPending::Ready(result) => result.into(),
            ReadyOrPending::Pending(pending) => StoreFuture::Pending(pending),
        }
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        match self.1 {
            Fault::IgnoresVersions => self.force(record),
            Fault::CreatesByUpdating => {
                drop(self.0.create(record.clone()));
                self.0.update(record, expected)
            }
            _ => self.0.update(record, expected),
        }
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        let Some(Ok(mut page)) = self.0.list(query.clone()).into_ready().ready() else {
            return StoreFuture::failed(StoreErrorKind::Unavailable);
        };
        match self.1 {
            Fault::RepeatsAPage if query.after.is_some() => page.keys.extend(page.keys.clone()),
            Fault::EndsAtThePage => page.next = None,
            _ => {}
        }
        StoreFuture::ready(page)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        match self.1 {
            Fault::SetsTheLastUse => {
                let once = |used: KeyUse| KeyUse::new(used.id, used.at, 1);
                self.0.record_uses(uses.into_iter().map(once).collect())
            }
            _ => self.0.record_uses(uses),
        }
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        match self.1 {
            Fault::PurgesNothing => StoreFuture::ready(0),
            Fault::PurgesTooMuch => self.0.purge(Timestamp::from_micros(u64::MAX), max),
            _ => self.0.purge(before, max),
        }
    }
}

#[tokio::test]
async fn a_store_that_breaks_a_promise_fails_the_suite() {
    for fault in [
        Fault::IgnoresVersions,
        Fault::CreatesOverWhatIsThere,
        Fault::CreatesByUpdating,
        Fault::ForgetsRevokedKeys,
        Fault::RepeatsAPage,
        Fault::EndsAtThePage,
        Fault::SetsTheLastUse,
        Fault::PurgesNothing,
        Fault::PurgesTooMuch,
    ] {
        let suite = conformance::api_key(Faulty(MemoryStore::new(), fault));
        let ran = tokio::spawn(suite).await;
        assert!(ran.is_err(), "{fault:?} was not found");
    }
}
