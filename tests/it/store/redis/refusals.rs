//! Servers that cannot be used or refuse commands: the reason is returned, reported and counted.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, ClientAddrResolver, PeerAddr, StoreErrorKind,
    access_log::{LogStore, LogStream, record::LogEntry},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::{RedisConfig, RedisStats, RedisStore},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    alone, get,
    redis::{Server, failed_ping, keys, patient, source},
};

/// Receives the refusals that are reported: store, kind and cause.
#[derive(Clone, Debug, Default)]
struct Refusals(Arc<Mutex<Vec<(String, StoreErrorKind, String)>>>);

impl Auditor for Refusals {
    fn audit(&self, event: &AuditEvent) {
        if let AuditEvent::StoreRejected { store, kind, cause } = event {
            let refusal = (store.to_string(), *kind, cause.to_string());
            self.0.lock().unwrap().push(refusal);
        }
    }
}

impl Refusals {
    fn all(&self) -> Vec<(String, StoreErrorKind, String)> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn ping_returns_the_reason_for_which_a_server_cannot_be_used() {
    let server = Server::with(&["--requirepass", "the-right-one"]);
    let gone = Server::start();
    gone.kill();
    let (addr, gone) = (server.addr(), gone.url());
    let single = || RedisConfig::single(server.url());
    let cluster = || RedisConfig::cluster([server.url()]);
    let url = format!("redis://:hunter2@{addr}");
    let wrong = format!("cannot use {addr}: WRONGPASS ");
    let missing = format!("cannot use {addr}: NOAUTH ");
    let refused = format!(
        "cannot use {}: Connection refused",
        &gone["redis://".len()..]
    );
    use StoreErrorKind::{Misconfigured, Unavailable};
    for (config, kind, reason) in [
        (single().password("hunter2"), Misconfigured, &wrong),
        (
            single().username("alice").password("hunter2"),
            Misconfigured,
            &wrong,
        ),
        (RedisConfig::single(url), Misconfigured, &wrong),
        (cluster().password("hunter2"), Misconfigured, &wrong),
        (single(), Misconfigured, &missing),
        (RedisConfig::single(&gone), Unavailable, &refused),
        (RedisConfig::cluster([&gone]), Unavailable, &refused),
    ] {
        let store = RedisStore::new(patient(config), keys()).unwrap();
        // The first call waits for the connection, the others fail at once.
        for _ in 0..3 {
            let error = failed_ping(&store).await;
            assert!(
                source(&error).starts_with(reason),
                "{error:?}, not {reason}"
            );
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(!format!("{error:?} {store:?}").contains("hunter2"));
        }
    }
}

#[tokio::test]
async fn ping_clears_the_reason_once_the_server_is_usable() {
    let server = Server::start();
    server.kill();
    let config = patient(RedisConfig::single(server.url()));
    let store = RedisStore::new(config, keys()).unwrap();
    assert!(source(&failed_ping(&store).await).contains("refused"));
    server.restart();
    let begun = Instant::now();
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await;
    let closed = store.ping().await.unwrap_err();
    assert_eq!(source(&closed), "", "closed, and not refused");
}

/// A refusal of writes by a server, and the counter of its cause.
struct Case {
    begin: &'static [&'static str],
    end: &'static [&'static str],
    code: &'static str,
    kind: StoreErrorKind,
    count: fn(&RedisStats) -> u64,
}

const CASES: [Case; 3] = [
    Case {
        begin: &["CONFIG", "SET", "maxmemory", "1"],
        end: &["CONFIG", "SET", "maxmemory", "0"],
        code: "OOM ",
        kind: StoreErrorKind::Full,
        count: |stats| stats.rejected_oom,
    },
    Case {
        begin: &["CONFIG", "SET", "min-replicas-to-write", "1"],
        end: &["CONFIG", "SET", "min-replicas-to-write", "0"],
        code: "NOREPLICAS ",
        kind: StoreErrorKind::Unavailable,
        count: |stats| stats.rejected_noreplicas,
    },
    Case {
        begin: &["ACL", "SETUSER", "default", "-evalsha", "-eval"],
        end: &["ACL", "SETUSER", "default", "+@all"],
        code: "NOPERM ",
        kind: StoreErrorKind::Misconfigured,
        count: |stats| stats.rejected_noperm,
    },
];

fn limiter(store: &RedisStore, refusals: &Refusals) -> RateLimitLayer {
    let by_addr = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(store.clone(), by_addr)
        .policy(Policy::fixed_window("second", Quota::per_second(1_000)).unwrap())
        .auditor(refusals.clone())
        .build()
        .unwrap()
}

async fn decide(layer: &RateLimitLayer) -> StatusCode {
    let mut request = get("/");
    let peer = PeerAddr(([203, 0, 113, 9], 1).into());
    request.extensions_mut().insert(peer);
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    layer.layer(inner).oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn each_refusal_of_a_server_is_counted_and_reported_once_by_its_cause() {
    for case in CASES {
        let (server, at_store, at_layer) =
            (Server::start(), Refusals::default(), Refusals::default());
        let config = patient(RedisConfig::single(server.url())).auditor(at_store.clone());
        let store = RedisStore::new(config, keys()).unwrap();
        let layer = limiter(&store, &at_layer);
        assert_eq!(decide(&layer).await, 200, "{}", case.code);
        server.ask(case.begin);
        for _ in 0..5 {
            assert_eq!(decide(&layer).await, 503, "{}", case.code);
        }
        // Not by the limiter alone: the log is a write as well.
        let entry = LogEntry::new(portcullis::Timestamp::from_secs(1), b"{}".to_vec());
        let error = store.append(LogStream::Access, &[entry]).await.unwrap_err();
        assert_eq!(error.kind(), case.kind);
        assert!(source(&error).starts_with(case.code), "{error:?}");
        assert_eq!((case.count)(&store.stats()), 6, "{:?}", store.stats());
        assert_eq!(store.stats().down, 0);
        let [(name, kind, cause)] = &at_store.all()[..] else {
            panic!("not one event: {at_store:?}");
        };
        assert_eq!((name.as_str(), *kind), ("redis", case.kind));
        assert!(cause.starts_with(case.code), "{cause}");
        // A layer reports a store that is full; the others it reports as down.
        let at_layer = at_layer.all();
        assert_eq!(
            at_layer.len(),
            usize::from(case.code == "OOM "),
            "{at_layer:?}"
        );
        server.ask(case.end);
        assert_eq!(decide(&layer).await, 200, "{}", case.code);
    }
}

/// A store whose user lacks these rights.
fn limited(server: &Server, rights: &[&str], refusals: &Refusals) -> RedisStore {
    let user = ["ACL", "SETUSER", "limited", "on", ">password", "~*", "&*"];
    server.ask(&[&user[..], &["+@all"], rights].concat());
    let config = patient(RedisConfig::single(server.url()))
        .username("limited")
        .password("password")
        .auditor(refusals.clone());
    RedisStore::new(config, keys()).unwrap()
}

fn ring(store: &RedisStore) -> KeyRing {
    KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap()
}

#[tokio::test]
async fn refused_subscription_is_counted_and_reported() {
    let (server, refusals) = (Server::start(), Refusals::default());
    let store = limited(&server, &["-subscribe"], &refusals);
    let ring = ring(&store);
    let new_key = NewKey::new("freya");
    let key = KeyManager::new(&ring).create(new_key).await.unwrap();
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let app = ApiKeyLayer::builder(&ring).build().unwrap().layer(inner);
    let begun = Instant::now();
    while store.stats().rejected_noperm == 0 {
        let mut request = get("/");
        let value = key.expose_secret().parse().unwrap();
        request.headers_mut().insert("x-api-key", value);
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_, kind, cause) = refusals.all().remove(0);
    assert_eq!(kind, StoreErrorKind::Misconfigured);
    assert!(cause.starts_with("NOPERM "), "{cause}");
}

#[tokio::test]
async fn permission_that_a_script_lacks_is_counted_as_such() {
    let (server, refusals) = (Server::start(), Refusals::default());
    // A change of a key is published by its script.
    let store = limited(&server, &["resetchannels"], &refusals);
    let manager = KeyManager::new(&ring(&store));
    assert!(manager.create(NewKey::new("freya")).await.is_err());
    assert_eq!(store.stats().rejected_noperm, 1, "{:?}", store.stats());
    let (_, kind, cause) = refusals.all().remove(0);
    assert_eq!(kind, StoreErrorKind::Misconfigured);
    assert!(cause.starts_with("ERR "), "{cause}");
}

#[test]
fn full_server_is_one_notice_with_its_words() {
    if alone::is_child() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            let server = Server::start();
            let config = patient(RedisConfig::single(server.url()));
            let store = RedisStore::new(config, keys()).unwrap();
            let layer = limiter(&store, &Refusals::default());
            assert_eq!(decide(&layer).await, 200);
            server.ask(CASES[0].begin);
            for _ in 0..20 {
                assert_eq!(decide(&layer).await, 503);
            }
        });
    }
    let output = alone::run("store::redis::refusals::full_server_is_one_notice_with_its_words");
    let notices = alone::notices(&output);
    let is_by_store = |notice: &&str| notice.contains("store `redis`");
    let (by_store, by_layer): (Vec<&str>, Vec<&str>) = notices.into_iter().partition(is_by_store);
    assert_eq!((by_store.len(), by_layer.len()), (1, 1), "{output:?}");
    assert!(
        by_store[0].contains(" rejects commands: OOM "),
        "{by_store:?}"
    );
    assert!(by_layer[0].contains("layer `rate_limit`"), "{by_layer:?}");
    assert!(by_layer[0].contains("OOM "), "{by_layer:?}");
}
