//! The checks of a layer that reads the identity.

use std::{any::Any, sync::atomic::Ordering};

use super::layer_order::{PassedLayer, Placed, Placement};

impl PassedLayer {
    /// Returns the configuration of the layer if the configuration has this type.
    pub(crate) fn config<L: Placed>(&self) -> Option<&L> {
        let any: &dyn Any = &*self.layer;
        any.downcast_ref()
    }
}

impl Placement {
    /// Returns `true` if the next request is to be marked when it has no identity.
    #[inline]
    pub(crate) fn reads_identity(&self) -> bool {
        self.marks_left.load(Ordering::Relaxed) > 0
    }
}
