//! Digests of keys, which records hold instead of secrets.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use crate::core::error::ConfigError;

/// Separates key digests from other uses of the same pepper.
const PURPOSE: &[u8] = b"apikey-v1\0";
const FOREIGN_PURPOSE: &[u8] = b"apikey-v1 foreign\0";
const SLOW_HASH_PURPOSE: &[u8] = b"apikey-v1 slow hash\0";
const SEAL_PURPOSE: &[u8] = b"apikey-v1 record\0";
const FINGERPRINT_PURPOSE: &[u8] = b"apikey-v1 fingerprint\0";

/// A secret with which the service digests keys. Anyone who can read the store but does not have
/// this secret can neither forge a key nor check whether a key is in the store.
///
/// Store the pepper separately from the records, for example in a secret manager. There is no
/// default pepper.
///
/// ```
/// use portcullis::api_key::Pepper;
///
/// let pepper = Pepper::new(1, b"thirty-two bytes or more, from a secret manager")?;
/// assert_eq!(pepper.id(), 1);
/// assert!(Pepper::new(2, b"too short").is_err());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Pepper {
    id: u16,
    keyed: Hmac<Sha256>,
    is_random: bool,
}

impl Pepper {
    /// Creates a pepper. Each record contains the id of the pepper that was used for its digest.
    ///
    /// # Errors
    ///
    /// Returns an error if the pepper has fewer than 32 bytes, or if all of its bytes are equal.
    pub fn new(id: u16, pepper: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let pepper = pepper.as_ref();
        let refused = |problem: &str| {
            ConfigError::new(
                "pepper",
                format_args!("{} bytes long", pepper.len()),
                problem,
            )
            .fix("generate one with `openssl rand -hex 32`, and store it apart from the records")
        };
        if pepper.len() < 32 {
            return Err(refused(
                "it must have at least 32 bytes, so that it cannot be guessed",
            ));
        }
        if pepper.iter().all(|byte| *byte == pepper[0]) {
            return Err(refused("its bytes must not all be equal"));
        }
        Ok(Self {
            id,
            keyed: Hmac::new_from_slice(pepper).expect("HMAC takes a key of any length"),
            is_random: false,
        })
    }

    /// Creates a random pepper for this process, for demos and tests. Keys that are created with a
    /// random pepper are not valid in other processes or after a restart.
    ///
    /// # Panics
    ///
    /// Panics if the system has no source of randomness.
    pub fn random(id: u16) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).expect("the system has a source of randomness");
        Self {
            id,
            keyed: Hmac::new_from_slice(&*bytes).expect("HMAC takes a key of any length"),
            is_random: true,
        }
    }

    /// Returns `true` if the pepper is valid only in this process.
    pub(crate) fn is_random(&self) -> bool {
        self.is_random
    }

    /// Returns the id of the pepper.
    pub fn id(&self) -> u16 {
        self.id
    }

    fn digest(&self, purpose: &[u8], key: &[u8]) -> KeyDigest {
        #[cfg(test)]
        tests::count(|steps| &mut steps.digests);
        let mut mac = self.keyed.clone();
        mac.update(purpose);
        mac.update(key);
        KeyDigest(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper")
    }
}

/// The 256-bit digest of a whole key.
///
/// Its only comparison is constant-time, and `Debug` prints only the type's name.
#[derive(Clone)]
pub(crate) struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares two digests in constant time.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        #[cfg(test)]
        tests::count(|steps| &mut steps.comparisons);
        // Compare words: byte by byte, it would take half the time of a digest.
        let equal = self
            .words()
            .zip(other.words())
            .map(|(own, other)| own.ct_eq(&other));
        equal.fold(Choice::from(1), |all, one| all & one).into()
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let words = self.0.as_chunks().0.iter();
        words.map(|word| u64::from_ne_bytes(*word))
    }
}

impl Drop for KeyDigest {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}

/// The digest algorithm of a record. It is stored in the record, so the holder of a key cannot
/// choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// HMAC-SHA-256, keyed with a pepper.
    HmacSha256 {
        /// The id of the pepper.
        pepper_id: u16,
    },
    /// SHA-256 without a pepper.
    Sha256,
    /// A digest of the previous system's hash, for an imported key that has not been used yet.
    Imported {
        /// The hash algorithm of the previous system.
        hash: ImportedAlgorithm,
        /// The id of the pepper with which the hash was digested, if any.
        pepper_id: Option<u16>,
    },
}

/// The hash algorithm of an imported key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImportedAlgorithm {
    /// SHA-256 of the key.
    Sha256,
    /// SHA-512 of the key.
    Sha512,
    /// Salted argon2 hash of the key.
    Argon2,
}

/// The peppers of a service: the current one and previous ones.
#[derive(Clone, Debug)]
pub(crate) struct Peppers {
    current: Option<Pepper>,
    previous: Vec<Pepper>,
    /// `true` if digests without a pepper are accepted too.
    plain_too: bool,
}

/// A keyed digest of a record, which proves that the record is unmodified.
#[derive(Clone)]
pub(crate) struct RecordSeal {
    pub(crate) pepper_id: u16,
    pub(crate) digest: KeyDigest,
}

impl Peppers {
    pub(crate) fn new(
        current: Option<Pepper>,
        previous: Vec<Pepper>,
        plain_too: bool,
    ) -> Result<Self, ConfigError> {
        let mut ids: Vec<u16> = current.iter().chain(&previous).map(Pepper::id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(
                ConfigError::new("outdated_pepper", twice[0], "two peppers have this id")
                    .fix("give each pepper a unique id, and never reuse one"),
            );
        }
        Ok(Self {
            current,
            previous,
            plain_too,
        })
    }

    /// Returns the algorithm of new digests.
    pub(crate) fn current_algorithm(&self) -> DigestAlgorithm {
        match &self.current {
            Some(pepper) => DigestAlgorithm::HmacSha256 {
                pepper_id: pepper.id,
            },
            None => DigestAlgorithm::Sha256,
        }
    }

    /// Returns the digest of a new key.
    pub(crate) fn digest_new(&self, key: &[u8]) -> KeyDigest {
        self.digest_for(PURPOSE, key)
    }

    /// Returns the digest of a previous system's hash, so that the stored form is useless to
    /// readers of the store.
    pub(crate) fn digest_foreign(&self, hash: &[u8]) -> KeyDigest {
        self.digest_for(FOREIGN_PURPOSE, hash)
    }

    /// Binds a slow hash to the pepper. A record with a slow hash contains this digest, so that
    /// write access to the store is not enough to insert another hash.
    pub(crate) fn bind_slow_hash(&self, text: &str) -> KeyDigest {
        self.digest_for(SLOW_HASH_PURPOSE, text.as_bytes())
    }

    /// Returns `true` if a holder of the pepper wrote the slow hash of a record.
    pub(crate) fn binds_slow_hash(
        &self,
        algorithm: DigestAlgorithm,
        text: &str,
        digest: &KeyDigest,
    ) -> bool {
        match algorithm {
            DigestAlgorithm::Imported {
                hash: ImportedAlgorithm::Argon2,
                pepper_id,
            } => {
                let bound = self.digest_under(pepper_id, SLOW_HASH_PURPOSE, text.as_bytes());
                bound.is_some_and(|bound| bound.matches(digest))
            }
            DigestAlgorithm::Imported {
                hash: ImportedAlgorithm::Sha256 | ImportedAlgorithm::Sha512,
                ..
            }
            | DigestAlgorithm::HmacSha256 { .. }
            | DigestAlgorithm::Sha256 => false,
        }
    }

    /// Returns the digest algorithm of a previous system's hash.
    pub(crate) fn foreign_algorithm(&self, hash: ImportedAlgorithm) -> DigestAlgorithm {
        DigestAlgorithm::Imported {
            hash,
            pepper_id: self.current.as_ref().map(Pepper::id),
        }
    }

    /// Returns a keyed fingerprint that identifies a credential without revealing it.
    pub(crate) fn fingerprint(&self, key: &[u8]) -> [u8; 16] {
        let digest = self.digest_for(FINGERPRINT_PURPOSE, key);
        std::array::from_fn(|at| digest.0[at])
    }

    fn digest_for(&self, purpose: &[u8], key: &[u8]) -> KeyDigest {
        match &self.current {
            Some(pepper) => pepper.digest(purpose, key),
            None => sha256(purpose, key),
        }
    }

    /// Returns the seal of a serialized record, if there is a pepper.
    pub(crate) fn seal(&self, record: &[u8]) -> Option<RecordSeal> {
        self.current.as_ref().map(|pepper| RecordSeal {
            pepper_id: pepper.id,
            digest: pepper.digest(SEAL_PURPOSE, record),
        })
    }

    /// Returns `true` if the seal is valid for this serialized record.
    pub(crate) fn is_sealed(&self, seal: &RecordSeal, record: &[u8]) -> bool {
        let pepper = self.find(seal.pepper_id);
        pepper.is_some_and(|pepper| pepper.digest(SEAL_PURPOSE, record).matches(&seal.digest))
    }

    fn find(&self, id: u16) -> Option<&Pepper> {
        let mut peppers = self.current.iter().chain(&self.previous);
        peppers.find(|pepper| pepper.id == id)
    }

    /// Returns the digest of a key, computed with a record's algorithm, or `None` if the ring does
    /// not have the pepper.
    ///
    /// If the ring has a pepper, a record without one is not trusted, because anyone who can write
    /// to the store could have created it.
    pub(crate) fn digest_as(&self, algorithm: DigestAlgorithm, key: &[u8]) -> Option<KeyDigest> {
        match algorithm {
            DigestAlgorithm::HmacSha256 { pepper_id } => {
                self.digest_under(Some(pepper_id), PURPOSE, key)
            }
            DigestAlgorithm::Sha256 => self.digest_under(None, PURPOSE, key),
            DigestAlgorithm::Imported { hash, pepper_id } => match hash {
                ImportedAlgorithm::Sha256 => {
                    self.digest_under(pepper_id, FOREIGN_PURPOSE, &Sha256::digest(key))
                }
                ImportedAlgorithm::Sha512 => {
                    self.digest_under(pepper_id, FOREIGN_PURPOSE, &Sha512::digest(key))
                }
                // Slow hashes are computed on background threads.
                ImportedAlgorithm::Argon2 => None,
            },
        }
    }

    fn digest_under(
        &self,
        pepper_id: Option<u16>,
        purpose: &[u8],
        key: &[u8],
    ) -> Option<KeyDigest> {
        match pepper_id {
            Some(id) => self.find(id).map(|pepper| pepper.digest(purpose, key)),
            None if self.current.is_none() || self.plain_too => Some(sha256(purpose, key)),
            None => None,
        }
    }
}

fn sha256(purpose: &[u8], key: &[u8]) -> KeyDigest {
    KeyDigest(
        Sha256::new_with_prefix(purpose)
            .chain_update(key)
            .finalize()
            .into(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    /// The digests and comparisons of this thread.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Steps {
        pub(crate) digests: u32,
        pub(crate) comparisons: u32,
    }

    thread_local! {
        static STEPS: Cell<Steps> = Cell::default();
    }

    pub(super) fn count(which: fn(&mut Steps) -> &mut u32) {
        let mut steps = STEPS.get();
        *which(&mut steps) += 1;
        STEPS.set(steps);
    }

    /// Returns the counts since the last call, and resets them.
    pub(crate) fn take_steps() -> Steps {
        STEPS.take()
    }

    fn hex(digest: &KeyDigest) -> String {
        digest
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn pepper(id: u16) -> Pepper {
        let bytes: Vec<u8> = (0..32)
            .map(|byte| byte + u8::try_from(id).unwrap() - 1)
            .collect();
        Pepper::new(id, bytes).unwrap()
    }

    /// Threat A4: digests match the published 32-byte vectors.
    #[test]
    fn the_published_vectors_are_met() {
        let vectors = [
            (
                "acme_live_1AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000000w2Xzo",
                "d4a75af03d9b6b40550f7e5c748e7f18388ffeca5da051213ba520def3a9e761",
            ),
            (
                "acme_test_1abcdefGHIJK0123_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopq49Kuff",
                "9c4d3096ebc687850ffbbe7b3c16b3fe678853ef0935f01b63397b9ad6f89271",
            ),
            (
                "my_co_live_1zzzzzzzzzzzzzzz_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz1q7m5L",
                "f4befd3efaf6bf4edc096ac3f64983464c045f769a4ec2b167220e192d3a6011",
            ),
        ];
        let peppers = Peppers::new(Some(pepper(1)), Vec::new(), false).unwrap();
        for (key, digest) in vectors {
            assert_eq!(hex(&peppers.digest_new(key.as_bytes())), digest);
        }
        let unpeppered = Peppers::new(None, Vec::new(), false).unwrap();
        assert_eq!(
            hex(&unpeppered.digest_new(vectors[0].0.as_bytes())),
            "9879173fe1e6406851b981cbc01740b73913c649e45de5ecdb98949b9a50c5e8",
        );
    }

    /// Threat A13: weak peppers are rejected, and errors do not contain them.
    #[test]
    fn rejects_weak_pepper_without_disclosing_it() {
        let error = Pepper::new(1, b"hunter2").unwrap_err();
        assert_eq!((error.option(), error.value()), ("pepper", "7 bytes long"));
        assert!(Pepper::new(1, [7; 64]).is_err());
    }

    #[test]
    fn previous_pepper_still_verifies_its_digests() {
        let before = Peppers::new(Some(pepper(1)), Vec::new(), false).unwrap();
        let after = Peppers::new(Some(pepper(2)), vec![pepper(1)], false).unwrap();
        let old = before.digest_new(b"key");
        let algorithm = before.current_algorithm();
        assert!(after.digest_as(algorithm, b"key").unwrap().matches(&old));
        assert!(!after.digest_new(b"key").matches(&old));
    }

    #[test]
    fn an_unknown_pepper_gives_no_digest() {
        let peppers = Peppers::new(Some(pepper(1)), Vec::new(), false).unwrap();
        let unknown = DigestAlgorithm::HmacSha256 { pepper_id: 9 };
        assert!(peppers.digest_as(unknown, b"key").is_none());
    }

    /// Threat A14: a writer of the store cannot bypass the pepper.
    #[test]
    fn digest_without_a_pepper_is_refused_if_there_is_a_pepper() {
        let peppers = |plain_too| Peppers::new(Some(pepper(1)), Vec::new(), plain_too).unwrap();
        assert!(
            peppers(false)
                .digest_as(DigestAlgorithm::Sha256, b"key")
                .is_none()
        );
        assert!(
            peppers(true)
                .digest_as(DigestAlgorithm::Sha256, b"key")
                .is_some()
        );
    }

    #[test]
    fn digests_that_differ_in_one_bit_do_not_match() {
        let digest = KeyDigest::from_bytes(std::array::from_fn(|at| at as u8));
        assert!(digest.matches(&digest.clone()));
        for bit in 0..256 {
            let mut other = *digest.as_bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!digest.matches(&KeyDigest::from_bytes(other)), "bit {bit}");
        }
    }

    #[test]
    fn two_peppers_of_one_id_are_refused() {
        assert!(Peppers::new(Some(pepper(1)), vec![pepper(1)], false).is_err());
    }
}
