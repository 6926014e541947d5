//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{
    builder::CacheLayerBuilder, config::Config, http::profile::Rules, purger::CachePurger,
    service::Cache, store::CacheStore,
};

/// Answers from a store what has been answered before.
///
/// [`CacheLayer::new`] is safe where callers are told apart: see [`cache`](super) for what it does
/// by default. A clone is the same cache.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    pub(super) config: Arc<Config>,
}

impl CacheLayer {
    /// Creates a cache of the secure profile, with defaults throughout.
    pub fn new(store: impl CacheStore) -> Self {
        Self::secure(store).build().expect("the defaults are right")
    }

    /// Begins a cache that keeps callers apart: what is not surely for all is kept for its caller
    /// alone, or not at all.
    pub fn secure(store: impl CacheStore) -> CacheLayerBuilder {
        CacheLayerBuilder::new(store, Rules::secure())
    }

    /// Begins a shared cache by RFC 9111 that takes the freedoms which that gives: it keeps every
    /// status (but 412, 416 and 417, which answer one request's own fields), guesses freshness,
    /// heeds requests, and takes `Authorization` alone for a credential. For what stands before an
    /// origin that knows of caches.
    pub fn rfc(store: impl CacheStore) -> CacheLayerBuilder {
        CacheLayerBuilder::new(store, Rules::rfc())
    }
}

impl CacheLayer {
    /// Returns what lets go of what this cache has stored.
    pub fn purger(&self) -> CachePurger {
        CachePurger {
            config: Arc::clone(&self.config),
        }
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Cache<S> {
        Cache {
            inner,
            config: Arc::clone(&self.config),
        }
    }
}
