//! Access to the layer's auditor, for `Gate`.

use super::layer::CacheLayer;
use crate::core::audit::Audit;

impl CacheLayer {
    /// Returns the layer's audit, to which `Gate` adds an auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}
