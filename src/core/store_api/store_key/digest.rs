//! The keys of stores: digests.

use std::fmt;

/// In place of a length: what follows is the digest of a longer field, and of its length.
pub(super) const DIGESTED_FIELD: u8 = 0xff;

/// In place of a length: what follows is the digest of all that was gathered before.
pub(super) const DIGESTED_START: u8 = 0xfe;

/// A store's key of 128 bits: a keyed digest, which tells nothing of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey(pub(super) [u8; 16]);

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
pub struct LongStoreKey(pub(super) [u8; 32]);

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

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
