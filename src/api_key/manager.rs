//! Making keys, and everything that becomes of them.

use std::{fmt, time::Duration};

use super::{
    audit::KeyAction,
    changes::Listener,
    digest::{ForeignAlgorithm, KeyDigest},
    foreign::{ForeignKey, HashKind},
    invalid::Invalid,
    key::{KeyId, NoRandomness},
    new_key::{self, NewKey},
    record::{KeyRecord, KeyState, KeyStatus, StateChange, StoredKey},
    ring::KeyRing,
    secret::SecretKey,
    store::{ApiKeyStore, KeyPage, KeyQuery},
    update::KeyUpdate,
};
use crate::{
    audit::AuditEvent,
    error::{StoreError, StoreErrorKind},
    time::Timestamp,
};

/// How often a change is tried again that somebody else's change came in between of.
const ATTEMPTS: u32 = 8;
const REASON_LEN_MAX: usize = 256;

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
        let environment = self.environment(&new)?;
        let key = self.keep(|| self.generate(environment, &new)).await?;
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
    /// [`ForeignKeys`](super::ForeignKeys) or would not find this one by them, if what was asked for
    /// is out of bounds, or the store cannot keep it.
    pub async fn import(&self, new: NewKey, key: ForeignKey) -> Result<StoredKey, KeyError> {
        let ring = &self.ring.shared;
        let none = || Invalid::new("foreign key", "would never be found: the ring accepts none");
        let id = ring.foreign.as_ref().ok_or_else(none)?.id(&key)?;
        let mut record = self.record_of(id, self.environment(&new)?, &new);
        let (hash, digest) = match key.hash() {
            HashKind::Sha256(hash) => (
                ForeignAlgorithm::Sha256,
                ring.peppers.digest_foreign(&hash[..]),
            ),
            HashKind::Sha512(hash) => (
                ForeignAlgorithm::Sha512,
                ring.peppers.digest_foreign(&hash[..]),
            ),
            HashKind::Argon2(text) => {
                record.slow_hash = Some(text.clone());
                let digest = ring.peppers.bind_slow_hash(text);
                (ForeignAlgorithm::Argon2, digest)
            }
        };
        record.digest = digest;
        record.algorithm = ring.peppers.foreign_algorithm(hash);
        new_key::check_record(&mut record)?;
        let record = ring.seal(record);
        ring.store.create(record.clone()).await?;
        // Whoever asked before has been told that there is no such key.
        ring.lookup.forget(id);
        self.tell_of(KeyAction::Imported, id);
        Ok(record)
    }

    /// Returns what is known of a key.
    ///
    /// # Errors
    ///
    /// If the key is not known, or the store cannot say.
    pub async fn get(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let ring = &self.ring.shared;
        let found = ring.store.find(id).await?.ok_or(KeyError::NotFound)?;
        if found.id() == id && ring.trusts(&found) {
            Ok(found)
        } else {
            Err(KeyError::Store(StoreErrorKind::Corrupt.into()))
        }
    }

    /// Returns a page of keys, oldest first.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
    pub async fn list(&self, query: KeyQuery) -> Result<KeyPage, KeyError> {
        Ok(self.ring.shared.store.list(query).await?)
    }

    /// Returns those keys of a page that are switched on and were not used since a moment; keys
    /// that were made after it are left out. A page may hold none of them and have a next one.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
    pub async fn unused_since(
        &self,
        moment: Timestamp,
        query: KeyQuery,
    ) -> Result<KeyPage, KeyError> {
        let now = self.now();
        let mut page = self.list(query).await?;
        page.keys.retain(|listed| {
            let last = listed.last_used_at.unwrap_or(listed.record.created_at());
            listed.record.status_at(now) == KeyStatus::Active && last < moment
        });
        Ok(page)
    }

    /// Returns those keys of a page that are accepted now and will not be after this time. A page
    /// may hold none of them and have a next one.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
    pub async fn expiring_within(
        &self,
        duration: Duration,
        query: KeyQuery,
    ) -> Result<KeyPage, KeyError> {
        let now = self.now();
        let mut page = self.list(query).await?;
        page.keys.retain(|listed| {
            let ends = listed.record.expires_at();
            listed.record.status_at(now) == KeyStatus::Active
                && ends.is_some_and(|end| end <= now + duration)
        });
        Ok(page)
    }

    /// Returns those keys of a page that can still be used and whose digest was not made under the
    /// current pepper. Once there are none left, the former pepper can go. A page may hold none of
    /// them and have a next one.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
    pub async fn under_former_pepper(&self, query: KeyQuery) -> Result<KeyPage, KeyError> {
        let ring = &self.ring.shared;
        let now = ring.clock.wall();
        let mut page = self.list(query).await?;
        page.keys.retain(|listed| {
            let gone = [KeyStatus::Revoked, KeyStatus::Expired];
            listed.record.algorithm != ring.peppers.current_algorithm()
                && !gone.contains(&listed.record.status_at(now))
        });
        Ok(page)
    }

    /// Changes what a key is.
    ///
    /// # Errors
    ///
    /// With [`KeyError::Conflict`] if the update is for a version that the key no longer has; if
    /// the key is not known or revoked, or would be out of bounds, or the store cannot keep the
    /// change.
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<StoredKey, KeyError> {
        let updated = self.apply(id, update).await;
        self.told(KeyAction::Updated, updated)
    }

    /// Switches a key off for the time being. Doing so again changes nothing.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change.
    pub async fn disable(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let disabled = self.change(id, |record| {
            not_revoked(record)?;
            if let KeyState::Disabled(_) = record.state {
                return Ok(Change::None);
            }
            record.state = KeyState::Disabled(self.state_change(reason)?);
            Ok(Change::Made)
        });
        self.told(KeyAction::Disabled, disabled.await)
    }

    /// Switches a key on again. Doing so again changes nothing.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change.
    pub async fn enable(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let enabled = self.change(id, |record| {
            not_revoked(record)?;
            if let KeyState::Active = record.state {
                return Ok(Change::None);
            }
            record.state = KeyState::Active;
            Ok(Change::Made)
        });
        self.told(KeyAction::Enabled, enabled.await)
    }

    /// Switches a key off for good. Doing so again changes nothing.
    ///
    /// # Errors
    ///
    /// If the key is not known, or the store cannot keep the change.
    pub async fn revoke(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let revoked = self.end(id, reason).await;
        self.told(KeyAction::Revoked, revoked)
    }

    /// Lets a key end now.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change.
    pub async fn expire(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let now = self.now();
        let expired = self.apply(id, KeyUpdate::new().expires_at(now)).await;
        self.told(KeyAction::Expired, expired)
    }

    /// Switches off for good a key that was found where it should not be, as a scanner reports it,
    /// and returns it; or nothing, if it is none of ours.
    ///
    /// Whoever calls must hold the whole key: its id alone switches nothing off.
    ///
    /// # Errors
    ///
    /// If the store cannot say, or cannot keep the change.
    pub async fn report_leaked(&self, found: &str) -> Result<Option<StoredKey>, KeyError> {
        let ring = &self.ring.shared;
        let Ok(key) = ring.read(found.as_bytes()) else {
            return Ok(None);
        };
        let Some(record) = ring.store.find(key.id).await? else {
            return Ok(None);
        };
        if !ring.honors(&record, &key) || !ring.trusts(&record) {
            return Err(KeyError::Store(StoreErrorKind::Corrupt.into()));
        }
        let is_whole = match record.slow_hash() {
            Some(hash) => ring.prove_slowly(hash, &record, &key).await?,
            None => {
                let digest = ring.peppers.digest_as(record.algorithm, key.bytes);
                digest.is_some_and(|digest| digest.matches(&record.digest))
            }
        };
        if !is_whole {
            return Ok(None);
        }
        let revoked = self.end(key.id, "reported as leaked").await;
        self.told(KeyAction::Leaked, revoked).map(Some)
    }

    /// Makes a key that takes a key's place: of the same line, owner, name, tier, scopes and
    /// metadata, and with as much time to live as the old one had when it was made.
    ///
    /// The old one is accepted for `overlap` more, but not beyond its own end; after a leak, give
    /// no overlap. Both count against the same limits: they are of one line. A line has two keys
    /// at most that are accepted.
    ///
    /// # Errors
    ///
    /// With [`KeyError::Ended`] if the key is not accepted now or is being replaced already, with
    /// [`KeyError::Overlap`] if the key that it replaces is still accepted; if the key is not
    /// known, or the store cannot keep the change.
    pub async fn rotate(&self, id: KeyId, overlap: Duration) -> Result<GeneratedKey, KeyError> {
        let old = self.get(id).await?;
        self.check_rotation(&old, overlap).await?;
        let new = self.keep(|| self.replacement(&old)).await?;
        let rotated = match self.replace(id, new.id(), overlap).await {
            // It may have been done all the same; done twice, it is done once.
            Err(KeyError::Store(error)) if error.is_transient() => {
                self.replace(id, new.id(), overlap).await
            }
            rotated => rotated,
        };
        match rotated {
            Ok(()) => {
                self.tell_of(KeyAction::Rotated { to: new.id() }, id);
                self.tell_of(KeyAction::Created, new.id());
                Ok(new)
            }
            Err(error) => {
                // Nobody has seen the new key's secret: it is of no use, and of no harm if this
                // fails too.
                let _ = self.end(new.id(), "its rotation failed").await;
                Err(error)
            }
        }
    }

    /// Lets a key be replaced by another one, unless it is replaced by that one already.
    async fn replace(&self, id: KeyId, new: KeyId, overlap: Duration) -> Result<(), KeyError> {
        let replaced = self.change(id, |record| {
            let now = self.now();
            match record.rotated_to {
                Some(other) if other == new => return Ok(Change::None),
                Some(_) => return Err(KeyError::Ended),
                None if record.status_at(now) != KeyStatus::Active => return Err(KeyError::Ended),
                None => {}
            }
            record.rotated_to = Some(new);
            record.grace_until = Some(now + overlap);
            record.rotated_at = Some(now);
            Ok(Change::Made)
        });
        replaced.await.map(|_| ())
    }

    /// Removes keys that ended longer ago than `retention`, and returns how many. Until then they
    /// stay: an audit can name them, and their ids are not used again.
    ///
    /// # Errors
    ///
    /// If the store cannot remove them.
    pub async fn purge(&self, retention: Duration) -> Result<usize, KeyError> {
        const BATCH: usize = 500;
        let ring = &self.ring.shared;
        let before = ring.clock.wall() - retention;
        let mut purged = 0;
        loop {
            let batch = ring.store.purge(before, BATCH).await?;
            purged += batch;
            if batch > 0 {
                self.tell(|| AuditEvent::KeysPurged {
                    count: batch as u64,
                    by: self.actor.as_deref().map(Into::into),
                });
            }
            if batch < BATCH {
                return Ok(purged);
            }
        }
    }

    /// Returns what time it is by the ring's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.ring.shared.clock.wall()
    }

    /// Keeps a new key; should its id exist already, another one.
    async fn keep(
        &self,
        generate: impl Fn() -> Result<GeneratedKey, KeyError>,
    ) -> Result<GeneratedKey, KeyError> {
        let mut attempt = 1;
        loop {
            let key = generate()?;
            match self.ring.shared.store.create(key.record.clone()).await {
                Ok(()) => return Ok(key),
                // An id of 89 random bits that exists already: once in many lives of the universe.
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < 3 => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn generate(&self, environment: &str, new: &NewKey) -> Result<GeneratedKey, KeyError> {
        let ring = &self.ring.shared;
        let (id, secret) = ring.format.generate(environment, getrandom::fill)?;
        let mut record = self.record_of(id, environment, new);
        record.digest = ring.peppers.digest_new(secret.expose_secret().as_bytes());
        new_key::check_record(&mut record)?;
        Ok(GeneratedKey {
            record: ring.seal(record),
            secret,
        })
    }

    fn environment<'a>(&'a self, new: &'a NewKey) -> Result<&'a str, KeyError> {
        let format = &self.ring.shared.format;
        match &new.environment {
            Some(environment) if format.has_environment(environment) => Ok(environment),
            Some(_) => Err(Invalid::new("environment", "is not one of the ring's").into()),
            None => Ok(format.default_environment()),
        }
    }

    /// Returns the record of a new key, without its digest: until it has one, nothing matches it.
    fn record_of(&self, id: KeyId, environment: &str, new: &NewKey) -> KeyRecord {
        let ring = &self.ring.shared;
        let now = ring.clock.wall();
        KeyRecord {
            id,
            prefix: ring.format.prefix().to_owned(),
            environment: environment.to_owned(),
            version: 1,
            digest: KeyDigest::from_bytes([0; 32]),
            algorithm: ring.peppers.current_algorithm(),
            owner: new.owner.clone(),
            lineage: id,
            name: new.name.clone(),
            tier: new.tier.clone(),
            credits: new.credits,
            limit: new.limit,
            scopes: new.scopes.clone(),
            state: KeyState::Active,
            created_at: now,
            not_before: new.not_before,
            expires_at: new.expiry.from(now),
            grace_until: None,
            rotated_at: None,
            rotated_from: None,
            rotated_to: None,
            metadata: new.metadata.clone(),
            constraints: new.constraints.clone(),
            slow_hash: None,
            seal: None,
        }
    }

    fn replacement(&self, old: &KeyRecord) -> Result<GeneratedKey, KeyError> {
        let ring = &self.ring.shared;
        let (id, secret) = ring.format.generate(&old.environment, getrandom::fill)?;
        let now = ring.clock.wall();
        let record = KeyRecord {
            id,
            version: 1,
            digest: ring.peppers.digest_new(secret.expose_secret().as_bytes()),
            algorithm: ring.peppers.current_algorithm(),
            created_at: now,
            not_before: None,
            expires_at: old.expires_at.map(|end| now + (end - old.created_at)),
            grace_until: None,
            rotated_at: None,
            rotated_from: Some(old.id),
            rotated_to: None,
            slow_hash: None,
            ..old.clone()
        };
        Ok(GeneratedKey {
            record: ring.seal(record),
            secret,
        })
    }

    async fn check_rotation(&self, old: &KeyRecord, overlap: Duration) -> Result<(), KeyError> {
        let now = self.now();
        let format = &self.ring.shared.format;
        if old.rotated_to.is_some()
            || old.status_at(now) != KeyStatus::Active
            || !format.has_environment(&old.environment)
        {
            return Err(KeyError::Ended);
        }
        let Some(before) = old.rotated_from.filter(|_| !overlap.is_zero()) else {
            return Ok(());
        };
        match self.ring.shared.store.find(before).await? {
            Some(before) if before.status_at(now) == KeyStatus::Active => Err(KeyError::Overlap),
            Some(_) | None => Ok(()),
        }
    }

    async fn apply(&self, id: KeyId, update: KeyUpdate) -> Result<(StoredKey, Change), KeyError> {
        self.change(id, |record| {
            not_revoked(record)?;
            if !update.is_for(record) {
                return Err(KeyError::Conflict);
            }
            update.apply(record)?;
            Ok(Change::Made)
        })
        .await
    }

    async fn end(&self, id: KeyId, reason: &str) -> Result<(StoredKey, Change), KeyError> {
        self.change(id, |record| {
            if let KeyState::Revoked(_) = record.state {
                return Ok(Change::None);
            }
            record.state = KeyState::Revoked(self.state_change(reason)?);
            Ok(Change::Made)
        })
        .await
    }

    fn state_change(&self, reason: &str) -> Result<StateChange, KeyError> {
        let actor = self.actor.as_deref().unwrap_or_default();
        for (field, value) in [("reason", reason), ("actor", actor)] {
            if value.len() > REASON_LEN_MAX {
                return Err(Invalid::new(field, "is too long").into());
            }
        }
        Ok(StateChange {
            at: self.now(),
            by: self.actor.clone(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        })
    }

    /// Changes a record as it is now. A change of somebody else's in between is read and kept.
    async fn change(
        &self,
        id: KeyId,
        change: impl Fn(&mut KeyRecord) -> Result<Change, KeyError>,
    ) -> Result<(StoredKey, Change), KeyError> {
        let ring = &self.ring.shared;
        let mut attempt = 1;
        loop {
            let before = self.get(id).await?;
            let mut record = KeyRecord::clone(&before);
            if let Change::None = change(&mut record)? {
                return Ok((before, Change::None));
            }
            record.version += 1;
            let after = ring.seal(record);
            match ring.update(&after, before.version()).await {
                Ok(()) => return Ok((after, Change::Made)),
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells of a change, if there was one.
    fn told(
        &self,
        action: KeyAction,
        changed: Result<(StoredKey, Change), KeyError>,
    ) -> Result<StoredKey, KeyError> {
        let (key, change) = changed?;
        match change {
            Change::Made => self.tell_of(action, key.id()),
            Change::None => {}
        }
        Ok(key)
    }

    fn tell_of(&self, action: KeyAction, key: KeyId) {
        self.tell(|| action.event(key, self.actor.as_deref()));
    }

    fn tell(&self, event: impl FnOnce() -> AuditEvent) {
        self.ring.shared.audit.tell(event);
    }
}

/// Whether a record was changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Made,
    None,
}

fn not_revoked(record: &KeyRecord) -> Result<(), KeyError> {
    match record.state {
        KeyState::Revoked(_) => Err(KeyError::Ended),
        KeyState::Disabled(_) | KeyState::Active => Ok(()),
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
    /// Somebody else changed the key meanwhile.
    #[error("the key was changed meanwhile")]
    Conflict,
    /// The key is revoked, or in a state that allows no such change.
    #[error("the key is in a state that allows no such change")]
    Ended,
    /// The key that this one replaces is still accepted.
    #[error("the key that this one replaces is still accepted")]
    Overlap,
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
