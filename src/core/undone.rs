//! Whether a call of a store that failed has done anything.

use super::error::StoreErrorKind;

impl StoreErrorKind {
    /// Returns whether nothing was done, so that the same call may be made again later.
    pub(crate) fn is_undone(self) -> bool {
        match self {
            Self::Unavailable | Self::Misconfigured => true,
            Self::Timeout | Self::Conflict | Self::NotFound | Self::Corrupt | Self::Full => false,
        }
    }
}
