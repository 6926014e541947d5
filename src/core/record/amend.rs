//! Amends the cache outcome in a request's record.

use super::{outcome::CacheOutcome, record::RecordHandle};

impl RecordHandle {
    /// Changes the cache outcome, if there is one.
    pub(crate) fn amend_cache(&self, amend: impl FnOnce(&mut CacheOutcome)) {
        if let Some(outcome) = &mut self.lock().cache {
            amend(outcome);
        }
    }
}
