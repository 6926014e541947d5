//! The guide: topics that span several types.

#[cfg(all(feature = "cache", feature = "memory"))]
#[doc = include_str!("caching.md")]
pub mod caching {}

#[doc = include_str!("config_checks.md")]
pub mod config_checks {}

#[doc = include_str!("from_tower_governor.md")]
pub mod from_tower_governor {}

#[doc = include_str!("observing.md")]
pub mod observing {}

#[doc = include_str!("order.md")]
pub mod order {}

#[doc = include_str!("promises.md")]
pub mod promises {}

#[cfg(all(feature = "redis", feature = "rate-limit", feature = "memory"))]
#[doc = include_str!("redis.md")]
pub mod redis {}

#[doc = include_str!("stores.md")]
pub mod stores {}
