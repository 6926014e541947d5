//! A store in the memory of this process.

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
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod store;

#[cfg(not(feature = "access-log"))]
use self::absent as access_log;
#[cfg(not(feature = "api-key"))]
use self::absent as api_key;
#[cfg(not(feature = "cache"))]
use self::absent as cache;
#[cfg(not(feature = "rate-limit"))]
use self::absent as rate_limit;
pub use self::store::{MemoryStore, MemoryStoreBuilder};
