//! The audits of the layer, to which `Gate` gives an auditor.

use super::layer::AccessLogLayer;
use crate::core::{audit::Audit, net::client_addr::ClientAddrResolver};

impl AccessLogLayer {
    /// Sets the resolver of client addresses, unless the layer has one.
    pub(crate) fn adopt_client_addr(&self, resolver: &ClientAddrResolver) {
        self.emitter.config.client_addr.adopt(resolver);
    }

    /// Returns the audit of the layer.
    pub(crate) fn audit(&self) -> &Audit {
        &self.emitter.config.audit
    }
}
