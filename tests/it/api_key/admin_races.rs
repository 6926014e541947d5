//! Changes are made in the version of a key that was checked.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use http::{StatusCode, request::Parts};
use portcullis::{
    Clock, ManualClock, StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyStore, KeyError, KeyId, KeyManager, KeyQuery, KeyUpdate, NewKey,
        admin::Administrator,
        record::{KeyPage, KeyStatus, StoredKey},
    },
    store::{
        MemoryStore,
        backend::{ChangeNotifications, KeyUse},
    },
};
use serde_json::{Value, json};

use super::{
    admin::{Office, problem},
    api_key::{Keys, ring},
};
use crate::support::slow_store::SlowStore;

const DAY: Duration = Duration::from_secs(86_400);

type Change = Box<dyn FnMut() + Send>;

/// A store in which another manager makes a change right after each look-up from this number on.
#[derive(Clone)]
struct Meanwhile {
    store: MemoryStore,
    finds: Arc<AtomicUsize>,
    change: Arc<Mutex<Option<(usize, Change)>>>,
}

impl Meanwhile {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            finds: Arc::default(),
            change: Arc::default(),
        }
    }

    /// Makes a change once, after this many more look-ups.
    fn after(&self, finds: usize, change: impl FnMut() + Send + 'static) {
        self.finds.store(0, Ordering::SeqCst);
        *self.change.lock().unwrap() = Some((finds, Box::new(change)));
    }
}

impl ApiKeyStore for Meanwhile {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        let found = self.store.find(id);
        let number = self.finds.fetch_add(1, Ordering::SeqCst) + 1;
        let due = self
            .change
            .lock()
            .unwrap()
            .take_if(|(after, _)| *after == number);
        if let Some((_, mut change)) = due {
            change();
        }
        found
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.store.create(record)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.store.update(record, expected)
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.store.list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.store.record_uses(uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.store.purge(before, max)
    }

    fn changes(&self) -> ChangeNotifications {
        ChangeNotifications::Immediate
    }
}

/// Waits for what is there at once.
fn now<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    match polled {
        std::task::Poll::Ready(done) => done.unwrap(),
        std::task::Poll::Pending => panic!("not at once"),
    }
}

fn office(keys: Keys) -> Office {
    Office::open(keys, |head: &Parts| {
        let is_root = head
            .headers
            .get("x-i-am")
            .is_some_and(|name| name == "root");
        let admin = match is_root {
            true => Administrator::global("root"),
            false => Administrator::for_owner("customer", "acme").may_grant_scopes(["data.read"]),
        };
        StoreFuture::ready(Some(admin))
    })
}

/// Whenever another manager gives a key more rights while an owner's administrator handles it, the
/// administrator gets no secret of a key with those rights, and does not set it as it was.
#[tokio::test]
async fn a_key_that_gains_rights_meanwhile_is_not_handed_out() {
    for finds in 1..=4 {
        for (action, body) in [
            ("/rotate", Value::Null),
            ("/enable", Value::Null),
            ("", json!({"version": 1, "name": "mine"})),
            ("", json!({"version": 2, "name": "mine"})),
        ] {
            let store = Meanwhile::new();
            let operator = Keys::kept_in(store.store.clone());
            let new = NewKey::new("acme").scopes(["data.read"]);
            let key = operator.create(new).await;
            let (manager, id) = (operator.manager.clone(), key.id());
            let office = office(Keys::kept_in(store.clone()));
            store.after(finds, move || {
                let more = KeyUpdate::new().scopes(["data.read", "root"]);
                now(manager.update(id, more));
            });
            let path = format!("/keys/{id}{action}");
            let reply = match action {
                "" => office.patch("acme", id.as_str(), body.clone()).await,
                _ => office.post("acme", &path, body.clone()).await,
            };
            let holds_root = reply.body["key"]["scopes"].to_string().contains("root");
            assert!(
                !(reply.body["secret"].is_string() && holds_root),
                "{action} {finds}: {}",
                reply.body
            );
            let kept = operator.manager.get(id).await.unwrap();
            let changed = kept.name().is_some();
            assert!(!(changed && kept.version() > 2), "{action} {finds} {body}");
        }
    }
}

/// A scope that is taken away while a key is rotated is not in its successor.
#[tokio::test]
async fn a_successor_has_no_right_that_was_taken_away_meanwhile() {
    for finds in 1..=2 {
        let store = Meanwhile::new();
        let keys = Keys::kept_in(store.clone());
        let operator = Keys::kept_in(store.store.clone()).manager;
        let new = NewKey::new("acme").scopes(["data.read", "data.write"]);
        let key = keys.create(new).await;
        let (manager, id) = (operator.clone(), key.id());
        store.after(finds, move || {
            now(manager.update(id, KeyUpdate::new().scopes(["data.read"])));
        });
        let rotated = keys.manager.rotate(id, DAY).await.unwrap();
        let old = operator.get(id).await.unwrap();
        assert_eq!(old.rotated_to(), Some(rotated.id()), "{finds}");
        let scopes: Vec<_> = rotated.record().scopes().collect();
        assert_eq!(scopes, ["data.read"], "{finds}");
    }
}

#[tokio::test]
async fn a_key_that_is_disabled_meanwhile_is_not_rotated_or_enabled() {
    for finds in 1..=2 {
        let store = Meanwhile::new();
        let keys = Keys::kept_in(store.clone());
        let key = keys.create(NewKey::new("acme").scopes(["data.read"])).await;
        let operator = Keys::kept_in(store.store.clone()).manager;
        let office = office(keys);
        let id = key.id();
        let manager = operator.acting_as("root");
        store.after(finds, move || {
            now(manager.disable(id, "abuse"));
        });
        let rotated = office
            .post("acme", &format!("/keys/{id}/rotate"), Value::Null)
            .await;
        assert_eq!(
            (rotated.status, problem(&rotated)),
            (StatusCode::CONFLICT, "key-ended"),
            "{finds}"
        );
        let now = office.keys.clock.wall();
        let page = operator.list(KeyQuery::all()).await.unwrap();
        let active = |status| status == KeyStatus::Active;
        assert!(
            !page
                .keys
                .iter()
                .any(|own| active(own.record.status_at(now)))
        );
    }
    // The owner disabled it, the service disables it while the owner enables it.
    for finds in 1..=2 {
        let store = Meanwhile::new();
        let office = office(Keys::kept_in(store.clone()));
        let key = json!({"owner": "acme", "scopes": ["data.read"]});
        let (id, _) = office.create(key).await;
        let path = |action| format!("/keys/{id}/{action}");
        office.post("acme", &path("disable"), Value::Null).await;
        let manager = Keys::kept_in(store.store.clone()).manager.acting_as("root");
        let key: KeyId = id.parse().unwrap();
        store.after(finds, move || {
            now(manager.disable(key, "abuse"));
        });
        let enabled = office.post("acme", &path("enable"), Value::Null).await;
        assert_eq!(enabled.status, StatusCode::FORBIDDEN, "{finds}");
    }
}

/// A revocation is not lost because the key changes while it is revoked.
#[tokio::test]
async fn a_key_that_changes_meanwhile_is_still_revoked() {
    for finds in 1..=2 {
        let store = Meanwhile::new();
        let office = office(Keys::kept_in(store.clone()));
        let (id, _) = office.create(json!({"owner": "acme"})).await;
        let manager = Keys::kept_in(store.store.clone()).manager;
        let key: KeyId = id.parse().unwrap();
        store.after(finds, move || {
            now(manager.update(key, KeyUpdate::new().name("other")));
        });
        let path = format!("/keys/{id}/revoke");
        let revoked = office.post("acme", &path, Value::Null).await;
        assert_eq!(revoked.body["key"]["status"], "revoked", "{finds}");
    }
}

#[tokio::test]
async fn a_change_for_another_version_is_a_conflict() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let id = key.id();
    let stale = keys.manager.if_version(7);
    let conflicts = [
        stale.disable(id, "").await.err(),
        stale.enable(id).await.err(),
        stale.revoke(id, "").await.err(),
        stale.expire(id).await.err(),
        stale.update(id, KeyUpdate::new().name("x")).await.err(),
        stale.rotate(id, DAY).await.err(),
    ];
    for conflict in conflicts {
        assert!(matches!(conflict, Some(KeyError::Conflict)), "{conflict:?}");
    }
    assert_eq!(keys.manager.get(id).await.unwrap().version(), 1);
    keys.manager.if_version(1).rotate(id, DAY).await.unwrap();
}

async fn active(keys: &Keys) -> usize {
    let now = keys.clock.wall();
    let page = keys.manager.list(KeyQuery::all()).await.unwrap();
    let status = page.keys.iter().map(|own| own.record.status_at(now));
    status.filter(|status| *status == KeyStatus::Active).count()
}

/// At most two keys of a lineage are accepted, in any order of rotations with and without an
/// overlap.
#[tokio::test]
async fn at_most_two_keys_of_a_lineage_are_accepted_after_any_rotations() {
    for pattern in 0..64_u32 {
        let keys = Keys::new();
        let first = keys.reader().await;
        let (mut head, mut ids) = (first.id(), vec![first.id()]);
        for step in 0..6 {
            let overlap = match pattern >> step & 1 {
                0 => Duration::ZERO,
                _ => DAY,
            };
            match keys.manager.rotate(head, overlap).await {
                Ok(rotated) => {
                    head = rotated.id();
                    ids.push(head);
                }
                Err(KeyError::Overlap) => {}
                Err(error) => panic!("{error:?}"),
            }
            // Disabling and enabling a key grants no further overlap: an overlap covers one key
            // only.
            for id in &ids {
                keys.manager.disable(*id, "").await.unwrap();
                keys.manager.enable(*id).await.unwrap();
            }
            assert!(active(&keys).await <= 2, "{pattern:b} after {step}");
            keys.clock.advance(DAY / 4);
        }
    }
}

/// A key in its overlap that is disabled or expired for a while counts as well.
#[tokio::test]
async fn a_disabled_key_in_its_overlap_still_counts_and_a_revoked_one_does_not() {
    let keys = Keys::new();
    let first = keys.reader().await;
    let second = keys.manager.rotate(first.id(), DAY).await.unwrap();
    keys.manager.disable(first.id(), "").await.unwrap();
    let third = keys.manager.rotate(second.id(), DAY).await;
    assert!(matches!(third, Err(KeyError::Overlap)), "{third:?}");
    keys.manager.revoke(first.id(), "").await.unwrap();
    keys.manager.rotate(second.id(), DAY).await.unwrap();
    assert_eq!(active(&keys).await, 2);

    // To expire it ends its overlap, for good.
    let keys = Keys::new();
    let first = keys.reader().await;
    let second = keys.manager.rotate(first.id(), DAY).await.unwrap();
    keys.manager.expire(first.id()).await.unwrap();
    keys.manager.rotate(second.id(), DAY).await.unwrap();
    let revived = KeyUpdate::new().expires_at(None);
    keys.manager.update(first.id(), revived).await.unwrap();
    assert_eq!(active(&keys).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_created_at_once_never_exceed_the_maximum() {
    let keys = Keys::new();
    let manager = keys.manager.max_keys_per_owner(10);
    let created: Vec<_> = (0..40)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.create(NewKey::new("acme")).await })
        })
        .collect();
    let mut made = 0;
    for created in created {
        match created.await.unwrap() {
            Ok(_) => made += 1,
            Err(KeyError::TooManyKeys) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!((made, active(&keys).await), (10, 10));
}

/// A store that cannot count and create in one step keeps to the maximum too.
#[tokio::test]
async fn a_store_that_only_lists_keeps_to_the_maximum() {
    let clock = ManualClock::default();
    let ring = ring(SlowStore::over(MemoryStore::new()), &clock);
    let manager = KeyManager::new(&ring).max_keys_per_owner(3);
    let created: Vec<_> = (0..20)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.create(NewKey::new("acme")).await })
        })
        .collect();
    let mut made = 0;
    for created in created {
        match created.await.unwrap() {
            Ok(_) => made += 1,
            Err(KeyError::TooManyKeys) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made, 3);
    let create = || manager.create(NewKey::new("acme"));
    let refused = create().await;
    assert!(matches!(refused, Err(KeyError::TooManyKeys)), "{refused:?}");
    let page = manager.list(KeyQuery::all()).await.unwrap();
    manager.revoke(page.keys[0].record.id(), "").await.unwrap();
    create().await.unwrap();
    let none = manager.max_keys_per_owner(0);
    let refused = none.create(NewKey::new("other")).await;
    assert!(matches!(refused, Err(KeyError::TooManyKeys)), "{refused:?}");
}

/// Ended keys do not count, but their records are bounded until they are purged.
#[tokio::test]
async fn records_of_ended_keys_are_bounded_until_they_are_purged() {
    for slow in [false, true] {
        let store = MemoryStore::new();
        let keys = match slow {
            false => Keys::kept_in(store),
            true => Keys::kept_in(SlowStore::over(store)),
        };
        let manager = keys.manager.max_keys_per_owner(2);
        for _ in 0..20 {
            let key = manager.create(NewKey::new("acme")).await.unwrap();
            manager.revoke(key.id(), "").await.unwrap();
        }
        let refused = manager.create(NewKey::new("acme")).await;
        assert!(matches!(refused, Err(KeyError::TooManyKeys)), "{refused:?}");
        keys.clock.advance(DAY);
        assert_eq!(manager.purge(Duration::ZERO).await.unwrap(), 20);
        manager.create(NewKey::new("acme")).await.unwrap();
    }
}

/// A full store and a full owner are two errors.
#[tokio::test]
async fn a_full_store_is_not_a_full_owner() {
    let store = MemoryStore::builder().max_api_keys(1).build().unwrap();
    let keys = Keys::kept_in(store);
    let manager = keys.manager.max_keys_per_owner(9);
    manager.create(NewKey::new("acme")).await.unwrap();
    match manager.create(NewKey::new("acme")).await {
        Err(KeyError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Full),
        other => panic!("{other:?}"),
    }
}
