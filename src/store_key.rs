//! Keys under which stores keep things: digests, so that no byte of a request reaches a store.

use std::{fmt, hash::Hasher};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::error::ConfigError;

/// The secret under which a store's keys are digested.
///
/// Whoever reads the store sees digests, and whoever sends requests cannot choose where they land.
/// A store in memory makes up its own. Processes that share a store must share this secret too, or
/// each of them counts and caches for itself.
///
/// ```
/// use portcullis::StoreKeys;
///
/// let keys = StoreKeys::from_secret(b"thirty-two bytes or more, from a secret manager")?;
/// let space = keys.space("checkout");
/// let mut ab_c = space.short();
/// ab_c.field(b"ab").field(b"c");
/// let mut a_bc = space.short();
/// a_bc.field(b"a").field(b"bc");
/// assert_ne!(ab_c.finish(), a_bc.finish());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StoreKeys {
    short: SipHasher13,
    long: Hmac<Sha256>,
}

impl StoreKeys {
    /// Makes up a secret from the system's source of randomness, for this process alone.
    ///
    /// # Panics
    ///
    /// If the system has no source of randomness, as the standard library's maps do.
    pub fn random() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has a source of randomness");
        Self::derive(&secret)
    }

    /// Uses a secret that several processes share.
    ///
    /// # Errors
    ///
    /// If the secret has fewer than 32 bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, ConfigError> {
        if secret.len() < 32 {
            return Err(ConfigError::new(
                "store key secret",
                format_args!("{} bytes long", secret.len()),
                "a secret under 32 bytes can be guessed",
            )
            .fix("generate one with `openssl rand -hex 32`, and give the same to each process"));
        }
        Ok(Self::derive(secret))
    }

    /// Returns a space of keys of its own: equal fields in two spaces give different keys.
    pub fn space(&self, name: &str) -> KeySpace {
        let mut short = ShortKeyWriter(self.short);
        short.field(name.as_bytes());
        let mut long = LongKeyWriter(self.long.clone());
        long.field(name.as_bytes());
        KeySpace {
            short: short.0,
            long: long.0,
        }
    }

    fn derive(secret: &[u8]) -> Self {
        let short = derive(secret, b"portcullis-v1 short store key");
        let (low, high) = (word(&short[..8]), word(&short[8..16]));
        Self {
            short: SipHasher13::new_with_keys(low, high),
            long: keyed(&derive(secret, b"portcullis-v1 long store key")),
        }
    }
}

impl fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKeys")
    }
}

/// A named space of a store's keys, from [`StoreKeys::space`].
#[derive(Clone)]
pub struct KeySpace {
    short: SipHasher13,
    long: Hmac<Sha256>,
}

impl KeySpace {
    /// Begins a key of 128 bits (SipHash-1-3): for what is counted.
    #[inline]
    pub fn short(&self) -> ShortKeyWriter {
        ShortKeyWriter(self.short)
    }

    /// Begins a key of 256 bits (HMAC-SHA-256): for what is shown to callers.
    pub fn long(&self) -> LongKeyWriter {
        LongKeyWriter(self.long.clone())
    }
}

impl fmt::Debug for KeySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySpace")
    }
}

/// Digests fields into a [`StoreKey`]. Each field is prefixed by its length, so that distinct
/// lists of fields are distinct inputs.
pub struct ShortKeyWriter(SipHasher13);

impl ShortKeyWriter {
    /// Adds a field.
    #[inline]
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        self.0.write_u64(field.len() as u64);
        self.0.write(field);
        self
    }

    /// Returns the key of all fields added so far.
    #[inline]
    pub fn finish(&self) -> StoreKey {
        StoreKey(self.0.finish128().as_bytes())
    }
}

impl fmt::Debug for ShortKeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortKeyWriter")
    }
}

/// Digests fields into a [`LongStoreKey`]. Each field is prefixed by its length, so that distinct
/// lists of fields are distinct inputs.
pub struct LongKeyWriter(Hmac<Sha256>);

impl LongKeyWriter {
    /// Adds a field.
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    /// Returns the key of all fields added so far.
    pub fn finish(self) -> LongStoreKey {
        LongStoreKey(self.0.finalize().into_bytes().into())
    }
}

impl fmt::Debug for LongKeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongKeyWriter")
    }
}

/// A store's key of 128 bits: a keyed digest, which tells nothing of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey([u8; 16]);

impl StoreKey {
    /// Takes a digest that [`StoreKey::as_bytes`] gave, back from where it was written down.
    pub fn from_bytes(digest: [u8; 16]) -> Self {
        Self(digest)
    }

    /// Returns the digest, for a store to make a name of.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for StoreKey {
    /// Writes the digest as 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// A store's key of 256 bits: a keyed digest, which tells nothing of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongStoreKey([u8; 32]);

impl LongStoreKey {
    /// Returns the digest, for a store to make a name of.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LongStoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for LongStoreKey {
    /// Writes the digest as 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut mac = keyed(secret);
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> StoreKeys {
        StoreKeys::from_secret(&[7; 32]).unwrap()
    }

    #[test]
    fn the_same_secret_gives_the_same_keys_in_each_process() {
        let one = keys().space("s").short().field(b"x").finish();
        let two = keys().space("s").short().field(b"x").finish();
        assert_eq!(one, two);
        assert_ne!(
            one,
            StoreKeys::random().space("s").short().field(b"x").finish()
        );
    }

    #[test]
    fn spaces_do_not_overlap() {
        let one = keys().space("s").short().field(b"x").finish();
        let two = keys().space("t").short().field(b"x").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn fields_that_join_to_the_same_bytes_give_different_long_keys() {
        let space = keys().space("s");
        let mut one = space.long();
        one.field(b"ab").field(b"c");
        let mut two = space.long();
        two.field(b"a").field(b"bc");
        assert_ne!(one.finish(), two.finish());
    }

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        let error = StoreKeys::from_secret(b"hunter2").unwrap_err();
        assert_eq!(error.value(), "7 bytes long");
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(
            format!("{:?} {:?}", keys(), keys().space("s")),
            "StoreKeys KeySpace"
        );
    }
}
