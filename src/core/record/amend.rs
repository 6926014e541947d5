//! Amends the outcome of the cache in the record of a request.

use super::{outcome::CacheOutcome, record::RecordHandle};

impl RecordHandle {
    /// Changes the outcome of the cache, if there is one.
    pub(crate) fn amend_cache(&self, amend: impl FnOnce(&mut CacheOutcome)) {
        if let Some(outcome) = &mut self.lock().cache {
            amend(outcome);
        }
    }
}
