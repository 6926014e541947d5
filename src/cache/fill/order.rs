//! The order of responses: one whose body completes late does not replace a newer one.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use smallvec::SmallVec;

use crate::{
    cache::http::vary::{VariantId, VarySpec},
    core::store_api::store_key::LongStoreKey,
};

/// The number of slots for the changes of the store. They take 16 KiB.
const SLOTS: usize = 2_048;
/// The number of maps of fills. A lock of one does not block the others.
const SHARDS: usize = 16;

/// Orders the responses that are being stored, and records the changes of the store.
///
/// A fill is registered from the arrival of its head until it is stored or given up. So there are
/// no more registered fills than requests, and none of them is discarded.
pub(crate) struct Order {
    /// The number of changes of the store so far.
    now: AtomicU64,
    /// The moment of the last change of each key. Keys share slots, so a change can also be that of
    /// another key.
    changed: Box<[AtomicU64]>,
    /// The number of fills so far.
    begun: AtomicU64,
    /// The registered fills.
    fills: [Mutex<FillsByKey>; SHARDS],
    /// Their number. No lock is taken while it is zero.
    open: AtomicUsize,
}

/// The fills of each cache key.
type FillsByKey = HashMap<LongStoreKey, SmallVec<[Arc<FillState>; 1]>>;

/// A moment in the order of the changes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// The requests for which a response can be served from the store.
#[derive(Clone, Debug)]
pub(crate) struct Coverage {
    pub(crate) key: LongStoreKey,
    /// The key of the other partition that the same requests look up.
    pub(crate) other_key: Option<LongStoreKey>,
    /// `true` if a response in the shared partition is for identified callers, too.
    pub(crate) says_shared: bool,
    pub(crate) vary: VarySpec,
    pub(crate) variant: VariantId,
}

/// A registered fill. Dropping it ends the registration.
#[derive(Debug)]
pub(crate) struct FillTurn {
    order: Arc<Order>,
    state: Arc<FillState>,
}

/// The state of a fill in the order of responses.
#[derive(Debug)]
pub(crate) struct FillState {
    covers: Coverage,
    number: u64,
    flags: AtomicU8,
}

/// A newer response for the same requests is stored under the key, or confirmed.
const SUPERSEDED: u8 = 1;
/// A newer response for the same requests is not stored under the key.
const REFUSED: u8 = 1 << 1;
/// An older response for the same requests has been stored since this one began.
const OLDER_STORED: u8 = 1 << 2;
/// The response itself is about to be stored.
const COMPLETE: u8 = 1 << 3;

/// A change of an entry in the store. It is noted at its start and at its end: a lookup in between
/// may not see it.
#[derive(Debug)]
pub(crate) struct StoreChange {
    order: Arc<Order>,
    key: LongStoreKey,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            now: AtomicU64::new(0),
            changed: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            begun: AtomicU64::new(0),
            fills: Default::default(),
            open: AtomicUsize::new(0),
        }
    }
}

impl Order {
    /// Returns the current moment.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::Acquire))
    }

    /// Registers a response whose head has arrived.
    pub(crate) fn begin(self: &Arc<Self>, covers: Coverage) -> FillTurn {
        self.open.fetch_add(1, Ordering::AcqRel);
        let mut fills = self.lock(&covers.key);
        let state = Arc::new(FillState {
            number: self.begun.fetch_add(1, Ordering::AcqRel),
            covers,
            flags: AtomicU8::new(0),
        });
        let fills_for_key = fills.entry(state.covers.key).or_default();
        fills_for_key.push(Arc::clone(&state));
        FillTurn {
            order: Arc::clone(self),
            state,
        }
    }

    /// Records that a stored response is confirmed, and is about to be updated. Older responses
    /// are not stored in its place.
    pub(crate) fn confirm(self: &Arc<Self>, covers: &Coverage) -> StoreChange {
        self.each(covers, |fill| {
            if fill.covers.overlaps(covers) {
                fill.overtake_by(covers);
            }
        });
        self.note_change(&covers.key);
        StoreChange {
            order: Arc::clone(self),
            key: covers.key,
        }
    }

    /// Records that the key has a response at this moment that is not stored. Older ones are not
    /// stored either, whatever their variant.
    #[inline]
    pub(crate) fn refuse_before_now(&self, key: &LongStoreKey) {
        self.each_of(key, |fill| fill.set(REFUSED));
    }

    /// Returns `true` if an entry of the key may have been stored or updated since that moment.
    #[inline]
    pub(crate) fn may_have_changed_since(&self, key: &LongStoreKey, since: Moment) -> bool {
        let last = || self.changed[slot(key)].load(Ordering::Acquire);
        self.now() != since && last() > since.0
    }

    fn note_change(&self, key: &LongStoreKey) {
        let moment = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed[slot(key)].fetch_max(moment, Ordering::AcqRel);
    }

    /// Calls a function with each registered fill of the key, and of the other key if there are
    /// callers that can be served from both partitions.
    fn each(&self, covers: &Coverage, mut call: impl FnMut(&FillState)) {
        self.each_of(&covers.key, &mut call);
        if let Some(other_key) = &covers.other_key {
            self.each_of(other_key, |fill| {
                if fill.covers.says_shared || covers.says_shared {
                    call(fill);
                }
            });
        }
    }

    fn each_of(&self, key: &LongStoreKey, call: impl FnMut(&FillState)) {
        if self.open.load(Ordering::Acquire) == 0 {
            return;
        }
        let fills = self.lock(key);
        let fills_for_key = fills.get(key).into_iter().flatten();
        fills_for_key.map(|fill| &**fill).for_each(call);
    }

    fn lock(&self, key: &LongStoreKey) -> MutexGuard<'_, FillsByKey> {
        let at = usize::from(key.as_bytes()[2]) % SHARDS;
        // No user code runs under the lock, and each holder leaves a consistent state.
        self.fills[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coverage {
    /// Returns `true` if there may be a request that both can be served for. Responses that vary by
    /// the same fields are for the same requests or for none.
    fn overlaps(&self, other: &Self) -> bool {
        self.variant == other.variant || self.vary != other.vary
    }
}

impl FillTurn {
    /// Records that the response is complete and is about to be stored. Returns `false` if a newer
    /// one for the same requests has been stored, or if a newer one of its key is not stored.
    pub(crate) fn complete(&self) -> bool {
        let own = &*self.state;
        if own.is_overtaken() {
            return false;
        }
        own.set(COMPLETE);
        self.order.each(&own.covers, |fill| {
            if fill.number == own.number || !fill.covers.overlaps(&own.covers) {
                return;
            }
            match fill.number < own.number {
                true => fill.overtake_by(&own.covers),
                false => fill.set(OLDER_STORED),
            }
        });
        self.order.note_change(&own.covers.key);
        // A newer one may have completed meanwhile on another thread.
        !own.is_overtaken()
    }

    /// Records that the response is not stored. Older ones of its keys are not stored either,
    /// whatever their variant.
    ///
    /// Returns `true` if an older response has been stored since this one began.
    pub(crate) fn refuse(&self) -> bool {
        let own = &*self.state;
        self.order.each(&own.covers, |fill| {
            if fill.number < own.number {
                fill.set(REFUSED);
            }
        });
        own.has(OLDER_STORED) && !own.has(SUPERSEDED)
    }

    /// Returns `true` if a newer response of the key is not stored.
    pub(crate) fn is_refused(&self) -> bool {
        self.state.has(REFUSED)
    }

    /// Returns the state of the fill, which outlives the registration.
    pub(crate) fn state(&self) -> &Arc<FillState> {
        &self.state
    }
}

impl Drop for FillTurn {
    fn drop(&mut self) {
        let key = &self.state.covers.key;
        if self.state.has(COMPLETE) {
            self.order.note_change(key);
        }
        let mut fills = self.order.lock(key);
        if let Some(fills_for_key) = fills.get_mut(key) {
            fills_for_key.retain(|fill| !Arc::ptr_eq(fill, &self.state));
            if fills_for_key.is_empty() {
                fills.remove(key);
            }
        }
        drop(fills);
        self.order.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl FillState {
    /// Returns `true` if a newer response for the same requests is stored, or if a newer one of the
    /// key is not stored.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.has(SUPERSEDED | REFUSED)
    }

    /// Records that a newer response is stored: in place of this one, or in the other partition.
    fn overtake_by(&self, newer: &Coverage) {
        self.set(match self.covers.key == newer.key {
            true => SUPERSEDED,
            false => REFUSED,
        });
    }

    fn has(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }
}

impl Drop for StoreChange {
    fn drop(&mut self) {
        self.order.note_change(&self.key);
    }
}

fn slot(key: &LongStoreKey) -> usize {
    let [first, second, ..] = *key.as_bytes();
    usize::from(u16::from_le_bytes([first, second])) % SLOTS
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Order")
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, ACCEPT_LANGUAGE};

    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    fn key(name: u64) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("o");
        let mut key = space.long();
        key.field(&name.to_le_bytes());
        key.finish()
    }

    fn of(name: u64, variant: u8) -> Coverage {
        Coverage {
            key: key(name),
            other_key: None,
            says_shared: false,
            vary: VarySpec::from_names(vec![ACCEPT]).unwrap(),
            variant: VariantId::from_bytes([variant; 16]),
        }
    }

    fn order() -> Arc<Order> {
        Arc::default()
    }

    #[test]
    fn an_older_response_that_ends_later_is_refused() {
        let order = order();
        let [first, second, third] = [(); 3].map(|()| order.begin(of(1, 7)));
        assert!(first.complete() && third.complete());
        assert!(second.state().is_overtaken() && !third.state().is_overtaken());
        assert!(!second.complete() && third.complete());
    }

    #[test]
    fn open_fill_stays_registered_while_thousands_of_others_end() {
        let order = order();
        let older = order.begin(of(1, 7));
        let newer = order.begin(of(1, 7));
        assert!(newer.complete());
        let refused = order.begin(of(2, 7));
        order.refuse_before_now(&key(2));
        drop(newer);
        for name in 3..9_000 {
            let other = order.begin(of(name, 7));
            order.refuse_before_now(&key(name + 9_000));
            assert!(other.complete() && !other.refuse());
        }
        assert!(!older.complete() && !refused.complete());
    }

    #[test]
    fn a_response_that_is_not_stored_comes_after_all_variants() {
        let order = order();
        let first = [7, 8].map(|variant| order.begin(of(1, variant)));
        order.refuse_before_now(&key(1));
        let second = [7, 8].map(|variant| order.begin(of(1, variant)));
        assert!(!first.iter().any(FillTurn::complete));
        assert!(second.iter().all(FillTurn::complete));
    }

    #[test]
    fn other_keys_and_variants_do_not_count() {
        let order = order();
        let turns = [of(1, 7), of(1, 8), of(2, 7)].map(|covers| order.begin(covers));
        assert!(turns.iter().rev().all(FillTurn::complete));
    }

    #[test]
    fn responses_that_vary_by_other_fields_are_for_the_same_requests() {
        let order = order();
        let otherwise = |names| Coverage {
            vary: VarySpec::from_names(names).unwrap(),
            ..of(1, 9)
        };
        for names in [vec![], vec![ACCEPT_LANGUAGE]] {
            let turns = [of(1, 7), otherwise(names.clone()), of(1, 8)];
            let turns = turns.map(|covers| order.begin(covers));
            assert!(turns[1].complete() && turns[2].complete() && !turns[0].complete());
        }
    }

    #[test]
    fn the_other_partition_of_a_newer_response_counts() {
        let order = order();
        let anonymous = of(1, 7);
        let shared = Coverage {
            says_shared: true,
            ..anonymous.clone()
        };
        let own = of(2, 7);
        let by_caller = || Coverage {
            other_key: Some(key(1)),
            ..own.clone()
        };
        let turns = [order.begin(shared.clone()), order.begin(by_caller())];
        assert!(turns[1].complete() && !turns[0].complete());
        let turns = [order.begin(shared.clone()), order.begin(by_caller())];
        assert!(!turns[1].refuse() && !turns[0].complete());
        let turn = order.begin(shared.clone());
        drop(order.confirm(&by_caller()));
        assert!(!turn.complete());
        // An older one that is stored in place of the one that is given up is known.
        let turns = [shared.clone(), shared, by_caller()].map(|covers| order.begin(covers));
        assert!(turns[0].complete() && turns[2].complete());
        assert!(!turns[1].complete() && turns[1].refuse());
        // A response to an anonymous request is not for the caller.
        let turns = [order.begin(anonymous), order.begin(by_caller())];
        assert!(turns[1].complete() && turns[0].complete());
    }

    #[test]
    fn a_response_that_is_stored_or_confirmed_since_a_moment_is_known() {
        let order = order();
        let before = order.now();
        let turn = order.begin(of(1, 7));
        assert!(turn.complete());
        assert!(order.may_have_changed_since(&key(1), before));
        // It may not be seen before it is stored.
        let between = order.now();
        assert!(!order.may_have_changed_since(&key(1), between));
        drop(turn);
        assert!(order.may_have_changed_since(&key(1), between));
        let between = order.now();
        let change = order.confirm(&of(1, 7));
        assert!(order.may_have_changed_since(&key(1), between));
        let between = order.now();
        drop(change);
        assert!(order.may_have_changed_since(&key(1), between));
        assert!(!order.may_have_changed_since(&key(1), order.now()));
        assert!(!order.may_have_changed_since(&key(2), before));
    }

    #[test]
    fn a_refused_response_knows_of_an_older_one_of_its_variant_stored_meanwhile() {
        for (stored, is_known) in [(7, true), (8, false)] {
            let order = order();
            let older = order.begin(of(1, stored));
            let newer = order.begin(of(1, 7));
            assert!(older.complete());
            assert_eq!(newer.refuse(), is_known);
            assert!(older.is_refused() && !newer.is_refused());
        }
    }

    #[test]
    fn a_fill_that_ends_leaves_nothing() {
        let order = order();
        let turns: Vec<_> = (0..100).map(|name| order.begin(of(name / 2, 7))).collect();
        assert_eq!(order.open.load(Ordering::Relaxed), 100);
        drop(turns);
        assert_eq!(order.open.load(Ordering::Relaxed), 0);
        let mut fills = order.fills.iter();
        assert!(fills.all(|shard| shard.lock().unwrap().is_empty()));
    }
}
