//! Marks requests in which a layer found no identity.

use std::{ptr, sync::Arc};

use http::Extensions;

use super::layer_order::{PassedLayer, Placed, mark, passed};

impl PassedLayer {
    /// Returns `true` if this is the same layer rather than another layer of the same kind.
    pub(crate) fn is<L: Placed>(&self, layer: &Arc<L>) -> bool {
        self.config::<L>().is_some_and(|own| ptr::eq(own, &**layer))
    }
}

/// Marks a request that lacks an identity, if the layer reads the identity.
#[cold]
pub(crate) fn pass_unidentified<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions) {
    let is_marked = |passed: &PassedLayer| passed.is_unidentified && passed.is(layer);
    if !passed(extensions).iter().any(is_marked) {
        mark(layer, extensions, true);
    }
}
