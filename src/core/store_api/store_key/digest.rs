//! Store keys.

use std::fmt;

/// A mark that replaces a length. The digest of a longer field, including the length of that field,
/// follows.
pub(super) const DIGESTED_FIELD: u8 = 0xff;

/// A mark that replaces a length. The digest of all previous bytes follows.
pub(super) const DIGESTED_START: u8 = 0xfe;

/// A 128-bit store key: a keyed digest that does not reveal its input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey(pub(super) [u8; 16]);

impl StoreKey {
    /// Creates a key from bytes that [`StoreKey::as_bytes`] returned.
    pub fn from_bytes(digest: [u8; 16]) -> Self {
        Self(digest)
    }

    /// Returns the digest, for use as a name in a store.
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
    /// Formats the digest as 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// A 256-bit store key: a keyed digest that does not reveal its input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongStoreKey(pub(super) [u8; 32]);

impl LongStoreKey {
    /// Returns the digest, for use as a name in a store.
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
    /// Formats the digest as 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
