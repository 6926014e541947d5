//! The inner state of a key ring.

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
        inherited_clock::InheritedClock,
        record::AuthDenial,
        store_api::store_future::StoreFuture,
    },
};

pub(crate) struct KeyRingInner {
    pub(crate) format: KeyFormat,
    pub(crate) peppers: Peppers,
    pub(crate) store: PatientStore,
    pub(crate) clock: Arc<InheritedClock>,
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) audit: KeyAudit,
    pub(crate) guesses: Arc<Guesses>,
    pub(crate) creating: Creating,
    pub(crate) usage: Option<Usage>,
    pub(crate) redigests: Redigests,
    pub(crate) foreign: Option<ImportedKeys>,
    pub(crate) hashing: Hashing,
    /// The number that marks a record whose seal this ring has verified, or `None` if the ring does
    /// not seal records.
    pub(super) seals_as: Option<u64>,
}

impl KeyRingInner {
    /// Parses a credential as a key of the ring's format or as an imported key.
    pub(crate) fn read<'a>(&self, presented: &'a [u8]) -> Result<ParsedKey<'a>, Denied> {
        match (self.format.parse(presented), &self.foreign) {
            (Ok(key), _) => Ok(key),
            (Err(_), Some(foreign)) => foreign.parse(presented),
            (Err(_), None) => Err(Denied::new(AuthDenial::Malformed, None)),
        }
    }

    /// Returns `true` if a holder of the pepper wrote the proof in a record. The digest or slow
    /// hash of an imported key is valid only if imported keys are configured and find this key.
    ///
    /// All other records are forged and are audited.
    pub(crate) fn honors(&self, record: &StoredKey, key: &ParsedKey<'_>) -> bool {
        let brief = record.brief();
        let honored = match brief.algorithm {
            DigestAlgorithm::HmacSha256 { .. } | DigestAlgorithm::Sha256 => !brief.is_slow,
            DigestAlgorithm::Imported { .. } => self.honors_foreign(record, key),
        };
        if !honored {
            self.emit_forged(record);
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

    fn emit_forged(&self, record: &StoredKey) {
        self.audit.emit(|| AuditEvent::KeyRecordForged {
            key_id: record.id().as_str().into(),
        });
    }

    /// Verifies a key against a slow hash. Returns a cached result if there is one since the last
    /// flush.
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

    /// Returns a record in its stored form, which is sealed if this ring seals records.
    pub(crate) fn seal(&self, mut record: KeyRecord) -> StoredKey {
        record.seal = match self.seals_as {
            Some(_) => self.peppers.seal(&record.body_bytes()),
            None => None,
        };
        StoredKey::new(record)
    }

    /// Returns `true` if a record was written by this ring or by another ring with the same
    /// peppers. Each record is verified once.
    pub(crate) fn trusts(&self, record: &StoredKey) -> bool {
        let Some(ring) = self.seals_as else {
            return true;
        };
        let trusted = record.is_trusted_by(ring, || match &record.seal {
            Some(seal) => self.peppers.is_sealed(seal, &record.body_bytes()),
            None => false,
        });
        if !trusted {
            self.emit_forged(record);
        }
        trusted
    }

    /// Replaces the previous version of a record.
    pub(crate) async fn update(&self, record: &StoredKey, expected: u64) -> Result<(), StoreError> {
        let updated = self.store.update(record.clone(), expected).await;
        // Also after an error: a call that timed out may have succeeded.
        self.lookup.forget(record.id());
        updated
    }

    /// Writes pending uses and digests to the store.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let uses = self.flush_uses().await;
        let redigests = self.flush_redigests().await;
        uses.and(redigests)
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
            // After any other error the store may have counted the batch.
            if error.kind().is_undone() {
                batch.iter().for_each(|used| usage.add(*used));
            }
            batches.flatten().for_each(|used| usage.add(*used));
            return Err(error);
        }
        Ok(())
    }

    /// Writes pending digests. A lost digest is computed again on the next use of its key.
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
                // The record was changed or removed concurrently; the next use adds it again.
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
