//! The cache as an optional part of `Gate`, and the settings that it inherits from the gate.

use std::sync::Arc;

use super::{layer::CacheLayer, service::Cache};
use crate::core::{audit::Audit, inherited_clock::LayerClock};

impl CacheLayer {
    /// Wraps a service. Without a layer, requests and responses pass uncached.
    pub(crate) fn wrap<S>(layer: Option<&Self>, inner: S) -> Cache<S> {
        let config = layer.map(|layer| Arc::clone(&layer.config));
        Cache { inner, config }
    }

    /// Sets the clock, unless the layer has one. Returns `false` if it has already used the
    /// default.
    pub(crate) fn adopt_clock(&self, clock: &LayerClock) -> bool {
        self.config.clock.adopt_in_time(clock)
    }

    /// Returns the layer's audit, to which `Gate` adds an auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}
