//! The access log as an optional part of `Gate`, and the settings that it takes from `Gate`.

use std::sync::Arc;

use super::{layer::AccessLogLayer, service::AccessLog};
use crate::core::{
    audit::Audit, inherited_clock::LayerClock, net::client_addr::ClientAddrResolver,
};

impl AccessLogLayer {
    /// Wraps a service. Without a layer, requests and responses pass unrecorded.
    pub(crate) fn wrap<S>(layer: Option<&Self>, inner: S) -> AccessLog<S> {
        AccessLog::new(inner, layer.map(|layer| Arc::clone(&layer.emitter)))
    }

    /// Sets the resolver of client addresses, unless the layer has one.
    pub(crate) fn adopt_client_addr(&self, resolver: &ClientAddrResolver) {
        self.emitter.config.client_addr.adopt(resolver);
    }

    /// Sets the clock, unless the layer has one. Returns `false` if it has already used the
    /// default.
    pub(crate) fn adopt_clock(&self, clock: &LayerClock) -> bool {
        self.emitter.config.clock.adopt_in_time(clock)
    }

    /// Returns the audit of the layer.
    pub(crate) fn audit(&self) -> &Audit {
        &self.emitter.config.audit
    }
}
