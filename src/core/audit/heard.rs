//! Tests for the presence of an auditor.

use super::audit::Audit;

impl Audit {
    /// Returns `true` if there is an auditor.
    pub(crate) fn is_heard(&self) -> bool {
        self.auditor.get().is_some()
    }
}
