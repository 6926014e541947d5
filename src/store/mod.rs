//! Where the layers keep things.
//!
//! [`MemoryStore`] keeps them in this process, for all four layers at once. A store of your own
//! implements one port or several, and stands wherever a `MemoryStore` does:
//! [how](crate::guide::stores).
//!
//! ```
//! use portcullis::{
//!     ManualClock,
//!     cache::CacheLayer,
//!     rate_limit::{Partition, Policy, Quota, RateLimitLayer},
//!     store::MemoryStore,
//! };
//!
//! // In a test the clock is moved by hand; `MemoryStore::new()` has the machine's.
//! let clock = ManualClock::default();
//! let store = MemoryStore::with_clock(clock.clone());
//! let limits = RateLimitLayer::builder(store.clone(), Partition::identity())
//!     .policy(Policy::token_bucket("caller", Quota::per_minute(100).burst(20))?)
//!     .build()?;
//! let cache = CacheLayer::new(store);
//! # let _ = (limits, cache);
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

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
