//! HMAC-SHA-256 (RFC 2104) of bytes that lie in one piece.
//!
//! What is digested on every request is short, so what a hasher that is fed in pieces spends on its
//! buffers would be more than what it spends on the digest.

use sha2::block_api::compress256;

/// A secret key, ready to digest by.
#[derive(Clone, Copy)]
pub(crate) struct Mac {
    inner: [u32; 8],
    outer: [u32; 8],
}

/// What SHA-256 begins with (FIPS 180-4 section 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

const BLOCK_BYTES: usize = 64;

impl Mac {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let after = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            for (byte, key) in block.iter_mut().zip(key) {
                *byte ^= key;
            }
            let mut state = START;
            compress256(&mut state, &[block]);
            state
        };
        Self {
            inner: after(0x36),
            outer: after(0x5c),
        }
    }

    pub(crate) fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        after_key(self.outer, &after_key(self.inner, bytes))
    }
}

/// Goes on, from the state after the block of the key, with these bytes to the end.
#[inline]
fn after_key(mut state: [u32; 8], bytes: &[u8]) -> [u8; 32] {
    let (whole, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    if !whole.is_empty() {
        compress256(&mut state, whole);
    }
    let mut last = [[0; BLOCK_BYTES]; 2];
    let flat = last.as_flattened_mut();
    flat[..rest.len()].copy_from_slice(rest);
    flat[rest.len()] = 0x80;
    // The mark of the end and the length of all stand behind the bytes, in as many blocks as it takes.
    let blocks = if rest.len() + 9 <= BLOCK_BYTES { 1 } else { 2 };
    let bits = (BLOCK_BYTES + bytes.len()) as u64 * 8;
    flat[blocks * BLOCK_BYTES - 8..blocks * BLOCK_BYTES].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut state, &last[..blocks]);
    to_bytes(state)
}

/// A secret key for what fits into one block.
///
/// HMAC rests on this: that SHA-256's compression of a block, begun with a secret state, cannot be
/// told from a random function of the block. Here that is all there is to it. A block is the bytes and
/// a mark of their end, so no two inputs are one block; and no input has a second block, so nobody
/// goes on from a digest to that of a longer input.
#[derive(Clone, Copy)]
pub(crate) struct BlockMac {
    state: [u32; 8],
}

impl BlockMac {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let mut state = [0; 8];
        for (word, bytes) in state.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        Self { state }
    }

    /// Returns the digest of two digests, which are one block without any mark: a key for this is one
    /// for nothing else.
    #[inline]
    pub(crate) fn digest_of_two(&self, one: &[u8; 32], two: &[u8; 32]) -> [u8; 32] {
        let mut block = [0; BLOCK_BYTES];
        block[..32].copy_from_slice(one);
        block[32..].copy_from_slice(two);
        let mut state = self.state;
        compress256(&mut state, &[block]);
        to_bytes(state)
    }

    /// Returns the digest of up to 63 bytes; of more, none.
    #[inline]
    pub(crate) fn digest(&self, bytes: &[u8]) -> Option<[u8; 32]> {
        let mut block = [0; BLOCK_BYTES];
        block.get_mut(..bytes.len())?.copy_from_slice(bytes);
        *block.get_mut(bytes.len())? = 0x80;
        let mut state = self.state;
        compress256(&mut state, &[block]);
        Some(to_bytes(state))
    }
}

fn to_bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac as _};
    use sha2::Sha256;

    use super::*;

    #[test]
    fn the_digest_is_the_one_of_the_standard_at_any_length() {
        let key = [0xa5; 32];
        let bytes: Vec<u8> = (0..400).map(|at| (at * 7) as u8).collect();
        for len in 0..bytes.len() {
            let mut known = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            known.update(&bytes[..len]);
            let known: [u8; 32] = known.finalize().into_bytes().into();
            assert_eq!(Mac::new(&key).digest(&bytes[..len]), known, "{len}");
        }
    }

    /// SHA-256 begins with a state that is known, and ends its first block with the length.
    #[test]
    fn a_block_that_is_begun_as_the_standard_begins_ends_as_the_standard_does() {
        use sha2::Digest;

        let start: Vec<u8> = START.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mac = BlockMac::new(start.first_chunk().unwrap());
        let empty: [u8; 32] = Sha256::digest(b"").into();
        assert_eq!(mac.digest(b""), Some(empty));
        assert_eq!(mac.digest(&[0; 64]), None);
    }

    #[test]
    fn two_digests_have_one_of_their_own() {
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

    #[test]
    fn each_input_of_one_block_has_a_digest_of_its_own() {
        let mac = BlockMac::new(&[7; 32]);
        let mut digests: Vec<_> = (0..64).map(|len| mac.digest(&[0; 64][..len])).collect();
        digests.extend((0..64).map(|len| mac.digest(&[0x80; 64][..len])));
        digests.extend((1..63).map(|len| BlockMac::new(&[8; 32]).digest(&[0; 64][..len])));
        assert!(digests.iter().all(Option::is_some));
        let all = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all - 1, "the empty one is there twice");
    }
}
