//! Rejection of argon2 hashes without the argon2 feature.

use crate::core::error::{StoreError, StoreErrorKind};

/// Fails as unavailable, because a build with the argon2 feature imported this record.
pub(crate) fn is_hash_of(_text: &str, _key: &[u8]) -> Result<bool, StoreError> {
    Err(StoreErrorKind::Misconfigured.into())
}
