//! The audits of the layer, to which `Gate` gives an auditor.

use super::layer::ApiKeyLayer;
use crate::core::audit::Audit;

impl ApiKeyLayer {
    /// Returns what tells the layer's auditor of callers that are turned away.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit.ground
    }

    /// Returns what tells the ring's auditor.
    pub(crate) fn ring_audit(&self) -> &Audit {
        &self.config.ring.shared.audit.ground
    }
}
