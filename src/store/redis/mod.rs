//! A store on a Redis server, on the primary that Sentinels name, or on a Cluster.

#[cfg(not(all(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
)))]
mod absent;
#[cfg(feature = "access-log")]
mod access_log;
#[cfg(feature = "api-key")]
mod api_key;
#[cfg(feature = "cache")]
mod cache;
mod config;
mod connection;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod store;
mod topology;

#[cfg(not(feature = "access-log"))]
use self::absent as access_log;
#[cfg(not(feature = "api-key"))]
use self::absent as api_key;
#[cfg(not(feature = "cache"))]
use self::absent as cache;
#[cfg(not(feature = "rate-limit"))]
use self::absent as rate_limit;

#[cfg(feature = "api-key")]
pub use self::api_key::Receipts;
#[cfg(all(feature = "cache", feature = "memory"))]
pub(super) use self::cache::{NAME_BYTES, Purged, Seen};
#[cfg(all(feature = "cache", feature = "memory"))]
pub(super) use self::connection::pubsub::Listening;
pub use self::store::RedisStore;
pub use self::{
    config::{config::RedisConfig, credentials::RedisCredentials},
    connection::stats::RedisStats,
};
