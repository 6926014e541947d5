//! Management of a ring's keys.

use std::fmt;

use super::{
    authority::Authority,
    generated_key::GeneratedKey,
    key_error::KeyError,
    new_key::{self, NewKey},
};
use crate::{
    api_key::{
        import::imported::{HashKind, ImportedKey},
        key::digest::ImportedAlgorithm,
        record::{invalid::InvalidKeySpec, record::StoredKey},
        ring::{change_feed::Listener, ring::KeyRing},
    },
    core::{audit::KeyAction, time::Timestamp},
};

/// Creates, changes, rotates, lists and revokes a ring's keys.
///
/// A manager performs no authorization, so only the service's own code should use it. Clones manage
/// the same keys.
///
/// ```
/// use portcullis::{api_key::{KeyManager, KeyRing, NewKey, Pepper}, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     // For this example. A service calls `Pepper::new` with a stored secret.
///     .pepper(Pepper::random(1))
///     .build()?;
/// let manager = KeyManager::new(&ring);
///
/// let key = manager.create(NewKey::new("acme").scopes(["data.read"])).await?;
/// assert!(key.expose_secret().starts_with("acmepay_live_1"));
/// manager.revoke(key.id(), "leaked").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyManager {
    pub(super) ring: KeyRing,
    pub(super) actor: Option<String>,
    pub(super) authority: Authority,
    pub(super) version: Option<u64>,
    pub(crate) max_keys: Option<usize>,
}

impl KeyManager {
    /// Creates a manager for the ring's keys.
    pub fn new(ring: &KeyRing) -> Self {
        Self {
            ring: ring.clone(),
            actor: None,
            authority: Authority::Service,
            version: None,
            max_keys: None,
        }
    }

    /// Returns a manager that manages the same keys and records this actor in its changes.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self {
            actor: Some(actor.into()),
            ..self.clone()
        }
    }

    /// Returns a manager that manages the same keys on behalf of a key's owner rather than the
    /// service. The manager records this actor in its changes.
    ///
    /// The manager can tighten the settings that the service made, but it cannot extend, lift or
    /// remove them. It can remove scopes, make an expiry earlier or a start time later, narrow
    /// constraints, and disable or revoke keys. It can only undo its own changes. When it rotates a
    /// key, the new key expires no later than the old key. The new key also has the same tier,
    /// credits, limit and metadata. Every other change fails with [`KeyError::Forbidden`].
    ///
    /// The application must decide which keys the owner can see, and which scopes and tiers the
    /// owner can give to new keys.
    #[must_use]
    pub fn acting_for_owner(&self, actor: impl Into<String>) -> Self {
        Self {
            authority: Authority::Owner,
            ..self.acting_as(actor)
        }
    }

    /// Returns a manager that manages the same keys but changes a key only if the key has this
    /// version. Otherwise, changes fail with [`KeyError::Conflict`].
    ///
    /// Use this method to check a record and then change the version that was checked, so that no
    /// concurrent change is missed.
    #[must_use]
    pub fn if_version(&self, version: u64) -> Self {
        Self {
            version: Some(version),
            ..self.clone()
        }
    }

    /// Sets the maximum number of keys per owner. Defaults to unlimited. If the manager has no
    /// maximum, the `admin` router applies a maximum of 100.
    ///
    /// If the owner has the maximum number of keys, [`create`](Self::create) and
    /// [`import`](Self::import) fail with [`KeyError::TooManyKeys`]. Revoked and expired keys do
    /// not count. However, their records count until they are [purged](Self::purge), and an owner
    /// can have at most ten times the maximum in records. Rotations are exempt. `MemoryStore` and
    /// `RedisStore` count the owner's keys and create the new key in one step. For other stores,
    /// see [`ApiKeyStore::create_within`](crate::api_key::ApiKeyStore::create_within).
    #[must_use]
    pub fn max_keys_per_owner(&self, keys: usize) -> Self {
        Self {
            max_keys: Some(keys),
            ..self.clone()
        }
    }

    /// Creates a key.
    ///
    /// The returned value contains the only copy of the secret. Show the secret to the owner once,
    /// because it cannot be retrieved again.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Invalid`] if a value is out of bounds, and [`KeyError::TooManyKeys`] if
    /// the owner already has the [maximum](Self::max_keys_per_owner) number of keys. Returns
    /// another error if the store fails.
    pub async fn create(&self, new: NewKey) -> Result<GeneratedKey, KeyError> {
        let environment = self.environment(&new)?;
        let generate = || self.generate(environment, &new);
        let key = self.keep(generate, self.max_keys).await?;
        self.emit_action(KeyAction::Created, key.id());
        Ok(key)
    }

    /// Imports a key that another system issued, from the hash that the other system stored. The
    /// owner can continue to use the key unchanged.
    ///
    /// The record contains a digest of the hash, keyed with the current pepper. For argon2, the
    /// record contains the hash itself. On its first use, the key receives the same kind of digest
    /// as the ring's own keys, and the original hash is removed. [`rotate`](Self::rotate) replaces
    /// the key with a key in the ring's format.
    ///
    /// # Errors
    ///
    /// Returns one of these errors:
    ///
    /// - [`KeyError::Conflict`] if the key was already imported;
    /// - [`KeyError::Invalid`] if the ring's [`ImportedKeys`](crate::api_key::import::ImportedKeys)
    ///   are not set or cannot find this key, or if a value is out of bounds;
    /// - [`KeyError::TooManyKeys`] if the owner already has the maximum number of keys;
    /// - [`KeyError::Store`] if the store fails.
    pub async fn import(&self, new: NewKey, key: ImportedKey) -> Result<StoredKey, KeyError> {
        let ring = &self.ring.shared;
        let none = || {
            InvalidKeySpec::new(
                "imported key",
                "is not accepted; call `imported_keys` on the ring",
            )
        };
        let id = ring.foreign.as_ref().ok_or_else(none)?.id(&key)?;
        let mut record = self.record_of(id, self.environment(&new)?, &new);
        let (hash, digest) = match key.hash() {
            HashKind::Sha256(hash) => (
                ImportedAlgorithm::Sha256,
                ring.peppers.digest_foreign(&hash[..]),
            ),
            HashKind::Sha512(hash) => (
                ImportedAlgorithm::Sha512,
                ring.peppers.digest_foreign(&hash[..]),
            ),
            HashKind::Argon2(text) => {
                record.slow_hash = Some(text.clone());
                let digest = ring.peppers.bind_slow_hash(text);
                (ImportedAlgorithm::Argon2, digest)
            }
        };
        record.digest = digest;
        record.algorithm = ring.peppers.foreign_algorithm(hash);
        new_key::check_record(&mut record)?;
        let record = ring.seal(record);
        self.store_new(&record, self.max_keys).await?;
        // An earlier request may have cached that the key does not exist.
        ring.lookup.forget(id);
        self.emit_action(KeyAction::Imported, id);
        Ok(record)
    }

    /// Returns the time of the ring's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.ring.shared.clock.wall()
    }
}

impl fmt::Debug for KeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyManager")
            .field("ring", &self.ring)
            .field("actor", &self.actor)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}
