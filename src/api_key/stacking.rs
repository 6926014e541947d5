//! The audits of the layer, to which `Gate` gives an auditor.

use super::layer::ApiKeyLayer;
use crate::core::{audit::Audit, http::responder::Responder, net::client_addr::ClientAddrResolver};

impl ApiKeyLayer {
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

    /// Returns the audit of the ring.
    pub(crate) fn ring_audit(&self) -> &Audit {
        &self.config.ring.shared.audit.ground
    }
}
