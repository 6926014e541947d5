//! A table of fixed size that a flood of new keys cannot make forget an old one.
//!
//! It is an array of slots, in groups. A key has a group, and may stand in any slot of it; it is
//! known there by 64 bits of its keyed digest, and by its group. A slot holds the three words of a
//! state, and a state that is over is the same as none: its slot is free for another key.
//!
//! A key stands in the first slot from its own that was free when it came, so most are found in the
//! first few. Beyond those a group's tags are read instead of its slots, one byte of each slot's
//! fingerprint and all in two cache lines: so a key that is not there costs little even in a group
//! that was full once.
//!
//! Keys are spread over all groups, and a page of memory for each of few keys would cost more than all
//! else here. So until there are many, all stand in a few groups beside those, the compact ones. Once
//! a compact group has no free slot, keys go to the groups of their own: new ones at once, and those
//! that stand in a compact one when they are asked for next.
//!
//! What is known is found without a lock, and changed under a lock of its own, one bit of the
//! state's first word. A new key takes a slot under the lock of its group, in which it looks again
//! first: so no two tasks ever take two slots for one key, or one slot for two keys.
//!
//! Where all slots of a group are alive, a new key goes to a shared slot, of which each policy has
//! [`SHARED_PER_GROUP`] in each shared group: it counts together with all that are sent there. When
//! a slot of its own becomes free, it takes what the shared one has counted along. So a key in
//! excess may be counted too high, and none is ever counted too low. If `n` requests of such keys
//! come in one window and there are `w` shared slots, one of them finds its limit `l` spent with
//! the probability that a Poisson variable of mean `n / w` is at least `l`.
//!
//! Locks are taken in this order: groups ascending, then slots ascending. Who holds a slot never
//! waits for a group.
//!
//! `tests/interleavings.rs` runs this file with other words for its atomics, and tries all orders in
//! which few tasks may meet.

use std::{mem, sync::PoisonError};

use smallvec::SmallVec;

use super::seam::{
    AtomicBool, AtomicU64, COMPACT_GROUPS, GROUP, Mutex, MutexGuard, Ordering, spin_loop, yield_now,
};
use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    rate_limit::State,
};

/// So many slots from a key's own are looked at before the tags are.
const NEAR: usize = 4;

/// The tags that stand in one word.
const TAGS_PER_WORD: usize = 8;

/// As many keys of its own are reckoned for a group, so that chance rarely fills one before all.
const KEYS_PER_GROUP: usize = 100;

/// One shared group is made for so many of the others.
const GROUPS_PER_SHARED: usize = 16;

/// The shared slots of a policy in each shared group.
const SHARED_PER_GROUP: u64 = 16;

/// What stands in a slot of a compact group in place of the key that has left it: nobody's, or that of
/// a key that does not mind.
const LEFT: u64 = 1;

/// The bit of a state's first word by which its slot is locked. No moment reaches it: that would
/// be in the year 294 000.
const LOCKED: u64 = 1 << 63;

/// What a slot is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Chooses the group.
    spread: u64,
    /// Tells it from others of its group. Never zero.
    fingerprint: u64,
    /// The same for all keys of a policy.
    policy: u64,
}

impl Key {
    #[inline]
    pub(super) fn new(partition: &StoreKey, policy: u64) -> Self {
        let digest = u128::from_le_bytes(*partition.as_bytes());
        let (low, high) = (digest as u64, (digest >> 64) as u64);
        // The digest is keyed and uniform: to mix in a constant keeps it so.
        Self {
            spread: low ^ policy.rotate_left(32),
            fingerprint: (high ^ policy).max(1),
            policy,
        }
    }
}

pub(super) struct Table {
    slots: Box<[Slot]>,
    tags: Box<[Tags]>,
    groups: Box<[Mutex<()>]>,
    // The groups of the keys' own come first, then the shared ones, then the compact ones.
    own_groups: usize,
    shared_groups: usize,
    /// None in a table that is not much larger than they would be.
    compact_groups: usize,
    /// Whether any key was ever sent to a group of its own; so it is where there are no others.
    outgrown: AtomicBool,
    /// Whether any key was ever sent to a shared slot.
    shared: AtomicBool,
}

/// One state, and the key that it is of: half a cache line.
#[derive(Default)]
#[repr(align(32))]
struct Slot {
    fingerprint: AtomicU64,
    forget_at: AtomicU64,
    one: AtomicU64,
    two: AtomicU64,
}

/// A byte of the fingerprint in each slot of a group. Written under the group's lock; who reads them
/// without it may miss a key that comes just now, as if it had asked before.
#[derive(Default)]
#[repr(align(128))]
struct Tags([AtomicU64; GROUP / TAGS_PER_WORD]);

/// A place in the table, and what must stand there.
#[derive(Clone, Copy, Debug)]
struct Spot {
    at: usize,
    fingerprint: u64,
}

/// A slot that nobody else may change; what stands in `state` is written when this is dropped.
pub(super) struct Held<'t> {
    slot: &'t Slot,
    pub(super) state: State,
}

impl Table {
    pub(super) fn new(keys_max: usize) -> Self {
        let own_groups = keys_max.div_ceil(KEYS_PER_GROUP).max(1);
        let shared_groups = own_groups.div_ceil(GROUPS_PER_SHARED);
        let compact_groups = match own_groups > COMPACT_GROUPS {
            true => COMPACT_GROUPS,
            false => 0,
        };
        let groups = own_groups + shared_groups + compact_groups;
        Self {
            slots: (0..groups * GROUP).map(|_| Slot::default()).collect(),
            tags: (0..groups).map(|_| Tags::default()).collect(),
            groups: (0..groups).map(|_| Mutex::new(())).collect(),
            own_groups,
            shared_groups,
            compact_groups,
            outgrown: AtomicBool::new(compact_groups == 0),
            shared: AtomicBool::new(false),
        }
    }

    /// Changes the states of several keys as one step.
    ///
    /// Returns `None` if there is no slot for one of them, not even a shared one, or if a key
    /// stands twice.
    pub(super) fn change_all<T>(
        &self,
        keys: &[Key],
        now: Timestamp,
        change: impl FnOnce(&mut [State]) -> T,
    ) -> Option<T> {
        let mut held = match self.hold_all_known(keys) {
            Some(held) => held,
            None => self.hold_all_new(keys, now)?,
        };
        let mut states: SmallVec<[State; 4]> = held.iter().map(|held| held.state).collect();
        let answer = change(&mut states);
        for (held, state) in held.iter_mut().zip(states) {
            held.state = state;
        }
        Some(answer)
    }

    /// Holds the slot in which a key is counted, its own or a shared one.
    pub(super) fn hold(&self, key: Key) -> Option<Held<'_>> {
        self.hold_known(key)
            .or_else(|| self.hold_moving(key))
            .or_else(|| self.hold_shared(key))
    }

    /// Returns the state of a key.
    pub(super) fn read(&self, key: Key) -> State {
        self.hold(key).map_or(State::NONE, |held| held.state)
    }

    /// Looks once more for a key that has not been found, because it was on its way to its own group.
    fn hold_moving(&self, key: Key) -> Option<Held<'_>> {
        if self.compact_groups == 0 || !self.outgrown.load(Ordering::Relaxed) {
            return None;
        }
        let _locks = self.lock_groups(&[key]);
        self.hold_known(key)
    }

    /// Holds the slot of a key if it has one where all are to stand by now.
    #[inline]
    pub(super) fn hold_at_home(&self, key: Key) -> Option<Held<'_>> {
        // Where nearly all stand.
        let first = &self.slots[self.home(key) * GROUP + key.fingerprint as usize % GROUP];
        if first.fingerprint.load(Ordering::Relaxed) == key.fingerprint
            && let Some(held) = first.hold_at_once()
            && first.fingerprint.load(Ordering::Relaxed) == key.fingerprint
        {
            return Some(held);
        }
        self.hold_in_home(key)
    }

    /// Holds the slot of a key if it has one, wherever that is.
    fn hold_known(&self, key: Key) -> Option<Held<'_>> {
        self.hold_found(|| self.find_known(key))
    }

    #[inline(never)]
    fn hold_in_home(&self, key: Key) -> Option<Held<'_>> {
        self.hold_found(|| self.find_at_home(key))
    }

    fn hold_found(&self, find: impl Fn() -> Option<Spot>) -> Option<Held<'_>> {
        loop {
            let spot = find()?;
            // If it was given to another key meanwhile, this one may stand elsewhere by now.
            if let Some(held) = self.hold_spot(spot) {
                return Some(held);
            }
        }
    }

    fn hold_shared(&self, key: Key) -> Option<Held<'_>> {
        if !self.shared.load(Ordering::Acquire) {
            return None;
        }
        let spot = self.find(self.shared_group(key), self.shared_fingerprint(key))?;
        self.hold_spot(spot)
    }

    fn hold_all_known(&self, keys: &[Key]) -> Option<SmallVec<[Held<'_>; 4]>> {
        let find = |key: &Key| self.find_at_home(*key);
        let spots: SmallVec<[Spot; 4]> = keys.iter().map(find).collect::<Option<_>>()?;
        self.hold_all(&spots)
    }

    /// Holds the slots of all keys, and takes one for each that has none.
    fn hold_all_new(&self, keys: &[Key], now: Timestamp) -> Option<SmallVec<[Held<'_>; 4]>> {
        let twice = |(at, key): (usize, &Key)| keys[at + 1..].contains(key);
        if keys.iter().enumerate().any(twice) {
            return None;
        }
        let _locks = self.lock_groups(keys);
        // All that are known first: their slots, even if they are over, are not free.
        let find = |key: &Key| self.find_at_home(*key);
        let mut spots: SmallVec<[Option<Spot>; 4]> = keys.iter().map(find).collect();
        for (at, key) in keys.iter().enumerate() {
            if spots[at].is_none() {
                spots[at] = Some(self.spot_for_new(*key, now, &spots)?);
            }
        }
        // No slot of these groups changes its key while their locks are held.
        let spots: SmallVec<[Spot; 4]> = spots.into_iter().flatten().collect();
        self.hold_all(&spots)
    }

    /// Takes a slot for a key that has none at home; a shared one if need be.
    fn spot_for_new(&self, key: Key, now: Timestamp, taken: &[Option<Spot>]) -> Option<Spot> {
        if let Some(away) = self.find_known(key) {
            return Some(self.bring_home(key, away, now, taken).unwrap_or(away));
        }
        let counted = self.hold_shared(key).map_or(State::NONE, |held| held.state);
        let claim = |group| self.claim(group, key.fingerprint, counted, now, taken);
        if !self.outgrown.load(Ordering::Relaxed) {
            if let Some(spot) = claim(self.compact_group(key)) {
                return Some(spot);
            }
            // Who asks for this key next has its locks after us, and so sees this.
            self.outgrown.store(true, Ordering::Relaxed);
        }
        if let Some(spot) = claim(self.own_group(key)) {
            return Some(spot);
        }
        self.shared.store(true, Ordering::Release);
        let (group, fingerprint) = (self.shared_group(key), self.shared_fingerprint(key));
        self.find(group, fingerprint)
            .or_else(|| self.claim(group, fingerprint, State::NONE, now, taken))
    }

    /// Moves a key from its compact group to its own, if there is room. Both are locked.
    fn bring_home(
        &self,
        key: Key,
        away: Spot,
        now: Timestamp,
        taken: &[Option<Spot>],
    ) -> Option<Spot> {
        let group = self.own_group(key);
        // Whoever finds it there waits for what is put there now.
        let (home, mut held) = self.free(group, key.fingerprint, State::NONE, now, taken)?;
        let mut left = self
            .hold_spot(away)
            .expect("no slot of a locked group changes its key");
        held.state = mem::take(&mut left.state);
        left.slot.fingerprint.store(LEFT, Ordering::Relaxed);
        Some(home)
    }

    /// Gives the first free slot of a group to a key. The group is locked.
    fn claim(
        &self,
        group: usize,
        fingerprint: u64,
        state: State,
        now: Timestamp,
        taken: &[Option<Spot>],
    ) -> Option<Spot> {
        let claimed = self.free(group, fingerprint, state, now, taken);
        claimed.map(|(spot, _)| spot)
    }

    /// The same, and holds the slot.
    fn free(
        &self,
        group: usize,
        fingerprint: u64,
        state: State,
        now: Timestamp,
        taken: &[Option<Spot>],
    ) -> Option<(Spot, Held<'_>)> {
        let is_taken = |at| taken.iter().flatten().any(|spot| spot.at == at);
        let mut free = probe(group, fingerprint).filter(|at| !is_taken(*at));
        let give = |at: usize| Some((at, self.slots[at].give(fingerprint, state, now)?));
        let (at, held) = free.find_map(give)?;
        self.tags[group].set(at % GROUP, tag(fingerprint));
        Some((Spot { at, fingerprint }, held))
    }

    /// Finds a key where all are to stand by now, without a lock.
    #[inline]
    fn find_at_home(&self, key: Key) -> Option<Spot> {
        self.find(self.home(key), key.fingerprint)
    }

    /// Finds a key wherever it stands alone, without a lock.
    fn find_known(&self, key: Key) -> Option<Spot> {
        let compact = || {
            let group = (self.compact_groups > 0).then(|| self.compact_group(key));
            self.find(group?, key.fingerprint)
        };
        self.find_at_home(key).or_else(compact)
    }

    /// Finds a key in a group, without a lock.
    #[inline]
    fn find(&self, group: usize, fingerprint: u64) -> Option<Spot> {
        for at in probe(group, fingerprint).take(NEAR) {
            let found = self.slots[at].fingerprint.load(Ordering::Relaxed);
            if found == fingerprint {
                return Some(Spot { at, fingerprint });
            }
            // A slot once given is never empty again, and the first free one is given: beyond an
            // empty one there is nothing.
            if found == 0 {
                return None;
            }
        }
        self.find_far(group, fingerprint)
    }

    #[inline(never)]
    fn find_far(&self, group: usize, fingerprint: u64) -> Option<Spot> {
        let is_it = |at: &usize| self.slots[*at].fingerprint.load(Ordering::Relaxed) == fingerprint;
        let mut tagged = self.tagged(group, fingerprint);
        tagged.find(is_it).map(|at| Spot { at, fingerprint })
    }

    /// Returns the slots of a group in which the tag is the key's: few but its own.
    fn tagged(&self, group: usize, fingerprint: u64) -> impl Iterator<Item = usize> {
        let slots = self.tags[group].alike(tag(fingerprint));
        slots.map(move |slot| group * GROUP + slot)
    }

    #[inline]
    fn hold_spot(&self, spot: Spot) -> Option<Held<'_>> {
        let held = self.slots[spot.at].hold();
        let same = held.slot.fingerprint.load(Ordering::Relaxed) == spot.fingerprint;
        same.then_some(held)
    }

    /// Holds all spots, or none of them if one was given to another key, or if two are the same.
    /// They come back in the order of the spots.
    fn hold_all(&self, spots: &[Spot]) -> Option<SmallVec<[Held<'_>; 4]>> {
        let mut ascending: SmallVec<[usize; 4]> = (0..spots.len()).collect();
        ascending.sort_unstable_by_key(|at| spots[*at].at);
        if ascending
            .windows(2)
            .any(|two| spots[two[0]].at == spots[two[1]].at)
        {
            return None;
        }
        let mut held: SmallVec<[(usize, Held<'_>); 4]> = SmallVec::new();
        for at in ascending {
            held.push((at, self.hold_spot(spots[at])?));
        }
        held.sort_unstable_by_key(|(at, _)| *at);
        Some(held.into_iter().map(|(_, held)| held).collect())
    }

    /// Locks the groups in which the keys may stand, ascending.
    fn lock_groups(&self, keys: &[Key]) -> SmallVec<[MutexGuard<'_, ()>; 8]> {
        let each = |key: &Key| {
            let compact = (self.compact_groups > 0).then(|| self.compact_group(*key));
            [self.own_group(*key), self.shared_group(*key)]
                .into_iter()
                .chain(compact)
        };
        let mut groups: SmallVec<[usize; 8]> = keys.iter().flat_map(each).collect();
        groups.sort_unstable();
        groups.dedup();
        let lock = |group: usize| self.groups[group].lock();
        // There is nothing in the mutex that a panic could have left half done.
        groups
            .into_iter()
            .map(|group| lock(group).unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// Returns the group in which a key is to stand by now.
    #[inline]
    fn home(&self, key: Key) -> usize {
        match self.outgrown.load(Ordering::Relaxed) {
            true => self.own_group(key),
            false => self.compact_group(key),
        }
    }

    #[inline]
    fn own_group(&self, key: Key) -> usize {
        scale(key.spread, self.own_groups)
    }

    fn shared_group(&self, key: Key) -> usize {
        self.own_groups + scale(key.fingerprint.rotate_left(32), self.shared_groups)
    }

    #[inline]
    fn compact_group(&self, key: Key) -> usize {
        self.own_groups + self.shared_groups + scale(key.spread, self.compact_groups)
    }

    fn shared_fingerprint(&self, key: Key) -> u64 {
        let which = key.spread % SHARED_PER_GROUP;
        (key.policy.rotate_left(16) ^ (which << 48)).max(1)
    }
}

/// Returns the slots of a group in the order in which a key may stand in them.
#[inline]
fn probe(group: usize, fingerprint: u64) -> impl Iterator<Item = usize> {
    let first = group * GROUP;
    let start = fingerprint as usize % GROUP;
    (0..GROUP).map(move |step| first + (start + step) % GROUP)
}

/// Returns a byte of the fingerprint that does not choose the slot.
#[inline]
fn tag(fingerprint: u64) -> u8 {
    (fingerprint >> 56) as u8
}

/// Maps a uniform number to one of so many groups.
#[inline]
fn scale(uniform: u64, groups: usize) -> usize {
    ((u128::from(uniform) * groups as u128) >> 64) as usize
}

impl Tags {
    fn set(&self, slot: usize, tag: u8) {
        let word = &self.0[slot / TAGS_PER_WORD];
        let mut tags = word.load(Ordering::Relaxed).to_le_bytes();
        tags[slot % TAGS_PER_WORD] = tag;
        word.store(u64::from_le_bytes(tags), Ordering::Relaxed);
    }

    /// Returns the slots that have this tag.
    fn alike(&self, tag: u8) -> impl Iterator<Item = usize> {
        let wanted = u64::from_ne_bytes([tag; TAGS_PER_WORD]);
        self.0.iter().enumerate().flat_map(move |(at, word)| {
            let mut zeros = zero_bytes(word.load(Ordering::Relaxed) ^ wanted);
            std::iter::from_fn(move || {
                let bit = (zeros > 0).then(|| zeros.trailing_zeros() as usize)?;
                zeros &= zeros - 1;
                Some(at * TAGS_PER_WORD + bit / 8)
            })
        })
    }
}

/// Returns a word with the highest bit of each byte that is zero, and with no other.
fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    !(((word & LOW) + LOW) | word | LOW)
}

impl Slot {
    /// Locks the slot. Who holds it only computes: it is soon free.
    fn hold(&self) -> Held<'_> {
        let mut tries = 0_u32;
        loop {
            if let Some(held) = self.hold_at_once() {
                return held;
            }
            tries += 1;
            if tries.is_multiple_of(64) {
                // Its holder may have been put to sleep meanwhile.
                yield_now();
            } else {
                spin_loop();
            }
        }
    }

    /// Locks the slot if nobody holds it.
    #[inline]
    fn hold_at_once(&self) -> Option<Held<'_>> {
        let forget_at = self.forget_at.load(Ordering::Relaxed);
        if forget_at & LOCKED != 0 || !self.try_lock(forget_at) {
            return None;
        }
        let words = [&self.one, &self.two].map(|word| word.load(Ordering::Relaxed));
        Some(Held {
            slot: self,
            state: State::from_words([forget_at, words[0], words[1]]),
        })
    }

    #[inline]
    fn try_lock(&self, forget_at: u64) -> bool {
        self.forget_at
            .compare_exchange_weak(
                forget_at,
                forget_at | LOCKED,
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Gives the slot to another key, unless its state is alive. The group is locked.
    fn give(&self, fingerprint: u64, state: State, now: Timestamp) -> Option<Held<'_>> {
        let alive = |forget_at: u64| Timestamp::from_micros(forget_at & !LOCKED) > now;
        if alive(self.forget_at.load(Ordering::Relaxed)) {
            return None;
        }
        // Its key may have come back just now.
        let mut held = self.hold();
        if held.state.is_alive(now) {
            return None;
        }
        self.fingerprint.store(fingerprint, Ordering::Relaxed);
        held.state = state;
        Some(held)
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        let [forget_at, one, two] = self.state.to_words();
        self.slot.one.store(one, Ordering::Relaxed);
        self.slot.two.store(two, Ordering::Relaxed);
        self.slot.forget_at.store(forget_at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;
    use crate::{
        core::store_api::store_key::StoreKeys,
        rate_limit::{Charge, Policy, Quota, decide_all},
    };

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn policy(name: &str, limit: u64) -> Policy {
        Policy::fixed_window(name, Quota::per_minute(limit)).unwrap()
    }

    fn partitions(count: u64) -> impl Iterator<Item = StoreKey> {
        let space = StoreKeys::from_secret(&[7; 32]).unwrap().space("test");
        (0..count).map(move |number| space.short().field(&number.to_le_bytes()).finish())
    }

    fn take(table: &Table, partition: &StoreKey, policy: &Policy, now: Timestamp) -> Option<bool> {
        let key = Key::new(partition, policy.id());
        table.change_all(&[key], now, |states| {
            let charges = [Charge::new(policy, 1)];
            decide_all(&charges, states, now).is_admitted()
        })
    }

    #[test]
    fn up_to_the_bound_nearly_every_key_has_a_slot_of_its_own() {
        let (table, policy) = (Table::new(10_000), policy("p", 1));
        let keys: Vec<_> = partitions(10_000).collect();
        let admitted = |key| take(&table, key, &policy, NOW) == Some(true);
        let first = keys.iter().filter(|key| admitted(key)).count();
        // One in excess has those of its shared slot that come later counted along.
        assert!(first >= 9_950, "{first}");
        assert_eq!(keys.iter().filter(|key| admitted(key)).count(), 0);
    }

    #[test]
    fn a_flood_of_new_keys_makes_the_table_forget_nobody() {
        let (table, policy) = (Table::new(1_000), policy("p", 2));
        let mut keys = partitions(200_000);
        let victim = keys.next().unwrap();
        while take(&table, &victim, &policy, NOW) == Some(true) {}
        for (number, key) in keys.enumerate() {
            take(&table, &key, &policy, NOW).unwrap();
            if number % 1_000 == 0 {
                assert_eq!(take(&table, &victim, &policy, NOW), Some(false));
            }
        }
        let later = NOW + Duration::from_secs(60);
        assert_eq!(take(&table, &victim, &policy, later), Some(true));
    }

    #[test]
    fn a_key_in_excess_never_gains_by_moving_from_a_shared_slot_to_its_own() {
        let (table, short, long) = (Table::new(1), policy("a", 1), policy("b", 3));
        // Slots of a minute's length fill all groups of `long`'s keys but for some that end early.
        let mut admitted = std::collections::HashMap::<StoreKey, u32>::new();
        let keys: Vec<_> = partitions(2_000).collect();
        for key in &keys[..120] {
            take(&table, key, &short, NOW).unwrap();
        }
        for second in 1..60 {
            let now = NOW + Duration::from_secs(second);
            for key in &keys[second as usize * 30..][..40] {
                if take(&table, key, &long, now) == Some(true) {
                    *admitted.entry(*key).or_default() += 1;
                }
            }
        }
        assert!(admitted.values().all(|admitted| *admitted <= 3));
        assert!(table.shared.load(Ordering::Relaxed));
    }

    #[test]
    fn a_slot_whose_state_is_over_is_given_to_another_key() {
        let (table, policy) = (Table::new(1), policy("p", 1));
        for round in 0..50 {
            let now = NOW + Duration::from_secs(60 * round);
            let keys: Vec<_> = partitions((round + 1) * 100).collect();
            for key in &keys[round as usize * 100..] {
                assert_eq!(take(&table, key, &policy, now), Some(true));
            }
        }
        assert!(!table.shared.load(Ordering::Relaxed));
    }

    #[test]
    fn more_policies_than_the_shared_slots_hold_are_refused_and_not_admitted() {
        let table = Table::new(1);
        let key = |number: u64| Key {
            spread: number,
            fingerprint: number + 1,
            policy: number << 20,
        };
        let mark = |states: &mut [State]| states[0] = State::from_words([u64::MAX >> 1, 1, 0]);
        let taken = (0..10_000).filter_map(|number| table.change_all(&[key(number)], NOW, mark));
        assert_eq!(taken.count(), 2 * GROUP);
    }

    #[test]
    fn an_absent_key_in_a_full_table_is_looked_for_in_few_slots() {
        let (table, policy) = (Table::new(1_000), policy("p", 1));
        let mut keys = partitions(30_000);
        for key in keys.by_ref().take(10_000) {
            take(&table, &key, &policy, NOW).unwrap();
        }
        let full = |slot: &Slot| slot.fingerprint.load(Ordering::Relaxed) != 0;
        assert!(table.slots[..table.own_groups * GROUP].iter().all(full));
        let (mut looked_at, mut absent) = (0, 0);
        for key in keys {
            let key = Key::new(&key, policy.id());
            assert!(table.hold_at_home(key).is_none());
            let tagged = table.tagged(table.own_group(key), key.fingerprint);
            let slots = NEAR + tagged.count();
            assert!(slots <= 16, "{slots}");
            (looked_at, absent) = (looked_at + slots, absent + 1);
        }
        assert!(looked_at <= absent * (NEAR + 1), "{looked_at} of {absent}");
    }

    #[test]
    fn few_keys_stand_close_together_until_there_are_many() {
        let (table, policy) = (Table::new(100_000), policy("p", 2));
        let (first_compact, keys) = (table.own_groups + table.shared_groups, partitions(20_000));
        let keys: Vec<_> = keys.collect();
        let take = |key| take(&table, key, &policy, NOW);
        let stand_close = |keys: &[StoreKey]| {
            let spot = |key: &StoreKey| table.find_known(Key::new(key, policy.id())).unwrap();
            let close = |key: &&StoreKey| spot(key).at >= first_compact * GROUP;
            keys.iter().filter(close).count()
        };
        assert!(keys[..2_000].iter().all(|key| take(key) == Some(true)));
        assert_eq!(stand_close(&keys[..2_000]), 2_000);
        assert!(keys[2_000..].iter().all(|key| take(key) == Some(true)));
        let close = stand_close(&keys);
        assert!((2_000..10_000).contains(&close), "{close}");
        // They move when they are asked for next, and none is forgotten by that.
        assert!(keys.iter().all(|key| take(key) == Some(true)));
        assert_eq!(stand_close(&keys), 0);
        assert!(keys.iter().all(|key| take(key) == Some(false)));
    }

    #[test]
    fn a_key_is_found_wherever_in_its_group_it_stands() {
        let (table, policy) = (Table::new(1), policy("p", 1));
        let keys: Vec<_> = partitions(GROUP as u64).collect();
        for key in &keys {
            assert_eq!(take(&table, key, &policy, NOW), Some(true));
        }
        for key in &keys {
            assert_eq!(take(&table, key, &policy, NOW), Some(false));
        }
        assert!(!table.shared.load(Ordering::Relaxed));
    }

    #[test]
    fn the_same_key_twice_is_refused_rather_than_waited_for() {
        let table = Table::new(1);
        let key = Key::new(&partitions(1).next().unwrap(), 7);
        assert!(table.change_all(&[key, key], NOW, |_| ()).is_none());
    }

    #[test]
    fn a_holder_that_panics_leaves_its_slot_free_and_as_it_was() {
        let (table, policy) = (Table::new(1), policy("p", 1));
        let partition = partitions(1).next().unwrap();
        let key = Key::new(&partition, policy.id());
        take(&table, &partition, &policy, NOW);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            table.change_all(&[key], NOW, |_| panic!("a bug"))
        }));
        assert!(panicked.is_err());
        assert_eq!(take(&table, &partition, &policy, NOW), Some(false));
    }

    #[test]
    fn threads_that_race_for_few_slots_neither_lose_nor_double_a_count() {
        // Each round, windows end and all threads come for the same new keys at once.
        let (table, policy) = (Arc::new(Table::new(1)), policy("p", 5));
        for round in 0..200_u64 {
            let now = NOW + Duration::from_secs(60 * round);
            let keys: Vec<_> = partitions((round + 1) * 20)
                .skip(round as usize * 20)
                .collect();
            let admitted: usize = thread::scope(|scope| {
                let worker = || {
                    let admitted = |key: &&StoreKey| take(&table, key, &policy, now) == Some(true);
                    (0..4)
                        .map(|_| keys.iter().filter(admitted).count())
                        .sum::<usize>()
                };
                let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap())
                    .sum()
            });
            assert_eq!(admitted, 20 * 5, "in round {round}");
        }
    }
}
