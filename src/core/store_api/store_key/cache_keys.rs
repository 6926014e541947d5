//! The keys that the cache makes of other keys.

use super::{
    digest::{LongStoreKey, StoreKey},
    keys::KeySpace,
};

impl KeySpace {
    /// Returns the key of a key and a digest.
    #[inline]
    pub(crate) fn long_of_two(&self, key: &LongStoreKey, digest: &[u8; 32]) -> LongStoreKey {
        LongStoreKey(self.of_two.digest_of_two(&key.0, digest))
    }
}

impl LongStoreKey {
    /// Returns the first half, which is as good a digest of what this is one of.
    #[inline]
    pub(crate) fn first_half(&self) -> StoreKey {
        let half = self.0.first_chunk();
        StoreKey(*half.expect("a digest has 32 bytes"))
    }

    /// Returns another key for each mark. None of them is that of anything else: what is a digest but
    /// for one byte is no digest of anything that could be found.
    #[inline]
    pub(crate) fn marked(mut self, mark: u8) -> Self {
        self.0[31] ^= mark;
        self
    }
}
