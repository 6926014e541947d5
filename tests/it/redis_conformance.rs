//! The suites for anyone's store, run on Redis.

use portcullis::{
    conformance,
    store::{RedisConfig, RedisStore, TieredStore},
};

use crate::support::redis::{Cluster, Server, keys, patient};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

#[tokio::test]
async fn keys_on_redis_keep_every_promise() {
    let server = Server::start();
    conformance::api_key(store(&server)).await;
}

#[tokio::test]
async fn a_cache_on_redis_keeps_every_promise() {
    let server = Server::start();
    let store = store(&server);
    conformance::cache(&store, async |time| tokio::time::sleep(time).await).await;
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn an_encrypted_cache_on_redis_keeps_every_promise() {
    use portcullis::store::{EncryptedStore, EncryptionKey};

    let server = Server::start();
    let store = store(&server);
    let key = EncryptionKey::new(1, b"thirty-two bytes or more, from a secret manager").unwrap();
    let store = EncryptedStore::builder(store, key).build().unwrap();
    conformance::cache(&store, async |time| tokio::time::sleep(time).await).await;
}

#[tokio::test]
async fn a_log_on_redis_keeps_every_promise() {
    let server = Server::start();
    conformance::log_store(&store(&server)).await;
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn a_little_memory_before_redis_keeps_every_promise() {
    let server = Server::start();
    let store = TieredStore::new(store(&server), 32 << 20);
    let pause = async |time| tokio::time::sleep(time).await;
    conformance::cache(&store, pause).await;
    conformance::api_key(store.clone()).await;
    conformance::log_store(&store).await;
    conformance::rate_limit(&store, pause).await;
}

#[tokio::test]
async fn keys_answers_and_log_keep_every_promise_on_a_cluster() {
    let cluster = Cluster::start();
    let config = patient(RedisConfig::cluster(cluster.urls()));
    let store = RedisStore::new(config, keys()).unwrap();
    let pause = async |time| tokio::time::sleep(time).await;
    conformance::cache(&store, pause).await;
    conformance::api_key(store.clone()).await;
    conformance::log_store(&store).await;
    // All three main servers have a share of the answers.
    for server in &cluster.servers[..3] {
        let keys = server.keys();
        assert!(keys.iter().any(|key| key.contains(":c:{")), "{keys:?}");
    }
}
