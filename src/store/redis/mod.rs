//! A store on a Redis server, on a primary that Sentinels monitor, or on a Cluster.

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
mod close;
mod config;
mod connection;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod store;
mod topology;

#[cfg(not(feature = "access-log"))]
use self::absent::AbsentState as LogStreams;
#[cfg(not(feature = "api-key"))]
use self::absent::AbsentState as ApiKeyNames;
#[cfg(not(feature = "cache"))]
use self::absent::AbsentState as CacheShares;
#[cfg(not(feature = "rate-limit"))]
use self::absent::AbsentState as RateLimitState;
#[cfg(not(feature = "rate-limit"))]
use self::absent::close as close_rate_limits;
#[cfg(feature = "access-log")]
use self::access_log::LogStreams;
#[cfg(feature = "api-key")]
use self::api_key::ApiKeyNames;
#[cfg(feature = "cache")]
use self::cache::CacheShares;
#[cfg(feature = "rate-limit")]
use self::rate_limit::RateLimitState;
#[cfg(feature = "rate-limit")]
use self::rate_limit::close as close_rate_limits;

#[cfg(feature = "api-key")]
pub use self::api_key::InvalidationAcks;
#[cfg(all(feature = "cache", feature = "memory"))]
pub(super) use self::cache::{NAME_BYTES, Purged, SeenEntry};
#[cfg(all(feature = "cache", feature = "memory"))]
pub(super) use self::connection::pubsub::Listening;
pub use self::store::RedisStore;
pub use self::{
    config::{config::RedisConfig, credentials::RedisCredentials},
    connection::stats::RedisStats,
};
