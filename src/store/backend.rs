//! Types for implementing a store. Applications do not need these types.
//!
//! A store implements the traits of the layers that it serves:
//! [`ApiKeyStore`](crate::api_key::ApiKeyStore),
//! [`RateLimitStore`](crate::rate_limit::RateLimitStore), [`CacheStore`](crate::cache::CacheStore)
//! and [`LogStore`](crate::access_log::LogStore). The suites in `portcullis::conformance` (feature
//! `test-util`) verify an implementation.

#[cfg(feature = "api-key")]
pub use crate::api_key::backend::*;
#[cfg(feature = "cache")]
pub use crate::cache::backend::*;
pub use crate::core::store_api::{
    store_future::{Pending, ReadyOrPending},
    store_key::{KeySpace, LongKeyWriter, LongStoreKey, ShortKeyWriter, StoreKey, StoreKeys},
};
#[cfg(feature = "rate-limit")]
pub use crate::rate_limit::backend::*;
