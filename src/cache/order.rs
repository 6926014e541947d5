//! The order of responses: one whose body ends late does not replace a newer one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use super::vary::VariantId;
use crate::store_key::LongStoreKey;

/// The maximum number of cache keys and variants that are remembered, in 16 KiB.
const PLACES: usize = 2_048;
const NUMBER: u64 = u32::MAX as u64;

/// Numbers the responses, and remembers the newest one of a cache key that has ended, in a fixed table.
/// A key whose slot another one has taken counts as one without an ended response.
pub(super) struct Order {
    next: AtomicU64,
    places: Box<[AtomicU64]>,
}

/// A response of a cache key and variant, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    of_key: Mark,
    of_variant: Mark,
}

/// A digest and a number, and where they stand.
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
    /// Numbers a response whose head has come; `variant` is given where it varies.
    pub(super) fn begin(&self, key: &LongStoreKey, variant: Option<&VariantId>) -> Turn {
        let variant = variant.map_or(0, |variant| word(variant.as_bytes()));
        let number = self.next.fetch_add(1, Ordering::Relaxed) & NUMBER;
        let of_key = word(key.as_bytes());
        Turn {
            of_key: Mark::new(of_key, number),
            of_variant: Mark::new(of_key ^ variant, number),
        }
    }

    /// Notes that a response is complete. Returns false if a newer one of its variant was before, or a
    /// newer one that is not stored.
    pub(super) fn complete(&self, turn: Turn) -> bool {
        let of_key = self.places[turn.of_key.at].load(Ordering::Acquire);
        !turn.of_key.is_older(of_key) && self.note(turn.of_variant)
    }

    /// Notes that a response is not stored: those before it are not either, whatever their variant.
    pub(super) fn refuse(&self, turn: Turn) {
        self.note(turn.of_key);
    }

    fn note(&self, mark: Mark) -> bool {
        let next = |found| (!mark.is_older(found)).then_some(mark.bits);
        self.places[mark.at]
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .is_ok()
    }
}

impl Mark {
    fn new(digest: u64, number: u64) -> Self {
        Self {
            at: usize::from(digest as u16) % PLACES,
            bits: (digest & !NUMBER) | number,
        }
    }

    /// Returns whether the other one has the same digest, and a later number. Numbers wrap around.
    fn is_older(self, other: u64) -> bool {
        let ahead = (other as u32).wrapping_sub(self.bits as u32);
        (other ^ self.bits) & !NUMBER == 0 && ahead != 0 && ahead < u32::MAX / 2
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
    use crate::store_key::StoreKeys;

    fn key(name: u64) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("o");
        let mut key = space.long();
        key.field(&name.to_le_bytes());
        key.finish()
    }

    const VARIANTS: [u8; 2] = [7, 8];

    fn begin(order: &Order, variant: u8) -> Turn {
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
        order.refuse(order.begin(&key(1), None));
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
            order.refuse(order.begin(&key(name), None));
        }
        assert!(order.complete(first));
    }

    #[test]
    fn numbers_wrap_around() {
        let order = Order::default();
        order.next.store(NUMBER, Ordering::Relaxed);
        let [first, second] = [(); 2].map(|()| order.begin(&key(1), None));
        assert!(order.complete(second) && !order.complete(first));
    }
}
