//! Servers and proxies that refuse `HELLO`, and the `protocol` parameter of a URL.

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::StatusCode;
use portcullis::{
    AuditEvent, Auditor, StoreError, StoreErrorKind,
    cache::{CacheLayer, Purge, PurgeMode},
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisStore, TieredStore, backend::Charge},
};

use super::keys::{Instance as KeyInstance, new_key};
use crate::support::{
    instance::{Instance, commands, settle},
    redis::{Server, become_cluster, keys, patient},
    refusing::{Refusing, Treatment},
};

const NO_HELLO: [&str; 3] = ["--rename-command", "HELLO", ""];

const UNKNOWN: Treatment =
    Treatment::Reply("-ERR unknown command `HELLO`, with args beginning with: `3`, ");

fn store(url: &str) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(url)), keys()).unwrap()
}

/// Returns how many of three requests are admitted by a limit of two that both stores count.
async fn admitted_of_three(stores: [&RedisStore; 2]) -> usize {
    let policy = Policy::fixed_window("p", Quota::per_hour(2)).unwrap();
    let partition = keys().space("protocol").short_key(b"one");
    let mut admitted = 0;
    for store in [stores[0], stores[1], stores[0]] {
        let taken = store.take(&partition, &[Charge::new(&policy, 1)]).await;
        admitted += usize::from(taken.unwrap().is_admitted());
    }
    admitted
}

/// Revokes a key on one instance, and returns how long the other one accepts it.
async fn revocation(server: &Server, url: &str) -> Duration {
    let (one, other) = (KeyInstance::at(url), KeyInstance::at(url));
    let (id, key) = new_key(&one, "acme").await;
    other.warm(&key, server).await;
    one.manager().revoke(id, "a test").await.unwrap();
    other.until(&key, StatusCode::UNAUTHORIZED).await
}

fn cache(url: &str) -> Instance {
    let layer = CacheLayer::new(TieredStore::new(store(url), 1 << 20));
    let fields = [("cache-control", "max-age=60"), ("cache-tag", "some")];
    Instance::new(layer, Box::leak(Box::new(fields)))
}

/// Purges an entry on one instance, and returns how long the other one serves it from memory.
async fn purge(server: &Server, url: &str) -> Duration {
    let (one, other) = (cache(url), cache(url));
    let begun = Instant::now();
    let stored = loop {
        settle(server).await;
        let before = commands(server);
        let served = other.get("/a").await;
        if commands(server) == before {
            break served;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "never in memory");
    };
    one.purge(Purge::tag("some"), PurgeMode::Hard).await;
    let purged = Instant::now();
    while other.get("/a").await == stored {
        assert!(purged.elapsed() < Duration::from_secs(10), "never purged");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    purged.elapsed()
}

/// Uses limits, keys and the cache.
async fn serves(server: &Server, url: &str) {
    assert_eq!(admitted_of_three([&store(url), &store(url)]).await, 2);
    let revoked = revocation(server, url).await;
    assert!(revoked < Duration::from_secs(2), "{revoked:?}");
    let purged = purge(server, url).await;
    assert!(purged < Duration::from_secs(2), "{purged:?}");
}

#[tokio::test]
async fn server_without_hello_serves_limits_keys_and_cache_over_resp2() {
    for options in [&NO_HELLO[..], &["--rename-command", "HELLO", "GREET"]] {
        let server = Server::with(options);
        serves(&server, &server.url()).await;
        let clients = server.ask(&["CLIENT", "LIST"]).as_text();
        assert!(!clients.contains("resp=3"), "{clients}");
        let socket = format!("redis+unix://{}", server.socket().display());
        store(&socket).ping().await.unwrap();
    }
}

#[tokio::test]
async fn every_refusal_of_hello_falls_back_to_resp2() {
    for treatment in [
        UNKNOWN,
        Treatment::Reply("-ERR unknown command 'hello'"),
        Treatment::Reply("-ERR unsupported command 'HELLO'"),
        Treatment::Reply("-ERR Proxy error"),
        Treatment::Reply("-NOPROTO unsupported protocol version"),
        Treatment::Reply("-NOPERM this user has no permissions to run the 'hello' command"),
        Treatment::Close,
    ] {
        let server = Server::start();
        let proxy = Refusing::before(server.addr(), &[("HELLO", treatment)]).await;
        serves(&server, &proxy.url()).await;
        assert!(proxy.calls_of("HELLO") > 0);
    }
}

#[tokio::test]
async fn credentials_and_database_are_sent_over_resp2_too() {
    let server = Server::with(&["--requirepass", "hunter2"]);
    let refusals = [
        UNKNOWN,
        // A proxy that accepts nothing before `AUTH`.
        Treatment::Reply("-NOAUTH Authentication required."),
        Treatment::Close,
    ];
    for refusal in refusals {
        let proxy = Refusing::before(server.addr(), &[("HELLO", refusal)]).await;
        let rest = &proxy.url()["redis://".len()..];
        for user in ["", "default"] {
            let url = format!("redis://{user}:hunter2@{rest}/3");
            let store = store(&url);
            store.ping().await.unwrap();
            assert_eq!(admitted_of_three([&store, &store]).await, 2, "{refusal:?}");
            let mut client = server.client();
            client.ask(&[b"AUTH", b"hunter2"]);
            let counts = client.ask(&[b"INFO", b"keyspace"]).unwrap().as_text();
            assert!(
                counts.contains("db3:") && !counts.contains("db0:"),
                "{counts}"
            );
            client.ask(&[b"FLUSHALL"]);
        }
    }
}

#[tokio::test]
async fn server_without_users_gets_the_password_alone() {
    let server = Server::with(&["--requirepass", "hunter2"]);
    let refusals = [("HELLO", UNKNOWN), ("AUTH", WITHOUT_USERS)];
    let proxy = Refusing::before(server.addr(), &refusals).await;
    let rest = &proxy.url()["redis://".len()..];
    store(&format!("redis://acme:hunter2@{rest}"))
        .ping()
        .await
        .unwrap();
}

const WITHOUT_USERS: Treatment =
    Treatment::ReplyOnce("-ERR wrong number of arguments for 'auth' command");

#[tokio::test]
async fn wrong_password_is_reported_as_such_over_resp2() {
    let server = Server::with(&[
        "--requirepass",
        "the-right-one",
        "--rename-command",
        "HELLO",
        "",
    ]);
    for (password, reason) in [("hunter2", "WRONGPASS "), ("", "NOAUTH ")] {
        let mut config = RedisConfig::single(server.url());
        if !password.is_empty() {
            config = config.password(password);
        }
        let store = RedisStore::new(patient(config), keys()).unwrap();
        let error = store.ping().await.unwrap_err();
        let error = match error.source() {
            Some(_) => error,
            None => store.ping().await.unwrap_err(),
        };
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
        let source = error.source().unwrap().to_string();
        assert!(source.contains(reason), "{source}");
        assert!(!source.contains("hunter2"), "{source}");
    }
}

#[tokio::test]
async fn protocol_of_the_url_is_honored() {
    let server = Server::start();
    let hellos = || server.calls_of("hello");
    for (query, version, greets) in [
        ("", "resp=3", true),
        ("?protocol=3", "resp=3", true),
        ("?protocol=resp3", "resp=3", true),
        ("?protocol=2", "resp=2", false),
        ("?protocol=resp2", "resp=2", false),
    ] {
        let before = hellos();
        let url = format!("{}{query}", server.url());
        let instance = KeyInstance::at(&url);
        let (_, key) = new_key(&instance, "acme").await;
        instance.warm(&key, &server).await;
        assert_eq!(hellos() > before, greets, "{query}");
        let clients = server.ask(&["CLIENT", "LIST"]).as_text();
        let ours = |line: &&str| !line.contains("cmd=client");
        let ours: Vec<&str> = clients.lines().filter(ours).collect();
        // One connection for calls, and one for messages.
        assert_eq!(ours.len(), 2, "{clients}");
        assert!(
            ours.iter().all(|line| line.contains(version)),
            "{query}: {clients}"
        );
        drop(instance);
        let begun = Instant::now();
        while server.ask(&["CLIENT", "LIST"]).as_text().lines().count() > 1 {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "connections stay"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn rejects_unknown_and_contradictory_protocols() {
    let option = |config: RedisConfig| RedisStore::new(config, keys()).map(drop).unwrap_err();
    for value in ["x", "", "1", "4", "RESP3", "resp"] {
        let urls = [
            format!("redis://h?protocol={value}"),
            format!("redis+unix:///s?protocol={value}"),
        ];
        for url in urls {
            let error = option(RedisConfig::single(&url));
            assert_eq!(error.option(), "protocol", "{url}");
            assert!(error.to_string().contains(value), "{error}");
        }
        let url = format!("redis://h?protocol={value}");
        assert_eq!(option(RedisConfig::cluster([&url])).option(), "protocol");
        assert_eq!(
            option(RedisConfig::sentinel([&url], "m")).option(),
            "protocol"
        );
    }
    let urls = ["redis://a?protocol=2", "redis://b", "redis://c?protocol=3"];
    assert_eq!(option(RedisConfig::cluster(urls)).option(), "protocol");
    assert_eq!(
        option(RedisConfig::sentinel(urls, "m")).option(),
        "protocol"
    );
}

/// Receives the kinds of the outages that are reported.
#[derive(Clone, Debug, Default)]
struct Outages(Arc<Mutex<Vec<StoreErrorKind>>>);

impl Auditor for Outages {
    fn audit(&self, event: &AuditEvent) {
        if let AuditEvent::StoreDown { kind, .. } = event {
            self.0.lock().unwrap().push(*kind);
        }
    }
}

/// Returns the errors of a call, until one was made while the outage was known.
async fn refused_calls(store: &RedisStore) -> Vec<StoreError> {
    let policy = Policy::fixed_window("p", Quota::per_hour(2)).unwrap();
    let partition = keys().space("protocol").short_key(b"one");
    let mut errors = Vec::new();
    for _ in 0..5 {
        let taken = store.take(&partition, &[Charge::new(&policy, 1)]).await;
        errors.push(taken.unwrap_err());
        errors.push(store.ping().await.unwrap_err());
    }
    errors
}

#[tokio::test]
async fn unusable_server_has_one_error_kind_for_callers_audit_and_ping() {
    use StoreErrorKind::{Misconfigured, Unavailable};
    let no_hello = Server::with(&NO_HELLO);
    let locked = Server::with(&["--requirepass", "the-right-one"]);
    let gone = Server::start();
    gone.kill();
    let proxy = Refusing::before(locked.addr(), &[("HELLO", UNKNOWN)]).await;
    let resp3 = |server: &Server| format!("{}?protocol=3", server.url());
    let no_hello_addr = no_hello.addr().to_string();
    let full = Refusing::before(
        locked.addr(),
        &[
            (
                "HELLO",
                Treatment::Reply("-ERR max number of clients reached"),
            ),
            (
                "SET",
                Treatment::Reply("-ERR max number of clients reached"),
            ),
        ],
    )
    .await;
    for (config, kind) in [
        (RedisConfig::single(resp3(&no_hello)), Misconfigured),
        (RedisConfig::cluster([resp3(&no_hello)]), Misconfigured),
        (
            RedisConfig::sentinel([resp3(&no_hello)], "main"),
            Misconfigured,
        ),
        (RedisConfig::single(locked.url()), Misconfigured),
        (RedisConfig::cluster([locked.url()]), Misconfigured),
        (
            RedisConfig::single(locked.url()).password("hunter2"),
            Misconfigured,
        ),
        (RedisConfig::single(proxy.url()), Misconfigured),
        (
            RedisConfig::single(proxy.url()).password("hunter2"),
            Misconfigured,
        ),
        (RedisConfig::single(full.url()), Unavailable),
        (RedisConfig::single(gone.url()), Unavailable),
        (RedisConfig::cluster([gone.url()]), Unavailable),
        (RedisConfig::sentinel([gone.url()], "main"), Unavailable),
    ] {
        let outages = Outages::default();
        let shown = format!("{config:?}");
        let config = patient(config).auditor(outages.clone());
        let store = RedisStore::new(config, keys()).unwrap();
        let errors = refused_calls(&store).await;
        for error in &errors {
            assert_eq!(error.kind(), kind, "{shown}: {error:?}");
        }
        let source = errors.last().unwrap().source();
        let source = source.map(ToString::to_string).unwrap_or_default();
        let names_option =
            source.contains("`protocol=3`, and the server rejects `HELLO`: ERR unknown");
        assert_eq!(names_option, shown.contains(&no_hello_addr), "{source}");
        assert!(source.starts_with("cannot use "), "{source}");
        assert_eq!(outages.0.lock().unwrap()[..], [kind], "{shown}");
    }
}

#[tokio::test]
async fn server_that_accepts_no_connection_is_no_older_one() {
    let server = Server::with(&["--maxclients", "1"]);
    let begun = Instant::now();
    // The connection that found the server up may not be gone yet.
    let only = loop {
        let mut client = server.client();
        let reply = client.ask(&[b"PING"]);
        if reply.is_some_and(|reply| reply.as_text() == "PONG") {
            break client;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no connection");
    };
    let store = store(&server.url());
    let error = loop {
        let error = store.ping().await.unwrap_err();
        if error.source().is_some() {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let source = error.source().unwrap().to_string();
    assert!(source.contains("max number of clients reached"), "{source}");
    drop(only);
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let server = Server::start();
    let denied = Treatment::Reply("-DENIED Redis is running in protected mode");
    let proxy = Refusing::before(server.addr(), &[("HELLO", denied)]).await;
    let config = patient(RedisConfig::single(proxy.url()));
    let store = RedisStore::new(config, keys()).unwrap();
    let error = refused_calls(&store).await.pop().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(error.source().unwrap().to_string().contains("DENIED "));
}

#[tokio::test]
async fn server_replaced_by_an_older_one_is_used_again() {
    let server = Server::start();
    let proxy = Refusing::before(server.addr(), &[]).await;
    let store = store(&proxy.url());
    store.ping().await.unwrap();
    let older: [&[_]; 3] = [&[("HELLO", UNKNOWN)], &[("HELLO", Treatment::Close)], &[]];
    for treatments in older {
        let before = proxy.calls_of("HELLO");
        proxy.set(treatments);
        server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        let begun = Instant::now();
        while store.ping().await.is_err() || proxy.calls_of("HELLO") == before {
            assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn cluster_without_hello_is_served() {
    let server = Server::with(
        &[
            &NO_HELLO[..],
            &[
                "--cluster-enabled",
                "yes",
                "--cluster-config-file",
                "nodes.conf",
            ],
        ]
        .concat(),
    );
    become_cluster(&server).await;
    let config = || patient(RedisConfig::cluster([server.url()]));
    let store = || RedisStore::new(config(), keys()).unwrap();
    assert_eq!(admitted_of_three([&store(), &store()]).await, 2);
    let (one, other) = (KeyInstance::over(store()), KeyInstance::over(store()));
    let (id, key) = new_key(&one, "acme").await;
    other.warm(&key, &server).await;
    one.manager().revoke(id, "a test").await.unwrap();
    let took = other.until(&key, StatusCode::UNAUTHORIZED).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn main_server_without_hello_is_found_by_sentinels() {
    let main = Server::with(&NO_HELLO);
    let sentinel = Server::sentinel(&[]);
    let port = main.addr().port().to_string();
    sentinel.ask(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "1"]);
    for query in ["", "?protocol=2"] {
        let url = format!("{}{query}", sentinel.url());
        let config = patient(RedisConfig::sentinel([url], "main"));
        let store = RedisStore::new(config, keys()).unwrap();
        store.ping().await.unwrap();
        main.ask(&["FLUSHALL"]);
        assert_eq!(admitted_of_three([&store, &store]).await, 2);
    }
}

#[tokio::test]
async fn proxy_without_subscriptions_delays_no_revocation_and_no_purge() {
    for treatment in [
        Treatment::Reply("-ERR unsupported command"),
        Treatment::Close,
    ] {
        let server = Server::start();
        let refusals = [("HELLO", UNKNOWN), ("SUBSCRIBE", treatment)];
        let proxy = Refusing::before(server.addr(), &refusals).await;
        let url = proxy.url();
        let (one, other) = (KeyInstance::at(&url), KeyInstance::at(&url));
        let (id, key) = new_key(&one, "acme").await;
        for _ in 0..5 {
            assert_eq!(other.status(&key).await, StatusCode::OK);
        }
        one.manager().revoke(id, "a test").await.unwrap();
        // Nothing is remembered, so the next request asks the server.
        assert_eq!(other.status(&key).await, StatusCode::UNAUTHORIZED);
        let (one, other) = (cache(&url), cache(&url));
        let stored = other.get("/a").await;
        settle(&server).await;
        assert_eq!(other.get("/a").await, stored);
        one.purge(Purge::tag("some"), PurgeMode::Hard).await;
        assert_ne!(other.get("/a").await, stored);
        assert!(proxy.calls_of("SUBSCRIBE") > 0);
    }
}
