//! The conformance suite for API key stores.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use crate::{
    api_key::{
        ApiKeyStore, KeyId, KeyManager, KeyQuery, KeyRing, KeyUpdate, NewKey,
        backend::{KeyCreation, KeyUse},
        record::{KeyCursor, KeyPage, KeyRecord, StoredKey},
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::store_future::StoreFuture,
        time::{ManualClock, Timestamp},
    },
};

/// Checks that a store meets the requirements of [`ApiKeyStore`].
///
/// The store can contain keys of other owners. The suite does not remove the keys that it creates.
/// The suite runs on any async runtime.
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// portcullis::conformance::api_key(portcullis::store::MemoryStore::new()).await;
/// # }
/// # #[cfg(not(feature = "memory"))] fn main() {}
/// ```
///
/// # Panics
///
/// Panics if the store violates a requirement. The message states the requirement.
pub async fn api_key(store: impl ApiKeyStore) {
    let store = Arc::new(store);
    created_record_is_found_unchanged(&store).await;
    a_record_is_created_once(&store).await;
    an_update_is_for_one_version(&store).await;
    only_one_concurrent_update_succeeds(&store).await;
    canceled_calls_have_no_partial_effect(&store).await;
    largest_record_is_stored_whole(&store).await;
    owners_are_independent(&store).await;
    pages_hold_each_record_once(&store).await;
    uses_are_added_up(&store).await;
    only_ended_records_are_purged(&store).await;
    concurrent_creations_never_exceed_the_maximum(&store).await;
    ended_records_leave_room_for_keys(&store).await;
}

async fn created_record_is_found_unchanged(store: &impl ApiKeyStore) {
    let keys = Drafts::new("found");
    for _ in 0..64 {
        // Enough ids that each symbol of an id appears.
        let draft = keys.create(|new| new).await;
        let found = ok(store.find(draft.id()).await, "find");
        assert!(
            found.is_none(),
            "`find` returned a record that was never created"
        );
        ok(store.create(draft.clone()).await, "create");
        let found = ok(store.find(draft.id()).await, "find");
        assert_same(found.as_ref(), &draft);
    }
}

async fn a_record_is_created_once(store: &impl ApiKeyStore) {
    let keys = Drafts::new("once");
    let draft = keys.create(|new| new).await;
    let other = keys.disabled(&draft).await;
    ok(store.create(draft.clone()).await, "create");
    let again = store.create(other).await;
    assert_kind(again, StoreErrorKind::Conflict, "creating a record again");
    let found = ok(store.find(draft.id()).await, "find");
    assert_same(found.as_ref(), &draft);
}

async fn an_update_is_for_one_version(store: &impl ApiKeyStore) {
    let keys = Drafts::new("update");
    let first = keys.create(|new| new).await;
    let second = keys.disabled(&first).await;
    let third = keys.revoked(&second).await;
    let missing = store.update(second.clone(), 1).await;
    let what = "updating a record that was never created";
    assert_kind(missing, StoreErrorKind::NotFound, what);
    let found = ok(store.find(first.id()).await, "find");
    assert!(found.is_none(), "an update created a record");

    ok(store.create(first.clone()).await, "create");
    ok(store.update(second.clone(), 1).await, "update");
    let stale = store.update(third.clone(), 1).await;
    assert_kind(
        stale,
        StoreErrorKind::Conflict,
        "updating a previous version",
    );
    let found = ok(store.find(first.id()).await, "find");
    assert_same(found.as_ref(), &second);

    // A revoked key must be found, so that requests with it are rejected as revoked.
    ok(store.update(third.clone(), 2).await, "update");
    let found = ok(store.find(first.id()).await, "find");
    assert_same(found.as_ref(), &third);
}

async fn only_one_concurrent_update_succeeds(store: &impl ApiKeyStore) {
    let keys = Drafts::new("race");
    let first = keys.create(|new| new).await;
    let second = keys.disabled(&first).await;
    ok(store.create(first).await, "create");
    let mut racing: Vec<_> = (0..100).map(|_| store.update(second.clone(), 1)).collect();
    let mut won = 0;
    for update in join_all(&mut racing).await {
        match update {
            Ok(()) => won += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(
        won, 1,
        "{won} of 100 concurrent updates of one version succeeded"
    );
}

async fn canceled_calls_have_no_partial_effect(store: &impl ApiKeyStore) {
    let keys = Drafts::new("dropped");
    for polls in 0..4 {
        let draft = keys.create(|new| new).await;
        let mut creating = store.create(draft.clone());
        for _ in 0..polls {
            if poll_once(&mut creating).await.is_some() {
                break;
            }
        }
        drop(creating);
        // The store is usable after both results.
        match store.create(draft.clone()).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
        let found = ok(store.find(draft.id()).await, "find");
        assert_same(found.as_ref(), &draft);
        let page = ok(store.list(KeyQuery::for_owner(&keys.owner)).await, "list");
        let listed = page.keys.iter().filter(|key| key.record.id() == draft.id());
        assert_eq!(listed.count(), 1, "a record is listed exactly once");
    }
}

async fn largest_record_is_stored_whole(store: &impl ApiKeyStore) {
    let keys = Drafts::new("big");
    let scopes = (0..64).map(|number| format!("{number:0>128}"));
    let draft = keys
        .create(|new| {
            new.name("n".repeat(256))
                .tier("t".repeat(64))
                .scopes(scopes)
                .metadata("m", "\u{0}\r\n\"ä🦀".to_owned() + &"v".repeat(4_000))
        })
        .await;
    ok(store.create(draft.clone()).await, "create");
    let found = ok(store.find(draft.id()).await, "find");
    assert_same(found.as_ref(), &draft);
}

async fn owners_are_independent(store: &impl ApiKeyStore) {
    for name in [
        "*",
        "{",
        "}",
        "a:b",
        "a",
        "A",
        "\r\nFLUSHALL\r\n",
        "\u{0}",
        "%_",
        "'; --",
    ] {
        let keys = Drafts::new(name);
        let draft = keys.create(|new| new).await;
        ok(store.create(draft.clone()).await, "create");
        let page = ok(store.list(KeyQuery::for_owner(&keys.owner)).await, "list");
        let ids: Vec<KeyId> = page.keys.iter().map(|key| key.record.id()).collect();
        assert_eq!(ids, [draft.id()], "the keys of owner {:?}", keys.owner);
    }
}

async fn pages_hold_each_record_once(store: &impl ApiKeyStore) {
    let keys = Drafts::new("pages");
    let mut created = Vec::new();
    for number in 0..25 {
        // Some records have the same creation time.
        if number % 3 == 0 {
            keys.clock.advance(Duration::from_micros(1));
        }
        let draft = keys.create(|new| new).await;
        ok(store.create(draft.clone()).await, "create");
        created.push(KeyCursor::from(&draft));
    }
    created.sort();
    for owner in [Some(keys.owner.clone()), None] {
        let mut found = Vec::new();
        let mut query = match owner {
            Some(owner) => KeyQuery::for_owner(owner),
            None => KeyQuery::all(),
        }
        .limit(4);
        loop {
            let page = ok(store.list(query.clone()).await, "list");
            assert!(
                page.keys.len() <= 4,
                "a page has more records than its limit"
            );
            let records = page.keys.iter().map(|key| &key.record);
            let ours = records.filter(|record| record.owner() == keys.owner);
            found.extend(ours.map(KeyCursor::from));
            // Other records are created between the pages.
            let other = Drafts::new("between").create(|new| new).await;
            ok(store.create(other).await, "create");
            match page.next {
                Some(next) => query = query.after(next),
                None => break,
            }
        }
        assert_eq!(found, created, "the records of all pages");
    }
}

async fn uses_are_added_up(store: &impl ApiKeyStore) {
    let keys = Drafts::new("uses");
    let draft = keys.create(|new| new).await;
    let gone = keys.create(|new| new).await;
    ok(store.create(draft.clone()).await, "create");
    let (early, late) = (Timestamp::from_secs(1_000), Timestamp::from_secs(2_000));
    for (id, at, uses) in [
        (draft.id(), late, 3),
        (draft.id(), early, 4),
        (gone.id(), late, 1),
    ] {
        ok(
            store.record_uses(vec![KeyUse::new(id, at, uses)]).await,
            "record_uses",
        );
    }
    ok(store.record_uses(Vec::new()).await, "record_uses");
    let updated = keys.disabled(&draft).await;
    ok(store.update(updated.clone(), 1).await, "update");
    let page = ok(store.list(KeyQuery::for_owner(&keys.owner)).await, "list");
    assert_eq!(page.keys.len(), 1, "a use of an unknown key created a key");
    let listed = &page.keys[0];
    assert_eq!(
        listed.last_used_at,
        Some(late),
        "the latest use is retained"
    );
    assert_eq!(listed.uses, 7, "uses are added up");
    assert_same(Some(&listed.record), &updated);
}

async fn only_ended_records_are_purged(store: &impl ApiKeyStore) {
    let keys = Drafts::new("purge");
    let second = Duration::from_secs(1);
    let ended = keys.create(|new| new.expires_in(second)).await;
    let on_the_edge = keys.create(|new| new.expires_in(second * 2)).await;
    let lasting = keys.create(|new| new).await;
    let lengthened = keys.create(|new| new.expires_in(second)).await;
    for draft in [&ended, &on_the_edge, &lasting, &lengthened] {
        ok(store.create(draft.clone()).await, "create");
    }
    let shortened = keys.expiring(&lasting, second).await;
    let revived = keys.expiring(&lengthened, second * 9).await;
    ok(store.update(shortened.clone(), 1).await, "update");
    ok(store.update(revived.clone(), 1).await, "update");

    let before = keys.started_at + second * 2;
    let none = ok(store.purge(before, 0).await, "purge");
    assert_eq!(none, 0, "a purge of no records removed some");
    while ok(store.purge(before, 1).await, "purge") > 0 {}
    for gone in [&ended, &shortened] {
        let found = ok(store.find(gone.id()).await, "find");
        assert!(found.is_none(), "an ended record was not purged");
        let updated = store.update(keys.revoked(gone).await, gone.version()).await;
        let what = "updating a purged record";
        assert_kind(updated, StoreErrorKind::NotFound, what);
    }
    for kept in [&on_the_edge, &revived] {
        let found = ok(store.find(kept.id()).await, "find");
        assert_same(found.as_ref(), kept);
    }
    let page = ok(store.list(KeyQuery::for_owner(&keys.owner)).await, "list");
    assert_eq!(page.keys.len(), 2, "purged records are still listed");
}

/// Used only for stores that count and create keys atomically.
async fn concurrent_creations_never_exceed_the_maximum(store: &impl ApiKeyStore) {
    let keys = Drafts::new("maximum");
    let mut creating = Vec::new();
    for _ in 0..40 {
        let draft = keys.create(|new| new).await;
        let Some(created) = store.create_within(draft, 10) else {
            return;
        };
        creating.push(created);
    }
    let created = join_all(&mut creating).await;
    let created = created.into_iter().map(|made| ok(made, "create_within"));
    let made = created.filter(|made| *made == KeyCreation::Created);
    assert_eq!(
        made.count(),
        10,
        "the number of keys created concurrently for one owner"
    );
    let page = ok(store.list(KeyQuery::for_owner(&keys.owner)).await, "list");
    assert_eq!(page.keys.len(), 10, "a rejected key was created");
    let other = Drafts::new("maximum of another").create(|new| new).await;
    let again = [
        store.create_within(other.clone(), 1),
        store.create_within(other, 9),
    ];
    let [Some(first), Some(again)] = again else {
        panic!("`create_within` must be supported for all calls or for none");
    };
    assert_eq!(ok(first.await, "create_within"), KeyCreation::Created);
    let what = "creating a record again";
    assert_kind(again.await.map(|_| ()), StoreErrorKind::Conflict, what);
}

/// Includes an owner with more records than a server reads in one step.
async fn ended_records_leave_room_for_keys(store: &impl ApiKeyStore) {
    let keys = Drafts::new("room");
    let second = Duration::from_secs(1);
    for number in 0..700_u64 {
        let draft = match number % 100 {
            99 => keys.create(|new| new).await,
            _ => keys.create(|new| new.expires_in(second)).await,
        };
        ok(store.create(draft).await, "create");
    }
    keys.clock.advance(second);
    let mut outcomes = Vec::new();
    for max_keys in [7, 71, 8, 71] {
        let draft = keys.create(|new| new).await;
        let Some(created) = store.create_within(draft, max_keys) else {
            return;
        };
        outcomes.push(ok(created.await, "create_within"));
    }
    let (full, created) = (KeyCreation::OwnerLimitReached, KeyCreation::Created);
    let what = "7 active and 693 ended keys: the limits are 7 keys and 700 records";
    assert_eq!(outcomes, [full, created, full, created], "{what}");
}

/// Creates records as a manager does, but without the store under test.
struct Drafts {
    owner: String,
    clock: ManualClock,
    started_at: Timestamp,
    slot: KeySlot,
    manager: KeyManager,
}

impl Drafts {
    /// Creates a unique owner whose name starts with this one.
    fn new(name: &str) -> Self {
        let started_at = Timestamp::from_secs(1_000);
        let clock = ManualClock::new(started_at);
        let slot = KeySlot::default();
        let ring = KeyRing::builder("conformance", slot.clone())
            .without_pepper()
            .clock(clock.clone())
            .build()
            .expect("the prefix is valid");
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).expect("the system has a source of randomness");
        Self {
            owner: format!("{name}{}", u64::from_le_bytes(nonce)),
            clock,
            started_at,
            slot,
            manager: KeyManager::new(&ring),
        }
    }

    async fn create(&self, what: impl FnOnce(NewKey) -> NewKey) -> StoredKey {
        let created = self.manager.create(what(NewKey::new(&self.owner))).await;
        created
            .expect("the record is within its limits")
            .record()
            .clone()
    }

    async fn disabled(&self, record: &StoredKey) -> StoredKey {
        self.slot.put(record);
        let disabled = self.manager.disable(record.id(), "a check").await;
        disabled.expect("the slot accepts all updates")
    }

    async fn revoked(&self, record: &StoredKey) -> StoredKey {
        self.slot.put(record);
        let revoked = self.manager.revoke(record.id(), "a check").await;
        revoked.expect("the slot accepts all updates")
    }

    async fn expiring(&self, record: &StoredKey, after: Duration) -> StoredKey {
        self.slot.put(record);
        let update = KeyUpdate::new().expires_at(self.started_at + after);
        let updated = self.manager.update(record.id(), update).await;
        updated.expect("the slot accepts all updates")
    }
}

/// A store that holds at most one record.
#[derive(Clone, Default)]
struct KeySlot(Arc<Mutex<Option<StoredKey>>>);

impl KeySlot {
    fn put(&self, record: &StoredKey) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(record.clone());
    }
}

impl ApiKeyStore for KeySlot {
    fn find(&self, _: KeyId) -> StoreFuture<Option<StoredKey>> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        StoreFuture::ready(slot.clone())
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.put(&record);
        StoreFuture::ready(())
    }

    fn update(&self, record: StoredKey, _: u64) -> StoreFuture<()> {
        self.create(record)
    }

    fn list(&self, _: KeyQuery) -> StoreFuture<KeyPage> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn record_uses(&self, _: Vec<KeyUse>) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn purge(&self, _: Timestamp, _: usize) -> StoreFuture<usize> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }
}

fn ok<T>(result: Result<T, StoreError>, method: &str) -> T {
    match result {
        Ok(result) => result,
        Err(error) => panic!("`{method}` failed: {error:?}"),
    }
}

fn assert_kind(result: Result<(), StoreError>, kind: StoreErrorKind, what: &str) {
    match result {
        Ok(()) => panic!("{what} did not fail"),
        Err(error) => assert_eq!(error.kind(), kind, "{what}"),
    }
}

fn assert_same(found: Option<&StoredKey>, expected: &KeyRecord) {
    let Some(found) = found else {
        panic!("the record {} is not found", expected.id());
    };
    let same = found.to_bytes() == expected.to_bytes();
    assert!(same, "expected {expected:?}, found {found:?}");
}

/// Waits for all futures concurrently.
async fn join_all<F: Future + Unpin>(futures: &mut [F]) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = Pin::new(future).poll(cx)
            {
                *result = Some(ready);
            }
        }
        if results.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *future).poll(cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        })
    })
    .await
}
