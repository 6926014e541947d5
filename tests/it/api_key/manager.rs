//! Effects of key management, as seen by the owners of the keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use portcullis::{
    Clock, Identity, ManualClock, Runtime, StoreErrorKind, StoreFuture, Task, Timestamp,
    api_key::{
        ApiKeyStore, GeneratedKey, KeyError, KeyId, KeyManager, KeyQuery, KeyRing, KeyUpdate,
        NewKey, Pepper,
        record::{KeyPage, KeyRecord, KeyState, KeyStatus, StoredKey},
    },
    outcome::{AuthDenial, AuthOutcome},
    store::{MemoryStore, backend::KeyUse},
};

use super::api_key::{Keys, denial, outcome, pepper, unknown_key, with_key};
use crate::support::header;

const HOUR: Duration = Duration::from_secs(3_600);

impl Keys {
    async fn status(&self, key: &GeneratedKey) -> StatusCode {
        self.send(with_key(key.expose_secret())).await.status()
    }

    /// Returns the identity that the layer reports for this key.
    async fn identity(&self, key: &GeneratedKey) -> Identity {
        let mut request = with_key(key.expose_secret());
        let record = portcullis::outcome::RecordHandle::default();
        request.extensions_mut().insert(record);
        let response = self.send(request).await;
        match outcome(&response) {
            AuthOutcome::Allowed(identity) => identity.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn disabled_key_is_rejected_until_it_is_enabled() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let alice = keys.manager.acting_as("alice");
    let disabled = alice.disable(key.id(), "unpaid").await.unwrap();
    match disabled.state() {
        KeyState::Disabled(change) => {
            assert_eq!(change.by.as_deref(), Some("alice"));
            assert_eq!(change.reason.as_deref(), Some("unpaid"));
            assert_eq!(change.at, keys.clock.wall());
        }
        other => panic!("{other:?}"),
    }
    let response = keys.send(with_key(key.expose_secret())).await;
    assert_eq!(denial(&response), AuthDenial::Disabled);
    keys.manager.enable(key.id()).await.unwrap();
    assert_eq!(keys.status(&key).await, StatusCode::OK);
}

#[tokio::test]
async fn revoked_key_stays_revoked_with_its_first_reason() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let alice = keys.manager.acting_as("alice");
    alice.revoke(key.id(), "leaked").await.unwrap();
    let again = keys.manager.revoke(key.id(), "again").await.unwrap();
    assert_eq!(again.version(), 2);
    match again.state() {
        KeyState::Revoked(change) => assert_eq!(change.reason.as_deref(), Some("leaked")),
        other => panic!("{other:?}"),
    }
    for refused in [
        keys.manager.enable(key.id()).await,
        keys.manager.disable(key.id(), "").await,
        keys.manager.expire(key.id()).await,
        keys.manager
            .update(key.id(), KeyUpdate::new().tier("pro"))
            .await,
    ] {
        assert!(matches!(refused, Err(KeyError::Ended)), "{refused:?}");
    }
    assert!(matches!(
        keys.manager.rotate(key.id(), HOUR).await,
        Err(KeyError::Ended)
    ));
}

#[tokio::test]
async fn a_change_of_tier_and_scopes_holds_from_the_next_request_on() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let before = keys.identity(&key).await;
    let update = KeyUpdate::new()
        .tier("enterprise")
        .scopes(["data.write", "data.read", "data.write"])
        .name("ci")
        .metadata("team", "payments");
    let updated = keys.manager.update(key.id(), update).await.unwrap();
    assert_eq!((updated.version(), updated.name()), (2, Some("ci")));
    let after = keys.identity(&key).await;
    assert_eq!(after.tier(), Some("enterprise"));
    assert_eq!(
        after.scopes().collect::<Vec<_>>(),
        ["data.read", "data.write"]
    );
    assert_eq!(after.metadata()["team"], "payments");
    assert_ne!(before.digest(), after.digest());
    assert_eq!(before.lineage(), after.lineage());

    let cleared = KeyUpdate::new()
        .tier(None)
        .name(None)
        .metadata("team", None);
    let cleared = keys.manager.update(key.id(), cleared).await.unwrap();
    assert_eq!((cleared.tier(), cleared.name()), (None, None));
    assert!(cleared.metadata().is_empty());
}

#[tokio::test]
async fn an_update_for_an_old_version_changes_nothing() {
    let keys = Keys::new();
    let key = keys.reader().await;
    keys.manager
        .update(key.id(), KeyUpdate::new().tier("free"))
        .await
        .unwrap();
    let stale = KeyUpdate::new().tier("enterprise").if_version(1);
    let refused = keys.manager.update(key.id(), stale).await;
    assert!(matches!(refused, Err(KeyError::Conflict)), "{refused:?}");
    assert_eq!(
        keys.manager.get(key.id()).await.unwrap().tier(),
        Some("free")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_updates_for_one_version_one_wins() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let updates: Vec<_> = (0..50)
        .map(|number| {
            let manager = keys.manager.clone();
            let (id, name) = (key.id(), format!("n{number}"));
            tokio::spawn(async move {
                let update = KeyUpdate::new().name(name.as_str()).if_version(1);
                manager.update(id, update).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for update in updates {
        won += u32::from(update.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn rejects_invalid_key_attributes_by_name() {
    let keys = Keys::new();
    let new = || NewKey::new("acme");
    let long = "x".repeat(300);
    let wrong = [
        (NewKey::new(""), "owner"),
        (NewKey::new(long.clone()), "owner"),
        (new().name(long.clone()), "name"),
        (new().tier(long.clone()), "tier"),
        (new().scopes(["a b"]), "scopes"),
        (new().scopes((0..65).map(|n| n.to_string())), "scopes"),
        (new().metadata("a", "x".repeat(4_096)), "metadata"),
        (new().environment("prod"), "environment"),
    ];
    for (new, field) in wrong {
        match keys.manager.create(new).await {
            Err(KeyError::Invalid(invalid)) => assert_eq!(invalid.field(), field),
            other => panic!("{other:?}"),
        }
    }
    let key = keys.reader().await;
    let wrong = KeyUpdate::new().scopes(["a\"b"]);
    let refused = keys.manager.update(key.id(), wrong).await;
    assert!(matches!(refused, Err(KeyError::Invalid(_))));
    let refused = keys.manager.revoke(key.id(), &long).await;
    assert!(matches!(refused, Err(KeyError::Invalid(_))));
}

#[tokio::test]
async fn a_rotated_key_is_accepted_until_the_overlap_ends_and_its_heir_has_all_that_it_had() {
    let keys = Keys::new();
    let new = NewKey::new("acme")
        .tier("pro")
        .scopes(["a"])
        .metadata("k", "v");
    let old = keys.create(new.expires_in(10 * HOUR)).await;
    keys.clock.advance(5 * HOUR);
    let heir = keys.manager.rotate(old.id(), HOUR).await.unwrap();
    assert_ne!(heir.expose_secret(), old.expose_secret());

    let (before, after) = (keys.identity(&old).await, keys.identity(&heir).await);
    assert_eq!(before.lineage(), after.lineage());
    assert_eq!((after.owner(), after.tier()), (Some("acme"), Some("pro")));
    assert!(after.has_scope("a"));
    assert_eq!(after.metadata()["k"], "v");
    assert_ne!(before.digest(), after.digest());
    assert_eq!(heir.record().rotated_from(), Some(old.id()));
    assert_eq!(
        heir.record().expires_at(),
        Some(keys.clock.wall() + 10 * HOUR)
    );
    let record = keys.manager.get(old.id()).await.unwrap();
    assert_eq!(record.rotated_to(), Some(heir.id()));

    keys.clock.advance(HOUR);
    assert_eq!(keys.status(&old).await, StatusCode::UNAUTHORIZED);
    assert_eq!(keys.status(&heir).await, StatusCode::OK);
}

#[tokio::test]
async fn rotated_key_responses_carry_deprecation_and_sunset() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let told = async |key: &GeneratedKey| {
        let response = keys.send(with_key(key.expose_secret())).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = |name| header(response.headers(), name).map(str::to_owned);
        (text("deprecation"), text("sunset"))
    };
    assert_eq!(told(&key).await, (None, None));
    let heir = keys.manager.rotate(key.id(), HOUR).await.unwrap();
    assert_eq!(told(&heir).await, (None, None));
    let since = format!("@{}", keys.clock.wall().as_secs());
    let until = "Thu, 01 Jan 2026 01:00:00 GMT".to_owned();
    assert_eq!(told(&key).await, (Some(since), Some(until)));
}

/// A store that saves a change, and loses the reply to it on request.
#[derive(Clone, Default)]
struct Unheard {
    store: MemoryStore,
    loses_replies: Arc<AtomicBool>,
}

impl ApiKeyStore for Unheard {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.store.find(id)
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.store.create(record)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        let done = self.store.update(record, expected);
        match self.loses_replies.swap(false, Ordering::SeqCst) {
            true => StoreFuture::failed(StoreErrorKind::Timeout),
            false => done,
        }
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.store.list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        ApiKeyStore::record_uses(&self.store, uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        ApiKeyStore::purge(&self.store, before, max)
    }
}

#[tokio::test]
async fn a_rotation_that_was_done_unheard_is_a_rotation() {
    let store = Unheard::default();
    let keys = Keys::kept_in(store.clone());
    let old = keys.reader().await;
    store.loses_replies.store(true, Ordering::SeqCst);
    let new = keys.manager.rotate(old.id(), HOUR).await.unwrap();
    assert_eq!(keys.status(&new).await, StatusCode::OK);
    assert_eq!(keys.status(&old).await, StatusCode::OK);
    keys.clock.advance(HOUR);
    assert_eq!(keys.status(&new).await, StatusCode::OK);
    assert_eq!(keys.status(&old).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_leaked_key_is_rotated_without_overlap() {
    let keys = Keys::new();
    let old = keys.reader().await;
    let heir = keys.manager.rotate(old.id(), Duration::ZERO).await.unwrap();
    assert_eq!(keys.status(&old).await, StatusCode::UNAUTHORIZED);
    assert_eq!(keys.status(&heir).await, StatusCode::OK);
}

#[tokio::test]
async fn the_overlap_ends_with_the_key_that_it_is_for() {
    let keys = Keys::new();
    let old = keys.create(NewKey::new("acme").expires_in(HOUR)).await;
    keys.manager.rotate(old.id(), 9 * HOUR).await.unwrap();
    keys.clock.advance(HOUR);
    assert_eq!(keys.status(&old).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_line_has_two_keys_at_most() {
    let keys = Keys::new();
    let first = keys.reader().await;
    let second = keys.manager.rotate(first.id(), HOUR).await.unwrap();
    let again = keys.manager.rotate(first.id(), HOUR).await;
    assert!(matches!(again, Err(KeyError::Ended)), "{again:?}");
    let third = keys.manager.rotate(second.id(), HOUR).await;
    assert!(matches!(third, Err(KeyError::Overlap)), "{third:?}");
    // A leak cannot wait.
    let third = keys
        .manager
        .rotate(second.id(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(third.record().lineage(), first.id());
    let accepted = |page: portcullis::api_key::record::KeyPage| {
        let now = keys.clock.wall();
        let keys = page.keys.into_iter();
        keys.filter(|listed| listed.record.status_at(now) == KeyStatus::Active)
            .count()
    };
    let page = keys
        .manager
        .list(KeyQuery::for_owner("acme"))
        .await
        .unwrap();
    assert_eq!(accepted(page), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_rotations_at_once_one_wins_and_the_others_leave_no_key_behind() {
    let keys = Keys::new();
    let old = keys.reader().await;
    let rotations: Vec<_> = (0..20)
        .map(|_| {
            let (manager, id) = (keys.manager.clone(), old.id());
            tokio::spawn(async move { manager.rotate(id, HOUR).await.is_ok() })
        })
        .collect();
    let mut won = 0;
    for rotation in rotations {
        won += u32::from(rotation.await.unwrap());
    }
    assert_eq!(won, 1);
    let now = keys.clock.wall();
    let page = keys.manager.list(KeyQuery::all()).await.unwrap();
    let accepted = page
        .keys
        .iter()
        .filter(|listed| listed.record.status_at(now) == KeyStatus::Active);
    assert_eq!(accepted.count(), 2);
}

#[tokio::test]
async fn a_key_that_a_scanner_found_is_switched_off_and_a_strangers_is_not() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let manager = &keys.manager;
    for none_of_ours in ["", "garbage", &unknown_key().await] {
        assert!(manager.report_leaked(none_of_ours).await.unwrap().is_none());
    }
    let forged = super::api_key::forged(key.expose_secret(), &unknown_key().await);
    assert!(manager.report_leaked(&forged).await.unwrap().is_none());
    assert_eq!(keys.status(&key).await, StatusCode::OK);
    let reported = manager.report_leaked(key.expose_secret()).await.unwrap();
    assert_eq!(reported.unwrap().id(), key.id());
    assert_eq!(keys.status(&key).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn ended_keys_are_purged_once_their_retention_is_over() {
    let keys = Keys::new();
    let (kept, revoked) = (keys.reader().await, keys.reader().await);
    let expired = keys.create(NewKey::new("acme").expires_in(HOUR)).await;
    let later = keys.create(NewKey::new("acme").expires_in(3 * HOUR)).await;
    keys.manager.revoke(revoked.id(), "").await.unwrap();
    keys.clock.advance(2 * HOUR);
    assert_eq!(keys.manager.purge(9 * HOUR).await.unwrap(), 0);
    assert_eq!(keys.manager.purge(HOUR / 2).await.unwrap(), 2);
    for gone in [&revoked, &expired] {
        assert!(matches!(
            keys.manager.get(gone.id()).await,
            Err(KeyError::NotFound)
        ));
    }
    for key in [&kept, &later] {
        assert_eq!(keys.status(key).await, StatusCode::OK);
    }
    assert_eq!(
        keys.manager.list(KeyQuery::all()).await.unwrap().keys.len(),
        2
    );
    let purged = keys.manager.revoke(revoked.id(), "").await;
    assert!(matches!(purged, Err(KeyError::NotFound)));
}

#[tokio::test]
async fn keys_that_end_soon_are_found() {
    let keys = Keys::new();
    let soon = keys.create(NewKey::new("acme").expires_in(HOUR)).await;
    keys.create(NewKey::new("acme").expires_in(9 * HOUR)).await;
    keys.reader().await;
    let page = keys
        .manager
        .list_expiring_within(2 * HOUR, KeyQuery::all())
        .await
        .unwrap();
    let found: Vec<_> = page.keys.iter().map(|listed| listed.record.id()).collect();
    assert_eq!(found, [soon.id()]);
}

#[tokio::test]
async fn uses_are_stored_only_when_flushed() {
    let clock = ManualClock::default();
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(pepper())
        .clock(clock.clone())
        .count_uses()
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let used = manager.create(NewKey::new("acme")).await.unwrap();
    let unused = manager.create(NewKey::new("acme")).await.unwrap();
    let layer = portcullis::api_key::ApiKeyLayer::builder(&ring)
        .build()
        .unwrap();
    clock.advance(HOUR);
    for _ in 0..3 {
        super::api_key::send(layer.clone(), with_key(used.expose_secret())).await;
    }
    super::api_key::send(layer, with_key(&unknown_key().await)).await;
    let listed = async || manager.list(KeyQuery::all()).await.unwrap().keys;
    assert!(listed().await.iter().all(|key| key.uses == 0));

    ring.flush().await.unwrap();
    ring.flush().await.unwrap();
    let after = listed().await;
    let of = |id| after.iter().find(|key| key.record.id() == id).unwrap();
    assert_eq!(
        (of(used.id()).uses, of(used.id()).last_used_at),
        (3, Some(clock.wall()))
    );
    assert_eq!(
        (of(unused.id()).uses, of(unused.id()).last_used_at),
        (0, None)
    );

    let page = manager
        .list_unused_since(clock.wall(), KeyQuery::all())
        .await
        .unwrap();
    let found: Vec<_> = page.keys.iter().map(|listed| listed.record.id()).collect();
    assert_eq!(found, [unused.id()]);
}

/// Spawns on Tokio, and sleeps until it is notified.
#[derive(Clone, Debug, Default)]
struct Alarm(Arc<tokio::sync::Notify>);

impl Runtime for Alarm {
    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }

    fn sleep(&self, _: Duration) -> Task {
        let alarm = Arc::clone(&self.0);
        Box::pin(async move { alarm.notified().await })
    }
}

#[tokio::test]
async fn uses_are_flushed_at_each_interval_while_the_ring_exists() {
    let (store, alarm) = (MemoryStore::new(), Alarm::default());
    let build = |interval| {
        KeyRing::builder("acmepay", store.clone())
            .pepper(pepper())
            .count_uses()
            .flush_every(interval, alarm.clone())
            .build()
    };
    assert_eq!(build(Duration::ZERO).unwrap_err().option(), "flush_every");
    let ring = build(Duration::from_secs(30)).unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let layer = portcullis::api_key::ApiKeyLayer::builder(&ring)
        .build()
        .unwrap();
    for uses in 1..3 {
        super::api_key::send(layer.clone(), with_key(key.expose_secret())).await;
        alarm.0.notify_one();
        while manager.list(KeyQuery::all()).await.unwrap().keys[0].uses < uses {
            tokio::task::yield_now().await;
        }
    }
    // The task holds the runtime; once the ring is dropped, the task ends and releases it.
    drop((ring, manager, layer));
    while Arc::strong_count(&alarm.0) > 1 {
        alarm.0.notify_one();
        tokio::task::yield_now().await;
    }
}

fn pepper_of(id: u16) -> Pepper {
    let bytes: Vec<u8> = (0..32)
        .map(|byte| byte + u8::try_from(id).unwrap())
        .collect();
    Pepper::new(id, bytes).unwrap()
}

async fn status(ring: &KeyRing, key: &GeneratedKey) -> StatusCode {
    let layer = portcullis::api_key::ApiKeyLayer::builder(ring)
        .build()
        .unwrap();
    super::api_key::send(layer, with_key(key.expose_secret()))
        .await
        .status()
}

#[tokio::test]
async fn pepper_rotation_updates_each_key_on_use() {
    let store = MemoryStore::new();
    let builder = || KeyRing::builder("acmepay", store.clone());
    let before = builder().pepper(pepper_of(1)).build().unwrap();
    let manager = KeyManager::new(&before);
    let used = manager.create(NewKey::new("acme")).await.unwrap();
    let unused = manager.create(NewKey::new("acme")).await.unwrap();

    let during = builder().pepper(pepper_of(2)).previous_pepper(pepper_of(1));
    let during = during.build().unwrap();
    let manager = KeyManager::new(&during);
    let old = async || {
        let page = manager.list_outdated_pepper(KeyQuery::all()).await.unwrap();
        page.keys
            .iter()
            .map(|listed| listed.record.id())
            .collect::<Vec<_>>()
    };
    assert_eq!(old().await.len(), 2);
    for _ in 0..2 {
        assert_eq!(status(&during, &used).await, StatusCode::OK);
        during.flush().await.unwrap();
    }
    assert_eq!(manager.get(used.id()).await.unwrap().version(), 2);
    assert_eq!(old().await, [unused.id()]);
    assert_eq!(status(&during, &used).await, StatusCode::OK);

    let after = builder().pepper(pepper_of(2)).build().unwrap();
    assert_eq!(status(&after, &used).await, StatusCode::OK);
    assert_eq!(
        status(&after, &unused).await,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test]
async fn a_service_that_had_no_pepper_gets_one_without_new_keys() {
    let store = MemoryStore::new();
    let builder = || KeyRing::builder("acmepay", store.clone());
    let before = builder().without_pepper().build().unwrap();
    let key = KeyManager::new(&before)
        .create(NewKey::new("acme"))
        .await
        .unwrap();
    let abrupt = builder().pepper(pepper_of(1)).build().unwrap();
    assert_eq!(
        status(&abrupt, &key).await,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let gentle = builder()
        .pepper(pepper_of(1))
        .accept_unpeppered()
        .build()
        .unwrap();
    assert_eq!(status(&gentle, &key).await, StatusCode::OK);
    gentle.flush().await.unwrap();
    assert_eq!(status(&abrupt, &key).await, StatusCode::OK);
}

/// Threat A14: who can write to the store can make no key, and give none a scope.
#[tokio::test]
async fn a_record_that_was_changed_in_the_store_is_not_believed() {
    let store = MemoryStore::new();
    let builder = || KeyRing::builder("acmepay", store.clone()).pepper(pepper_of(1));
    let ring = builder().seal_records().build().unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager
        .create(NewKey::new("acme").scopes(["read"]))
        .await
        .unwrap();
    assert_eq!(status(&ring, &key).await, StatusCode::OK);
    let update = KeyUpdate::new().scopes(["read", "list"]);
    let record = manager.update(key.id(), update).await.unwrap();
    assert_eq!(status(&ring, &key).await, StatusCode::OK);

    let bytes = record.to_bytes();
    let at = bytes.windows(4).position(|four| four == b"list").unwrap();
    let forged = [&bytes[..at], b"root", &bytes[at + 4..]].concat();
    // Sorted as a list of scopes must be, so that the seal alone stands against it.
    assert!(KeyRecord::from_bytes(&forged).is_err());
    let at = bytes.windows(4).position(|four| four == b"read").unwrap();
    let forged = [&bytes[..at], b"root", &bytes[at + 4..]].concat();
    let forged = KeyRecord::from_bytes(&forged).unwrap();
    store.update(forged.into(), 2).await.unwrap();
    assert_eq!(status(&ring, &key).await, StatusCode::INTERNAL_SERVER_ERROR);
    // A manager does not seal a record that another writer wrote.
    let disabled = manager.disable(key.id(), "").await;
    assert!(matches!(disabled, Err(KeyError::Store(_))), "{disabled:?}");

    // A ring that does not seal makes keys that this one does not believe.
    let unsealed = KeyManager::new(&builder().build().unwrap());
    let key = unsealed.create(NewKey::new("acme")).await.unwrap();
    assert_eq!(status(&ring, &key).await, StatusCode::INTERNAL_SERVER_ERROR);
    let sealed_with_nothing = KeyRing::builder("acmepay", store.clone()).without_pepper();
    let refused = sealed_with_nothing.seal_records().build().unwrap_err();
    assert_eq!(refused.option(), "seal_records");
}
