//! Stores that hold the state of the layers.
//!
//! [`MemoryStore`] holds the state of all four layers in this process. A custom store implements
//! one or more of the store traits and replaces `MemoryStore` in the layers that it serves; see
//! [the guide](crate::guide::stores).
//!
//! ```
//! use portcullis::{
//!     ManualClock,
//!     cache::CacheLayer,
//!     rate_limit::{Partition, Policy, Quota, RateLimitLayer},
//!     store::MemoryStore,
//! };
//!
// A manual clock for tests; `MemoryStore::new()` uses the system clock.
//! let clock = ManualClock::default();
//! let store = MemoryStore::with_clock(clock.clone());
//! let limits = RateLimitLayer::builder(store.clone(), Partition::identity())
//!     .policy(Policy::token_bucket("caller", Quota::per_minute(100).burst(20))?)
//!     .build()?;
//! let cache = CacheLayer::new(store);
//! # let _ = (limits, cache);
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

#[cfg(all(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
mod all;
pub mod backend;
#[cfg(feature = "encryption")]
mod encrypted;
#[cfg(feature = "governor")]
mod governor;
#[cfg_attr(
    not(any(
        feature = "access-log",
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit"
    )),
    allow(dead_code, reason = "without any layer, nothing is stored")
)]
#[cfg(feature = "memory")]
mod memory;
#[cfg(all(feature = "cache", feature = "memory"))]
mod purges;
#[cfg_attr(
    not(all(
        feature = "access-log",
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit"
    )),
    allow(dead_code, reason = "each layer uses a part of the connection")
)]
#[cfg(feature = "redis")]
mod redis;
#[cfg(all(feature = "cache", feature = "memory", feature = "redis"))]
mod tiered;

#[cfg(all(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub use self::all::Store;
#[cfg(feature = "encryption")]
pub use self::encrypted::{EncryptedStore, EncryptedStoreBuilder, EncryptionKey};
#[cfg(feature = "governor")]
pub use self::governor::{GovernorLimiter, GovernorStore};
#[cfg(feature = "memory")]
pub use self::memory::{MemoryStore, MemoryStoreBuilder};
#[cfg(all(feature = "api-key", feature = "redis"))]
pub use self::redis::InvalidationAcks;
#[cfg(feature = "redis")]
pub use self::redis::{RedisConfig, RedisCredentials, RedisStats, RedisStore};
#[cfg(all(feature = "cache", feature = "memory", feature = "redis"))]
pub use self::tiered::TieredStore;
pub use crate::core::store_api::store_key::StoreKeys;
