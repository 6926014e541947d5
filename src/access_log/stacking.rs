//! The audits of the layer, to which `Gate` gives an auditor.

use super::layer::AccessLogLayer;
use crate::core::audit::Audit;

impl AccessLogLayer {
    /// Returns what tells the layer's auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.emitter.config.audit
    }
}
