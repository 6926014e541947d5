//! Keyed tags, which only the service can compute. They allow forged keys to be rejected without a
//! store request.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::core::error::ConfigError;

/// A secret for the keyed tag that replaces the public checksum in the last six characters of a
/// key.
///
/// A forged key has a valid tag with a probability of 1 in 4 billion. Forged keys without a valid
/// tag are rejected without a store request. The tag costs one additional HMAC-SHA-256 per request.
///
/// Only the service can verify the tag of a key. Secret scanners must therefore report their
/// findings to [`KeyManager::report_leaked`](crate::api_key::KeyManager::report_leaked).
///
/// ```
/// use portcullis::api_key::TagSecret;
///
/// let tag = TagSecret::new(b"thirty-two other bytes, from a secret manager")?;
/// # let _ = tag;
/// assert!(TagSecret::new(b"too short").is_err());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct TagSecret {
    keyed: Hmac<Sha256>,
}

impl TagSecret {
    /// Creates a keyed tag from a secret, which must differ from the pepper.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret has fewer than 32 bytes, or if all of its bytes are equal.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        let is_weak = secret.len() < 32 || secret.iter().all(|byte| *byte == secret[0]);
        if is_weak {
            return Err(ConfigError::new(
                "tag_secret",
                format_args!("{} bytes long", secret.len()),
                "it must have at least 32 bytes that are not all equal, so that it cannot be guessed",
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

impl fmt::Debug for TagSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagSecret")
    }
}

/// The tags of a ring: the current one and previous ones.
#[derive(Clone, Debug)]
pub(crate) struct KeyTags {
    pub(crate) current: TagSecret,
    pub(crate) previous: Vec<TagSecret>,
    /// `true` if keys with a public checksum are accepted too.
    pub(crate) checksums_too: bool,
}

impl KeyTags {
    /// Returns the check of a new key, computed over the characters before it.
    pub(crate) fn check(&self, bytes: &[u8]) -> u32 {
        self.current.of(bytes)
    }

    /// Returns `true` if `check` is one of these tags, encoded by `spell`.
    pub(crate) fn admit(&self, bytes: &[u8], check: &[u8], spell: impl Fn(u32) -> [u8; 6]) -> bool {
        let tags = std::iter::once(&self.current).chain(&self.previous);
        let right = tags.fold(Choice::from(0), |right, tag| {
            right | spell(tag.of(bytes)).ct_eq(check)
        });
        right.into()
    }
}
