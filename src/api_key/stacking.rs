//! The API-key layer as an optional part of `Gate`, and the settings that it takes from `Gate`.

use std::sync::Arc;

use super::{layer::ApiKeyLayer, service::ApiKey};
use crate::core::{
    audit::Audit, http::responder::Responder, inherited_clock::LayerClock,
    net::client_addr::ClientAddrResolver,
};

impl ApiKeyLayer {
    /// Wraps a service. Without a layer, requests pass unauthenticated.
    pub(crate) fn wrap<S>(layer: Option<&Self>, inner: S) -> ApiKey<S> {
        ApiKey::new(inner, layer.map(|layer| Arc::clone(&layer.config)))
    }

    /// Returns the audit of rejected callers.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit.ground
    }

    /// Sets the resolver of client addresses, unless the layer has one.
    pub(crate) fn adopt_client_addr(&self, resolver: &ClientAddrResolver) {
        self.config.client_addr.adopt(resolver);
    }

    /// Sets the responder, unless the layer has one.
    pub(crate) fn adopt_responder(&self, responder: &Responder) {
        self.config.responder.adopt(responder);
    }

    /// Sets the clock of the ring, unless it has one. Returns `false` if it has already used the
    /// default.
    pub(crate) fn adopt_clock(&self, clock: &LayerClock) -> bool {
        self.config.ring.shared.clock.adopt_in_time(clock)
    }

    /// Returns the audit of the ring.
    pub(crate) fn ring_audit(&self) -> &Audit {
        &self.config.ring.shared.audit.ground
    }
}
