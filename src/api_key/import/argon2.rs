//! Parsing, bounding and computing of argon2 hashes.

use argon2::{Algorithm, Argon2, Params, Version};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::imported::{HashKind, ImportedHash};
use crate::{
    api_key::{authenticate::encoding::decode_base64, record::invalid::InvalidKeySpec},
    core::error::{StoreError, StoreErrorKind},
};

/// The maximum cost of a hash, so that no record can exhaust memory or take minutes.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
const TEXT_LEN_MAX: usize = 512;

impl ImportedHash {
    /// Parses an argon2 hash in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
    ///
    /// Each imported key is verified against its argon2 hash only once, on one of two background
    /// threads. While 64 requests are queued for these threads, further requests receive `503`.
    /// Until the first use of such a key, the response time reveals whether the key exists.
    ///
    /// # Errors
    ///
    /// Returns an error if `text` is not an argon2 hash, or if its cost exceeds 256 MiB, 16 passes
    /// or 16 lanes.
    pub fn argon2(text: &str) -> Result<Self, InvalidKeySpec> {
        let refused = || {
            InvalidKeySpec::new(
                "argon2",
                "is not an argon2 hash, or costs more than 256 MiB, 16 passes or 16 lanes",
            )
        };
        Hash::read(text).ok_or_else(refused)?;
        Ok(Self::of(HashKind::Argon2(text.to_owned())))
    }
}

/// Returns `true` if the hash was computed from this key.
pub(crate) fn is_hash_of(text: &str, key: &[u8]) -> Result<bool, StoreError> {
    let hash = Hash::read(text).ok_or(StoreErrorKind::Corrupt)?;
    let mut computed = Zeroizing::new(vec![0; hash.output.len()]);
    hash.argon2
        .hash_password_into(key, &hash.salt, &mut computed)
        .map_err(|error| StoreError::with_source(StoreErrorKind::Unavailable, error.to_string()))?;
    Ok(computed.ct_eq(&hash.output).into())
}

struct Hash {
    argon2: Argon2<'static>,
    salt: Zeroizing<Vec<u8>>,
    output: Zeroizing<Vec<u8>>,
}

impl Hash {
    fn read(text: &str) -> Option<Self> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let mut parts = text.strip_prefix('$')?.split('$');
        let algorithm = match parts.next()? {
            "argon2id" => Algorithm::Argon2id,
            "argon2i" => Algorithm::Argon2i,
            "argon2d" => Algorithm::Argon2d,
            _ => return None,
        };
        let mut part = parts.next()?;
        let version = match part.strip_prefix("v=") {
            Some("19") => Version::V0x13,
            Some("16") => Version::V0x10,
            Some(_) => return None,
            // The first version of the format had no version field.
            None => Version::V0x10,
        };
        if part.starts_with("v=") {
            part = parts.next()?;
        }
        let mut costs = part.split(',');
        let mut cost = |name: &str, most: u32| {
            let number = costs.next()?.strip_prefix(name)?;
            number.parse().ok().filter(|cost| (1..=most).contains(cost))
        };
        let memory = cost("m=", MEMORY_KIB_MAX)?;
        let (passes, lanes) = (cost("t=", PASSES_MAX)?, cost("p=", LANES_MAX)?);
        let salt = decode_base64(parts.next()?.as_bytes())?;
        let output = decode_base64(parts.next()?.as_bytes())?;
        let whole = costs.next().is_none() && parts.next().is_none();
        let lengths = (8..=64).contains(&salt.len()) && (16..=64).contains(&output.len());
        let params = Params::new(memory, passes, lanes, Some(output.len())).ok()?;
        (whole && lengths).then(|| Self {
            argon2: Argon2::new(algorithm, version, params),
            salt,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementation: `echo -n password | argon2 somesalt -t 2 -m 16 -p 1`.
    const REFERENCE: &str = "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                             wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA";

    #[test]
    fn the_reference_implementations_hash_is_met_by_its_password_alone() {
        assert!(is_hash_of(REFERENCE, b"password").unwrap());
        assert!(!is_hash_of(REFERENCE, b"Password").unwrap());
        assert!(ImportedHash::argon2(REFERENCE).is_ok());
    }

    #[test]
    fn invalid_or_expensive_hash_is_refused() {
        for (from, to) in [
            ("$argon2i$", "$argon2x$"),
            ("$argon2i$", "argon2i$"),
            ("v=19", "v=20"),
            ("m=65536", "m=262145"),
            ("m=65536", "m=1"),
            ("m=65536", "m=-1"),
            ("t=2", "t=17"),
            ("t=2", "t=0"),
            ("p=1", "p=17"),
            ("p=1", "p=1,data=x"),
            ("$c29tZXNhbHQ$", "$c29t$"),
            ("BbtA", "BbtA$x"),
            ("BbtA", "B!tA"),
        ] {
            let wrong = REFERENCE.replace(from, to);
            assert!(ImportedHash::argon2(&wrong).is_err(), "{wrong}");
        }
        let long = REFERENCE.replace("BbtA", &"A".repeat(600));
        assert!(ImportedHash::argon2(&long).is_err());
        for end in 0..REFERENCE.len() - 30 {
            assert!(ImportedHash::argon2(&REFERENCE[..end]).is_err());
        }
    }
}
