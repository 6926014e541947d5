//! Rotation of keys.

use std::time::Duration;

use super::{
    change::{ATTEMPTS, RecordChange},
    generated_key::GeneratedKey,
    key_error::KeyError,
    manager::KeyManager,
};
use crate::{
    api_key::{
        key::format::KeyId,
        record::record::{KeyRecord, KeyStatus},
        store::{ApiKeyStore, KeyQuery},
    },
    core::{
        audit::{AuditEvent, KeyAction},
        time::Timestamp,
    },
};

impl KeyManager {
    /// Replaces a key with a new key that has the same owner, name, tier, scopes, metadata and
    /// constraints. Both keys belong to the same [lineage](KeyRecord::lineage).
    ///
    /// The new key has the time to live that the old one had at its creation. There is one
    /// exception: if the manager [acts for the owner](Self::acting_for_owner) and the service set
    /// the expiry, the new key expires no later than the old one.
    ///
    /// The old key remains accepted for `overlap`, but not beyond its own expiry. After a leak, use
    /// an overlap of zero. Both keys share the same limits. At most two keys of a lineage are
    /// accepted at the same time.
    ///
    /// The new key has the settings of exactly the version that it replaces, so a concurrent change
    /// to the old key is never lost.
    ///
    /// # Errors
    ///
    /// Returns one of these errors:
    ///
    /// - [`KeyError::Ended`] if the key is not accepted now or has already been replaced;
    /// - [`KeyError::Overlap`] if `overlap` is not zero and another key of the lineage is accepted
    ///   or can become accepted again;
    /// - [`KeyError::Conflict`] if the key does not have the [required version](Self::if_version);
    /// - [`KeyError::NotFound`] if there is no such key;
    /// - [`KeyError::Store`] if the store fails.
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
            // The first attempt may have succeeded. Repeating it has no further effect.
            Err(KeyError::Store(error)) if error.is_transient() => {
                self.replace(&old, new.id(), overlap).await
            }
            rotated => rotated,
        };
        match rotated {
            Ok(()) => {
                self.emit(|| AuditEvent::KeyRotated {
                    key_id: id.as_str().into(),
                    successor: new.id().as_str().into(),
                    by: self.actor_name(),
                });
                self.emit_action(KeyAction::Created, new.id());
                Ok(new)
            }
            Err(error) => {
                // The secret of the new key was never disclosed, so it is harmless if this fails
                // too.
                let any_version = self.for_any_version();
                let _ = any_version.end(new.id(), "its rotation failed").await;
                Err(error)
            }
        }
    }

    /// Replaces this version of a key with another key, unless that was done already.
    async fn replace(
        &self,
        old: &KeyRecord,
        new: KeyId,
        overlap: Duration,
    ) -> Result<(), KeyError> {
        let any_version = self.for_any_version();
        let replaced = any_version.change(old.id, |record| {
            let now = self.now();
            match record.rotated_to {
                Some(other) if other == new => return Ok(RecordChange::None),
                Some(_) => return Err(KeyError::Ended),
                None if record.status_at(now) != KeyStatus::Active => return Err(KeyError::Ended),
                None if record.version != old.version => return Err(KeyError::Conflict),
                None => {}
            }
            record.rotated_to = Some(new);
            record.grace_until = Some(now + overlap);
            record.rotated_at = Some(now);
            Ok(RecordChange::Made)
        });
        replaced.await.map(|_| ())
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

    /// Returns `true` if another key of a lineage is accepted, or can become accepted again before
    /// its overlap ends.
    async fn overlaps(&self, key: &KeyRecord, now: Timestamp) -> Result<bool, KeyError> {
        let is_other = |other: &KeyRecord| other.lineage == key.lineage && other.id != key.id;
        let counts = |other: &KeyRecord| match other.status_at(now) {
            KeyStatus::Active => true,
            KeyStatus::Revoked => false,
            KeyStatus::Disabled | KeyStatus::Expired | KeyStatus::NotYetValid => {
                other.grace_until.is_some_and(|until| until > now)
            }
        };
        let mut query = KeyQuery::for_owner(&key.owner).limit(KeyQuery::MAX_LIMIT);
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

    /// Returns this manager without a required version.
    fn for_any_version(&self) -> Self {
        Self {
            version: None,
            ..self.clone()
        }
    }
}
