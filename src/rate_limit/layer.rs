//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{
    admission::handle::RateLimitHandle,
    config::RateLimitConfig,
    partition::partition::Partition,
    policy::{policy::Policy, quota_text::IntoQuota},
    service::RateLimit,
    store::RateLimitStore,
};
use crate::core::{error::ConfigError, net::client_addr::ClientAddrResolver};

/// A layer that limits the rate of requests in each partition. See the [module
/// documentation](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    pub(super) config: Arc<RateLimitConfig>,
}

impl RateLimitLayer {
    /// Creates a limiter that applies one policy to each partition.
    ///
    /// # Errors
    ///
    /// Returns the same errors as
    /// [`RateLimitLayerBuilder::build`](super::RateLimitLayerBuilder::build).
    pub fn new(
        store: impl RateLimitStore,
        partition: Partition,
        policy: Policy,
    ) -> Result<Self, ConfigError> {
        Self::builder(store, partition).policy(policy).build()
    }

    /// Creates a limiter that applies one quota to each client address. The policy is a token
    /// bucket named `client`.
    ///
    /// The client address is the address of the TCP peer. Behind a proxy, use
    /// [`builder`](Self::builder) with [`Partition::client_addr`].
    ///
    /// ```
    /// use portcullis::{rate_limit::RateLimitLayer, store::MemoryStore};
    ///
    /// let layer = RateLimitLayer::per_client(MemoryStore::new(), "100/minute")?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be parsed as a quota.
    pub fn per_client(
        store: impl RateLimitStore,
        quota: impl IntoQuota,
    ) -> Result<Self, ConfigError> {
        let partition = Partition::client_addr(ClientAddrResolver::default());
        Self::new(store, partition, Policy::token_bucket("client", quota)?)
    }

    /// Creates a limiter that applies one quota to each [`Identity`](crate::Identity). The policy
    /// is a token bucket named `caller`. Requests without an identity are not limited.
    ///
    /// ```
    /// use portcullis::{rate_limit::RateLimitLayer, store::MemoryStore};
    ///
    /// let layer = RateLimitLayer::per_identity(MemoryStore::new(), "100/minute burst 20")?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be parsed as a quota.
    pub fn per_identity(
        store: impl RateLimitStore,
        quota: impl IntoQuota,
    ) -> Result<Self, ConfigError> {
        let policy = Policy::token_bucket("caller", quota)?;
        Self::new(store, Partition::identity(), policy)
    }

    /// Returns a handle that reads and changes the limits at runtime.
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle::new(Arc::clone(&self.config))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, Some(Arc::clone(&self.config)))
    }
}
