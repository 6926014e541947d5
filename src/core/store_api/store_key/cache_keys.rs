//! The keys that the cache derives from other keys.

use super::{
    digest::{LongStoreKey, StoreKey},
    keys::KeySpace,
};

impl KeySpace {
    /// Returns the key of a key and a digest.
    #[inline]
    pub(crate) fn long_of_two(&self, key: &LongStoreKey, digest: &[u8; 32]) -> LongStoreKey {
        LongStoreKey(self.pair.digest_of_two(&key.0, digest))
    }
}

impl LongStoreKey {
    /// Returns the first half, which is also a digest of the input.
    #[inline]
    pub(crate) fn first_half(&self) -> StoreKey {
        let half = self.0.first_chunk();
        StoreKey(*half.expect("a digest has 32 bytes"))
    }

    /// Returns a different key for each mark. It does not collide with other keys: an input whose
    /// digest differs in only one byte cannot be found.
    #[inline]
    pub(crate) fn marked(mut self, mark: u8) -> Self {
        self.0[31] ^= mark;
        self
    }
}
