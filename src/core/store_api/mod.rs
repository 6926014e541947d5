//! The types that the storage traits of all layers share.

#[cfg(any(feature = "cache", feature = "rate-limit"))]
mod ready;
pub(crate) mod store_future;
pub(crate) mod store_key;
#[cfg(any(feature = "api-key", feature = "cache", feature = "rate-limit"))]
pub(crate) mod store_monitor;
#[cfg(any(feature = "api-key", feature = "cache", feature = "rate-limit"))]
pub(crate) mod timeout;
