//! The cache layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{
    builder::CacheLayerBuilder, config::Config, http::profile::Rules, purger::CachePurger,
    service::Cache, store::CacheStore,
};

/// A layer that serves responses from a store.
///
/// [`CacheLayer::new`] uses the secure profile: see [`cache`](super) for its defaults. Clones share
/// the configuration and the state of the cache.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    pub(super) config: Arc<Config>,
}

impl CacheLayer {
    /// Creates a layer with the secure profile and default options.
    pub fn new(store: impl CacheStore) -> Self {
        Self::secure(store).build().expect("the defaults are valid")
    }

    /// Returns a builder with the secure profile, which separates callers. A response that is not
    /// explicitly shared is stored for its caller alone, or not stored.
    pub fn secure(store: impl CacheStore) -> CacheLayerBuilder {
        CacheLayerBuilder::new(store, Rules::secure())
    }

    /// Returns a builder with the RFC 9111 profile, for use in front of an origin that sends
    /// correct cache directives.
    ///
    /// The cache acts as a shared cache and uses the options that the RFC permits. This profile
    /// stores responses with any final status except 304, 412, 416 and 417. Responses with these
    /// four statuses depend on the fields of one request. The profile uses heuristic freshness,
    /// honors request directives, and treats only `Authorization` as a credential.
    pub fn rfc(store: impl CacheStore) -> CacheLayerBuilder {
        CacheLayerBuilder::new(store, Rules::rfc())
    }
}

impl CacheLayer {
    /// Returns a handle that purges entries of this cache.
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
            config: Some(Arc::clone(&self.config)),
        }
    }
}
