//! A single trait for stores that serve all four layers.

use crate::{
    access_log::LogStore, api_key::ApiKeyStore, cache::CacheStore, rate_limit::RateLimitStore,
};

/// A store that serves all four layers, such as [`MemoryStore`](super::MemoryStore) and
/// `RedisStore`.
///
/// This trait is implemented for every type that implements `Clone` and all four store traits. Use
/// the trait as the bound of a function that builds an application's layers on any store:
///
/// ```
/// use portcullis::{cache::CacheLayer, store::{MemoryStore, Store}};
///
/// fn cache(store: &impl Store) -> CacheLayer {
///     CacheLayer::new(store.clone())
/// }
///
/// let layer = cache(&MemoryStore::new());
/// # let _ = layer;
/// ```
pub trait Store: ApiKeyStore + RateLimitStore + CacheStore + LogStore + Clone {}

impl<T: ApiKeyStore + RateLimitStore + CacheStore + LogStore + Clone> Store for T {}
