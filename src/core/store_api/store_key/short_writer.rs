//! The writer for 128-bit keys.

use std::fmt;

use siphasher::sip128::SipHasher13;

use super::digest::{DIGESTED_FIELD, DIGESTED_START, StoreKey};

/// A writer that digests fields into a [`StoreKey`]. Each field is prefixed with its length, so
/// distinct lists of fields are distinct inputs.
///
/// Short fields are collected and digested together. A long field is replaced by its digest, so the
/// size of the writer does not depend on the input.
pub struct ShortKeyWriter {
    sip: SipHasher13,
    gathered: [u8; GATHERED_MAX],
    len: usize,
}

/// The number of bytes that are collected before they are digested.
const GATHERED_MAX: usize = 64;

/// The maximum length of a field that is not replaced by its digest. The length of the field is
/// stored in the byte before it.
const PLAIN_FIELD_MAX: usize = 40;

impl ShortKeyWriter {
    pub(super) fn new(sip: SipHasher13) -> Self {
        Self {
            sip,
            gathered: [0; GATHERED_MAX],
            len: 0,
        }
    }

    /// Adds a field.
    #[inline]
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() <= PLAIN_FIELD_MAX {
            self.gather(field.len() as u8, field);
        } else {
            // The hash of a byte string depends on its length.
            let digest = self.sip.hash(field).as_bytes();
            self.gather(DIGESTED_FIELD, &digest);
        }
        self
    }

    /// Returns the key of the fields.
    #[inline]
    pub fn finish(&self) -> StoreKey {
        StoreKey(self.sip.hash(&self.gathered[..self.len]).as_bytes())
    }

    #[inline]
    fn gather(&mut self, kind: u8, bytes: &[u8]) {
        if self.len + 1 + bytes.len() > GATHERED_MAX {
            self.digest_start();
        }
        self.gathered[self.len] = kind;
        let start = self.len + 1;
        self.len = start + bytes.len();
        self.gathered[start..self.len].copy_from_slice(bytes);
    }

    #[cold]
    fn digest_start(&mut self) {
        let digest = self.finish();
        self.gathered[0] = DIGESTED_START;
        self.len = 1 + digest.0.len();
        self.gathered[1..self.len].copy_from_slice(&digest.0);
    }
}

impl fmt::Debug for ShortKeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortKeyWriter")
    }
}
