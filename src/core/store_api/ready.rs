//! Replies that a store returns immediately.

use super::store_monitor::StoreWatch;

impl StoreWatch {
    /// Records a result that was available immediately.
    #[inline]
    pub(crate) fn answered_at_once(&self) {
        self.shared.answered();
    }
}
