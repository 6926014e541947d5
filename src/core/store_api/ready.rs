//! Replies of a store that are there at once.

use super::store_monitor::StoreWatch;

impl StoreWatch {
    /// Notes an answer that was there at once.
    #[inline]
    pub(crate) fn answered_at_once(&self) {
        self.shared.answered();
    }
}
