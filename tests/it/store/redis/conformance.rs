//! The public conformance suites for stores, run on Redis.

use std::time::Duration;

use portcullis::{
    access_log::LogStore,
    api_key::ApiKeyStore,
    cache::CacheStore,
    conformance,
    rate_limit::RateLimitStore,
    store::{RedisConfig, RedisStore, TieredStore},
};

use super::logs::counts_logs_exactly;
use crate::support::redis::{Cluster, Reply, Server, keys, patient};

/// Runs the suites of all four ports concurrently: most of the time they wait.
async fn keeps_every_promise<S>(store: &S)
where
    S: ApiKeyStore + CacheStore + LogStore + RateLimitStore + Clone,
{
    let pause = async |time| tokio::time::sleep(time).await;
    tokio::join!(
        conformance::api_key(store.clone()),
        conformance::cache(store, pause),
        conformance::log_store(store),
        conformance::rate_limit(store, pause),
        counts_logs_exactly(store),
    );
}

/// Checks that all keys expire but those of the records of API keys.
fn check_expiry(server: &Server) {
    let mut forever = server.keys_without_expiry();
    forever.retain(|name| !name.contains(":k:{"));
    assert_eq!(forever, [""; 0]);
}

#[tokio::test]
async fn one_server_keeps_every_promise_by_the_rights_that_the_guide_names() {
    let guide = include_str!("../../../../src/guide/redis.md");
    let start = guide.find("ACL SETUSER").unwrap();
    let end = start + guide[start..].find("```").unwrap();
    let words: Vec<&str> = guide[start..end].split_whitespace().collect();
    let server = Server::start();
    assert_eq!(server.ask(&words), Reply::text("OK"), "{words:?}");
    let config = RedisConfig::single(server.url())
        .username("portcullis")
        .password("password")
        .prefix("acme");
    let store = RedisStore::new(patient(config), keys()).unwrap();
    store.ping().await.unwrap();
    keeps_every_promise(&store).await;
    check_expiry(&server);
    // A service needs this too: a revocation waits until all instances have acknowledged it.
    store
        .wait_for_invalidation_acks(Duration::from_secs(1))
        .await
        .unwrap();
    let log = server.ask(&["ACL", "LOG"]).as_text();
    assert_eq!(log, "", "refused: {log}");
}

#[tokio::test]
async fn a_little_memory_before_redis_keeps_every_promise() {
    let server = Server::start();
    let config = patient(RedisConfig::single(server.url()));
    let store = RedisStore::new(config, keys()).unwrap();
    keeps_every_promise(&TieredStore::new(store, 32 << 20)).await;
    check_expiry(&server);
}

#[tokio::test]
async fn a_cluster_keeps_every_promise() {
    let cluster = Cluster::start();
    // One node knows the others.
    let config = RedisConfig::cluster([cluster.servers()[4].url()]);
    let store = RedisStore::new(patient(config), keys()).unwrap();
    keeps_every_promise(&store).await;
    // All three main servers have a share of the partitions and of the cache entries.
    for server in &cluster.servers()[..3] {
        let names = server.keys();
        for kind in [":l:{", ":c:{"] {
            assert!(names.iter().any(|name| name.contains(kind)), "{names:?}");
        }
        check_expiry(server);
    }
    assert_eq!(store.stats().downs, 0);
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn an_encrypted_cache_on_redis_keeps_every_promise() {
    use portcullis::store::{EncryptedStore, EncryptionKey};

    let server = Server::start();
    let config = patient(RedisConfig::single(server.url()));
    let store = RedisStore::new(config, keys()).unwrap();
    let key = EncryptionKey::new(1, b"thirty-two bytes or more, from a secret manager").unwrap();
    let store = EncryptedStore::builder(store, key).build().unwrap();
    conformance::cache(&store, async |time| tokio::time::sleep(time).await).await;
}
