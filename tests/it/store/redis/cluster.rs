//! The store on a Cluster, and on a server that Sentinels watch.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    api_key::{ApiKeyStore, KeyManager, KeyRing, NewKey},
    cache::{CacheLayer, Purge, PurgeMode},
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{
        RedisConfig, RedisStore,
        backend::{Charge, StoreKey},
    },
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use crate::{
    api_key::api_key::pepper,
    support::{
        calm::on_a_calm_machine,
        get,
        instance::Instance,
        redis::{Cluster, Watched, keys, patient},
    },
};

fn partition(number: u64) -> StoreKey {
    keys().space("cluster").short_key(&number.to_le_bytes())
}

fn hasty(config: RedisConfig) -> RedisStore {
    // A dead node is noticed soon; a live one has enough time on a busy machine.
    let config = config
        .rate_limit_timeout(Duration::from_secs(2))
        .api_key_timeout(Duration::from_secs(2))
        .cache_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2))
        .idle_timeout(Duration::from_secs(2));
    RedisStore::new(config, keys()).unwrap()
}

fn policy() -> Policy {
    Policy::fixed_window("p", Quota::per_hour(1_000)).unwrap()
}

async fn take(store: &RedisStore, number: u64) -> bool {
    let policy = policy();
    let charge = [Charge::new(&policy, 1)];
    store.take(&partition(number), &charge).await.is_ok()
}

/// Takes until a take succeeds, and returns the elapsed time.
async fn until_taken(store: &RedisStore, number: u64) -> Duration {
    let begun = Instant::now();
    while !take(store, number).await {
        assert!(begun.elapsed() < Duration::from_secs(40), "{store:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_node_that_dies_hurts_its_slots_alone_until_its_replica_takes_over() {
    let cluster = Cluster::start();
    let store = hasty(RedisConfig::cluster(cluster.urls()));
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .build()
        .unwrap();
    let key = KeyManager::new(&ring).create(NewKey::new("a")).await;
    let id = key.unwrap().id();
    let urls = CachedUrls::new(&store);
    urls.until_all_hit().await;
    // The node that dies has the keys, and some of the cache entries and partitions.
    let holds = |home: &usize, what: &str| {
        let names = cluster.servers()[*home].keys();
        names.iter().any(|name| name.contains(what))
    };
    let dies = (0..3).find(|home| holds(home, ":k:{")).unwrap();
    assert!(holds(&dies, ":c:{"), "it has no cache entry");
    let mut dying = Vec::new();
    let mut living = Vec::new();
    for number in 0..30 {
        let before = cluster.servers()[dies].keys().len();
        until_taken(&store, number).await;
        let after = cluster.servers()[dies].keys().len();
        let home = if after > before {
            &mut dying
        } else {
            &mut living
        };
        home.push(number);
    }
    assert!(!dying.is_empty() && !living.is_empty());
    cluster.servers()[dies].ask(&["WAIT", "1", "5000"]);
    cluster.servers()[dies].kill();
    let begun = Instant::now();
    let (mut refused, mut unknown) = (0, 0);
    let (asked, called) = (urls.asked(), urls.called());
    while begun.elapsed() < Duration::from_millis(900) {
        for number in &living {
            assert!(
                take(&store, *number).await,
                "slot of a living node: {store:?}"
            );
        }
        refused += u32::from(!is_soon(take(&store, dying[0])).await);
        unknown += u32::from(is_soon(store.find(id)).await.is_err());
        urls.ask_each().await;
    }
    assert!(refused > 0 && unknown > 0);
    // Some responses come from the handler, and the others from the cache.
    let (asked, called) = (urls.asked() - asked, urls.called() - called);
    assert!(0 < called && called < asked, "{called} of {asked}");
    until_taken(&store, dying[0]).await;
    while !matches!(store.find(id).await, Ok(Some(_))) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{store:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    urls.until_all_hit().await;
    assert_eq!(store.stats().down, 0, "{store:?}");
}

/// Returns the output of a future, which must be ready soon: no call waits for a failover.
async fn is_soon<F: IntoFuture>(future: F) -> F::Output {
    let begun = Instant::now();
    let output = future.await;
    assert!(begun.elapsed() < Duration::from_secs(2), "late");
    output
}

/// A handler behind a cache, asked for some URLs.
struct CachedUrls {
    app: BoxCloneService<Request<Full<Bytes>>, StatusCode, Infallible>,
    asked: AtomicUsize,
    called: Arc<AtomicUsize>,
}

impl CachedUrls {
    const URLS: usize = 24;

    fn new(store: &RedisStore) -> Self {
        let called = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&called);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::Relaxed);
            let response = Response::builder().header("cache-control", "max-age=600");
            let response = response.body(Full::<Bytes>::from("an answer")).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let read = |response: Response<_>| async move {
            let (head, body) = response.into_parts();
            BodyExt::collect(body).await.unwrap();
            Ok(head.status)
        };
        let app = CacheLayer::new(store.clone()).layer(handler);
        Self {
            app: BoxCloneService::new(app.and_then(read)),
            asked: AtomicUsize::new(0),
            called,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn called(&self) -> usize {
        self.called.load(Ordering::Relaxed)
    }

    /// Asks for each URL, whatever happens to the servers.
    async fn ask_each(&self) {
        for number in 0..Self::URLS {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let request = get(&format!("http://acme.test/{number}"));
            let status = is_soon(self.app.clone().oneshot(request)).await.unwrap();
            assert_eq!(status, StatusCode::OK);
        }
    }

    async fn until_all_hit(&self) {
        let begun = Instant::now();
        loop {
            let called = self.called();
            self.ask_each().await;
            if self.called() == called {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "never kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_and_no_call_fails() {
    let cluster = Cluster::start();
    let store = hasty(RedisConfig::cluster(cluster.urls()));
    assert!(take(&store, 1).await);
    let holds = |home: &usize| !cluster.servers()[*home].keys().is_empty();
    let from = (0..3).find(holds).unwrap();
    let to = (from + 1) % 3;
    let (old, new) = (&cluster.servers()[from], &cluster.servers()[to]);
    let key = old.keys().remove(0);
    let slot = old.ask(&["CLUSTER", "KEYSLOT", &key]).as_text();
    let id = |number: usize| {
        cluster.servers()[number]
            .ask(&["CLUSTER", "MYID"])
            .as_text()
    };
    new.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    old.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    assert!(take(&store, 1).await, "not moved yet");
    let port = new.addr().port().to_string();
    old.ask(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
    assert!(take(&store, 1).await, "moved, and the old node redirects");
    assert_eq!(new.keys().as_slice(), std::slice::from_ref(&key));
    for server in [new, old] {
        server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    for _ in 0..3 {
        assert!(take(&store, 1).await, "the old node redirects");
    }
    let policy = policy();
    let left = store.peek(&partition(1), &[Charge::new(&policy, 0)]).await;
    assert_eq!(left.unwrap().each()[0].remaining(), 1_000 - 6);
}

#[tokio::test]
async fn purge_reaches_an_entry_whose_slot_is_moving() {
    let cluster = Cluster::start();
    let config = patient(RedisConfig::cluster(cluster.urls()));
    let layer = CacheLayer::new(RedisStore::new(config, keys()).unwrap());
    let instance = Instance::new(layer, &[("cache-control", "max-age=600")]);
    let url = "http://acme.test/a";
    let mut shown = instance.get("/a").await;
    while instance.get("/a").await != shown {
        shown = instance.get("/a").await;
    }
    let entry = |name: &String| name.contains(":c:{") && name.len() > 40;
    let holds = |home: &usize| cluster.servers()[*home].keys().iter().any(entry);
    let from = (0..3).find(holds).unwrap();
    let to = (from + 1) % 3;
    let (old, new) = (&cluster.servers()[from], &cluster.servers()[to]);
    let names = old.keys();
    let key = names.iter().find(|name| entry(name)).unwrap();
    let slot = old.ask(&["CLUSTER", "KEYSLOT", key]).as_text();
    let id = |number: usize| {
        cluster.servers()[number]
            .ask(&["CLUSTER", "MYID"])
            .as_text()
    };
    new.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    old.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    let port = new.addr().port().to_string();
    let moves = |name: &String| {
        old.ask(&["MIGRATE", "127.0.0.1", &port, name, "0", "5000"]);
    };
    // The token of the URL has moved; the entry and the record of purges have not.
    let tag = &key[key.find('{').unwrap()..=key.find('}').unwrap()];
    let token = format!(":n:{tag}:u");
    names
        .iter()
        .filter(|name| name.contains(&token))
        .for_each(moves);
    assert!(new.keys().iter().any(|name| name.contains(&token)));
    let purge = Purge::uri(url.parse().unwrap());
    instance.purge(purge, PurgeMode::Hard).await;
    assert!(!new.keys().iter().any(|name| name.contains(&token)));
    assert_ne!(instance.get("/a").await, shown);
    names
        .iter()
        .filter(|name| name.contains(tag))
        .for_each(moves);
    for server in [new, old] {
        server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    assert!(new.keys().contains(key), "the purged entry has moved");
    assert_ne!(instance.get("/a").await, shown);
}

#[test]
fn unavailable_cluster_fails_calls_immediately_and_recovers() {
    on_a_calm_machine(async || {
        let cluster = Cluster::start();
        let urls = cluster.urls();
        for server in cluster.servers() {
            server.freeze();
        }
        let config = RedisConfig::cluster(urls);
        let store = RedisStore::new(config, keys()).unwrap();
        let begun = Instant::now();
        assert!(!take(&store, 1).await);
        assert!(begun.elapsed() < Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(60)).await;
        for _ in 0..20 {
            let asked = Instant::now();
            assert!(!take(&store, 1).await);
            assert!(asked.elapsed() < Duration::from_millis(10));
        }
        for server in cluster.servers() {
            server.thaw();
        }
        let healed_in = until_taken(&store, 1).await;
        assert!(healed_in < Duration::from_secs(8), "{healed_in:?}");
    });
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let watched = Watched::start();
    let config = RedisConfig::sentinel(watched.urls(), "main");
    let store = hasty(config);
    until_taken(&store, 1).await;
    let on = |keys: Vec<String>| keys.iter().any(|key| key.contains(":l:"));
    assert!(on(watched.main().keys()), "asked the replica");
    watched.main().kill();
    // The store notices it at once, and until there is another main server fails calls at once.
    while store.stats().down == 0 {
        take(&store, 1).await;
    }
    let asked = Instant::now();
    assert!(!take(&store, 1).await);
    assert!(asked.elapsed() < Duration::from_secs(1));
    until_taken(&store, 1).await;
    assert!(on(watched.replica().keys()));
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_misconfigured() {
    let watched = Watched::start();
    let config = RedisConfig::sentinel(watched.urls(), "other");
    let store = hasty(config);
    assert!(!take(&store, 1).await);
    assert_eq!(store.stats().down, 1);
}
