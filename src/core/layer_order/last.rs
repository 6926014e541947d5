//! The last request of a layer that is checked.

use std::sync::atomic::Ordering;

use super::layer_order::Placement;

impl Placement {
    /// Returns whether the next request is the last one that is checked.
    pub(crate) fn is_last(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) == 1
    }
}
