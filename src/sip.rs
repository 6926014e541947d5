//! SipHash-1-3 with a result of 128 bits, of bytes that lie in one piece.
//!
//! This is Aumasson's and Bernstein's function as it stands in their reference code, with one round
//! for each word and three at the end, but for the last step: the four words of the final state are
//! folded into two instead of one. The two xored are the 64 bits of the reference, and half of the
//! state stays hidden as a lock against who would run it backwards. Their own form of 128 bits runs
//! three rounds more for the second half, which for short keys is a third of all; it is meant for
//! results that are shown to an attacker, and nobody is shown these.
//!
//! Keys are short, so what a hasher that is fed in pieces spends on its buffer would be half of all.

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
                two ^ 0x646f_7261_6e64_6f6d,
                one ^ 0x6c79_6765_6e65_7261,
                two ^ 0x7465_6462_7974_6573,
            ]),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, bytes: &[u8]) -> [u8; 16] {
        let mut state = self.start;
        let (words, _) = bytes.as_chunks();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        state.absorb(last_word(bytes));
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
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        let [a, b, c, d] = self.0;
        (u128::from(c ^ d) << 64 | u128::from(a ^ b)).to_le_bytes()
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
fn last_word(bytes: &[u8]) -> u64 {
    let rest = bytes.len() % 8;
    let tail = match (bytes.last_chunk(), bytes.first_chunk(), bytes.last_chunk()) {
        _ if rest == 0 => 0,
        // The last eight, but for those that are in the word before.
        (Some(last), _, _) => u64::from_le_bytes(*last) >> (64 - 8 * rest),
        // The first four and the last four: where they overlap they are the same bytes.
        (_, Some(first), Some(last)) => {
            let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
            first | last << (8 * (rest - 4))
        }
        _ => {
            let at = |at: usize| u64::from(bytes[at]) << (8 * at);
            at(0) | at(rest / 2) | at(rest - 1)
        }
    };
    (bytes.len() as u64) << 56 | tail
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::{collection::vec, prelude::*};
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn the_halves_together_are_the_hash_of_another_implementation(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 0..100),
        ) {
            let mut theirs = SipHasher13::new_with_key(&key);
            theirs.write(&bytes);
            let [one, two] = halves(&Sip::new(&key).hash(&bytes));
            prop_assert_eq!(one ^ two, theirs.finish());
        }

        #[test]
        fn each_half_alone_differs_where_one_bit_does(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 1..100),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let (sip, at) = (Sip::new(&key), at.index(bytes.len()));
            let mut other = bytes.clone();
            other[at] ^= 1_u8 << bit;
            let (these, those) = (halves(&sip.hash(&bytes)), halves(&sip.hash(&other)));
            prop_assert_ne!(these[0], those[0]);
            prop_assert_ne!(these[1], those[1]);
        }
    }
}
