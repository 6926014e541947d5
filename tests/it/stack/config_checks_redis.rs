//! Configurations of a Redis server, and of what is stored there, that can hardly be meant.

use portcullis::{
    ClientAddrResolver,
    api_key::{KeyRing, Pepper},
    cache::CacheLayer,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::{MemoryStore, RedisConfig, RedisStore, StoreKeys},
};

use crate::support::{
    alone::{is_silent, reports},
    redis::{Server, keys, patient},
};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

fn unreachable() -> RedisConfig {
    RedisConfig::single("redis://127.0.0.1:1")
}

fn limit(store: &RedisStore) -> RateLimitLayer {
    let partition = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(store.clone(), partition)
        .policy(Policy::fixed_window("calls", Quota::per_minute(10)).unwrap())
        .build()
        .unwrap()
}

fn pepper() -> Pepper {
    Pepper::new(1, b"thirty-two bytes or more, of a test").unwrap()
}

#[test]
fn secrets_of_one_process_for_a_shared_store_are_reported_once() {
    let name =
        "stack::config_checks_redis::secrets_of_one_process_for_a_shared_store_are_reported_once";
    let expected: [&[&str]; 2] = [
        &[
            "`keys` is `StoreKeys::random`",
            "do not share their counts",
            "`StoreKeys::from_secret`",
        ],
        &[
            "`pepper` is `Pepper::random`",
            "all keys are invalid",
            "`Pepper::new`",
        ],
    ];
    reports(name, &expected, async {
        RedisStore::new(unreachable(), StoreKeys::random()).unwrap();
        let shared = RedisStore::new(unreachable(), keys()).unwrap();
        let ring = |pepper| {
            KeyRing::builder("acmepay", shared.clone())
                .pepper(pepper)
                .build()
        };
        ring(Pepper::random(1)).unwrap();
        ring(pepper()).unwrap();
        // A store of this process ends with the pepper.
        KeyRing::builder("acmepay", MemoryStore::new())
            .pepper(Pepper::random(1))
            .build()
            .unwrap();
    });
}

#[test]
fn server_that_evicts_counts_is_reported_once() {
    let name = "stack::config_checks_redis::server_that_evicts_counts_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`maxmemory-policy` is `allkeys-lru`",
        "resets quotas",
        "`maxmemory-policy noeviction`",
    ]];
    reports(name, &expected, async {
        let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
        let server = Server::with(&options);
        let store = store(&server);
        let _limiter = limit(&store);
        for _ in 0..3 {
            store.ping().await.unwrap();
        }
        assert_eq!(store.stats().rejected_noperm, 0);
    });
}

#[test]
fn server_that_loses_api_keys_is_reported_once() {
    let name = "stack::config_checks_redis::server_that_loses_api_keys_is_reported_once";
    let expected: [&[&str]; 2] = [
        &[
            "`maxmemory-policy` is `allkeys-lfu`",
            "evicts API keys",
            "noeviction",
        ],
        &[
            "`appendonly` is `no`",
            "lost when it restarts",
            "`appendonly yes`",
        ],
    ];
    reports(name, &expected, async {
        let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu"];
        let server = Server::with(&options);
        let store = store(&server);
        store.ping().await.unwrap();
        let _ring = KeyRing::builder("acmepay", store.clone())
            .pepper(pepper())
            .build();
        for _ in 0..3 {
            store.ping().await.unwrap();
        }
    });
}

#[test]
fn durable_server_emits_no_notice() {
    let name = "stack::config_checks_redis::durable_server_emits_no_notice";
    is_silent(name, async {
        // A cache may be evicted, and needs no persistence.
        let evicting = Server::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
        let cached = store(&evicting);
        let _cache = CacheLayer::new(cached.clone());
        cached.ping().await.unwrap();
        // Records of keys do not expire, so this policy spares them.
        let options = [
            "--appendonly",
            "yes",
            "--maxmemory",
            "100mb",
            "--maxmemory-policy",
            "volatile-ttl",
        ];
        let durable = Server::with(&options);
        let keyed = store(&durable);
        let _ring = KeyRing::builder("acmepay", keyed.clone())
            .pepper(pepper())
            .build();
        keyed.ping().await.unwrap();
        // Limits need no persistence, and without a bound nothing is evicted.
        let unbounded = Server::with(&["--maxmemory-policy", "allkeys-lru"]);
        let limited = store(&unbounded);
        let _limiter = limit(&limited);
        limited.ping().await.unwrap();
        drop((evicting, durable, unbounded));
    });
}

#[test]
fn server_that_forbids_info_is_not_checked() {
    let name = "stack::config_checks_redis::server_that_forbids_info_is_not_checked";
    is_silent(name, async {
        let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
        let server = Server::with(&options);
        server.ask(&[
            "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info",
        ]);
        let url = format!("redis://app:pw@{}", server.addr());
        let store = RedisStore::new(patient(RedisConfig::single(url)), keys()).unwrap();
        let _limiter = limit(&store);
        store.ping().await.unwrap();
        assert_eq!(store.stats().rejected_noperm, 0);
    });
}
