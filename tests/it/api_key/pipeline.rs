//! Calls of the api_key layer to a store that is not in memory.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    ConfigError, ManualClock, PeerAddr, StoreError, StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyLayer, ApiKeyStore, KeyId, KeyManager, KeyQuery, KeyRing, NewKey, TagSecret,
        record::{KeyPage, StoredKey},
    },
    outcome::AuthDenial,
    store::{
        MemoryStore,
        backend::{ChangeNotifications, KeyChangeFeed, KeyUse},
    },
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};

use super::api_key::{
    ApiKeyResponse, Keys, denial, forged, handler, pepper, send, unknown_key, with_key,
};
use crate::support::header;

/// A store as if on a server: what it finds is read at once, and handed out when the gate opens.
#[derive(Clone)]
struct Remote {
    records: MemoryStore,
    feed: ChangeNotifications,
    finds: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
    failure: Arc<std::sync::Mutex<Option<StoreErrorKind>>>,
}

impl Remote {
    fn new(feed: ChangeNotifications) -> Self {
        Self {
            records: MemoryStore::new(),
            feed,
            finds: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            failure: Arc::default(),
        }
    }

    fn announced() -> (Self, KeyChangeFeed) {
        let changes = KeyChangeFeed::new();
        changes.notify_connected();
        (
            Self::new(ChangeNotifications::Feed(changes.clone())),
            changes,
        )
    }

    fn finds(&self) -> u64 {
        self.finds.load(Ordering::SeqCst)
    }

    /// From now on nothing that was read is handed out until [`Remote::open`].
    fn close(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.gate.add_permits(1_000);
    }

    fn fail(&self, kind: Option<StoreErrorKind>) {
        *self.failure.lock().unwrap() = kind;
    }
}

impl ApiKeyStore for Remote {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let read = match *self.failure.lock().unwrap() {
            Some(kind) => Err(StoreError::new(kind)),
            None => self
                .records
                .find(id)
                .into_ready()
                .ready()
                .expect("memory answers at once"),
        };
        let gate = Arc::clone(&self.gate);
        StoreFuture::pending(async move {
            tokio::task::yield_now().await;
            drop(gate.acquire().await.unwrap());
            read
        })
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.records.create(record)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.records.update(record, expected)
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.records.list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.records.record_uses(uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.records.purge(before, max)
    }

    fn changes(&self) -> ChangeNotifications {
        self.feed.clone()
    }
}

/// A layer that blocks an address after this many wrong keys in a minute.
fn limited(keys: &Keys, failures: u32) -> ApiKeyLayer {
    let layer = keys
        .layer()
        .failure_limit(failures, Duration::from_secs(60));
    layer.build().unwrap()
}

fn from(address: [u8; 4], key: &str) -> Request<Full<Bytes>> {
    let mut request = with_key(key);
    let address = IpAddr::V4(Ipv4Addr::from(address));
    request
        .extensions_mut()
        .insert(PeerAddr(SocketAddr::new(address, 4711)));
    request
}

const ATTACKER: [u8; 4] = [203, 0, 113, 9];

/// Makes keys that have the right form and checksum and that no store knows.
async fn strangers(count: usize) -> Vec<String> {
    let some = unknown_key().await;
    // Before the id, the secret and the check stand the names.
    let names = &some[..some.len() - 66];
    (0..count)
        .map(|number| {
            let unchecked = format!("{names}1{number:015}_{number:043}000000");
            forged(&unchecked, &unchecked)
        })
        .collect()
}

/// A manager of the same keys in another process: it shares the store and nothing else.
fn elsewhere(store: &Remote, clock: &ManualClock) -> KeyManager {
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .clock(clock.clone())
        .build();
    KeyManager::new(&ring.unwrap())
}

#[tokio::test]
async fn a_warm_key_costs_the_store_nothing_for_ten_seconds() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    for _ in 0..100 {
        let response = keys.send(with_key(key.expose_secret())).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(store.finds(), 1);
    keys.clock.advance(Duration::from_secs(10));
    keys.send(with_key(key.expose_secret())).await;
    assert_eq!(store.finds(), 2);
}

#[tokio::test]
async fn store_without_notifications_is_queried_each_time_by_default() {
    let store = Remote::new(ChangeNotifications::None);
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    for _ in 0..3 {
        keys.send(with_key(key.expose_secret())).await;
    }
    assert_eq!(store.finds(), 3);
    let told = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .key_cache_ttl(Duration::from_secs(2))
        .clock(keys.clock.clone())
        .build();
    let layer = ApiKeyLayer::builder(&told.unwrap()).build().unwrap();
    for _ in 0..3 {
        send(layer.clone(), with_key(key.expose_secret())).await;
    }
    assert_eq!(store.finds(), 4);
}

#[test]
fn remembering_for_more_than_ten_seconds_is_refused() {
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(pepper())
        .key_cache_ttl(Duration::from_secs(11))
        .build();
    assert_eq!(ring.unwrap_err().option(), "key_cache_ttl");
}

/// Threat A7: what this process changes, it knows.
#[tokio::test]
async fn locally_revoked_key_is_rejected_at_the_next_request() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store);
    let key = keys.reader().await;
    keys.send(with_key(key.expose_secret())).await;
    keys.manager.revoke(key.id(), "leaked").await.unwrap();
    let response = keys.send(with_key(key.expose_secret())).await;
    assert_eq!(denial(&response), AuthDenial::Revoked);
}

/// Threat A7: a change by another process takes effect with its announcement, and at the latest
/// when the cached record expires.
#[tokio::test]
async fn remotely_revoked_key_is_rejected_on_notice_or_after_ten_seconds() {
    let (store, changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let elsewhere = elsewhere(&store, &keys.clock);
    let (heard, missed) = (keys.reader().await, keys.reader().await);
    for key in [&heard, &missed] {
        keys.send(with_key(key.expose_secret())).await;
        elsewhere.revoke(key.id(), "leaked").await.unwrap();
    }
    changes.notify_changed(heard.id());
    let response = keys.send(with_key(heard.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = keys.send(with_key(missed.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::OK);
    keys.clock.advance(Duration::from_secs(10));
    let response = keys.send(with_key(missed.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

/// Threat A7: an instance that cannot receive revocations caches nothing.
#[tokio::test]
async fn lost_channel_clears_and_disables_the_key_cache() {
    let (store, changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    keys.send(with_key(key.expose_secret())).await;
    changes.notify_lost();
    for _ in 0..3 {
        keys.send(with_key(key.expose_secret())).await;
    }
    assert_eq!(store.finds(), 4);
    changes.notify_connected();
    for _ in 0..3 {
        keys.send(with_key(key.expose_secret())).await;
    }
    assert_eq!(store.finds(), 5);
}

/// Threat A7: a read in flight while the key is revoked does not restore the key.
#[tokio::test]
async fn key_revoked_during_a_lookup_is_rejected_at_the_next_request() {
    for forget in ["changed", "lost and connected", "revoked here"] {
        let (store, changes) = Remote::announced();
        let keys = Keys::kept_in(store.clone());
        let key = keys.reader().await;
        store.close();
        let service = keys.layer().build().unwrap().layer(service_fn(handler));
        let early = tokio::spawn(service.clone().oneshot(with_key(key.expose_secret())));
        while store.finds() == 0 {
            tokio::task::yield_now().await;
        }
        // The old record has been read. It is not handed out yet.
        let elsewhere = elsewhere(&store, &keys.clock);
        store.open();
        let revoked = elsewhere.get(key.id()).await.unwrap();
        assert_eq!(revoked.version(), 1);
        store.close();
        match forget {
            "changed" => {
                revoke_at(&store, &revoked);
                changes.notify_changed(key.id());
            }
            "lost and connected" => {
                revoke_at(&store, &revoked);
                changes.notify_lost();
                changes.notify_connected();
            }
            _ => {
                store.open();
                keys.manager.revoke(key.id(), "leaked").await.unwrap();
            }
        }
        // A new request does not join the old lookup, which completes first.
        let next = tokio::spawn(service.clone().oneshot(with_key(key.expose_secret())));
        tokio::task::yield_now().await;
        store.open();
        early.await.unwrap().unwrap();
        let next = next.await.unwrap().unwrap();
        assert_eq!(next.status(), StatusCode::UNAUTHORIZED, "{forget}");
        let last = service
            .oneshot(with_key(key.expose_secret()))
            .await
            .unwrap();
        assert_eq!(last.status(), StatusCode::UNAUTHORIZED, "{forget}");
    }
}

/// Puts a revoked version of a record into the store, past any manager.
fn revoke_at(store: &Remote, record: &StoredKey) {
    let clock = ManualClock::default();
    let ring = KeyRing::builder("acmepay", store.records.clone())
        .pepper(pepper())
        .clock(clock)
        .build();
    let manager = KeyManager::new(&ring.unwrap());
    let mut revoke = tokio_test_block(manager.revoke(record.id(), "leaked"));
    assert_eq!(revoke.take().unwrap().version(), 2);
}

/// Runs a future of a store in memory, which never waits.
fn tokio_test_block<T, E>(future: impl Future<Output = Result<T, E>>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(result) => result.ok(),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn many_requests_at_once_with_one_cold_key_ask_the_store_once() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    store.close();
    let service = keys.layer().build().unwrap().layer(service_fn(handler));
    let requests: Vec<_> = (0..50)
        .map(|_| tokio::spawn(service.clone().oneshot(with_key(key.expose_secret()))))
        .collect();
    tokio::task::yield_now().await;
    store.open();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(store.finds(), 1);
}

/// Threat X2: who leaves takes nothing with it that others wait for.
#[tokio::test]
async fn the_others_go_on_when_the_one_who_asked_leaves() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    let service = keys.layer().build().unwrap().layer(service_fn(handler));
    for leaves_after in 0..4 {
        store.close();
        let mut first = Box::pin(service.clone().oneshot(with_key(key.expose_secret())));
        for _ in 0..leaves_after {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(first.as_mut().poll(&mut cx).is_pending());
        }
        let second = tokio::spawn(service.clone().oneshot(with_key(key.expose_secret())));
        tokio::task::yield_now().await;
        drop(first);
        store.open();
        assert_eq!(second.await.unwrap().unwrap().status(), StatusCode::OK);
        keys.clock.advance(Duration::from_secs(10));
    }
}

/// Threat X2: a lookup that all waiters have left is repeated, and its old result is not used.
#[tokio::test]
async fn abandoned_lookup_is_discarded() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    store.close();
    let service = keys.layer().build().unwrap().layer(service_fn(handler));
    let mut left = Box::pin(service.clone().oneshot(with_key(key.expose_secret())));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(left.as_mut().poll(&mut cx).is_pending());
    drop(left);
    store.open();
    service
        .oneshot(with_key(key.expose_secret()))
        .await
        .unwrap();
    assert_eq!(store.finds(), 2);
}

/// Threats A5 and A6: a flood of keys with valid checksums costs the store the limit. It affects no
/// warm key, nor its caller behind the same address.
#[tokio::test]
async fn a_flood_of_unknown_keys_from_one_address_costs_the_store_the_limit() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let layer = limited(&keys, 60);
    let mut warm = Vec::new();
    for _ in 0..1_000 {
        let key = keys.reader().await;
        let response = send(layer.clone(), from(ATTACKER, key.expose_secret())).await;
        assert_eq!(response.status(), StatusCode::OK);
        warm.push(key);
    }

    let before = store.finds();
    let mut statuses = [0, 0];
    for (number, stranger) in strangers(100_000).await.into_iter().enumerate() {
        // Other clients behind the same address are served meanwhile.
        if number % 50 == 0 {
            let key = warm[number / 50 % warm.len()].expose_secret();
            let response = send(layer.clone(), from(ATTACKER, key)).await;
            assert_eq!(response.status(), StatusCode::OK);
        }
        match send(layer.clone(), from(ATTACKER, &stranger))
            .await
            .status()
        {
            StatusCode::UNAUTHORIZED => statuses[0] += 1,
            StatusCode::TOO_MANY_REQUESTS => statuses[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(statuses, [60, 99_940]);
    assert_eq!(store.finds() - before, 60);

    for key in warm {
        let response = send(layer.clone(), from(ATTACKER, key.expose_secret())).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(store.finds() - before, 60);
    let cold = keys.reader().await;
    let elsewhere = send(layer, from([198, 51, 100, 1], cold.expose_secret())).await;
    assert_eq!(elsewhere.status(), StatusCode::OK);
}

/// Threat A5: who has not the tag's secret costs the store nothing, not even up to the limit.
#[tokio::test]
async fn a_flood_of_keys_with_a_forged_tag_never_reaches_the_store() {
    let (store, _changes) = Remote::announced();
    let builder = || {
        KeyRing::builder("acmepay", store.clone())
            .pepper(pepper())
            .without_store_timeout()
    };
    let tag = |first: u8| TagSecret::new((first..first + 32).collect::<Vec<u8>>()).unwrap();
    let before = KeyManager::new(&builder().build().unwrap());
    let ring = builder().tag_secret(tag(0)).build().unwrap();
    let untagged = before.create(NewKey::new("acme")).await.unwrap();
    let key = KeyManager::new(&ring).create(NewKey::new("acme")).await;
    let key = key.unwrap();
    let ask = async |ring: &KeyRing, key: &str| {
        let layer = ApiKeyLayer::builder(ring).build().unwrap();
        send(layer, from(ATTACKER, key)).await.status()
    };

    let strangers = strangers(1_000).await;
    for stranger in &strangers {
        let (names, check) = stranger.split_at(stranger.len() - 6);
        let tagged = format!("{}{check}", names.replacen("live_1", "live_2", 1));
        for forged in [stranger, &tagged, &forged(&tagged, stranger)] {
            assert_eq!(ask(&ring, forged).await, StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(store.finds(), 0);
    assert_eq!(ask(&ring, key.expose_secret()).await, StatusCode::OK);

    // Untagged keys, and those of a previous tag, are accepted as long as the ring is configured
    // so.
    assert_eq!(
        ask(&ring, untagged.expose_secret()).await,
        StatusCode::UNAUTHORIZED
    );
    let later = builder().tag_secret(tag(1)).previous_tag_secret(tag(0));
    let later = later.accept_untagged_keys().build().unwrap();
    assert_eq!(ask(&later, untagged.expose_secret()).await, StatusCode::OK);
    assert_eq!(ask(&later, key.expose_secret()).await, StatusCode::OK);
    let later = builder().tag_secret(tag(1)).build().unwrap();
    assert_eq!(
        ask(&later, key.expose_secret()).await,
        StatusCode::UNAUTHORIZED
    );
    let unnamed = builder().previous_tag_secret(tag(0)).build().unwrap_err();
    assert_eq!(unnamed.option(), "tag_secret");
}

/// Threat A5: keys that come at once are counted before the store is asked, not after.
#[tokio::test]
async fn a_flood_that_comes_at_once_costs_the_store_no_more() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let layer = limited(&keys, 60);
    store.close();
    let service = layer.layer(service_fn(handler));
    let requests: Vec<_> = strangers(1_000)
        .await
        .iter()
        .map(|stranger| tokio::spawn(service.clone().oneshot(from(ATTACKER, stranger))))
        .collect();
    tokio::task::yield_now().await;
    store.open();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!(store.finds(), 60);
}

#[tokio::test]
async fn too_many_failures_return_429_with_retry_after() {
    let keys = Keys::new();
    let layer = limited(&keys, 1);
    let strangers = strangers(3).await;
    send(layer.clone(), from(ATTACKER, &strangers[0])).await;
    let response = send(layer.clone(), from(ATTACKER, &strangers[1])).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denial(&response), AuthDenial::TooManyFailures);
    assert_eq!(header(response.headers(), "retry-after"), Some("60"));
    assert_eq!(
        header(response.headers(), "cache-control"),
        Some("no-store")
    );
    keys.clock.advance(Duration::from_secs(60));
    let response = send(layer, from(ATTACKER, &strangers[2])).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn repeating_one_dead_key_is_one_failure_and_asks_the_store_once() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let layer = limited(&keys, 2);
    let stranger = unknown_key().await;
    for _ in 0..100 {
        let response = send(layer.clone(), from(ATTACKER, &stranger)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(store.finds(), 1);
}

/// Threats A6 and L9: knowing an id is good for nothing.
#[tokio::test]
async fn wrong_secrets_for_a_known_id_do_not_lock_out_its_owner() {
    for remote in [true, false] {
        let (store, _changes) = Remote::announced();
        let keys = if remote {
            Keys::kept_in(store)
        } else {
            Keys::new()
        };
        let victim = keys.reader().await;
        let layer = limited(&keys, 5);
        let ask = |address, key: &str| send(layer.clone(), from(address, key));
        ask(ATTACKER, victim.expose_secret()).await;
        let mut refused = Vec::new();
        for stranger in strangers(20).await {
            let forged = forged(victim.expose_secret(), &stranger);
            refused.push(ask(ATTACKER, &forged).await.status());
        }
        assert!(
            refused[..5]
                .iter()
                .all(|status| *status == StatusCode::UNAUTHORIZED)
        );
        assert!(
            refused[5..]
                .iter()
                .all(|status| *status == StatusCode::TOO_MANY_REQUESTS)
        );
        for address in [ATTACKER, [198, 51, 100, 1]] {
            let response = ask(address, victim.expose_secret()).await;
            assert_eq!(response.status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn good_keys_and_failing_stores_are_nobodys_failures() {
    let (store, _changes) = Remote::announced();
    let keys = Keys::kept_in(store.clone());
    let layer = limited(&keys, 1);
    for _ in 0..5 {
        let key = keys.reader().await;
        let response = send(layer.clone(), from(ATTACKER, key.expose_secret())).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    store.fail(Some(StoreErrorKind::Timeout));
    for stranger in strangers(5).await {
        let response = send(layer.clone(), from(ATTACKER, &stranger)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    store.fail(None);
    let key = keys.reader().await;
    let response: ApiKeyResponse = send(layer, from(ATTACKER, key.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_without_an_address_is_not_counted_with_others() {
    let keys = Keys::new();
    let layer = limited(&keys, 1);
    for stranger in strangers(5).await {
        let response = send(layer.clone(), with_key(&stranger)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
}

#[test]
fn a_limit_of_no_failures_is_refused() {
    let keys = Keys::new();
    let refused: ConfigError = keys
        .layer()
        .failure_limit(0, Duration::from_secs(60))
        .build()
        .unwrap_err();
    assert_eq!(refused.option(), "failure_limit");
}

/// Threat X1: a store future that panics fails its own request, and no other.
#[tokio::test]
async fn a_question_that_panics_leaves_the_layer_whole() {
    #[derive(Clone)]
    struct Panicking(Remote, Arc<AtomicU64>);

    impl ApiKeyStore for Panicking {
        fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
            if self.1.fetch_add(1, Ordering::SeqCst) > 0 {
                return self.0.find(id);
            }
            StoreFuture::pending(async {
                tokio::task::yield_now().await;
                panic!("a custom driver")
            })
        }

        fn create(&self, record: StoredKey) -> StoreFuture<()> {
            self.0.create(record)
        }

        fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
            self.0.update(record, expected)
        }

        fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
            self.0.list(query)
        }

        fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
            self.0.record_uses(uses)
        }

        fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
            self.0.purge(before, max)
        }
    }

    let keys = Keys::kept_in(Panicking(Remote::announced().0, Arc::default()));
    let key = keys.reader().await;
    let service = keys.layer().build().unwrap().layer(service_fn(handler));
    let ask = || tokio::spawn(service.clone().oneshot(with_key(key.expose_secret())));
    let (one, other) = (ask(), ask());
    // The panic reaches the server through the request that polled the lookup, as any other would.
    let (one, other) = (one.await, other.await);
    assert_ne!(one.is_err(), other.is_err());
    let told = one.or(other).unwrap().unwrap();
    assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask().await.unwrap().unwrap().status(), StatusCode::OK);
}

/// Those who wait for one record are not compared with one another.
#[tokio::test]
async fn waiters_of_one_record_cost_the_same_each_however_many_they_are() {
    let stranger = unknown_key().await;
    let cost = async |waiters: usize| {
        let (store, _changes) = Remote::announced();
        let keys = Keys::kept_in(store.clone());
        store.close();
        let service = keys.layer().build().unwrap().layer(service_fn(handler));
        let waiting = (0..waiters).map(|_| {
            let request = with_key(&stranger);
            tokio::spawn(service.clone().oneshot(request))
        });
        let waiting: Vec<_> = waiting.collect();
        let begun = std::time::Instant::now();
        // The runtime polls some dozens of tasks each time: until all of them wait.
        for _ in 0..waiters / 16 {
            tokio::task::yield_now().await;
        }
        store.open();
        for waiter in waiting {
            let status = waiter.await.unwrap().unwrap().status();
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(store.finds(), 1);
        begun.elapsed()
    };
    // Sixteen times as many cost 256 times as much where each is compared with all others. A busy
    // machine delays single rounds.
    let mut best = [Duration::MAX; 2];
    for _ in 0..12 {
        best[0] = best[0].min(cost(1_000).await);
        best[1] = best[1].min(cost(16_000).await);
        if best[1] < best[0] * 40 {
            return;
        }
    }
    panic!("{best:?}");
}
