//! Generation of keys and their initial records.

use super::{
    authority::SetByOwner,
    generated_key::GeneratedKey,
    key_error::KeyError,
    manager::KeyManager,
    new_key::{self, NewKey},
    owner_rules,
};
use crate::api_key::{
    key::{digest::KeyDigest, format::KeyId},
    record::{
        invalid::InvalidKeySpec,
        record::{KeyRecord, KeyState, StoredKey},
    },
    store::{ApiKeyStore, KeyCount, KeyCreation, KeyQuery},
};

impl KeyManager {
    /// Stores a new key. If its id already exists, generates another key.
    pub(super) async fn keep(
        &self,
        generate: impl Fn() -> Result<GeneratedKey, KeyError>,
        max_keys: Option<usize>,
    ) -> Result<GeneratedKey, KeyError> {
        let mut attempt = 1;
        loop {
            let key = generate()?;
            match self.store_new(&key.record, max_keys).await {
                Ok(()) => return Ok(key),
                // Ids have 89 random bits, so a conflict is practically impossible.
                Err(KeyError::Conflict) if attempt < 3 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn store_new(
        &self,
        record: &StoredKey,
        max_keys: Option<usize>,
    ) -> Result<(), KeyError> {
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
            KeyCreation::OwnerLimitReached => Err(KeyError::TooManyKeys),
        }
    }

    /// Counts and then creates, for stores that cannot do both in one step. Also counts concurrent
    /// creations of this process.
    pub(super) async fn create_after_count(
        &self,
        record: &StoredKey,
        max_keys: usize,
    ) -> Result<KeyCreation, KeyError> {
        let store = &self.ring.shared.store;
        let begun = self.ring.shared.creating.begin(record.owner());
        let mut count = KeyCount::new(record.created_at(), max_keys).ahead(begun.ahead);
        let mut query = KeyQuery::for_owner(record.owner()).limit(KeyQuery::MAX_LIMIT);
        loop {
            let page = store.list(query.clone()).await?;
            if page.keys.iter().any(|own| count.is_full_with(&own.record)) {
                return Ok(KeyCreation::OwnerLimitReached);
            }
            match page.next {
                Some(next) => query = query.after(next),
                None => break,
            }
        }
        if count.is_full() {
            return Ok(KeyCreation::OwnerLimitReached);
        }
        store.create(record.clone()).await?;
        Ok(KeyCreation::Created)
    }

    pub(super) fn generate(
        &self,
        environment: &str,
        new: &NewKey,
    ) -> Result<GeneratedKey, KeyError> {
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

    pub(super) fn environment<'a>(&'a self, new: &'a NewKey) -> Result<&'a str, KeyError> {
        let format = &self.ring.shared.format;
        match &new.environment {
            Some(environment) if format.has_environment(environment) => Ok(environment),
            Some(_) => {
                Err(InvalidKeySpec::new("environment", "is not an environment of the ring").into())
            }
            None => Ok(format.default_environment()),
        }
    }

    /// Returns the record of a new key, with an empty digest that matches no key.
    pub(super) fn record_of(&self, id: KeyId, environment: &str, new: &NewKey) -> KeyRecord {
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

    pub(super) fn replacement(&self, old: &KeyRecord) -> Result<GeneratedKey, KeyError> {
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
}
