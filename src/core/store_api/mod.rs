//! Shared types of the storage traits.

#[cfg(any(feature = "cache", feature = "rate-limit"))]
mod ready;
// Each store and layer uses only some of the methods.
#[cfg_attr(
    not(all(
        feature = "api-key",
        feature = "cache",
        feature = "encryption",
        feature = "rate-limit",
        feature = "redis"
    )),
    allow(dead_code)
)]
#[cfg(any(feature = "api-key", feature = "cache", feature = "redis"))]
pub(crate) mod binary;
pub(crate) mod store_future;
pub(crate) mod store_key;
#[cfg(any(feature = "api-key", feature = "cache", feature = "rate-limit"))]
pub(crate) mod store_monitor;
#[cfg(any(feature = "api-key", feature = "cache", feature = "rate-limit"))]
pub(crate) mod timeout;
