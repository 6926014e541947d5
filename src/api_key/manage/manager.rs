//! Making keys, and everything that becomes of them.

use std::{fmt, time::Duration};

use super::{
    audit::KeyAction,
    authority::{Authority, Field, SetByOwner},
    new_key::{self, NewKey},
    owner_rules,
    update::KeyUpdate,
};
use crate::{
    api_key::{
        import::imported::{ForeignKey, HashKind},
        key::{
            digest::{ForeignAlgorithm, KeyDigest},
            format::{KeyId, NoRandomness},
            secret::SecretKey,
        },
        record::{
            invalid::Invalid,
            record::{KeyRecord, KeyState, KeyStatus, StateChange, StoredKey},
        },
        ring::{builder::KeyRing, change_feed::Listener},
        store::{ApiKeyStore, KeyCount, KeyCreation, KeyPage, KeyQuery},
    },
    core::{
        audit::AuditEvent,
        error::{StoreError, StoreErrorKind},
        time::Timestamp,
    },
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
    authority: Authority,
    version: Option<u64>,
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
    /// [`ApiKeyStore::create_within`] for other stores.
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
    /// [`ForeignKeys`](crate::api_key::ForeignKeys) or would not find this one by them, if what was asked for
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
        self.store_new(&record, self.max_keys).await?;
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
    /// With [`KeyError::Conflict`] if the update is for a version that the key no longer has, with
    /// [`KeyError::Forbidden`] if the manager acts for the owner and the update lifts what the service
    /// set; if the key is not known or revoked, or would be out of bounds, or the store cannot keep
    /// the change.
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<StoredKey, KeyError> {
        let updated = self.apply(id, update).await;
        self.told(KeyAction::Updated, updated)
    }

    /// Disables a key until it is [enabled](Self::enable).
    ///
    /// Disabling it again changes nothing, with one exception: the service takes over what
    /// [the owner](Self::acting_for_owner) disabled, so that the owner cannot enable it.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change.
    pub async fn disable(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let disabled = self.change(id, |record| {
            not_revoked(record)?;
            let is_off = matches!(record.state, KeyState::Disabled(_));
            if is_off && !owner_rules::takes_over(record, self.authority) {
                return Ok(Change::None);
            }
            self.switch(record, KeyState::Disabled(self.state_change(reason)?));
            Ok(Change::Made)
        });
        self.told(KeyAction::Disabled, disabled.await)
    }

    /// Enables a disabled key. Enabling it again changes nothing.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change; with
    /// [`KeyError::Forbidden`] if the manager acts for the owner and somebody else disabled the key.
    pub async fn enable(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let enabled = self.change(id, |record| {
            not_revoked(record)?;
            if let KeyState::Active = record.state {
                return Ok(Change::None);
            }
            if !owner_rules::may_enable(record, self.authority, self.actor.as_deref()) {
                return Err(KeyError::Forbidden);
            }
            self.switch(record, KeyState::Active);
            Ok(Change::Made)
        });
        self.told(KeyAction::Enabled, enabled.await)
    }

    /// Revokes a key. This cannot be undone.
    ///
    /// Revoking it again changes nothing, except that the service takes over what
    /// [the owner](Self::acting_for_owner) revoked.
    ///
    /// # Errors
    ///
    /// If the key is not known, or the store cannot keep the change.
    pub async fn revoke(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let revoked = self.end(id, reason).await;
        self.told(KeyAction::Revoked, revoked)
    }

    /// Expires a key immediately, and ends the overlap of its rotation. A key that expired before keeps
    /// its end.
    ///
    /// # Errors
    ///
    /// If the key is not known or revoked, or the store cannot keep the change.
    pub async fn expire(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let expired = self.change(id, |record| {
            not_revoked(record)?;
            owner_rules::end(record, self.now(), self.authority);
            Ok(Change::Made)
        });
        self.told(KeyAction::Expired, expired.await)
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

    /// Replaces a key by a new one of the same lineage, owner, name, tier, scopes, metadata and
    /// constraints. The new key lives as long as the old one was meant to live when it was made; it
    /// ends with the old one if the manager [acts for the owner](Self::acting_for_owner) and the
    /// service set the end.
    ///
    /// The old key is accepted for `overlap` more, but not beyond its own end; after a leak, give
    /// no overlap. Both count against the same limits. A lineage has at most two keys that are
    /// accepted.
    ///
    /// The new key is made from the version of the old one that is replaced: a change of the old one
    /// that comes in between is never lost.
    ///
    /// # Errors
    ///
    /// With [`KeyError::Ended`] if the key is not accepted now or is being replaced already, with
    /// [`KeyError::Overlap`] if an overlap is asked for while another key of the lineage is accepted
    /// or may be accepted again, with [`KeyError::Conflict`] if the key has another version than the
    /// manager [demands](Self::if_version); if the key is not known, or the store cannot keep the
    /// change.
    pub async fn rotate(&self, id: KeyId, overlap: Duration) -> Result<GeneratedKey, KeyError> {
        let mut attempt = 1;
        loop {
            let rotated = self.rotate_once(id, overlap).await;
            let is_bound = self.version.is_some();
            match rotated {
                Err(KeyError::Conflict) if !is_bound && attempt < ATTEMPTS => attempt += 1,
                rotated => return rotated,
            }
        }
    }

    async fn rotate_once(&self, id: KeyId, overlap: Duration) -> Result<GeneratedKey, KeyError> {
        let old = self.get(id).await?;
        self.demand_version(&old)?;
        self.check_rotation(&old, overlap).await?;
        let new = self.keep(|| self.replacement(&old), None).await?;
        let rotated = match self.replace(&old, new.id(), overlap).await {
            // It may have been done all the same; done twice, it is done once.
            Err(KeyError::Store(error)) if error.is_transient() => {
                self.replace(&old, new.id(), overlap).await
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
                let any_version = self.of_any_version();
                let _ = any_version.end(new.id(), "its rotation failed").await;
                Err(error)
            }
        }
    }

    /// Replaces this version of a key by another key, unless that was done already.
    async fn replace(
        &self,
        old: &KeyRecord,
        new: KeyId,
        overlap: Duration,
    ) -> Result<(), KeyError> {
        let any_version = self.of_any_version();
        let replaced = any_version.change(old.id, |record| {
            let now = self.now();
            match record.rotated_to {
                Some(other) if other == new => return Ok(Change::None),
                Some(_) => return Err(KeyError::Ended),
                None if record.status_at(now) != KeyStatus::Active => return Err(KeyError::Ended),
                None if record.version != old.version => return Err(KeyError::Conflict),
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
    pub(crate) fn now(&self) -> Timestamp {
        self.ring.shared.clock.wall()
    }

    /// Stores a new key; should its id exist already, another one.
    async fn keep(
        &self,
        generate: impl Fn() -> Result<GeneratedKey, KeyError>,
        max_keys: Option<usize>,
    ) -> Result<GeneratedKey, KeyError> {
        let mut attempt = 1;
        loop {
            let key = generate()?;
            match self.store_new(&key.record, max_keys).await {
                Ok(()) => return Ok(key),
                // An id of 89 random bits that exists already: once in many lives of the universe.
                Err(KeyError::Conflict) if attempt < 3 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn store_new(&self, record: &StoredKey, max_keys: Option<usize>) -> Result<(), KeyError> {
        let store = &self.ring.shared.store;
        let Some(max_keys) = max_keys else {
            return Ok(store.create(record.clone()).await?);
        };
        let created = match store.create_within(record.clone(), max_keys) {
            Some(created) => created.await?,
            None => self.create_after_count(record, max_keys).await?,
        };
        match created {
            KeyCreation::Created => Ok(()),
            KeyCreation::OwnerFull => Err(KeyError::TooManyKeys),
        }
    }

    /// Counts, then creates: for stores that do not do both in one step. Those of this process that
    /// are under way count as well.
    async fn create_after_count(
        &self,
        record: &StoredKey,
        max_keys: usize,
    ) -> Result<KeyCreation, KeyError> {
        let store = &self.ring.shared.store;
        let begun = self.ring.shared.creating.begin(record.owner());
        let mut count = KeyCount::new(record.created_at(), max_keys).ahead(begun.ahead);
        let mut query = KeyQuery::of_owner(record.owner()).page_max(KeyQuery::PAGE_MAX);
        loop {
            let page = store.list(query.clone()).await?;
            if page.keys.iter().any(|own| count.is_full_with(&own.record)) {
                return Ok(KeyCreation::OwnerFull);
            }
            match page.next {
                Some(next) => query = query.after(next),
                None => break,
            }
        }
        if count.is_full() {
            return Ok(KeyCreation::OwnerFull);
        }
        store.create(record.clone()).await?;
        Ok(KeyCreation::Created)
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
            set_by_owner: SetByOwner::created_by(self.authority),
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
            expires_at: owner_rules::end_of_successor(old, now, self.authority),
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
        if overlap.is_zero() || old.rotated_from.is_none() || !self.overlaps(old, now).await? {
            return Ok(());
        }
        Err(KeyError::Overlap)
    }

    /// Returns whether another key of a lineage is accepted, or may be accepted again before its
    /// overlap ends.
    async fn overlaps(&self, key: &KeyRecord, now: Timestamp) -> Result<bool, KeyError> {
        let is_other = |other: &KeyRecord| other.lineage == key.lineage && other.id != key.id;
        let counts = |other: &KeyRecord| match other.status_at(now) {
            KeyStatus::Active => true,
            KeyStatus::Revoked => false,
            KeyStatus::Disabled | KeyStatus::Expired | KeyStatus::NotYetValid => {
                other.grace_until.is_some_and(|until| until > now)
            }
        };
        let mut query = KeyQuery::of_owner(&key.owner).page_max(KeyQuery::PAGE_MAX);
        loop {
            let page = self.ring.shared.store.list(query.clone()).await?;
            let mut records = page.keys.iter().map(|own| &own.record);
            if records.any(|other| is_other(other) && counts(other)) {
                return Ok(true);
            }
            match page.next {
                Some(next) => query = query.after(next),
                None => return Ok(false),
            }
        }
    }

    /// Returns this manager without a demand on the version.
    fn of_any_version(&self) -> Self {
        Self {
            version: None,
            ..self.clone()
        }
    }

    fn demand_version(&self, record: &KeyRecord) -> Result<(), KeyError> {
        match self.version {
            Some(version) if version != record.version => Err(KeyError::Conflict),
            Some(_) | None => Ok(()),
        }
    }

    async fn apply(&self, id: KeyId, update: KeyUpdate) -> Result<(StoredKey, Change), KeyError> {
        self.change(id, |record| {
            not_revoked(record)?;
            if !update.is_for(record) {
                return Err(KeyError::Conflict);
            }
            if !owner_rules::admit_update(record, &update, self.authority) {
                return Err(KeyError::Forbidden);
            }
            update.apply(record)?;
            Ok(Change::Made)
        })
        .await
    }

    async fn end(&self, id: KeyId, reason: &str) -> Result<(StoredKey, Change), KeyError> {
        self.change(id, |record| {
            let is_off = matches!(record.state, KeyState::Revoked(_));
            if is_off && !owner_rules::takes_over(record, self.authority) {
                return Ok(Change::None);
            }
            self.switch(record, KeyState::Revoked(self.state_change(reason)?));
            Ok(Change::Made)
        })
        .await
    }

    /// Sets a key's state, and notes who did.
    fn switch(&self, record: &mut KeyRecord, state: KeyState) {
        record.state = state;
        record.set_by_owner.set(Field::State, self.authority);
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
            self.demand_version(&before)?;
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
            .field("authority", &self.authority)
            .finish_non_exhaustive()
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
    /// The manager acts for the owner, and the service decided otherwise.
    #[error("the service decided otherwise, and an owner's administrator cannot undo it")]
    Forbidden,
    /// The owner has as many keys as it may have.
    #[error("the owner has the maximum number of keys; revoke one, or purge ended ones")]
    TooManyKeys,
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
