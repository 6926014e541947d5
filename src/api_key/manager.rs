//! Making keys, and everything that becomes of them.

use std::fmt;

use super::{
    key::{KeyId, NoRandomness},
    new_key::{Invalid, NewKey},
    record::{KeyRecord, KeyState, StateChange, StoredKey},
    ring::KeyRing,
    secret::SecretKey,
    store::{KeyPage, KeyQuery},
};
use crate::error::{StoreError, StoreErrorKind};

/// How often a change is tried again that somebody else's change came in between of.
const ATTEMPTS: u32 = 8;

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
/// let key = manager.create(NewKey::of_owner("acme").scopes(["data.read"])).await?;
/// assert!(key.expose_secret().starts_with("acmepay_live_1"));
/// manager.revoke(key.id(), "leaked").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyManager {
    ring: KeyRing,
    actor: Option<String>,
}

impl KeyManager {
    /// Manages the keys of a ring.
    pub fn new(ring: &KeyRing) -> Self {
        Self {
            ring: ring.clone(),
            actor: None,
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

    /// Makes a key. Its secret is in what is returned and nowhere else: it is shown to the owner
    /// once, and cannot be had again.
    ///
    /// # Errors
    ///
    /// If what was asked for is out of bounds, or the store cannot keep it.
    pub async fn create(&self, new: NewKey) -> Result<GeneratedKey, KeyError> {
        let new = new.checked()?;
        let mut attempt = 1;
        loop {
            let generated = self.generate(&new)?;
            let kept = self
                .ring
                .shared
                .store
                .create(generated.record.clone())
                .await;
            match kept {
                Ok(()) => return Ok(generated),
                // An id of 89 random bits that exists already: once in many lives of the universe.
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < 3 => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns what is known of a key.
    ///
    /// # Errors
    ///
    /// If the key is not known, or the store cannot say.
    pub async fn get(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let found = self.ring.shared.store.find(id).await?;
        found.ok_or(KeyError::NotFound)
    }

    /// Returns a page of keys, oldest first.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
    pub async fn list(&self, query: KeyQuery) -> Result<KeyPage, KeyError> {
        Ok(self.ring.shared.store.list(query).await?)
    }

    /// Switches a key off for good. Doing so again changes nothing.
    ///
    /// # Errors
    ///
    /// If the key is not known, or the store cannot keep the change.
    pub async fn revoke(
        &self,
        id: KeyId,
        reason: impl Into<String>,
    ) -> Result<StoredKey, KeyError> {
        let reason = Some(reason.into());
        self.change(id, |record| {
            if !matches!(record.state, KeyState::Revoked(_)) {
                record.state = KeyState::Revoked(self.state_change(reason.clone()));
            }
            Ok(())
        })
        .await
    }

    fn generate(&self, new: &NewKey) -> Result<GeneratedKey, KeyError> {
        let ring = &self.ring.shared;
        let environment = match &new.environment {
            Some(environment) if ring.format.has_environment(environment) => environment,
            Some(_) => {
                return Err(KeyError::Invalid(Invalid {
                    field: "environment",
                    problem: "is not one of the ring's",
                }));
            }
            None => ring.format.default_environment(),
        };
        let (id, secret) = ring.format.generate(environment, getrandom::fill)?;
        let now = ring.clock.wall();
        let record = KeyRecord {
            id,
            prefix: ring.format.prefix().to_owned(),
            environment: environment.to_owned(),
            version: 1,
            digest: ring.peppers.digest_new(secret.expose_secret().as_bytes()),
            algorithm: ring.peppers.current_algorithm(),
            owner: new.owner.clone(),
            lineage: id,
            name: new.name.clone(),
            tier: new.tier.clone(),
            scopes: new.scopes.clone(),
            state: KeyState::Active,
            created_at: now,
            not_before: new.not_before,
            expires_at: new.expiry.from(now),
            grace_until: None,
            rotated_from: None,
            rotated_to: None,
            metadata: new.metadata.clone(),
        };
        Ok(GeneratedKey {
            record: record.into(),
            secret,
        })
    }

    fn state_change(&self, reason: Option<String>) -> StateChange {
        StateChange {
            at: self.ring.shared.clock.wall(),
            by: self.actor.clone(),
            reason,
        }
    }

    /// Changes a record as it is now. A change of somebody else's in between is read and kept.
    async fn change(
        &self,
        id: KeyId,
        change: impl Fn(&mut KeyRecord) -> Result<(), KeyError>,
    ) -> Result<StoredKey, KeyError> {
        let store = &self.ring.shared.store;
        let mut attempt = 1;
        loop {
            let before = self.get(id).await?;
            let mut record = KeyRecord::clone(&before);
            change(&mut record)?;
            record.version += 1;
            let after = StoredKey::new(record);
            match store.update(after.clone(), before.version()).await {
                Ok(()) => return Ok(after),
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl fmt::Debug for KeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyManager")
            .field("ring", &self.ring)
            .field("actor", &self.actor)
            .finish()
    }
}

/// A key that has just been made, with its secret.
#[derive(Debug)]
pub struct GeneratedKey {
    record: StoredKey,
    secret: SecretKey,
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

/// Why a key could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no key of this id.
    #[error("there is no such key")]
    NotFound,
    /// Somebody else changed the key meanwhile, or it is in a state that allows no such change.
    #[error("the key was changed meanwhile")]
    Conflict,
    /// What was asked for is out of bounds.
    #[error("the key cannot be so")]
    Invalid(#[source] Invalid),
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

impl From<Invalid> for KeyError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<NoRandomness> for KeyError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}
