//! The last request that a layer checks.

use std::sync::atomic::Ordering;

use super::layer_order::Placement;

impl Placement {
    /// Returns `true` if the next request is the last one that is checked.
    pub(crate) fn is_last(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) == 1
    }
}
