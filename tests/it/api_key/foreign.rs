//! Keys that were made elsewhere, and go on being good here.

use std::time::Duration;

use http::StatusCode;
use portcullis::{
    Identity, ManualClock, StoreFuture,
    api_key::{
        ApiKeyStore, Credential, InvalidKeySpec, KeyError, KeyManager, KeyQuery, KeyRing,
        KeyRingBuilder, NewKey, Verdict, Verifier,
        import::{ImportedAlgorithm, ImportedHash, ImportedKey, ImportedKeys},
        record::DigestAlgorithm,
    },
    outcome::AuthDenial,
    store::MemoryStore,
};
use sha2::{Digest, Sha256, Sha512};

use super::api_key::{Keys, bytes_of, denial, pepper, unknown_key, with_header, with_key};
use crate::support::{slow_store::SlowStore, text};

const FORMER: &str = "sk_prod_9bX2Lh4TqYw7Rz1N";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(key: &str) -> ImportedHash {
    ImportedHash::sha256(&hex(&Sha256::digest(key))).unwrap()
}

fn sha512(key: &str) -> ImportedHash {
    ImportedHash::sha512(&hex(&Sha512::digest(key))).unwrap()
}

fn builder(store: impl ApiKeyStore, clock: &ManualClock) -> KeyRingBuilder {
    KeyRing::builder("acmepay", store)
        .pepper(pepper())
        .clock(clock.clone())
}

fn keys(store: impl ApiKeyStore, foreign: ImportedKeys) -> Keys {
    let clock = ManualClock::default();
    let ring = builder(store, &clock)
        .imported_keys(foreign)
        .build()
        .unwrap();
    Keys {
        manager: KeyManager::new(&ring),
        clock,
        ring,
    }
}

fn acme() -> NewKey {
    NewKey::new("acme").scopes(["data.read"])
}

impl Keys {
    async fn status_of(&self, key: &str) -> StatusCode {
        self.send(with_key(key)).await.status()
    }
}

#[tokio::test]
async fn imported_key_is_accepted_and_rehashed_on_first_use() {
    for (rule, hash, kind) in [
        (
            ImportedKeys::by_sha256(),
            sha256(FORMER),
            ImportedAlgorithm::Sha256,
        ),
        (
            ImportedKeys::by_sha512(),
            sha512(FORMER),
            ImportedAlgorithm::Sha512,
        ),
    ] {
        for slow in [false, true] {
            let store = MemoryStore::new();
            let keys = match slow {
                false => keys(store.clone(), rule.clone()),
                true => keys(SlowStore::over(store.clone()), rule.clone()),
            };
            let record = keys
                .manager
                .import(acme(), ImportedKey::new(hash.clone()))
                .await;
            let id = record.unwrap().id();
            let kept = async || store.find(id).await.unwrap().unwrap();
            let foreign = DigestAlgorithm::Imported {
                hash: kind,
                pepper_id: Some(1),
            };
            assert_eq!(kept().await.algorithm(), foreign);
            let outdated = keys
                .manager
                .list_outdated_pepper(KeyQuery::all())
                .await
                .unwrap();
            assert_eq!(outdated.keys.len(), 1);

            for request in [
                with_key(FORMER),
                with_header("authorization", &format!("Bearer {FORMER}")),
            ] {
                let response = keys.send(request).await;
                assert_eq!(response.status(), StatusCode::OK);
                let seen = text(response).await;
                assert!(
                    seen.starts_with("acme ") && !seen.contains(FORMER),
                    "{seen}"
                );
            }
            keys.ring.flush().await.unwrap();
            let own = DigestAlgorithm::HmacSha256 { pepper_id: 1 };
            assert_eq!((kept().await.algorithm(), kept().await.version()), (own, 2));
            assert_eq!(keys.status_of(FORMER).await, StatusCode::OK);
            keys.manager.revoke(id, "").await.unwrap();
            let response = keys.send(with_key(FORMER)).await;
            assert_eq!(denial(&response), AuthDenial::Revoked);
        }
    }
}

/// Threat A2: an unknown key of the previous system gets the same response as any wrong key.
#[tokio::test]
async fn a_wrong_foreign_key_is_answered_by_the_same_bytes_as_any() {
    let keys = keys(MemoryStore::new(), ImportedKeys::by_sha256());
    keys.manager
        .import(acme(), ImportedKey::new(sha256(FORMER)))
        .await
        .unwrap();
    let expected = bytes_of(keys.send(with_key(&unknown_key().await)).await).await;
    for wrong in [
        &FORMER[1..],
        &FORMER.to_lowercase(),
        "short",
        &"x".repeat(600),
    ] {
        let body = bytes_of(keys.send(with_key(wrong)).await).await;
        assert_eq!(body, expected, "{wrong}");
    }
}

/// Threat A14: a reader of the store finds no hash of the previous system in it.
#[tokio::test]
async fn imported_hash_is_not_stored_verbatim() {
    let keys = keys(MemoryStore::new(), ImportedKeys::by_sha256());
    let key = ImportedKey::new(sha256(FORMER));
    let record = keys.manager.import(acme(), key).await.unwrap();
    let (bytes, hash) = (record.to_bytes(), Sha256::digest(FORMER));
    assert!(!bytes.windows(8).any(|eight| eight == &hash[..8]));
}

#[tokio::test]
async fn a_key_is_imported_once_and_where_it_would_be_found() {
    let by_hash = keys(MemoryStore::new(), ImportedKeys::by_sha256());
    let manager = &by_hash.manager;
    let key = || ImportedKey::new(sha256(FORMER));
    manager.import(acme(), key()).await.unwrap();
    let again = manager.import(acme(), key()).await;
    assert!(matches!(again, Err(KeyError::Conflict)), "{again:?}");
    let field = |error: KeyError| match error {
        KeyError::Invalid(invalid) => InvalidKeySpec::field(&invalid),
        other => panic!("{other:?}"),
    };
    let other_hash = manager
        .import(acme(), ImportedKey::new(sha512(FORMER)))
        .await;
    assert_eq!(field(other_hash.unwrap_err()), "imported key");
    let nowhere = Keys::new().manager.import(acme(), key()).await;
    assert_eq!(field(nowhere.unwrap_err()), "imported key");
    let without_owner = manager.import(NewKey::new(""), key()).await;
    assert_eq!(field(without_owner.unwrap_err()), "owner");
}

#[tokio::test]
async fn an_imported_key_is_reported_and_rotated_like_any() {
    let keys = keys(MemoryStore::new(), ImportedKeys::by_sha256());
    let key = ImportedKey::new(sha256(FORMER));
    let record = keys.manager.import(acme(), key).await.unwrap();
    let heir = keys
        .manager
        .rotate(record.id(), Duration::from_secs(60))
        .await
        .unwrap();
    assert!(heir.expose_secret().starts_with("acmepay_live_1"));
    assert_eq!(heir.record().lineage(), record.id());
    assert_eq!(keys.status_of(heir.expose_secret()).await, StatusCode::OK);
    assert_eq!(keys.status_of(FORMER).await, StatusCode::OK);
    let strange = keys.manager.report_leaked(&FORMER[1..]).await.unwrap();
    assert!(strange.is_none());
    let leaked = keys.manager.report_leaked(FORMER).await.unwrap().unwrap();
    assert_eq!(leaked.id(), record.id());
    assert_eq!(keys.status_of(FORMER).await, StatusCode::UNAUTHORIZED);
}

/// Knows one credential, and takes no other for its own.
struct Other(&'static str);

impl Verifier for Other {
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
        StoreFuture::ready(if credential.expose_secret() == self.0.as_bytes() {
            let caller = Identity::builder("other").owner("other").build();
            Verdict::Caller(caller)
        } else {
            Verdict::NotRecognized
        })
    }
}

#[tokio::test]
async fn verifiers_are_asked_before_a_key_is_taken_for_a_foreign_one() {
    const TOKEN: &str = "some.other.token.of.theirs";
    let keys = keys(MemoryStore::new(), ImportedKeys::by_sha256());
    keys.manager
        .import(acme(), ImportedKey::new(sha256(FORMER)))
        .await
        .unwrap();
    let layer = keys.layer().verifier(Other(TOKEN)).build().unwrap();
    for (key, owner) in [(TOKEN, "other "), (FORMER, "acme ")] {
        let response = super::api_key::send(layer.clone(), with_key(key)).await;
        assert!(text(response).await.starts_with(owner));
    }
}

/// Threat X1: the user's function that finds the public part may panic.
#[tokio::test]
async fn a_public_part_that_panics_is_answered_for_by_500() {
    let rule = ImportedKeys::by_public_part(|key| {
        assert_ne!(key, "sk_panic_panic_panic", "as it was asked");
        key.get(..7)
    });
    let keys = keys(MemoryStore::new(), rule);
    let key = ImportedKey::new(sha256(FORMER)).with_public_part("sk_prod");
    keys.manager.import(acme(), key).await.unwrap();
    let panicked = keys.status_of("sk_panic_panic_panic").await;
    assert_eq!(panicked, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(keys.status_of(FORMER).await, StatusCode::OK);
}

#[cfg(feature = "argon2")]
pub(crate) mod argon2 {
    use std::net::SocketAddr;

    use portcullis::PeerAddr;

    use super::*;
    use crate::{
        api_key::api_key::{ApiKeyResponse, send},
        support::header,
    };

    /// Writes what argon2's text is written in: base64 without padding.
    fn base64(bytes: &[u8]) -> String {
        const SYMBOLS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let bits = three
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (24 - 8 * three.len());
            for place in 0..=three.len() {
                let sextet = bits >> (18 - 6 * place) & 63;
                text.push(char::from(SYMBOLS[sextet as usize]));
            }
        }
        text
    }

    fn hash_of(key: &str) -> ImportedHash {
        ImportedHash::argon2(&hash_text(key)).unwrap()
    }

    pub(crate) fn hash_text(key: &str) -> String {
        use ::argon2::{Algorithm, Argon2, Params, Version};
        let params = Params::new(64, 1, 1, Some(32)).unwrap();
        let mut output = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(key.as_bytes(), b"some salt", &mut output)
            .unwrap();
        let (salt, output) = (base64(b"some salt"), base64(&output));
        format!("$argon2id$v=19$m=64,t=1,p=1${salt}${output}")
    }

    fn by_part() -> ImportedKeys {
        ImportedKeys::by_public_part(|key| key.split_once('.').map(|(part, _)| part))
    }

    const KEY: &str = "pk7d2.the-secret-of-a-user";

    async fn imported(store: impl ApiKeyStore) -> Keys {
        let keys = keys(store, by_part());
        let key = ImportedKey::new(hash_of(KEY)).with_public_part("pk7d2");
        keys.manager.import(acme(), key).await.unwrap();
        keys
    }

    #[tokio::test]
    async fn argon2_key_is_verified_once_and_rehashed() {
        for slow in [false, true] {
            let store = MemoryStore::new();
            let keys = match slow {
                false => imported(store.clone()).await,
                true => imported(SlowStore::over(store.clone())).await,
            };
            let id = keys.manager.list(KeyQuery::all()).await.unwrap().keys[0]
                .record
                .id();
            assert_eq!(keys.status_of(KEY).await, StatusCode::OK);
            // From now on nothing is computed: the verdict is cached.
            assert_eq!(keys.status_of(KEY).await, StatusCode::OK);
            assert_eq!(
                keys.status_of("pk7d2.another-secret-of").await,
                StatusCode::UNAUTHORIZED
            );
            keys.ring.flush().await.unwrap();
            let kept = store.find(id).await.unwrap().unwrap();
            assert_eq!(
                kept.algorithm(),
                DigestAlgorithm::HmacSha256 { pepper_id: 1 }
            );
            let bytes = kept.to_bytes();
            assert!(!bytes.windows(8).any(|eight| eight == b"argon2id"));
            assert_eq!(keys.status_of(KEY).await, StatusCode::OK);
            assert_eq!(
                keys.status_of("pk7d2.another-secret-of").await,
                StatusCode::UNAUTHORIZED
            );
        }
    }

    #[tokio::test]
    async fn unused_imported_keys_reject_wrong_secrets_with_identical_bytes() {
        let keys = imported(MemoryStore::new()).await;
        let expected = bytes_of(keys.send(with_key(&unknown_key().await)).await).await;
        for wrong in [
            "pk7d2.another-secret-of",
            "pk7d3.the-secret-of-a-user",
            "no-part-at-all-here",
        ] {
            let body = bytes_of(keys.send(with_key(wrong)).await).await;
            assert_eq!(body, expected, "{wrong}");
        }
        let leaked = keys
            .manager
            .report_leaked("pk7d2.another-secret-of")
            .await
            .unwrap();
        assert!(leaked.is_none());
        assert!(keys.manager.report_leaked(KEY).await.unwrap().is_some());
    }

    /// Threat A5: who makes up secrets behind a known part buys no more hashes than the limit.
    #[tokio::test]
    async fn a_flood_of_wrong_secrets_buys_no_more_hashes_than_the_limit() {
        let keys = imported(MemoryStore::new()).await;
        let window = Duration::from_secs(60);
        let layer = keys.layer().failure_limit(5, window).build().unwrap();
        let ask = async |key: String| -> ApiKeyResponse {
            let mut request = with_key(&key);
            let address: SocketAddr = "203.0.113.9:4711".parse().unwrap();
            request.extensions_mut().insert(PeerAddr(address));
            send(layer.clone(), request).await
        };
        for number in 0..5 {
            let response = ask(format!("pk7d2.made-up-{number:08}")).await;
            assert_eq!(denial(&response), AuthDenial::Unknown);
        }
        for number in 5..50 {
            let response = ask(format!("pk7d2.made-up-{number:08}")).await;
            assert_eq!(denial(&response), AuthDenial::TooManyFailures);
        }
        // One that was wrong a moment ago is known to be, and costs nothing.
        let again = ask(format!("pk7d2.made-up-{:08}", 3)).await;
        assert_eq!(denial(&again), AuthDenial::Unknown);
        assert!(header(again.headers(), "retry-after").is_none());
    }
}
