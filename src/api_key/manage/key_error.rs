//! The errors of key management.

use crate::{
    api_key::{key::format::NoRandomness, record::invalid::InvalidKeySpec},
    core::error::{StoreError, StoreErrorKind},
};

/// Why a key could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no key of this id.
    #[error("there is no such key")]
    NotFound,
    /// Somebody else changed the key meanwhile.
    #[error("the key was changed meanwhile")]
    Conflict,
    /// The key is revoked, or in a state that allows no such change.
    #[error("the key is in a state that allows no such change")]
    Ended,
    /// The key that this one replaces is still accepted.
    #[error("the key that this one replaces is still accepted")]
    Overlap,
    /// The manager acts for the owner, and the service decided otherwise.
    #[error("the service decided otherwise, and an owner's administrator cannot undo it")]
    Forbidden,
    /// The owner has as many keys as it may have.
    #[error("the owner has the maximum number of keys; revoke one, or purge ended ones")]
    TooManyKeys,
    /// What was asked for is out of bounds.
    #[error("the key cannot be so")]
    Invalid(#[source] InvalidKeySpec),
    /// The system has no randomness to give.
    #[error("the system's source of randomness failed")]
    NoRandomness,
    /// The store failed.
    #[error("the store of keys failed")]
    Store(#[source] StoreError),
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::NotFound => Self::NotFound,
            StoreErrorKind::Conflict => Self::Conflict,
            StoreErrorKind::Unavailable
            | StoreErrorKind::Timeout
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Full
            | StoreErrorKind::Misconfigured => Self::Store(error),
        }
    }
}

impl From<InvalidKeySpec> for KeyError {
    fn from(invalid: InvalidKeySpec) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<NoRandomness> for KeyError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}
