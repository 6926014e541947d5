//! The audits of the layer, to which `Gate` gives an auditor.

use super::layer::CacheLayer;
use crate::core::audit::Audit;

impl CacheLayer {
    /// Returns what tells the layer's auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}
