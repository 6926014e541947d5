//! Changes of keys.

use std::sync::Arc;

use super::{
    authority::Field, key_error::KeyError, manager::KeyManager, owner_rules, update::KeyUpdate,
};
use crate::{
    api_key::{
        key::format::KeyId,
        record::{
            invalid::InvalidKeySpec,
            record::{KeyRecord, KeyState, StateChange, StoredKey},
        },
        store::ApiKeyStore,
    },
    core::{
        audit::{AuditEvent, KeyAction},
        error::StoreErrorKind,
    },
};

/// The maximum number of attempts to make a change that conflicts with concurrent ones.
pub(super) const ATTEMPTS: u32 = 8;
const REASON_LEN_MAX: usize = 256;

impl KeyManager {
    /// Updates a key.
    ///
    /// Returns one of these errors:
    ///
    /// - [`KeyError::Conflict`] if the update requires another version of the key;
    /// - [`KeyError::Forbidden`] if the manager acts for the owner and the update would loosen a
    ///   setting that the service made;
    /// - [`KeyError::NotFound`] if there is no such key;
    /// - [`KeyError::Ended`] if the key is revoked;
    /// - [`KeyError::Invalid`] if a value is out of bounds;
    /// - [`KeyError::Store`] if the store fails.
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<StoredKey, KeyError> {
        let updated = self.apply(id, update).await;
        self.audited(KeyAction::Updated, updated)
    }

    /// Disables a key until it is [enabled](Self::enable).
    ///
    /// Disabling a disabled key has no effect, with one exception. If [the
    /// owner](Self::acting_for_owner) disabled the key and the service disables it again, the owner
    /// can no longer enable it.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotFound`] if there is no such key, [`KeyError::Ended`] if the key is
    /// revoked, and another error if the store fails.
    pub async fn disable(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let disabled = self.change(id, |record| {
            not_revoked(record)?;
            let is_off = matches!(record.state, KeyState::Disabled(_));
            if is_off && !owner_rules::takes_over(record, self.authority) {
                return Ok(RecordChange::None);
            }
            self.switch(record, KeyState::Disabled(self.state_change(reason)?));
            Ok(RecordChange::Made)
        });
        self.audited(KeyAction::Disabled, disabled.await)
    }

    /// Enables a disabled key. Enabling an active key has no effect.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotFound`] if there is no such key, and [`KeyError::Ended`] if the key
    /// is revoked. Returns [`KeyError::Forbidden`] if the manager acts for the owner and the
    /// manager's actor did not disable the key. Returns another error if the store fails.
    pub async fn enable(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let enabled = self.change(id, |record| {
            not_revoked(record)?;
            if let KeyState::Active = record.state {
                return Ok(RecordChange::None);
            }
            if !owner_rules::may_enable(record, self.authority, self.actor.as_deref()) {
                return Err(KeyError::Forbidden);
            }
            self.switch(record, KeyState::Active);
            Ok(RecordChange::Made)
        });
        self.audited(KeyAction::Enabled, enabled.await)
    }

    /// Revokes a key permanently.
    ///
    /// Revoking a revoked key has no effect, with one exception. If [the
    /// owner](Self::acting_for_owner) revoked the key and the service revokes it again, the service
    /// becomes responsible for the revocation.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotFound`] if there is no such key, and another error if the store
    /// fails.
    pub async fn revoke(&self, id: KeyId, reason: &str) -> Result<StoredKey, KeyError> {
        let revoked = self.end(id, reason).await;
        self.audited(KeyAction::Revoked, revoked)
    }

    /// Expires a key immediately and ends its rotation overlap. The expiry of a key that has
    /// already expired does not change.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotFound`] if there is no such key, [`KeyError::Ended`] if the key is
    /// revoked, and another error if the store fails.
    pub async fn expire(&self, id: KeyId) -> Result<StoredKey, KeyError> {
        let expired = self.change(id, |record| {
            not_revoked(record)?;
            owner_rules::end(record, self.now(), self.authority);
            Ok(RecordChange::Made)
        });
        self.audited(KeyAction::Expired, expired.await)
    }

    /// Revokes a key that was found in public, for example by a scanner, and returns its record.
    /// Returns `None` if the key does not belong to this ring.
    ///
    /// `found` must be the whole key. An id is not enough to revoke a key.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails, or if the record was not created with one of the ring's
    /// peppers.
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
        self.audited(KeyAction::Leaked, revoked).map(Some)
    }

    pub(super) fn demand_version(&self, record: &KeyRecord) -> Result<(), KeyError> {
        match self.version {
            Some(version) if version != record.version => Err(KeyError::Conflict),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) async fn apply(
        &self,
        id: KeyId,
        update: KeyUpdate,
    ) -> Result<(StoredKey, RecordChange), KeyError> {
        self.change(id, |record| {
            not_revoked(record)?;
            if !update.is_for(record) {
                return Err(KeyError::Conflict);
            }
            if !owner_rules::admit_update(record, &update, self.authority) {
                return Err(KeyError::Forbidden);
            }
            update.apply(record)?;
            Ok(RecordChange::Made)
        })
        .await
    }

    pub(super) async fn end(
        &self,
        id: KeyId,
        reason: &str,
    ) -> Result<(StoredKey, RecordChange), KeyError> {
        self.change(id, |record| {
            let is_off = matches!(record.state, KeyState::Revoked(_));
            if is_off && !owner_rules::takes_over(record, self.authority) {
                return Ok(RecordChange::None);
            }
            self.switch(record, KeyState::Revoked(self.state_change(reason)?));
            Ok(RecordChange::Made)
        })
        .await
    }

    /// Sets the state of a key, and the authority that set it.
    pub(super) fn switch(&self, record: &mut KeyRecord, state: KeyState) {
        record.state = state;
        record.set_by_owner.set(Field::State, self.authority);
    }

    pub(super) fn state_change(&self, reason: &str) -> Result<StateChange, KeyError> {
        let actor = self.actor.as_deref().unwrap_or_default();
        for (field, value) in [("reason", reason), ("actor", actor)] {
            if value.len() > REASON_LEN_MAX {
                return Err(InvalidKeySpec::new(field, "is longer than 256 bytes").into());
            }
        }
        Ok(StateChange {
            at: self.now(),
            by: self.actor.clone(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        })
    }

    /// Applies a change to the current record, and retries it after a concurrent change.
    pub(super) async fn change(
        &self,
        id: KeyId,
        change: impl Fn(&mut KeyRecord) -> Result<RecordChange, KeyError>,
    ) -> Result<(StoredKey, RecordChange), KeyError> {
        let ring = &self.ring.shared;
        let mut attempt = 1;
        loop {
            let before = self.get(id).await?;
            self.demand_version(&before)?;
            let mut record = KeyRecord::clone(&before);
            if let RecordChange::None = change(&mut record)? {
                return Ok((before, RecordChange::None));
            }
            record.version += 1;
            let after = ring.seal(record);
            match ring.update(&after, before.version()).await {
                Ok(()) => return Ok((after, RecordChange::Made)),
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Audits a change, if there was one.
    pub(super) fn audited(
        &self,
        action: KeyAction,
        changed: Result<(StoredKey, RecordChange), KeyError>,
    ) -> Result<StoredKey, KeyError> {
        let (key, change) = changed?;
        match change {
            RecordChange::Made => self.emit_action(action, key.id()),
            RecordChange::None => {}
        }
        Ok(key)
    }

    pub(super) fn emit_action(&self, action: KeyAction, key: KeyId) {
        self.emit(|| AuditEvent::KeyChanged {
            action,
            key_id: key.as_str().into(),
            by: self.actor_name(),
        });
    }

    /// Returns the actor of an audit event.
    pub(super) fn actor_name(&self) -> Option<Arc<str>> {
        self.actor.as_deref().map(Into::into)
    }

    pub(super) fn emit(&self, event: impl FnOnce() -> AuditEvent) {
        self.ring.shared.audit.emit(event);
    }
}

/// The effect of a change on a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum RecordChange {
    Made,
    None,
}

fn not_revoked(record: &KeyRecord) -> Result<(), KeyError> {
    match record.state {
        KeyState::Revoked(_) => Err(KeyError::Ended),
        KeyState::Disabled(_) | KeyState::Active => Ok(()),
    }
}
