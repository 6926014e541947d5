//! The writer for 256-bit keys.

use std::fmt;

use super::{
    digest::{DIGESTED_FIELD, DIGESTED_START, LongStoreKey},
    long_mac::LongMac,
};

/// A writer that digests fields into a [`LongStoreKey`]. Each field is prefixed with its length, so
/// distinct lists of fields are distinct inputs.
///
/// As in a [`ShortKeyWriter`](crate::store::backend::ShortKeyWriter), fields are collected and
/// digested together, and a long field is replaced by its digest.
pub struct LongKeyWriter<'a> {
    pub(super) mac: &'a LongMac,
    pub(super) gathered: [u8; LONG_GATHERED_MAX],
    pub(super) len: usize,
}

/// The number of bytes that are collected for a long key before they are digested.
pub(super) const LONG_GATHERED_MAX: usize = 192;

/// The maximum length of a field in a long key that is not replaced by its digest.
const LONG_PLAIN_FIELD_MAX: usize = 128;

impl LongKeyWriter<'_> {
    /// Adds a field.
    #[inline]
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() <= LONG_PLAIN_FIELD_MAX {
            self.gather(field.len() as u8, field);
        } else {
            let digest = self.mac.digest(field);
            self.gather(DIGESTED_FIELD, &digest);
        }
        self
    }

    /// Adds a field after converting it to lowercase.
    pub fn lowercase_field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() > LONG_PLAIN_FIELD_MAX {
            return self.field(&field.to_ascii_lowercase());
        }
        self.field(field);
        let start = self.len - field.len();
        // Whole blocks are faster than an odd number of bytes. The bytes after the field are
        // overwritten before they are digested.
        let end = LONG_GATHERED_MAX.min(start + field.len().next_multiple_of(16));
        self.gathered[start..end].make_ascii_lowercase();
        self
    }

    /// Returns the key of the fields.
    #[inline]
    pub fn finish(&self) -> LongStoreKey {
        LongStoreKey(self.mac.digest(&self.gathered[..self.len]))
    }

    #[inline]
    fn gather(&mut self, kind: u8, bytes: &[u8]) {
        if self.len + 1 + bytes.len() > LONG_GATHERED_MAX {
            self.digest_start();
        }
        self.gathered[self.len] = kind;
        let start = self.len + 1;
        self.len = start + bytes.len();
        self.gathered[start..self.len].copy_from_slice(bytes);
    }

    #[cold]
    fn digest_start(&mut self) {
        let digest = self.mac.digest(&self.gathered[..self.len]);
        self.gathered[0] = DIGESTED_START;
        self.len = 1 + digest.len();
        self.gathered[1..self.len].copy_from_slice(&digest);
    }
}

impl fmt::Debug for LongKeyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongKeyWriter")
    }
}
