//! A check that only the service can make: who forges keys then never gets as far as the store.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::core::error::ConfigError;

/// A secret that the last six characters of keys are made with, in the place of a checksum that
/// anybody can compute.
///
/// A key that somebody has made up passes it once in four thousand million times: all others are
/// turned away without a question to the store. It costs one more HMAC-SHA-256 for each request.
/// Nobody outside of the service can tell by it whether a key is one, scanners included: let them
/// report what they find to [`KeyManager::report_leaked`](crate::api_key::KeyManager::report_leaked).
///
/// ```
/// use portcullis::api_key::KeyedTag;
///
/// let tag = KeyedTag::new(b"thirty-two other bytes, from a secret manager")?;
/// # let _ = tag;
/// assert!(KeyedTag::new(b"too short").is_err());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyedTag {
    keyed: Hmac<Sha256>,
}

impl KeyedTag {
    /// Takes the secret. It is not the pepper's.
    ///
    /// # Errors
    ///
    /// If it has fewer than 32 bytes, or all of them are equal.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        let is_weak = secret.len() < 32 || secret.iter().all(|byte| *byte == secret[0]);
        if is_weak {
            return Err(ConfigError::new(
                "keyed_tag",
                format_args!("{} bytes long", secret.len()),
                "a secret under 32 bytes, or of equal ones, can be guessed",
            )
            .fix("generate one with `openssl rand -hex 32`"));
        }
        Ok(Self {
            keyed: Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"),
        })
    }

    fn of(&self, bytes: &[u8]) -> u32 {
        let mut mac = self.keyed.clone();
        mac.update(bytes);
        let [a, b, c, d, ..] = <[u8; 32]>::from(mac.finalize().into_bytes());
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Debug for KeyedTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedTag")
    }
}

/// The tags of a ring: the one that new keys get, and former ones.
#[derive(Clone, Debug)]
pub(crate) struct KeyTags {
    pub(crate) current: KeyedTag,
    pub(crate) former: Vec<KeyedTag>,
    /// Whether keys with the checksum that anybody can compute are taken too.
    pub(crate) checksums_too: bool,
}

impl KeyTags {
    /// Returns the check of a new key, by what stands before it.
    pub(crate) fn check(&self, bytes: &[u8]) -> u32 {
        self.current.of(bytes)
    }

    /// Returns whether `check`, made by `spell` of the right number, is one of these tags'.
    pub(crate) fn admit(&self, bytes: &[u8], check: &[u8], spell: impl Fn(u32) -> [u8; 6]) -> bool {
        let tags = std::iter::once(&self.current).chain(&self.former);
        let right = tags.fold(Choice::from(0), |right, tag| {
            right | spell(tag.of(bytes)).ct_eq(check)
        });
        right.into()
    }
}
