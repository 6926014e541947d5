//! The kind of a passed layer.

use super::layer_order::{LayerKind, PassedLayer};

impl PassedLayer {
    /// Returns the kind of the layer.
    pub(crate) fn kind(&self) -> LayerKind {
        self.layer.placement().kind
    }
}
