//! Records that a writer of the store forges or edits without knowing the pepper.

use http::StatusCode;
use portcullis::{
    api_key::{
        ApiKeyStore, GeneratedKey, KeyError, KeyManager, KeyRing, KeyRingBuilder, NewKey, Pepper,
        import::{ImportedHash, ImportedKey, ImportedKeys},
        record::{KeyRecord, StoredKey},
    },
    store::MemoryStore,
};
use sha2::{Digest, Sha256};

use super::api_key::{pepper, send, with_key};
use crate::support::slow_store::SlowStore;

fn victim(store: impl ApiKeyStore) -> KeyRingBuilder {
    KeyRing::builder("acmepay", store)
        .pepper(pepper())
        .without_store_timeout()
}

/// A key with every right, made under a pepper that the victim does not have.
pub(crate) async fn made_elsewhere() -> GeneratedKey {
    let own = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(Pepper::random(9))
        .build()
        .unwrap();
    let new = NewKey::new("acme").scopes(["admin"]);
    KeyManager::new(&own).create(new).await.unwrap()
}

async fn status(ring: &KeyRing, key: &str) -> StatusCode {
    let layer = portcullis::api_key::ApiKeyLayer::builder(ring)
        .build()
        .unwrap();
    send(layer, with_key(key)).await.status()
}

/// Threat A14: no single byte of a sealed record can be edited, in any field.
#[tokio::test]
async fn a_sealed_record_is_rejected_after_any_single_byte_edit() {
    let ring = victim(MemoryStore::new()).seal_records().build().unwrap();
    let new = NewKey::new("acme")
        .name("ci")
        .tier("pro")
        .scopes(["data.read"])
        .metadata("team", "payments")
        .expires_in(std::time::Duration::from_secs(3_600));
    let key = KeyManager::new(&ring).create(new).await.unwrap();
    let bytes = key.record().to_bytes();
    let mut readable = 0;
    for at in 0..bytes.len() {
        let mut edited = bytes.clone();
        edited[at] ^= 1;
        let Ok(record) = KeyRecord::from_bytes(&edited) else {
            continue;
        };
        readable += 1;
        let store = MemoryStore::new();
        store.create(record.into()).await.unwrap();
        let ring = victim(store).seal_records().build().unwrap();
        let status = status(&ring, key.expose_secret()).await;
        assert_ne!(status, StatusCode::OK, "byte {at} was edited");
    }
    assert!(readable > 100, "{readable} edited records are readable");
}

/// The promise without `seal_records`: rights can be edited, but a key cannot be made.
#[tokio::test]
async fn an_unsealed_record_protects_the_secret_and_not_the_rights() {
    let store = MemoryStore::new();
    let ring = victim(store.clone()).build().unwrap();
    let key = KeyManager::new(&ring)
        .create(NewKey::new("acme").scopes(["read"]))
        .await
        .unwrap();
    let bytes = key.record().to_bytes();
    let at = bytes.windows(4).position(|four| four == b"read").unwrap();
    let edited = [&bytes[..at], b"root", &bytes[at + 4..]].concat();
    let edited = StoredKey::new(KeyRecord::from_bytes(&edited).unwrap());
    store.update(edited, 1).await.unwrap();
    assert_eq!(status(&ring, key.expose_secret()).await, StatusCode::OK);

    let forged = made_elsewhere().await;
    store.create(forged.record().clone()).await.unwrap();
    let refused = status(&ring, forged.expose_secret()).await;
    assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
}

fn sha256(key: &str) -> ImportedHash {
    let hex: String = Sha256::digest(key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ImportedHash::sha256(&hex).unwrap()
}

/// A foreign digest counts only under the id by which foreign keys are found.
#[tokio::test]
async fn a_foreign_digest_under_the_id_of_another_key_is_rejected() {
    let imports = victim(MemoryStore::new()).imported_keys(ImportedKeys::by_sha256());
    let imports = imports.build().unwrap();
    let key = made_elsewhere().await;
    // The digest of a key of our own form, as an import has it.
    let foreign = ImportedKey::new(sha256(key.expose_secret()));
    let imported = KeyManager::new(&imports)
        .import(NewKey::new("acme"), foreign)
        .await
        .unwrap();
    let bytes = imported.to_bytes();
    let moved: Vec<u8> = {
        // Behind the schema and the id's length stands the id.
        let mut bytes = bytes;
        bytes[5..21].copy_from_slice(key.id().as_str().as_bytes());
        bytes
    };
    for foreign in [None, Some(ImportedKeys::by_sha256())] {
        let store = MemoryStore::new();
        let record = KeyRecord::from_bytes(&moved).unwrap();
        assert_eq!(record.id(), key.id());
        store.create(record.into()).await.unwrap();
        let ring = match foreign {
            Some(foreign) => victim(store).imported_keys(foreign),
            None => victim(store),
        };
        let ring = ring.build().unwrap();
        let refused = status(&ring, key.expose_secret()).await;
        assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
        let reported = KeyManager::new(&ring)
            .report_leaked(key.expose_secret())
            .await;
        assert!(matches!(reported, Err(KeyError::Store(_))), "{reported:?}");
    }
}

/// A digest that was computed for an earlier key is not written into the record of a later key with
/// the same id.
#[tokio::test]
async fn a_renewed_digest_is_not_written_into_another_keys_record() {
    let store = SlowStore::over(MemoryStore::new());
    let by_part = || ImportedKeys::by_public_part(|key| key.split('.').next());
    let ring = victim(store).imported_keys(by_part()).build().unwrap();
    let manager = KeyManager::new(&ring);
    let import = async |key: &str| {
        let foreign = ImportedKey::new(sha256(key)).with_public_part("pk7d2");
        manager.import(NewKey::new("acme"), foreign).await
    };
    let (old, new) = ("pk7d2.the-secret-of-before", "pk7d2.the-secret-of-today");
    let id = import(old).await.unwrap().id();
    assert_eq!(status(&ring, old).await, StatusCode::OK);
    manager.revoke(id, "leaked").await.unwrap();
    while manager.purge(std::time::Duration::ZERO).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    import(new).await.unwrap();
    ring.flush().await.unwrap();
    assert_eq!(status(&ring, old).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&ring, new).await, StatusCode::OK);
}

#[cfg(feature = "argon2")]
mod argon2 {
    use std::sync::{Arc, Mutex};

    use portcullis::{AuditEvent, Auditor};

    use super::*;
    use crate::api_key::foreign::argon2::hash_text;

    /// Returns the record of a key whose digest is replaced by this hash.
    fn with_slow_hash(key: &GeneratedKey) -> KeyRecord {
        let mut bytes = key.record().to_bytes();
        let hash = hash_text(key.expose_secret());
        // The end of a record: credits, limit, slow hash, time of rotation, seal. None is there.
        let end = bytes.len() - 5;
        assert_eq!(bytes[end..], [0; 5]);
        bytes.truncate(end);
        bytes.extend([0, 0, 1]);
        bytes.extend(u32::try_from(hash.len()).unwrap().to_le_bytes());
        bytes.extend(hash.as_bytes());
        bytes.extend([0, 0]);
        KeyRecord::from_bytes(&bytes).unwrap()
    }

    fn by_part() -> ImportedKeys {
        ImportedKeys::by_public_part(|key| key.split_once('.').map(|(part, _)| part))
    }

    #[derive(Clone, Debug, Default)]
    struct Heard(Arc<Mutex<Vec<AuditEvent>>>);

    impl Auditor for Heard {
        fn audit(&self, event: &AuditEvent) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[tokio::test]
    async fn a_forged_slow_hash_makes_no_key_and_is_reported() {
        for foreign in [None, Some(by_part()), Some(ImportedKeys::by_sha256())] {
            for slow in [false, true] {
                let (store, heard) = (MemoryStore::new(), Heard::default());
                let key = made_elsewhere().await;
                let record = with_slow_hash(&key);
                store.create(record.into()).await.unwrap();
                let ring = match slow {
                    false => victim(store),
                    true => victim(SlowStore::over(store)),
                };
                let ring = match foreign.clone() {
                    Some(foreign) => ring.imported_keys(foreign),
                    None => ring,
                };
                let ring = ring.auditor(heard.clone()).build().unwrap();
                let refused = status(&ring, key.expose_secret()).await;
                assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
                let heard = heard.0.lock().unwrap();
                let forged =
                    |event: &AuditEvent| matches!(event, AuditEvent::KeyRecordForged { .. });
                assert!(heard.iter().any(forged), "{heard:?}");
            }
        }
    }

    /// The hash of an imported record cannot be replaced by one of the writer's own.
    #[tokio::test]
    async fn a_replaced_slow_hash_makes_no_key() {
        const KEY: &str = "pk7d2.the-secret-of-a-user";
        const OWN: &str = "pk7d2.the-secret-of-a-thief";
        let store = MemoryStore::new();
        let ring = victim(store.clone())
            .imported_keys(by_part())
            .build()
            .unwrap();
        let foreign = ImportedHash::argon2(&hash_text(KEY)).unwrap();
        let foreign = ImportedKey::new(foreign).with_public_part("pk7d2");
        let manager = KeyManager::new(&ring);
        let imported = manager.import(NewKey::new("acme"), foreign).await;
        let imported = imported.unwrap();
        let (bytes, hash) = (imported.to_bytes(), hash_text(KEY));
        let at = bytes
            .windows(hash.len())
            .position(|part| part == hash.as_bytes())
            .unwrap();
        let own = hash_text(OWN);
        let edited = [&bytes[..at], own.as_bytes(), &bytes[at + own.len()..]].concat();
        let edited = StoredKey::new(KeyRecord::from_bytes(&edited).unwrap());
        store.update(edited, 1).await.unwrap();
        let refused = status(&ring, OWN).await;
        assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
        store.update(imported, 1).await.unwrap();
        assert_eq!(status(&ring, OWN).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(&ring, KEY).await, StatusCode::OK);
    }

    /// An import is valid under a previous pepper too, and only if foreign keys are configured.
    #[tokio::test]
    async fn an_imported_slow_hash_counts_only_where_foreign_keys_are_configured() {
        const KEY: &str = "pk7d2.the-secret-of-a-user";
        let store = MemoryStore::new();
        let before = victim(store.clone()).imported_keys(by_part());
        let foreign = ImportedHash::argon2(&hash_text(KEY)).unwrap();
        let foreign = ImportedKey::new(foreign).with_public_part("pk7d2");
        KeyManager::new(&before.build().unwrap())
            .import(NewKey::new("acme"), foreign)
            .await
            .unwrap();
        let without = victim(store.clone()).build().unwrap();
        assert_eq!(status(&without, KEY).await, StatusCode::UNAUTHORIZED);
        let other = |id| Pepper::new(id, [7, 8].repeat(16)).unwrap();
        let rotated = KeyRing::builder("acmepay", store.clone())
            .pepper(other(2))
            .imported_keys(by_part());
        let forgotten = rotated.build().unwrap();
        let refused = status(&forgotten, KEY).await;
        assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
        let rotated = KeyRing::builder("acmepay", store)
            .pepper(other(2))
            .previous_pepper(pepper())
            .imported_keys(by_part());
        assert_eq!(status(&rotated.build().unwrap(), KEY).await, StatusCode::OK);
    }
}
