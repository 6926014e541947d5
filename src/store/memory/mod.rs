//! The in-memory store.

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
mod context;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod store;

#[cfg(not(feature = "access-log"))]
use self::absent::AbsentTable as LogRings;
#[cfg(not(feature = "api-key"))]
use self::absent::AbsentTable as ApiKeyTable;
#[cfg(not(feature = "cache"))]
use self::absent::AbsentTable as CacheTable;
#[cfg(not(feature = "rate-limit"))]
use self::absent::AbsentTable as RateLimitTable;
#[cfg(feature = "access-log")]
use self::access_log::LogRings;
#[cfg(feature = "api-key")]
use self::api_key::ApiKeyTable;
#[cfg(feature = "cache")]
use self::cache::CacheTable;
#[cfg(feature = "rate-limit")]
use self::rate_limit::RateLimitTable;

pub use self::store::{MemoryStore, MemoryStoreBuilder};
