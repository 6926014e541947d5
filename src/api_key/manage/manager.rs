//! Management of the keys of a ring.

use std::fmt;

use super::{
    audit::KeyAction,
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
    core::time::Timestamp,
};

/// Makes keys of a ring, and does everything else that becomes of them.
///
/// It is for the service's own code: whoever holds one may do all of this. A clone manages the
/// same keys.
///
/// ```
/// use portcullis::{api_key::{KeyManager, KeyRing, NewKey, Pepper}, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = [0, 1, 2, 3, 4, 5, 6, 7].repeat(4);
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     .pepper(Pepper::new(1, secret)?)
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
    /// Manages the keys of a ring.
    pub fn new(ring: &KeyRing) -> Self {
        Self {
            ring: ring.clone(),
            actor: None,
            authority: Authority::Service,
            version: None,
            max_keys: None,
        }
    }

    /// Returns a manager of the same keys whose changes are signed with this name.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self {
            actor: Some(actor.into()),
            ..self.clone()
        }
    }

    /// Returns a manager of the same keys that acts for the owner of the keys, not for the service.
    /// Its changes are signed with this name.
    ///
    /// It may tighten what the service set, and may not extend, lift or remove it: it reduces scopes,
    /// moves an expiry forward, moves a begin back, narrows constraints, and disables or revokes keys.
    /// It undoes only what it did itself. A key that it rotates ends no later than before, and tier,
    /// credits, limit and metadata stay as they are. Everything else fails with
    /// [`KeyError::Forbidden`].
    ///
    /// The application checks the keys that it may see, and the scopes and tiers that it may give to
    /// new ones.
    #[must_use]
    pub fn acting_for_owner(&self, actor: impl Into<String>) -> Self {
        Self {
            authority: Authority::Owner,
            ..self.acting_as(actor)
        }
    }

    /// Returns a manager of the same keys that changes a key only if the key has this version, and
    /// fails with [`KeyError::Conflict`] otherwise.
    ///
    /// Check a record, then change it by its version: a change that was made in between is then not
    /// overlooked.
    #[must_use]
    pub fn if_version(&self, version: u64) -> Self {
        Self {
            version: Some(version),
            ..self.clone()
        }
    }

    /// Sets the maximum number of keys of an owner. Unlimited by default; the
    /// `admin` router sets 100 where the manager sets nothing.
    ///
    /// [`create`](Self::create) and [`import`](Self::import) beyond it fail with
    /// [`KeyError::TooManyKeys`]. Keys that are revoked or expired do not count, but an owner has at
    /// most ten times as many records, until those of ended keys are [purged](Self::purge). A rotation
    /// is never refused for it. `MemoryStore` and `RedisStore` count and create in one step; see
    /// [`ApiKeyStore::create_within`](crate::api_key::ApiKeyStore::create_within) for other stores.
    #[must_use]
    pub fn max_keys_per_owner(&self, keys: usize) -> Self {
        Self {
            max_keys: Some(keys),
            ..self.clone()
        }
    }

    /// Makes a key. Its secret is in what is returned and nowhere else: it is shown to the owner
    /// once, and cannot be had again.
    ///
    /// # Errors
    ///
    /// If what was asked for is out of bounds, or the store cannot keep it; with
    /// [`KeyError::TooManyKeys`] if the owner has as many keys as
    /// [it may have](Self::max_keys_per_owner).
    pub async fn create(&self, new: NewKey) -> Result<GeneratedKey, KeyError> {
        let environment = self.environment(&new)?;
        let generate = || self.generate(environment, &new);
        let key = self.keep(generate, self.max_keys).await?;
        self.tell_of(KeyAction::Created, key.id());
        Ok(key)
    }

    /// Takes over a key that was made elsewhere, of which the former system knows a hash. Its owner
    /// goes on using it, and never learns of it.
    ///
    /// What is kept is a digest of the hash under the current pepper (of argon2's, the hash
    /// itself). The first time that the key is used it is digested as the ring's own keys are, and
    /// the hash is forgotten. [`rotate`](Self::rotate) replaces it by a key of the ring's form.
    ///
    /// # Errors
    ///
    /// With [`KeyError::Conflict`] if the key was imported before; if the ring has no
    /// [`ImportedKeys`](crate::api_key::import::ImportedKeys) or would not find this one by them, if what was asked for
    /// is out of bounds, or the store cannot keep it.
    pub async fn import(&self, new: NewKey, key: ImportedKey) -> Result<StoredKey, KeyError> {
        let ring = &self.ring.shared;
        let none =
            || InvalidKeySpec::new("foreign key", "would never be found: the ring accepts none");
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
        // Whoever asked before has been told that there is no such key.
        ring.lookup.forget(id);
        self.tell_of(KeyAction::Imported, id);
        Ok(record)
    }

    /// Returns what time it is by the ring's clock.
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
