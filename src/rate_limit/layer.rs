//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{admission::handle::RateLimitHandle, config::RateLimitConfig, service::RateLimit};

/// Limits the rate of requests in each partition. See the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    pub(super) config: Arc<RateLimitConfig>,
}

impl RateLimitLayer {
    /// Returns a handle that changes the limits while they are in use.
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle::new(Arc::clone(&self.config))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, Arc::clone(&self.config))
    }
}
