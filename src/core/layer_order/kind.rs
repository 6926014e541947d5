//! The kind of a layer that a request has passed through.

use super::layer_order::{LayerKind, PassedLayer};

impl PassedLayer {
    /// Returns the kind of the layer.
    pub(crate) fn kind(&self) -> LayerKind {
        self.layer.placement().kind
    }
}
