//! The errors of key management.

use crate::{
    api_key::{key::format::NoRandomness, record::invalid::InvalidKeySpec},
    core::error::{StoreError, StoreErrorKind},
};

/// An error of a [`KeyManager`](super::manager::KeyManager).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key has this id.
    #[error("there is no such key")]
    NotFound,
    /// The key was changed concurrently.
    #[error("the key was changed concurrently")]
    Conflict,
    /// The key is revoked, or its state does not allow this change.
    #[error("the state of the key does not allow this change")]
    Ended,
    /// The key replaces another key that is still accepted.
    #[error("the key that this one replaces is still accepted")]
    Overlap,
    /// The manager acts for the owner and cannot override the service.
    #[error("an administrator of the owner cannot override the service")]
    Forbidden,
    /// The owner already has the maximum number of keys.
    #[error("the owner has the maximum number of keys; revoke one, or purge ended ones")]
    TooManyKeys,
    /// A value is out of bounds.
    #[error("the key specification is invalid")]
    Invalid(#[source] InvalidKeySpec),
    /// The system's source of randomness failed.
    #[error("the system's source of randomness failed")]
    NoRandomness,
    /// The store failed.
    #[error("the key store failed")]
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
