//! Management of the keys of a ring.

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

/// Creates, changes, rotates, lists and revokes the keys of a ring.
///
/// It is for the service's own code: it performs no authorization. A clone manages the same keys.
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
    /// Creates a manager of the keys of a ring.
    pub fn new(ring: &KeyRing) -> Self {
        Self {
            ring: ring.clone(),
            actor: None,
            authority: Authority::Service,
            version: None,
            max_keys: None,
        }
    }

    /// Returns a manager of the same keys that records this actor in its changes.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self {
            actor: Some(actor.into()),
            ..self.clone()
        }
    }

    /// Returns a manager of the same keys that acts for their owner rather than for the service,
    /// and records this actor in its changes.
    ///
    /// It can tighten the settings of the service, but not extend, lift or remove them: it can
    /// reduce scopes, move an expiry earlier or a start later, narrow constraints, and disable or
    /// revoke keys. It can only undo its own changes. A key that it rotates ends no later than
    /// before, with the same tier, credits, limit and metadata. Every other change fails with
    /// [`KeyError::Forbidden`].
    ///
    /// The application must check which keys it can see, and which scopes and tiers it can give to
    /// new keys.
    #[must_use]
    pub fn acting_for_owner(&self, actor: impl Into<String>) -> Self {
        Self {
            authority: Authority::Owner,
            ..self.acting_as(actor)
        }
    }

    /// Returns a manager of the same keys that only changes a key of this version, and fails with
    /// [`KeyError::Conflict`] otherwise.
    ///
    /// Use it to check a record and then change the checked version, so that concurrent changes are
    /// not missed.
    #[must_use]
    pub fn if_version(&self, version: u64) -> Self {
        Self {
            version: Some(version),
            ..self.clone()
        }
    }

    /// Sets the maximum number of keys of an owner. Defaults to unlimited; the `admin` router
    /// applies 100 if the manager has no maximum.
    ///
    /// [`create`](Self::create) and [`import`](Self::import) fail with [`KeyError::TooManyKeys`]
    /// beyond it. Revoked and expired keys do not count, but an owner has at most ten times as many
    /// records until ended keys are [purged](Self::purge). Rotations are exempt. `MemoryStore` and
    /// `RedisStore` count and create in one step; see
    /// [`ApiKeyStore::create_within`](crate::api_key::ApiKeyStore::create_within) for other stores.
    #[must_use]
    pub fn max_keys_per_owner(&self, keys: usize) -> Self {
        Self {
            max_keys: Some(keys),
            ..self.clone()
        }
    }

    /// Creates a key.
    ///
    /// The returned value is the only copy of the secret. Show it to the owner once; it cannot be
    /// retrieved again.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Invalid`] if a value is out of bounds, [`KeyError::TooManyKeys`] if the
    /// owner has the [maximum](Self::max_keys_per_owner) number of keys, and another error if the
    /// store fails.
    pub async fn create(&self, new: NewKey) -> Result<GeneratedKey, KeyError> {
        let environment = self.environment(&new)?;
        let generate = || self.generate(environment, &new);
        let key = self.keep(generate, self.max_keys).await?;
        self.emit_action(KeyAction::Created, key.id());
        Ok(key)
    }

    /// Imports a key that another system issued, from the hash that the system stored. Its owner
    /// continues to use it unchanged.
    ///
    /// The record holds a digest of the hash under the current pepper (for argon2, the hash
    /// itself). On the first use, the key receives a digest like the ring's own keys, and the hash
    /// is removed. [`rotate`](Self::rotate) replaces it with a key of the ring's format.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Conflict`] if the key was imported before, [`KeyError::Invalid`] if the
    /// ring has no [`ImportedKeys`](crate::api_key::import::ImportedKeys) that find this key or if
    /// a value is out of bounds, [`KeyError::TooManyKeys`] if the owner has the maximum number of
    /// keys, and another error if the store fails.
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
