//! SipHash-1-3 with a result of 128 bits, of bytes that lie in one piece.
//!
//! This is Aumasson's and Bernstein's function as it stands in their reference code, with one round
//! for each word and three at the end. Keys are short, so what a hasher that is fed in pieces spends
//! on its buffer would be half of all.

/// A secret key, ready to hash by.
#[derive(Clone, Copy)]
pub(crate) struct Sip {
    start: State,
}

#[derive(Clone, Copy)]
struct State([u64; 4]);

impl Sip {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let [one, two] = halves(key);
        Self {
            start: State([
                one ^ 0x736f_6d65_7073_6575,
                // The last byte tells the form of 128 bits from that of 64.
                two ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                one ^ 0x6c79_6765_6e65_7261,
                two ^ 0x7465_6462_7974_6573,
            ]),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, bytes: &[u8]) -> [u8; 16] {
        let mut state = self.start;
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            state.absorb(word_of(word));
        }
        state.absorb(last_word(bytes, words.remainder().len()));
        state.finish()
    }
}

impl State {
    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> [u8; 16] {
        self.0[2] ^= 0xee;
        let low = self.rounds_and_fold();
        self.0[1] ^= 0xdd;
        let high = self.rounds_and_fold();
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    #[inline(always)]
    fn rounds_and_fold(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.0.iter().fold(0, |folded, word| folded ^ word)
    }

    #[inline(always)]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32).wrapping_add(*d);
        *c = c.wrapping_add(*b);
        *d = d.rotate_left(21) ^ *a;
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }
}

/// Returns the bytes after the last whole word, and in the highest byte how many there are in all.
#[inline(always)]
fn last_word(bytes: &[u8], rest: usize) -> u64 {
    let tail = match bytes.last_chunk() {
        // The last eight, but for those that are in the word before.
        Some(last) if rest > 0 => u64::from_le_bytes(*last) >> (64 - 8 * rest),
        Some(_) => 0,
        None => {
            let little_endian = bytes.iter().rev();
            little_endian.fold(0, |word, byte| word << 8 | u64::from(*byte))
        }
    };
    (bytes.len() as u64) << 56 | tail
}

#[inline(always)]
fn word_of(chunk: &[u8]) -> u64 {
    u64::from_le_bytes(chunk.try_into().expect("a chunk of eight"))
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use siphasher::sip128::SipHasher13;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn the_hash_is_that_of_another_implementation(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 0..100),
        ) {
            let theirs = SipHasher13::new_with_key(&key).hash(&bytes).as_bytes();
            prop_assert_eq!(Sip::new(&key).hash(&bytes), theirs);
        }
    }
}
