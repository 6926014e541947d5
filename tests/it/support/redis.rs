//! Redis servers for tests, and a proxy that fails.

use std::{
    error::Error,
    time::{Duration, Instant},
};

pub(crate) use portcullis::test_util::{
    Fault, FaultProxy as Proxy, RedisClient as Client, RedisCluster as Cluster,
    RedisReply as Reply, RedisSentinels as Watched, RedisServer as Server, free_addr,
};
use portcullis::{
    StoreError,
    store::{RedisConfig, RedisStore, StoreKeys},
};

/// A secret that all stores of the tests share.
pub(crate) fn keys() -> StoreKeys {
    StoreKeys::from_secret(b"the secret that all instances of the tests share").unwrap()
}

/// A store that waits as long as a busy machine needs, for tests of what is right, not of what is
/// fast.
pub(crate) fn patient(config: RedisConfig) -> RedisConfig {
    const LONG: Duration = Duration::from_secs(10);
    config
        .api_key_timeout(LONG)
        .cache_timeout(LONG)
        .connect_timeout(LONG)
        .rate_limit_timeout(LONG)
        .idle_timeout(LONG)
}

/// Makes a server a Cluster of one node, and waits until it serves all slots.
pub(crate) async fn become_cluster(server: &Server) {
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let begun = Instant::now();
    while !server
        .ask(&["CLUSTER", "INFO"])
        .as_text()
        .contains("cluster_state:ok")
    {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the source of an error as text; empty if it has none.
pub(crate) fn source(error: &StoreError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Pings until the failure has a source, which a connection that is still being made lacks.
pub(crate) async fn failed_ping(store: &RedisStore) -> StoreError {
    let begun = Instant::now();
    loop {
        let error = store.ping().await.unwrap_err();
        if error.source().is_some() {
            return error;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}");
    }
}
