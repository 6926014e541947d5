//! Listing and purging of keys.

use std::time::Duration;

use super::{key_error::KeyError, manager::KeyManager};
use crate::{
    api_key::{
        key::format::KeyId,
        record::record::{KeyStatus, StoredKey},
        store::{ApiKeyStore, KeyPage, KeyQuery},
    },
    core::{audit::AuditEvent, error::StoreErrorKind, time::Timestamp},
};

impl KeyManager {
    /// Returns the record of a key.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotFound`] if there is no such key, and another error if the store
    /// fails.
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
    /// Returns an error if the store fails.
    pub async fn list(&self, query: KeyQuery) -> Result<KeyPage, KeyError> {
        Ok(self.ring.shared.store.list(query).await?)
    }

    /// Returns a page of the active keys that have not been used since the given time. Keys that
    /// were created after that time are excluded. An empty page can be followed by another page.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn list_unused_since(
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

    /// Returns a page of the keys that are accepted now but expire within the given time. An empty
    /// page can be followed by another page.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn list_expiring_within(
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

    /// Returns a page of the keys that are neither revoked nor expired and whose digest was not
    /// computed with the current pepper. A previous pepper can be removed when there are no such
    /// keys left. An empty page can be followed by another page.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn list_outdated_pepper(&self, query: KeyQuery) -> Result<KeyPage, KeyError> {
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

    /// Removes the keys that were revoked or expired more than `retention` ago, and returns the
    /// number of removed keys.
    ///
    /// Until then, the records of these keys remain in the store, so that audits can refer to the
    /// records and the ids are not reused.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn purge(&self, retention: Duration) -> Result<usize, KeyError> {
        const BATCH: usize = 500;
        let ring = &self.ring.shared;
        let before = ring.clock.wall() - retention;
        let mut purged = 0;
        loop {
            let batch = ring.store.purge(before, BATCH).await?;
            purged += batch;
            if batch > 0 {
                self.emit(|| AuditEvent::KeysPurged {
                    count: batch as u64,
                    by: self.actor_name(),
                });
            }
            if batch < BATCH {
                return Ok(purged);
            }
        }
    }
}
