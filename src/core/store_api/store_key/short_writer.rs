//! The writer of keys of 128 bits.

use std::fmt;

use siphasher::sip128::SipHasher13;

use super::digest::{DIGESTED_FIELD, DIGESTED_START, StoreKey};

/// Digests fields into a [`StoreKey`]. Each field is prefixed by its length, so that distinct
/// lists of fields are distinct inputs.
///
/// Short fields are gathered and digested at once; a long one stands there by its own digest, so
/// the writer has one size whatever a client sends.
pub struct ShortKeyWriter {
    sip: SipHasher13,
    gathered: [u8; GATHERED_MAX],
    len: usize,
}

/// The number of bytes that are gathered before they are digested.
const GATHERED_MAX: usize = 64;

/// The longest field that is gathered as it is, its length in the byte before it.
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
            // The hash is of a string with its length in it, and so of the length too.
            let digest = self.sip.hash(field).as_bytes();
            self.gather(DIGESTED_FIELD, &digest);
        }
        self
    }

    /// Returns the key of all fields added so far.
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
