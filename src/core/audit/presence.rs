//! Tests for the presence of an auditor.

use super::audit::Audit;

impl Audit {
    /// Returns `true` if there is an auditor.
    pub(crate) fn has_auditor(&self) -> bool {
        self.auditor.get().is_some()
    }
}
