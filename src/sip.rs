//! SipHash-1-3 with a result of 128 bits, of bytes that lie in one piece.
//!
//! This is Aumasson's and Bernstein's function as it stands in their reference code, with one round
//! for each word and three at the end. It has two forms:
//!
//! - [`Sip::published`] is theirs: three rounds more at the end make the second half. It digests
//!   what leaves the process, as the names of keys on a server do.
//! - [`Sip::folded`] leaves those rounds out, which for short keys are a fifth of all, and folds the
//!   four words of the final state into two instead. It digests what stays in this process: its
//!   results are compared with one another and shown to nobody, so there is nothing to run backwards
//!   or to foretell from. The two halves xored are the published result of 64 bits. So whoever finds
//!   two inputs that collide here has found two that collide there, under a key that is drawn anew in
//!   each process.
//!
//! Keys are short, so what a hasher that is fed in pieces spends on its buffer would be half of all.

/// A secret key, ready to hash by.
#[derive(Clone, Copy)]
pub(crate) struct Sip {
    start: State,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Published,
    Folded,
}

#[derive(Clone, Copy)]
struct State([u64; 4]);

impl Sip {
    /// Hashes as others do who know the key: for what leaves this process.
    pub(crate) fn published(key: &[u8; 16]) -> Self {
        let mut start = State::keyed(key);
        start.0[1] ^= 0xee;
        Self {
            start,
            form: Form::Published,
        }
    }

    /// Hashes in less time: for what is never shown to anybody.
    pub(crate) fn folded(key: &[u8; 16]) -> Self {
        Self {
            start: State::keyed(key),
            form: Form::Folded,
        }
    }

    /// Returns whether the hash is of the form that stays in this process.
    pub(crate) fn is_folded(&self) -> bool {
        self.form == Form::Folded
    }

    /// Returns the same form under another key.
    pub(crate) fn with_key(&self, key: &[u8; 16]) -> Self {
        match self.form {
            Form::Published => Self::published(key),
            Form::Folded => Self::folded(key),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, bytes: &[u8]) -> [u8; 16] {
        let mut state = self.start;
        let (words, _) = bytes.as_chunks();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        self.finish(state, last_word(bytes))
    }

    /// Hashes so few bytes that they are less than a word: the same, and sooner.
    #[inline(always)]
    pub(crate) fn hash_few<const N: usize>(&self, bytes: [u8; N]) -> [u8; 16] {
        const { assert!(N < 8) };
        let mut word = [0; 8];
        word[..N].copy_from_slice(&bytes);
        word[7] = N as u8;
        self.finish(self.start, u64::from_le_bytes(word))
    }

    // Where it is called, so that the state stays in registers.
    #[inline(always)]
    fn finish(&self, mut state: State, last_word: u64) -> [u8; 16] {
        state.absorb(last_word);
        match self.form {
            Form::Published => state.finish(),
            Form::Folded => state.fold(),
        }
    }
}

impl State {
    fn keyed(key: &[u8; 16]) -> Self {
        let [one, two] = halves(key);
        Self([
            one ^ 0x736f_6d65_7073_6575,
            two ^ 0x646f_7261_6e64_6f6d,
            one ^ 0x6c79_6765_6e65_7261,
            two ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    // Beside a server's round trip this is nothing: it makes the other form no larger.
    #[inline(never)]
    fn finish(mut self) -> [u8; 16] {
        self.0[2] ^= 0xee;
        let one = self.three_rounds();
        self.0[1] ^= 0xdd;
        let two = self.three_rounds();
        joined(one, two)
    }

    #[inline(always)]
    fn fold(mut self) -> [u8; 16] {
        self.0[2] ^= 0xff;
        self.three_rounds();
        let [a, b, c, d] = self.0;
        joined(a ^ b, c ^ d)
    }

    #[inline(always)]
    fn three_rounds(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
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

#[inline(always)]
fn joined(low: u64, high: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::{collection::vec, prelude::*};
    use siphasher::{
        sip,
        sip128::{self, Hasher128},
    };

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn what_leaves_the_process_is_the_hash_of_another_implementation(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 0..100),
        ) {
            let mut theirs = sip128::SipHasher13::new_with_key(&key);
            theirs.write(&bytes);
            prop_assert_eq!(Sip::published(&key).hash(&bytes), theirs.finish128().as_bytes());
        }

        #[test]
        fn the_halves_folded_are_the_short_hash_of_another_implementation(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 0..100),
        ) {
            let mut theirs = sip::SipHasher13::new_with_key(&key);
            theirs.write(&bytes);
            let [one, two] = halves(&Sip::folded(&key).hash(&bytes));
            prop_assert_eq!(one ^ two, theirs.finish());
        }

        #[test]
        fn a_few_bytes_have_the_hash_that_they_have_among_others(
            key in any::<[u8; 16]>(),
            bytes in any::<[u8; 5]>(),
        ) {
            for sip in [Sip::folded(&key), Sip::published(&key)] {
                prop_assert_eq!(sip.hash_few(bytes), sip.hash(&bytes));
            }
        }

        #[test]
        fn each_half_alone_differs_where_one_bit_does(
            key in any::<[u8; 16]>(),
            bytes in vec(any::<u8>(), 1..100),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let (sip, at) = (Sip::folded(&key), at.index(bytes.len()));
            let mut other = bytes.clone();
            other[at] ^= 1_u8 << bit;
            let (these, those) = (halves(&sip.hash(&bytes)), halves(&sip.hash(&other)));
            prop_assert_ne!(these[0], those[0]);
            prop_assert_ne!(these[1], those[1]);
        }
    }
}
