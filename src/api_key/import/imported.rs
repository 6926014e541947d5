//! Imported keys: hashes from the previous system and lookup rules.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use sha2::{Digest, Sha256, Sha512};

use crate::{
    api_key::{
        authenticate::rejection::Denied,
        key::format::{KeyId, ParsedKey},
        record::invalid::InvalidKeySpec,
    },
    core::record::AuthDenial,
};

/// The minimum length of an imported key, in printable ASCII characters.
const FOREIGN_LEN_MIN: usize = 16;
const FOREIGN_LEN_MAX: usize = 512;

/// The method by which imported keys are found. Records are looked up by public id, but the keys of
/// another system do not contain an id in this crate's format.
///
/// The public id is derived from the imported key. An imported key therefore has the same id in
/// every process and with every pepper.
///
/// ```
/// use portcullis::{
///     api_key::{
///         KeyManager, KeyRing, NewKey, Pepper,
///         import::{ImportedHash, ImportedKey, ImportedKeys},
///     },
///     store::MemoryStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     .pepper(Pepper::random(1))
///     .imported_keys(ImportedKeys::by_sha256())
///     .build()?;
///
/// // From the previous system's table: the SHA-256 of a key.
/// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// let hash = ImportedHash::sha256(hash)?;
/// let new = NewKey::new("acme").tier("pro");
/// let record = KeyManager::new(&ring).import(new, ImportedKey::new(hash)).await?;
/// assert_eq!(record.owner(), "acme");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ImportedKeys {
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    Sha256,
    Sha512,
    PublicPart(Arc<PublicPart>),
}

type PublicPart = dyn for<'a> Fn(&'a str) -> Option<&'a str> + Send + Sync;

impl ImportedKeys {
    /// Finds a key by the SHA-256 hash of the whole key, as the previous system stored it.
    ///
    /// The public id is derived from the hash and appears in logs. Keys with fewer than 128 random
    /// bits could be guessed from these ids. For such keys, use argon2 hashes and
    /// [`by_public_part`](Self::by_public_part).
    pub fn by_sha256() -> Self {
        Self { rule: Rule::Sha256 }
    }

    /// Finds a key by the SHA-512 hash of the whole key. See [`ImportedKeys::by_sha256`].
    pub fn by_sha512() -> Self {
        Self { rule: Rule::Sha512 }
    }

    /// Finds a key by its public part, which `part` returns. For example, the public part of the
    /// key `pk7d2.secret` is the text before the dot. Return `None` for credentials that are not
    /// keys of the previous system.
    ///
    /// The function is called for credentials that consist of 16 to 512 bytes of printable ASCII.
    pub fn by_public_part<F>(part: F) -> Self
    where
        F: for<'a> Fn(&'a str) -> Option<&'a str> + Send + Sync + 'static,
    {
        Self {
            rule: Rule::PublicPart(Arc::new(part)),
        }
    }

    /// Parses a credential as an imported key.
    pub(crate) fn parse<'a>(&self, presented: &'a [u8]) -> Result<ParsedKey<'a>, Denied> {
        let malformed = || Denied::new(AuthDenial::Malformed, None);
        let is_key = (FOREIGN_LEN_MIN..=FOREIGN_LEN_MAX).contains(&presented.len())
            && presented.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(presented).map_err(|_| malformed())?;
        if !is_key {
            return Err(malformed());
        }
        let id = match &self.rule {
            Rule::Sha256 => id_of(self.kind(), &Sha256::digest(presented)),
            Rule::Sha512 => id_of(self.kind(), &Sha512::digest(presented)),
            Rule::PublicPart(part) => {
                let part = catch_unwind(AssertUnwindSafe(|| part(text)));
                let part = part.map_err(|_| Denied::internal())?;
                id_of(self.kind(), part.ok_or_else(malformed)?.as_bytes())
            }
        };
        Ok(ParsedKey {
            id,
            bytes: presented,
        })
    }

    /// Returns `true` if a credential is a key of the previous system that was looked up by the id
    /// derived from it.
    pub(crate) fn finds(&self, key: &ParsedKey<'_>) -> bool {
        self.parse(key.bytes).is_ok_and(|own| own.id == key.id)
    }

    /// Returns the id under which a key will be looked up.
    pub(crate) fn id(&self, key: &ImportedKey) -> Result<KeyId, InvalidKeySpec> {
        let refused = |problem| Err(InvalidKeySpec::new("imported key", problem));
        match (&self.rule, &key.hash.kind, &key.public_part) {
            (Rule::Sha256, HashKind::Sha256(hash), None) => Ok(id_of(self.kind(), hash)),
            (Rule::Sha512, HashKind::Sha512(hash), None) => Ok(id_of(self.kind(), hash)),
            (Rule::PublicPart(_), _, Some(part)) => Ok(id_of(self.kind(), part.as_bytes())),
            (Rule::PublicPart(_), _, None) => {
                refused("has no public part, by which the ring finds keys; call `with_public_part`")
            }
            (Rule::Sha256 | Rule::Sha512, _, Some(_)) => {
                refused("has a public part, but the ring finds keys by their hash")
            }
            (Rule::Sha256 | Rule::Sha512, _, None) => {
                refused("has another hash algorithm than that by which the ring finds keys")
            }
        }
    }

    fn kind(&self) -> &'static [u8] {
        match self.rule {
            Rule::Sha256 => b"sha256",
            Rule::Sha512 => b"sha512",
            Rule::PublicPart(_) => b"part",
        }
    }
}

impl fmt::Debug for ImportedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            Rule::Sha256 => "ImportedKeys(by SHA-256)",
            Rule::Sha512 => "ImportedKeys(by SHA-512)",
            Rule::PublicPart(_) => "ImportedKeys(by public part)",
        })
    }
}

/// Derives an id in this crate's format. The domain separation keeps ids of different kinds
/// distinct.
fn id_of(kind: &[u8], what: &[u8]) -> KeyId {
    let digest = Sha256::new_with_prefix(b"apikey-v1 foreign id\0")
        .chain_update(kind)
        .chain_update([0])
        .chain_update(what)
        .finalize();
    KeyId::from_digest(&digest.into())
}

/// A key to import, in the form in which the previous system stored it.
#[derive(Clone, Debug)]
#[must_use]
pub struct ImportedKey {
    hash: ImportedHash,
    public_part: Option<String>,
}

impl ImportedKey {
    /// Creates an imported key from the hash of the key.
    pub fn new(hash: ImportedHash) -> Self {
        Self {
            hash,
            public_part: None,
        }
    }

    /// Sets the public part of the key, for rings that find keys by their [public
    /// part](ImportedKeys::by_public_part).
    pub fn with_public_part(mut self, public_part: impl Into<String>) -> Self {
        self.public_part = Some(public_part.into());
        self
    }

    pub(crate) fn hash(&self) -> &HashKind {
        &self.hash.kind
    }
}

/// The hash of an imported key, as the previous system stored it. The hash covers the whole key.
/// Only argon2 hashes are salted.
#[derive(Clone)]
pub struct ImportedHash {
    kind: HashKind,
}

/// A parsed hash.
#[derive(Clone)]
pub(crate) enum HashKind {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
    /// A hash in the PHC string format of argon2.
    #[allow(dead_code, reason = "made where argon2 can be checked")]
    Argon2(String),
}

impl ImportedHash {
    /// Parses a SHA-256 hash from 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Returns an error if `hex` has another form.
    pub fn sha256(hex: &str) -> Result<Self, InvalidKeySpec> {
        let refused = || InvalidKeySpec::new("SHA-256", "must be 64 hexadecimal digits");
        let hash = read_hex(hex).ok_or_else(refused)?;
        Ok(Self::of(HashKind::Sha256(hash)))
    }

    /// Parses a SHA-512 hash from 128 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Returns an error if `hex` has another form.
    pub fn sha512(hex: &str) -> Result<Self, InvalidKeySpec> {
        let refused = || InvalidKeySpec::new("SHA-512", "must be 128 hexadecimal digits");
        let hash = read_hex(hex).ok_or_else(refused)?;
        Ok(Self::of(HashKind::Sha512(hash)))
    }

    pub(crate) fn of(kind: HashKind) -> Self {
        Self { kind }
    }
}

impl fmt::Debug for ImportedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            HashKind::Sha256(_) => "ImportedHash(SHA-256)",
            HashKind::Sha512(_) => "ImportedHash(SHA-512)",
            HashKind::Argon2(_) => "ImportedHash(argon2)",
        })
    }
}

fn read_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk_former_system_0123456789";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_key_has_the_id_that_its_hash_or_its_part_was_imported_under() {
        let sha256 = ImportedHash::sha256(&hex(&Sha256::digest(KEY))).unwrap();
        let sha512 = ImportedHash::sha512(&hex(&Sha512::digest(KEY)).to_uppercase()).unwrap();
        let part: ImportedKeys = ImportedKeys::by_public_part(|key| key.split('_').nth(1));
        let cases = [
            (ImportedKeys::by_sha256(), ImportedKey::new(sha256.clone())),
            (ImportedKeys::by_sha512(), ImportedKey::new(sha512)),
            (part, ImportedKey::new(sha256).with_public_part("former")),
        ];
        let mut ids = Vec::new();
        for (rule, key) in cases {
            let id = rule.id(&key).unwrap();
            let presented = rule.parse(KEY.as_bytes()).unwrap();
            assert_eq!(presented.id, id, "{rule:?}");
            ids.push(id);
        }
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn key_that_cannot_be_found_is_not_imported() {
        let sha256 = ImportedKey::new(ImportedHash::sha256(&hex(&[7; 32])).unwrap());
        let by_part = ImportedKeys::by_public_part(|key| key.get(..4));
        assert!(ImportedKeys::by_sha512().id(&sha256).is_err());
        assert!(by_part.id(&sha256).is_err());
        assert!(
            ImportedKeys::by_sha256()
                .id(&sha256.with_public_part("x"))
                .is_err()
        );
    }

    #[test]
    fn invalid_hash_is_refused_and_not_printed() {
        for wrong in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(ImportedHash::sha256(wrong).is_err(), "{wrong}");
            assert!(ImportedHash::sha512(wrong).is_err(), "{wrong}");
        }
        let key = ImportedKey::new(ImportedHash::sha256(&"ab".repeat(32)).unwrap());
        assert!(!format!("{key:?}").contains("ab"), "{key:?}");
    }

    #[test]
    fn invalid_key_is_not_looked_up() {
        let rule = ImportedKeys::by_sha256();
        for wrong in [
            &b""[..],
            b"short",
            &[b'a'; 513],
            "ключ-который-не-ключ".as_bytes(),
            b"with a space in it!",
        ] {
            assert!(rule.parse(wrong).is_err());
        }
        let panicking = ImportedKeys::by_public_part(|_| panic!("as it was asked"));
        assert!(panicking.parse(KEY.as_bytes()).is_err());
    }
}
