//! A new key, with its secret.

use crate::api_key::{
    key::{format::KeyId, secret::SecretKey},
    record::record::StoredKey,
};

/// A key that has just been made, with its secret.
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

    /// Returns what the store knows of the key.
    pub fn record(&self) -> &StoredKey {
        &self.record
    }

    /// Returns the whole key, for its owner's eyes.
    pub fn expose_secret(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Returns the whole key, in the type that guards it.
    pub fn into_secret(self) -> SecretKey {
        self.secret
    }
}
