//! The MAC of two digests, used for cache keys.

use sha2::block_api::compress256;

use super::mac::{BLOCK_BYTES, BlockMac, to_bytes};

impl BlockMac {
    /// Returns the digest of two digests, which fill one block without an end mark. The key of this
    /// MAC must have no other use.
    #[inline]
    pub(crate) fn digest_of_two(&self, one: &[u8; 32], two: &[u8; 32]) -> [u8; 32] {
        let mut block = [0; BLOCK_BYTES];
        block[..32].copy_from_slice(one);
        block[32..].copy_from_slice(two);
        let mut state = self.state;
        compress256(&mut state, &[block]);
        to_bytes(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_pairs_have_distinct_digests() {
        let mac = BlockMac::new(&[7; 32]);
        let digests = [
            mac.digest_of_two(&[0; 32], &[1; 32]),
            mac.digest_of_two(&[1; 32], &[0; 32]),
            mac.digest_of_two(&[0; 32], &[0; 32]),
            BlockMac::new(&[8; 32]).digest_of_two(&[0; 32], &[1; 32]),
        ];
        for (at, one) in digests.iter().enumerate() {
            assert!(!digests[at + 1..].contains(one), "{at}");
        }
    }
}
