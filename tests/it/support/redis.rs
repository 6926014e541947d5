//! Redis servers for tests, and a proxy that fails.

use std::time::Duration;

pub(crate) use portcullis::test_util::{
    Fault, FaultProxy as Proxy, RedisClient as Client, RedisCluster as Cluster,
    RedisReply as Reply, RedisSentinels as Watched, RedisServer as Server, free_addr,
};
use portcullis::{StoreKeys, store::RedisConfig};

/// A secret that all stores of the tests share.
pub(crate) fn keys() -> StoreKeys {
    StoreKeys::from_secret(b"the secret that all instances of the tests share").unwrap()
}

/// A store that waits as long as a busy machine needs, for tests of what is right, not of what is
/// fast.
pub(crate) fn patient(config: RedisConfig) -> RedisConfig {
    const LONG: Duration = Duration::from_secs(10);
    config
        .api_key_deadline(LONG)
        .cache_deadline(LONG)
        .connect_deadline(LONG)
        .rate_limit_deadline(LONG)
        .silence_max(LONG)
}
