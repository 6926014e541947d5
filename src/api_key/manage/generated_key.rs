//! A generated key with its secret.

use crate::api_key::{
    key::{format::KeyId, secret::SecretKey},
    record::record::StoredKey,
};

/// A generated key with its secret.
#[derive(Debug)]
pub struct GeneratedKey {
    pub(super) record: StoredKey,
    pub(super) secret: SecretKey,
}

impl GeneratedKey {
    /// Returns the public id.
    pub fn id(&self) -> KeyId {
        self.record.id()
    }

    /// Returns the stored record of the key.
    pub fn record(&self) -> &StoredKey {
        &self.record
    }

    /// Returns the whole key, including its secret. Show it only to its owner.
    pub fn expose_secret(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Returns the whole key as a [`SecretKey`].
    pub fn into_secret(self) -> SecretKey {
        self.secret
    }
}
