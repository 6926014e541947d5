//! What a ring, its layers and its managers have in common.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use super::{change_feed::Listener, rehash::Redigests, usage::Usage};
use crate::{
    api_key::{
        authenticate::{guesses::Guesses, lookup::Lookup, rejection::Denied},
        import::{argon2, hash_pool::Hashing, imported::ImportedKeys},
        key::{
            digest::{DigestAlgorithm, KeyDigest, Peppers},
            format::{KeyFormat, ParsedKey},
        },
        manage::{audit::KeyAudit, creating::Creating, patient::PatientStore},
        record::record::{KeyRecord, StoredKey},
        store::ApiKeyStore,
    },
    core::{
        audit::AuditEvent,
        error::{StoreError, StoreErrorKind},
        record::AuthDenial,
        store_api::store_future::StoreFuture,
        time::Clock,
    },
};

pub(crate) struct KeyRingInner {
    pub(crate) format: KeyFormat,
    pub(crate) peppers: Peppers,
    pub(crate) store: PatientStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) audit: KeyAudit,
    pub(crate) guesses: Arc<Guesses>,
    pub(crate) creating: Creating,
    pub(crate) usage: Option<Usage>,
    pub(crate) redigests: Redigests,
    pub(crate) foreign: Option<ImportedKeys>,
    pub(crate) hashing: Hashing,
    /// The number by which a record knows that this ring has looked at its seal; none if this ring
    /// seals nothing.
    pub(super) seals_as: Option<u64>,
}

impl KeyRingInner {
    /// Reads what was presented as a key of the ring's form, or as one that was made elsewhere.
    pub(crate) fn read<'a>(&self, presented: &'a [u8]) -> Result<ParsedKey<'a>, Denied> {
        match (self.format.parse(presented), &self.foreign) {
            (Ok(key), _) => Ok(key),
            (Err(_), Some(foreign)) => foreign.parse(presented),
            (Err(_), None) => Err(Denied::new(AuthDenial::Malformed, None)),
        }
    }

    /// Returns whether a record's means of proof were put there by a holder of the pepper: a foreign
    /// digest or a slow hash counts only where foreign keys are configured and find this key.
    ///
    /// A record that fails this was forged, and the auditor hears of it.
    pub(crate) fn honors(&self, record: &StoredKey, key: &ParsedKey<'_>) -> bool {
        let brief = record.brief();
        let honored = match brief.algorithm {
            DigestAlgorithm::HmacSha256 { .. } | DigestAlgorithm::Sha256 => !brief.is_slow,
            DigestAlgorithm::Imported { .. } => self.honors_foreign(record, key),
        };
        if !honored {
            self.tell_forged(record);
        }
        honored
    }

    fn honors_foreign(&self, record: &StoredKey, key: &ParsedKey<'_>) -> bool {
        let is_found = self.foreign.as_ref().is_some_and(|own| own.finds(key));
        let is_bound = record.slow_hash().is_none_or(|text| {
            self.peppers
                .binds_slow_hash(record.algorithm, text, &record.digest)
        });
        is_found && is_bound
    }

    fn tell_forged(&self, record: &StoredKey) {
        self.audit.tell(|| AuditEvent::KeyRecordForged {
            key_id: record.id().as_str().into(),
        });
    }

    /// Asks whether a key is the one that a slow hash was made of. Where that has been computed
    /// since the last flush, the result is returned at once.
    pub(crate) fn prove_slowly(
        &self,
        hash: &str,
        record: &StoredKey,
        key: &ParsedKey<'_>,
    ) -> StoreFuture<bool> {
        if let Some(proved) = self.redigests.of(record.brief()) {
            let digest: KeyDigest = self.peppers.digest_new(key.bytes);
            return StoreFuture::ready(proved.matches(&digest));
        }
        let (hash, key) = (hash.to_owned(), Zeroizing::new(key.bytes.to_vec()));
        self.hashing.ask(move || argon2::is_hash_of(&hash, &key))
    }

    /// Returns a record as it is kept: sealed, if this ring seals.
    pub(crate) fn seal(&self, mut record: KeyRecord) -> StoredKey {
        record.seal = match self.seals_as {
            Some(_) => self.peppers.seal(&record.body_bytes()),
            None => None,
        };
        StoredKey::new(record)
    }

    /// Returns whether a record is as this ring, or another one with its peppers, wrote it. Each
    /// record is looked at once.
    pub(crate) fn trusts(&self, record: &StoredKey) -> bool {
        let Some(ring) = self.seals_as else {
            return true;
        };
        let trusted = record.is_trusted_by(ring, || match &record.seal {
            Some(seal) => self.peppers.is_sealed(seal, &record.body_bytes()),
            None => false,
        });
        if !trusted {
            self.tell_forged(record);
        }
        trusted
    }

    /// Puts a record in the place of its former version.
    pub(crate) async fn update(&self, record: &StoredKey, expected: u64) -> Result<(), StoreError> {
        let updated = self.store.update(record.clone(), expected).await;
        // Also when it failed: a store that did not answer in time may have done it.
        self.lookup.forget(record.id());
        updated
    }

    /// Tells the store of the uses since the last time, and of digests under the current pepper.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let told = self.flush_uses().await;
        let renewed = self.flush_redigests().await;
        told.and(renewed)
    }

    async fn flush_uses(&self) -> Result<(), StoreError> {
        const BATCH: usize = 1_000;
        let Some(usage) = &self.usage else {
            return Ok(());
        };
        let uses = usage.take();
        let mut batches = uses.chunks(BATCH);
        while let Some(batch) = batches.next() {
            let Err(error) = self.store.record_uses(batch.to_vec()).await else {
                continue;
            };
            // After any other failure the store may have counted the batch.
            if error.kind().is_undone() {
                batch.iter().for_each(|used| usage.add(*used));
            }
            batches.flatten().for_each(|used| usage.add(*used));
            return Err(error);
        }
        Ok(())
    }

    /// What is not written here is found again when the key is next used.
    async fn flush_redigests(&self) -> Result<(), StoreError> {
        for (id, redigest) in self.redigests.take() {
            let Some(before) = self.store.find(id).await? else {
                continue;
            };
            let is_same_key = before.digest.matches(&redigest.replaced);
            if !is_same_key || !self.trusts(&before) {
                continue;
            }
            let record = KeyRecord {
                version: before.version + 1,
                digest: redigest.digest,
                algorithm: self.peppers.current_algorithm(),
                slow_hash: None,
                ..KeyRecord::clone(&before)
            };
            match self.update(&self.seal(record), before.version).await {
                Ok(()) => {}
                // Somebody changed it meanwhile, or it is gone: the next use tells.
                Err(error)
                    if matches!(
                        error.kind(),
                        StoreErrorKind::Conflict | StoreErrorKind::NotFound
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyRingInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("format", &self.format)
            .field("seals", &self.seals_as.is_some())
            .finish_non_exhaustive()
    }
}
