//! Whether a layer has an auditor.

use super::audit::Audit;

impl Audit {
    /// Returns whether anybody is told.
    pub(crate) fn is_heard(&self) -> bool {
        self.auditor.get().is_some()
    }
}
