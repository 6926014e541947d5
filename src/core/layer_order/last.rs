//! The last request that is checked in a layer.

use std::sync::atomic::Ordering;

use super::layer_order::Placement;

impl Placement {
    /// Returns `true` if the next request is the last one to be checked.
    pub(crate) fn is_last(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) == 1
    }
}
