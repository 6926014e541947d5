//! Cache keys that are derived from other keys.

use super::{
    digest::{LongStoreKey, StoreKey},
    keys::KeySpace,
};

impl KeySpace {
    /// Returns a key that is derived from a key and a digest.
    #[inline]
    pub(crate) fn long_of_two(&self, key: &LongStoreKey, digest: &[u8; 32]) -> LongStoreKey {
        LongStoreKey(self.pair.digest_of_two(&key.0, digest))
    }
}

impl LongStoreKey {
    /// Returns the first half of the key, which is also a digest of the input.
    #[inline]
    pub(crate) fn first_half(&self) -> StoreKey {
        let half = self.0.first_chunk();
        StoreKey(*half.expect("a digest has 32 bytes"))
    }

    /// Returns a different key for each mark. The result does not collide with other keys, because
    /// it is infeasible to find an input whose digest differs in only one byte.
    #[inline]
    pub(crate) fn marked(mut self, mark: u8) -> Self {
        self.0[31] ^= mark;
        self
    }
}
