//! Lists of keys, and the removal of ended ones.

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

    /// Returns those keys of a page that are accepted now and will not be after this time. A page
    /// may hold none of them and have a next one.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
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

    /// Returns those keys of a page that can still be used and whose digest was not made under the
    /// current pepper. Once there are none left, the former pepper can go. A page may hold none of
    /// them and have a next one.
    ///
    /// # Errors
    ///
    /// If the store cannot say.
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
}
