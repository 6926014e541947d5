//! The suites for anyone's store, run on Redis.

use std::time::Duration;

use portcullis::{
    conformance,
    store::{RedisConfig, RedisStore},
};

use crate::support::redis::{Server, keys};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(RedisConfig::single(server.url()), keys()).unwrap()
}

#[tokio::test]
async fn keys_on_redis_keep_every_promise() {
    let server = Server::start();
    conformance::api_key(store(&server)).await;
}

#[tokio::test]
async fn a_cache_on_redis_keeps_every_promise() {
    let server = Server::start();
    let config = RedisConfig::single(server.url()).cache_deadline(Duration::from_secs(1));
    let store = RedisStore::new(config, keys()).unwrap();
    conformance::cache(&store, async |time| tokio::time::sleep(time).await).await;
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn a_log_on_redis_keeps_every_promise() {
    let server = Server::start();
    conformance::log_store(&store(&server)).await;
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}
