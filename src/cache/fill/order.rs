//! The order of responses: one whose body completes late does not replace a newer one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{cache::http::vary::VariantId, core::store_api::store_key::LongStoreKey};

/// The number of slots for cache keys and variants. They take 16 KiB.
const PLACES: usize = 2_048;
const NUMBER: u64 = u32::MAX as u64;
/// Distinguishes the mark of a stored key from that of a response.
const STORED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers the responses, and records the newest completed response of each cache key, in a table
/// of fixed size. A key whose slot was taken by another key counts as a key without a completed
/// response.
pub(crate) struct Order {
    next: AtomicU64,
    places: Box<[AtomicU64]>,
}

/// A moment in the order of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// A response of a cache key and variant, by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillOrdinal {
    key: u64,
    variant: u64,
    moment: Moment,
}

/// A digest and a number, with the index of their slot.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: usize,
    bits: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Order {
    /// Returns the current moment. It is later than each response that has a number.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        Moment(self.next.load(Ordering::Acquire) & NUMBER)
    }

    /// Numbers a response whose head has arrived. `variant` is present if the response varies.
    pub(crate) fn begin(&self, key: &LongStoreKey, variant: Option<&VariantId>) -> FillOrdinal {
        let variant = variant.map_or(0, |variant| word(variant.as_bytes()));
        let key = word(key.as_bytes());
        FillOrdinal {
            key,
            variant: key ^ variant,
            moment: self.advance(),
        }
    }

    fn advance(&self) -> Moment {
        Moment(self.next.fetch_add(1, Ordering::AcqRel) & NUMBER)
    }

    /// Records that a response is complete and is about to be stored. Returns `false` if a newer
    /// one of its variant has completed, or if a newer one of its key is not stored.
    pub(crate) fn complete(&self, turn: FillOrdinal) -> bool {
        let is_newest = !self.is_refused(turn) && self.note(Mark::new(turn.variant, turn.moment));
        if is_newest {
            self.note_stored(turn.key);
        }
        is_newest
    }

    /// Records that a stored response of the key was confirmed, and is about to be updated.
    pub(crate) fn confirm(&self, key: &LongStoreKey) {
        self.note_stored(word(key.as_bytes()));
    }

    fn note_stored(&self, key: u64) {
        self.note(Mark::new(key ^ STORED, self.advance()));
    }

    /// Returns `true` if a newer response of the key is not stored.
    pub(crate) fn is_refused(&self, turn: FillOrdinal) -> bool {
        let refused = Mark::new(turn.key, turn.moment);
        refused.is_older(self.found(refused.at))
    }

    /// Records that a response is not stored. Older ones of its key are not stored either, whatever
    /// their variant.
    ///
    /// Returns `true` if an older response of the variant has been stored since this one started.
    pub(crate) fn refuse(&self, turn: FillOrdinal) -> bool {
        self.note(Mark::new(turn.key, turn.moment));
        let variant_mark = Mark::new(turn.variant, turn.moment);
        let stored = self.found(variant_mark.at);
        variant_mark.is_newer(stored) && self.stored_since(turn.key, turn.moment)
    }

    /// Records that the key has a response at this moment that is not stored.
    #[inline]
    pub(crate) fn refuse_before_now(&self, key: &LongStoreKey) {
        let mark = Mark::new(word(key.as_bytes()), self.now());
        // The common case: nothing has been stored since the last one.
        if self.found(mark.at) != mark.bits {
            self.note(mark);
        }
    }

    /// Returns `true` if a response of the key has been stored since that moment.
    #[inline]
    pub(crate) fn has_stored_since(&self, key: &LongStoreKey, since: Moment) -> bool {
        self.now() != since && self.stored_since(word(key.as_bytes()), since)
    }

    fn stored_since(&self, key: u64, since: Moment) -> bool {
        let since = Mark::new(key ^ STORED, since);
        let stored = self.found(since.at);
        stored == since.bits || since.is_older(stored)
    }

    fn found(&self, at: usize) -> u64 {
        self.places[at].load(Ordering::Acquire)
    }

    fn note(&self, mark: Mark) -> bool {
        let next = |found| (!mark.is_older(found)).then_some(mark.bits);
        self.places[mark.at]
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .is_ok()
    }
}

impl Mark {
    fn new(digest: u64, moment: Moment) -> Self {
        Self {
            at: usize::from(digest as u16) % PLACES,
            bits: (digest & !NUMBER) | moment.0,
        }
    }

    /// Returns `true` if the other mark has the same digest and a later number. Numbers wrap
    /// around.
    fn is_older(self, other: u64) -> bool {
        let ahead = (other as u32).wrapping_sub(self.bits as u32);
        (other ^ self.bits) & !NUMBER == 0 && ahead != 0 && ahead < u32::MAX / 2
    }

    /// Returns `true` if the other mark has the same digest and an earlier number.
    fn is_newer(self, other: u64) -> bool {
        (other ^ self.bits) & !NUMBER == 0 && other != self.bits && !self.is_older(other)
    }
}

fn word<const N: usize>(digest: &[u8; N]) -> u64 {
    let word = digest
        .first_chunk()
        .expect("a digest has at least 16 bytes");
    u64::from_le_bytes(*word)
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Order")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    fn key(name: u64) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("o");
        let mut key = space.long();
        key.field(&name.to_le_bytes());
        key.finish()
    }

    const VARIANTS: [u8; 2] = [7, 8];

    fn begin(order: &Order, variant: u8) -> FillOrdinal {
        order.begin(&key(1), Some(&VariantId::from_bytes([variant; 16])))
    }

    #[test]
    fn an_older_response_that_ends_later_is_refused() {
        let order = Order::default();
        for variant in [None, Some(VariantId::from_bytes([7; 16]))] {
            let [first, second, third] = [(); 3].map(|()| order.begin(&key(1), variant.as_ref()));
            assert!(order.complete(first) && order.complete(third));
            assert!(!order.complete(second) && order.complete(third));
        }
    }

    #[test]
    fn a_response_that_is_not_stored_comes_after_all_variants() {
        let order = Order::default();
        let first = VARIANTS.map(|variant| begin(&order, variant));
        order.refuse_before_now(&key(1));
        let second = VARIANTS.map(|variant| begin(&order, variant));
        assert!(!first.into_iter().any(|turn| order.complete(turn)));
        assert!(second.into_iter().all(|turn| order.complete(turn)));
    }

    #[test]
    fn other_keys_and_variants_do_not_count() {
        let order = Order::default();
        let [first, second] = VARIANTS.map(|variant| begin(&order, variant));
        assert!(order.complete(second));
        for name in 2..9_000 {
            order.refuse_before_now(&key(name));
        }
        assert!(order.complete(first));
    }

    #[test]
    fn a_response_that_is_stored_or_confirmed_since_a_moment_is_known() {
        let order = Order::default();
        let [before, other] = [(); 2].map(|()| order.now());
        assert!(order.complete(begin(&order, VARIANTS[0])));
        let between = order.now();
        assert!(order.has_stored_since(&key(1), before));
        assert!(!order.has_stored_since(&key(1), between));
        order.confirm(&key(1));
        assert!(order.has_stored_since(&key(1), between));
        assert!(!order.has_stored_since(&key(1), order.now()));
        assert!(!order.has_stored_since(&key(2), other));
    }

    #[test]
    fn a_refused_response_knows_of_an_older_one_of_its_variant_stored_meanwhile() {
        for (stored, is_known) in [(0, true), (1, false)] {
            let order = Order::default();
            let older = begin(&order, VARIANTS[stored]);
            let newer = begin(&order, VARIANTS[0]);
            assert!(order.complete(older));
            assert_eq!(order.refuse(newer), is_known);
            assert!(order.is_refused(older) && !order.is_refused(newer));
        }
    }

    #[test]
    fn numbers_wrap_around() {
        let order = Order::default();
        order.next.store(NUMBER, Ordering::Relaxed);
        let [first, second] = [(); 2].map(|()| order.begin(&key(1), None));
        assert!(order.complete(second) && !order.complete(first));
    }
}
