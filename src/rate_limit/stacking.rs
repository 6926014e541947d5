//! The facts of the layer that `Gate` reads.

use super::{layer::RateLimitLayer, partition::component::Component};
use crate::core::audit::Audit;

impl RateLimitLayer {
    /// Returns whether a decision may depend on the identity of the caller.
    pub(crate) fn reads_identity(&self) -> bool {
        self.config.checks.reads_identity
    }

    /// Returns whether requests without an identity are not limited.
    pub(crate) fn needs_identity(&self) -> bool {
        let mut alternatives = self.config.charging.partition.components();
        alternatives.all(|components| components.iter().any(Component::reads_identity))
    }

    /// Returns the audit of the layer.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}
