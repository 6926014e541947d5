//! All four layers on one Redis server, in two processes, and the data stored there afterwards.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    ClientAddrResolver, Gate, GateLayer, PeerAddr, TokioRuntime,
    access_log::{AccessLogLayer, LogQuery, LogStore, LogStream, sinks::LogQueue},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey},
    cache::{CacheLayer, CachePurger, Purge, PurgeMode},
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::{RedisConfig, RedisStore},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    api_key::api_key::pepper,
    support::{
        get,
        redis::{Server, keys, patient},
    },
};

/// The number of requests that a caller can make, on all instances together.
const LIMIT: u64 = 20;

/// A service's process: one store for all four layers.
struct Instance {
    store: RedisStore,
    manager: KeyManager,
    queue: LogQueue,
    purger: CachePurger,
    gate: GateLayer,
    calls: Arc<AtomicUsize>,
}

impl Instance {
    fn at(server: &Server, calls: &Arc<AtomicUsize>) -> Self {
        Self::by(RedisConfig::single(server.url()), calls)
    }

    fn by(config: RedisConfig, calls: &Arc<AtomicUsize>) -> Self {
        let store = RedisStore::new(patient(config), keys()).unwrap();
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(pepper())
            .build()
            .unwrap();
        let limit = |name, by, limit| {
            let policy = Policy::fixed_window(name, Quota::per_hour(limit)).unwrap();
            RateLimitLayer::builder(store.clone(), by)
                .policy(policy)
                .build()
                .unwrap()
        };
        let by_address = Partition::client_addr(ClientAddrResolver::default());
        let queue = LogQueue::builder(store.clone(), TokioRuntime)
            .build()
            .unwrap();
        let cache = CacheLayer::new(store.clone());
        let purger = cache.purger();
        let gate = Gate::new()
            .access_log(AccessLogLayer::new(queue.clone()))
            .rate_limit_by_address(limit("address", by_address, 1_000))
            .api_keys(ApiKeyLayer::builder(&ring).build().unwrap())
            .rate_limit_by_identity(limit("caller", Partition::identity(), LIMIT))
            .cache(cache)
            .build()
            .unwrap();
        Self {
            store,
            manager: KeyManager::new(&ring),
            queue,
            purger,
            gate,
            calls: Arc::clone(calls),
        }
    }

    async fn send(&self, mut request: Request<Full<Bytes>>, key: &str) -> (StatusCode, Bytes) {
        let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
        request.extensions_mut().insert(peer);
        let headers = request.headers_mut();
        headers.insert("x-api-key", key.parse().unwrap());
        headers.insert("cookie", "session=canary-of-a-cookie".parse().unwrap());
        let calls = Arc::clone(&self.calls);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            let response = Response::builder().header("cache-control", "max-age=60");
            let response = response.body(Full::<Bytes>::from(format!("call {call}")));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let response = self.gate.layer(handler).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body)
    }
}

#[tokio::test]
async fn two_instances_are_one_gate() {
    let server = Server::start();
    let calls = Arc::default();
    let (one, other) = (Instance::at(&server, &calls), Instance::at(&server, &calls));
    let new = NewKey::new("freya").scopes(["data.read"]);
    let key = one.manager.create(new).await.unwrap();
    let secret = key.expose_secret();
    let url = "http://acme.test/data?token=canary-of-a-query";
    for turn in 0..LIMIT {
        let instance = if turn % 2 == 0 { &one } else { &other };
        let (status, body) = instance.send(get(url), secret).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, "call 1", "what one has made the other shows");
        // The response is stored in the background.
        let is_entry_key = |name: &String| name.contains(":c:{") && !name.ends_with(":purges");
        while !server.keys().iter().any(is_entry_key) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for instance in [&one, &other] {
        let (status, _) = instance.send(get(url), secret).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }
    other.manager.revoke(key.id(), "a test").await.unwrap();
    let (status, _) = other.send(get(url), secret).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    for instance in [&one, &other] {
        assert!(instance.queue.flush().await);
    }
    let all = LogQuery::latest(1_000);
    let records = one.store.recent(LogStream::Access, &all).await.unwrap();
    assert_eq!(records.len() as u64, LIMIT + 3);

    // A reader of the server learns no secret.
    let lies_there = server.everything();
    let tail = secret.rsplit('_').next().unwrap();
    for canary in [secret, tail, "canary-of-a-cookie", "canary-of-a-query"] {
        assert!(!lies_there.contains(canary), "{canary} in {lies_there}");
    }
    let forever = server.keys_without_expiry();
    assert!(
        forever.iter().all(|key| key.contains(":k:{")),
        "{forever:?}"
    );
}

#[tokio::test]
async fn redis_keys_are_well_formed_for_any_request() {
    let server = Server::start();
    let instance = Instance::at(&server, &Arc::default());
    for odd in ["\r\nFLUSHALL\r\n", "*", "{", "}{", "a b", "ä", "\u{1}"] {
        let key = instance.manager.create(NewKey::new(odd)).await;
        let key = key.unwrap().expose_secret().to_owned();
        for path in [
            "/*",
            "/%7B%7D",
            "/%0d%0aFLUSHALL",
            "/%00",
            "/{x}",
            "/a?{=}&*",
        ] {
            let url = format!("http://acme.test{path}");
            let (status, _) = instance.send(get(&url), &key).await;
            assert_eq!(status, StatusCode::OK);
        }
    }
    let names = server.keys();
    assert!(names.len() > 7 * 5, "{names:?}");
    for name in names {
        let braces = name.matches(['{', '}']).count();
        let plain = |char: char| char.is_ascii_alphanumeric() || ":{}-_".contains(char);
        assert!(matches!(braces, 0 | 2) && name.chars().all(plain), "{name}");
    }
}

#[tokio::test]
async fn acl_user_of_the_guide_has_sufficient_permissions() {
    let server = Server::start();
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/redis.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, command) = guide.split_once("ACL SETUSER").unwrap();
    let (command, _) = command.split_once("```").unwrap();
    let command = format!("ACL SETUSER {command}").replace("acme:", "portcullis:");
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(server.ask(&words).as_text(), "OK");

    let config = RedisConfig::single(server.url())
        .username("portcullis")
        .password("password");
    let instance = Instance::by(config, &Arc::default());
    let key = instance.manager.create(NewKey::new("freya")).await;
    let key = key.unwrap();
    let url = "http://acme.test/data";
    for _ in 0..3 {
        let (status, _) = instance.send(get(url), key.expose_secret()).await;
        assert_eq!(status, StatusCode::OK);
    }
    let purge = [Purge::All, Purge::tag("a")];
    let purged = instance.purger.purge(purge, PurgeMode::Hard);
    purged.await.unwrap();
    assert!(instance.queue.flush().await);
    let records = instance
        .store
        .recent(LogStream::Access, &LogQuery::default());
    assert_eq!(records.await.unwrap().len(), 3);
    instance.manager.revoke(key.id(), "a test").await.unwrap();
    let heard = instance
        .store
        .wait_for_invalidation_acks(Duration::from_secs(2))
        .await;
    assert!(heard.unwrap().is_complete());
    instance.manager.purge(Duration::ZERO).await.unwrap();
}
