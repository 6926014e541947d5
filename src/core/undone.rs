//! Classifies failed store calls by their effect.

use super::error::StoreErrorKind;

impl StoreErrorKind {
    /// Returns `true` if the call was not executed and can therefore be repeated.
    pub(crate) fn is_undone(self) -> bool {
        match self {
            Self::Unavailable | Self::Misconfigured => true,
            Self::Timeout | Self::Conflict | Self::NotFound | Self::Corrupt | Self::Full => false,
        }
    }
}
