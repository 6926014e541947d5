//! The limiter as an optional part of `Gate`, the properties that it reads, and its settings.

use std::sync::Arc;

use super::{layer::RateLimitLayer, partition::component::Component, service::RateLimit};
use crate::core::{audit::Audit, http::responder::Responder};

impl RateLimitLayer {
    /// Wraps a service. Without a layer, requests are not limited.
    pub(crate) fn wrap<S>(layer: Option<&Self>, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, layer.map(|layer| Arc::clone(&layer.config)))
    }

    /// Returns `true` if a decision can depend on the identity of the caller.
    pub(crate) fn reads_identity(&self) -> bool {
        self.config.checks.reads_identity
    }

    /// Returns `true` if requests without an identity are not limited.
    pub(crate) fn needs_identity(&self) -> bool {
        let mut alternatives = self.config.charging.partition.components();
        alternatives.all(|components| components.iter().any(Component::reads_identity))
    }

    /// Sets the responder, unless the layer has one.
    pub(crate) fn adopt_responder(&self, responder: &Responder) {
        self.config.responses.responder.adopt(responder);
    }

    /// Returns the audit of the layer.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}
