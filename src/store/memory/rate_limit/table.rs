//! A fixed-size table in which a new key never evicts another key's state.
//!
//! The table is an array of slots, divided into groups of one page each. A key belongs to a group
//! and can be in any slot of that group. The key's fingerprint, which is 64 bits of its keyed
//! digest, identifies the key and determines the group. A slot contains the three words of a state.
//! An expired state is equal to an empty one, so another key can use its slot.
//!
//! A key is inserted into the first free slot, starting at the slot that its fingerprint
//! determines, so most lookups read one or two cache lines. After [`NEAR`] slots, a lookup reads
//! the tags of the group instead. The tags contain one byte of each fingerprint, in two cache
//! lines. A lookup of an absent key is therefore cheap even in a group that was once full.
//!
//! If a few keys were distributed over all groups, each key would take a page of memory and an
//! address translation. The table therefore starts with a few groups, the roots. When a new key
//! finds its group full, the number of groups in use doubles, until all groups are in use. The
//! groups in use are a prefix of the array. A doubling does not move any key by itself. A group is
//! split in two when a key is not found in the group to which it belongs after the doubling.
//!
//! A lookup takes no lock. A change locks only its own slot, with one bit of the state's first
//! word. A new key is inserted under the lock of its group, after another lookup under that lock.
//! Two tasks therefore never take two slots for one key or one slot for two keys.
//!
//! Once all groups are in use, a key whose group has no free slot is counted in a shared slot. Each
//! policy has [`SHARED_PER_GROUP`] such slots in each shared group, and all keys that use the same
//! shared slot are counted together. When a slot in the key's own group becomes free, the key takes
//! that slot and copies the count of the shared slot. Such a key may therefore be counted too high,
//! but no key is ever counted too low. With `n` requests from such keys in one window and `w`
//! shared slots, a request exceeds its limit `l` with the probability that a Poisson variable with
//! mean `n / w` is at least `l`.
//!
//! Locks are taken in this order: groups in ascending order, then slots in ascending order. A task
//! that holds a slot never waits for a group. There is one safe exception: [`Table::move_key`]
//! holds two slots in any order. One of those slots has no key, and no task waits while it holds a
//! slot without a key.
//!
//! `tests/interleavings.rs` runs this file with loom's atomics and tries all interleavings of two
//! tasks.

use std::{mem, sync::PoisonError};

use smallvec::SmallVec;

use super::seam::{
    AtomicBool, AtomicU64, COMPACT_GROUPS, GROUP, Mutex, MutexGuard, Ordering, spin_loop, yield_now,
};
use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    rate_limit::backend::State,
};

/// The number of slots that a lookup reads before it reads the tags.
const NEAR: usize = 4;

/// The number of tags in one word.
const TAGS_PER_WORD: usize = 8;

/// The capacity of the table, in keys per group. The capacity is low enough that a group is rarely
/// full before the other groups are.
const KEYS_PER_GROUP: usize = 100;

/// The number of regular groups for each shared group.
const GROUPS_PER_SHARED: usize = 16;

/// The number of shared slots of a policy in each shared group.
const SHARED_PER_GROUP: u64 = 16;

/// The fingerprint of a slot whose key was moved. No key has this fingerprint.
const LEFT: u64 = 1;

/// The lowest bit of a fingerprint that determines the group at depths above 0. The bits below it
/// determine the slot and the tag, and the highest bits determine the root.
const DEPTH_SHIFT: u32 = 16;

/// The lock bit of a slot, in the first word of the slot's state. A timestamp does not reach this
/// bit until the year 294 000.
const LOCKED: u64 = 1 << 63;

/// The key of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Identifies the key and determines its group, first slot and tag. Always greater than
    /// [`LEFT`].
    fingerprint: u64,
    /// Identifies the policy. Equal for all keys of one policy.
    policy: u64,
}

impl Key {
    #[inline]
    pub(super) fn new(partition: &StoreKey, policy: u64) -> Self {
        let digest = u128::from_le_bytes(*partition.as_bytes());
        // The digest is keyed and uniform, and mixing in a constant preserves that.
        Self {
            fingerprint: ((digest >> 64) as u64 ^ policy).max(LEFT + 1),
            policy,
        }
    }
}

pub(super) struct Table {
    slots: Box<[Slot]>,
    tags: Box<[Tags]>,
    /// The lock of each group, which protects the number of times that the group was split, or
    /// `None` until the group is in use.
    groups: Box<[Mutex<Option<u8>>]>,
    /// The number of groups in use at depth 0.
    roots: usize,
    /// The depth at which all groups are in use.
    max_depth: u8,
    // The groups of keys are stored before the shared ones.
    own_groups: usize,
    shared_groups: usize,
    /// The number of times that the number of groups in use was doubled.
    depth: AtomicU64,
    /// `true` once any key was counted in a shared slot.
    shared: AtomicBool,
}

/// A state and its key, in half a cache line.
#[derive(Default)]
#[repr(align(32))]
struct Slot {
    fingerprint: AtomicU64,
    expires_at: AtomicU64,
    one: AtomicU64,
    two: AtomicU64,
}

/// One byte of the fingerprint in each slot of a group. The tags are written under the group's
/// lock. A lookup without the lock may miss a key that is being inserted.
#[derive(Default)]
#[repr(align(128))]
struct Tags([AtomicU64; GROUP / TAGS_PER_WORD]);

/// The index of a slot, and the fingerprint that the slot must have.
#[derive(Clone, Copy, Debug)]
struct Spot {
    at: usize,
    fingerprint: u64,
}

/// A locked slot. Dropping this value writes `state` back and unlocks the slot.
pub(super) struct Held<'t> {
    slot: &'t Slot,
    pub(super) state: State,
}

impl Table {
    pub(super) fn new(max_keys: usize) -> Self {
        let groups = max_keys.div_ceil(KEYS_PER_GROUP).max(1);
        let max_depth = (groups / COMPACT_GROUPS).checked_ilog2().unwrap_or(0) as u8;
        // Rounded up, so that there is room for `max_keys` in any case.
        let roots = groups.div_ceil(1 << max_depth);
        let own_groups = roots << max_depth;
        let shared_groups = own_groups.div_ceil(GROUPS_PER_SHARED);
        let groups = own_groups + shared_groups;
        let depth = |group| (group < roots).then_some(0);
        Self {
            slots: (0..groups * GROUP).map(|_| Slot::default()).collect(),
            tags: (0..groups).map(|_| Tags::default()).collect(),
            groups: (0..groups).map(|group| Mutex::new(depth(group))).collect(),
            roots,
            max_depth,
            own_groups,
            shared_groups,
            depth: AtomicU64::new(0),
            shared: AtomicBool::new(false),
        }
    }

    /// Changes the states of several keys atomically.
    ///
    /// Returns `None` if one of the keys has no slot, not even a shared one, or if two of the keys
    /// are equal.
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
        let result = change(&mut states);
        for (held, state) in held.iter_mut().zip(states) {
            held.state = state;
        }
        Some(result)
    }

    /// Locks the slot of a key, which can be a shared one.
    pub(super) fn hold(&self, key: Key) -> Option<Held<'_>> {
        self.hold_at_home(key)
            .or_else(|| self.hold_moving(key))
            .or_else(|| self.hold_shared(key))
    }

    /// Returns the state of a key.
    pub(super) fn read(&self, key: Key) -> State {
        self.hold(key).map_or(State::NONE, |held| held.state)
    }

    /// Looks up again a key that was not found. The key's group may need to be split, or may have
    /// been in the middle of a split.
    fn hold_moving(&self, key: Key) -> Option<Held<'_>> {
        if self.max_depth == 0 {
            return None;
        }
        let (depth, _locks) = self.lock_groups(&[key]);
        self.hold_found(|| self.find(self.group(key.fingerprint, depth), key.fingerprint))
    }

    /// Locks the slot of a key, if the key has a slot in its group at the current depth.
    #[inline]
    pub(super) fn hold_at_home(&self, key: Key) -> Option<Held<'_>> {
        // Most keys are in their first slots.
        let group = self.group(key.fingerprint, self.depth());
        let first = &self.slots[group * GROUP + key.fingerprint as usize % GROUP];
        if first.fingerprint.load(Ordering::Relaxed) == key.fingerprint
            && let Some(held) = first.hold_at_once()
            && first.fingerprint.load(Ordering::Relaxed) == key.fingerprint
        {
            return Some(held);
        }
        self.hold_in_home(key)
    }

    #[inline(never)]
    fn hold_in_home(&self, key: Key) -> Option<Held<'_>> {
        self.hold_found(|| self.find_at_home(key))
    }

    fn hold_found(&self, find: impl Fn() -> Option<Spot>) -> Option<Held<'_>> {
        loop {
            let spot = find()?;
            // If the slot was reused for another key meanwhile, this key may have another slot by
            // now.
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

    /// Locks the slots of all keys, after inserting the keys that have no slot.
    fn hold_all_new(&self, keys: &[Key], now: Timestamp) -> Option<SmallVec<[Held<'_>; 4]>> {
        let twice = |(at, key): (usize, &Key)| keys[at + 1..].contains(key);
        if keys.iter().enumerate().any(twice) {
            return None;
        }
        loop {
            let (depth, _locks) = self.lock_groups(keys);
            if let Some(spots) = self.spots(keys, depth, now) {
                // The slots of these groups are not reused while the groups are locked.
                return self.hold_all(&spots);
            }
            if depth == self.max_depth {
                return None;
            }
            self.depth
                .fetch_max(u64::from(depth) + 1, Ordering::Relaxed);
        }
    }

    /// Returns a slot for each key, or `None` if there is no room at this depth. The groups are
    /// locked.
    fn spots(&self, keys: &[Key], depth: u8, now: Timestamp) -> Option<SmallVec<[Spot; 4]>> {
        // Existing keys before new ones: their slots are not free, even if their states have
        // expired.
        let find = |key: &Key| self.find(self.group(key.fingerprint, depth), key.fingerprint);
        let mut spots: SmallVec<[Option<Spot>; 4]> = keys.iter().map(find).collect();
        for (at, key) in keys.iter().enumerate() {
            if spots[at].is_none() {
                spots[at] = Some(self.spot_for_new(*key, depth, now, &spots)?);
            }
        }
        Some(spots.into_iter().flatten().collect())
    }

    /// Returns a slot for a new key, which is a shared one if all groups are in use.
    fn spot_for_new(
        &self,
        key: Key,
        depth: u8,
        now: Timestamp,
        taken: &[Option<Spot>],
    ) -> Option<Spot> {
        let counted = self.hold_shared(key).map_or(State::NONE, |held| held.state);
        let group = self.group(key.fingerprint, depth);
        let own = self.claim(group, key.fingerprint, counted, now, taken);
        if own.is_some() || depth < self.max_depth {
            return own;
        }
        self.shared.store(true, Ordering::Release);
        let (group, fingerprint) = (self.shared_group(key), self.shared_fingerprint(key));
        self.find(group, fingerprint)
            .or_else(|| self.claim(group, fingerprint, State::NONE, now, taken))
    }

    /// Splits the group that contains a key, unless that group already is the key's group at this
    /// depth.
    fn split(&self, key: Key, depth: u8) {
        let group_at = |depth| self.group(key.fingerprint, depth);
        let in_use = |group: &usize| self.lock(*group).is_some();
        let Some(group) = (0..=depth).rev().map(group_at).find(in_use) else {
            return;
        };
        let mut lower = self.lock(group);
        let Some(split) = lower.filter(|split| *split < depth) else {
            return;
        };
        let upper_group = group + (self.roots << split);
        let mut upper = self.lock(upper_group);
        // Keys that stay are moved last, since slots nearer to their first ones may be free by
        // then.
        for target in [upper_group, group] {
            for at in group * GROUP..(group + 1) * GROUP {
                let fingerprint = self.slots[at].fingerprint.load(Ordering::Relaxed);
                if fingerprint > LEFT && self.group(fingerprint, split + 1) == target {
                    self.move_key(fingerprint, at, target);
                }
            }
        }
        *lower = Some(split + 1);
        *upper = Some(split + 1);
    }

    /// Moves a key to its first free slot in a group, unless the key is already in that slot or in
    /// a nearer one. Both groups are locked.
    fn move_key(&self, fingerprint: u64, at: usize, group: usize) {
        let is_free = |to: &usize| self.slots[*to].fingerprint.load(Ordering::Relaxed) <= LEFT;
        let mut nearer = probe(group, fingerprint).take_while(|to| *to != at);
        let Some(to) = nearer.find(is_free) else {
            return;
        };
        // No task waits while it holds a slot without a key.
        let (mut from, mut target) = (self.slots[at].hold(), self.slots[to].hold());
        target
            .slot
            .fingerprint
            .store(fingerprint, Ordering::Relaxed);
        target.state = mem::take(&mut from.state);
        from.slot.fingerprint.store(LEFT, Ordering::Relaxed);
        self.tags[group].set(to % GROUP, tag(fingerprint));
    }

    /// Assigns the first free slot of a group to a key. The group is locked.
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

    /// Assigns a slot like [`claim`](Self::claim), and returns the slot locked.
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

    /// Finds a key in its group at the current depth, without a lock.
    #[inline]
    fn find_at_home(&self, key: Key) -> Option<Spot> {
        self.find(self.group(key.fingerprint, self.depth()), key.fingerprint)
    }

    /// Finds a key in a group, without a lock.
    #[inline]
    fn find(&self, group: usize, fingerprint: u64) -> Option<Spot> {
        for at in probe(group, fingerprint).take(NEAR) {
            let found = self.slots[at].fingerprint.load(Ordering::Relaxed);
            if found == fingerprint {
                return Some(Spot { at, fingerprint });
            }
            // A used slot is never empty again, and a key is inserted into its first free slot: no
            // key is behind an empty slot.
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

    /// Returns the slots in a group whose tag equals the key's tag. Few of these slots belong to
    /// other keys.
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

    /// Locks all spots and returns the slots in the given order. Returns `None` and locks nothing
    /// if a slot was reused for another key, or if two spots are the same.
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

    /// Splits the groups of the keys to the current depth, and locks those groups and their shared
    /// groups in ascending order. Returns the depth and the locks.
    fn lock_groups(&self, keys: &[Key]) -> (u8, SmallVec<[MutexGuard<'_, Option<u8>>; 8]>) {
        loop {
            let depth = self.depth();
            let both = |key: &Key| [self.group(key.fingerprint, depth), self.shared_group(*key)];
            let mut groups: SmallVec<[usize; 8]> = keys.iter().flat_map(both).collect();
            groups.sort_unstable();
            groups.dedup();
            let locks: SmallVec<[_; 8]> = groups.iter().map(|group| self.lock(*group)).collect();
            let own = groups.iter().take_while(|group| **group < self.own_groups);
            if own.zip(&locks).all(|(_, split)| **split == Some(depth)) {
                return (depth, locks);
            }
            drop(locks);
            keys.iter().for_each(|key| self.split(*key, depth));
        }
    }

    fn lock(&self, group: usize) -> MutexGuard<'_, Option<u8>> {
        // No code panics during a split, so a poisoned lock is consistent.
        self.groups[group]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn depth(&self) -> u8 {
        self.depth.load(Ordering::Relaxed) as u8
    }

    /// Returns the group of a key at the given depth.
    #[inline]
    fn group(&self, fingerprint: u64, depth: u8) -> usize {
        let doubled = (fingerprint >> DEPTH_SHIFT) & !(u64::MAX << depth);
        scale(fingerprint, self.roots) + self.roots * doubled as usize
    }

    fn shared_group(&self, key: Key) -> usize {
        self.own_groups + scale(key.fingerprint.rotate_left(32), self.shared_groups)
    }

    fn shared_fingerprint(&self, key: Key) -> u64 {
        let which = (key.fingerprint >> 32) % SHARED_PER_GROUP;
        (key.policy.rotate_left(16) ^ (which << 48)).max(LEFT + 1)
    }
}

/// Returns the slots of a group in the probing order of a key.
#[inline]
fn probe(group: usize, fingerprint: u64) -> impl Iterator<Item = usize> {
    let first = group * GROUP;
    let start = fingerprint as usize % GROUP;
    (0..GROUP).map(move |step| first + (start + step) % GROUP)
}

/// Returns a byte of the fingerprint that determines neither the slot nor the group.
#[inline]
fn tag(fingerprint: u64) -> u8 {
    (fingerprint >> 8) as u8
}

/// Maps a uniformly distributed number to a group below `groups`.
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

    /// Returns the slots with this tag.
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

/// Returns a word in which the highest bit of each zero byte is set, and no other bit.
fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    !(((word & LOW) + LOW) | word | LOW)
}

impl Slot {
    /// Locks the slot. The holder of a lock only computes, so the wait is short.
    fn hold(&self) -> Held<'_> {
        let mut tries = 0_u32;
        loop {
            if let Some(held) = self.hold_at_once() {
                return held;
            }
            tries += 1;
            if tries.is_multiple_of(64) {
                // The holder may have been suspended.
                yield_now();
            } else {
                spin_loop();
            }
        }
    }

    /// Locks the slot, unless it is already locked.
    #[inline]
    fn hold_at_once(&self) -> Option<Held<'_>> {
        let expires_at = self.expires_at.load(Ordering::Relaxed);
        if expires_at & LOCKED != 0 || !self.try_lock(expires_at) {
            return None;
        }
        let words = [&self.one, &self.two].map(|word| word.load(Ordering::Relaxed));
        Some(Held {
            slot: self,
            state: State::from_words([expires_at, words[0], words[1]]),
        })
    }

    #[inline]
    fn try_lock(&self, expires_at: u64) -> bool {
        self.expires_at
            .compare_exchange_weak(
                expires_at,
                expires_at | LOCKED,
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Assigns the slot to another key, unless the slot's state is alive. The group is locked.
    fn give(&self, fingerprint: u64, state: State, now: Timestamp) -> Option<Held<'_>> {
        let alive = |expires_at: u64| Timestamp::from_micros(expires_at & !LOCKED) > now;
        if alive(self.expires_at.load(Ordering::Relaxed)) {
            return None;
        }
        // Its key may just have been charged.
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
        let [expires_at, one, two] = self.state.to_words();
        self.slot.one.store(one, Ordering::Relaxed);
        self.slot.two.store(two, Ordering::Relaxed);
        self.slot.expires_at.store(expires_at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, thread, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        core::store_api::store_key::StoreKeys,
        rate_limit::{
            Policy, Quota,
            backend::{Charge, decide_all},
        },
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
        // Later keys of a shared slot include the counts of earlier ones.
        assert!(first >= 9_950, "{first}");
        assert_eq!(keys.iter().filter(|key| admitted(key)).count(), 0);
    }

    #[test]
    fn flood_of_new_keys_evicts_no_exhausted_key() {
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
        // Slots of a minute fill all groups of `long`'s keys, except for some that expire early.
        let mut admitted = HashMap::<StoreKey, u32>::new();
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
            fingerprint: number + 2,
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
        let full = |at: usize| table.slots[at].fingerprint.load(Ordering::Relaxed) != 0;
        assert!((0..table.own_groups * GROUP).all(full));
        let (mut looked_at, mut absent) = (0, 0);
        for key in keys {
            let key = Key::new(&key, policy.id());
            assert!(table.hold_at_home(key).is_none());
            let tagged = table.tagged(table.group(key.fingerprint, table.depth()), key.fingerprint);
            let slots = NEAR + tagged.count();
            assert!(slots <= 16, "{slots}");
            (looked_at, absent) = (looked_at + slots, absent + 1);
        }
        assert!(looked_at <= absent * (NEAR + 1), "{looked_at} of {absent}");
    }

    #[test]
    fn groups_come_into_use_as_keys_do() {
        let (table, policy) = (Table::new(100_000), policy("p", 2));
        let keys: Vec<_> = partitions(20_000).collect();
        let admits = |key| take(&table, key, &policy, NOW) == Some(true);
        assert!(keys[..2_000].iter().all(admits));
        assert_eq!((table.depth(), table.roots), (0, 125));
        assert!(keys[2_000..].iter().all(admits));
        assert_eq!(table.depth(), 1);
        let spot = |key: &StoreKey| table.find_at_home(Key::new(key, policy.id()));
        let last = keys.iter().filter_map(spot).map(|spot| spot.at).max();
        assert!(last < Some(2 * 125 * GROUP));
        // A split loses no key, whether it moves the key or not.
        assert!(keys.iter().all(admits));
        assert!(!keys.iter().any(admits));
    }

    #[test]
    fn key_that_is_not_yet_moved_is_still_counted() {
        let (table, policy) = (Table::new(100_000), policy("p", 1));
        let keys: Vec<_> = partitions(2_000).collect();
        assert!(
            keys.iter()
                .all(|key| take(&table, key, &policy, NOW) == Some(true))
        );
        table
            .depth
            .store(u64::from(table.max_depth), Ordering::Relaxed);
        let state = |key: &StoreKey| table.read(Key::new(key, policy.id()));
        assert!(keys[..1_000].iter().all(|key| state(key).is_alive(NOW)));
        assert!(
            keys.iter()
                .all(|key| take(&table, key, &policy, NOW) == Some(false))
        );
        assert!(!state(&partitions(2_001).last().unwrap()).is_alive(NOW));
    }

    #[test]
    fn threads_that_race_while_groups_are_split_neither_lose_nor_double_a_count() {
        let (table, policy) = (Table::new(50_000), policy("p", 3));
        let keys: Vec<_> = partitions(40_000).collect();
        let admits = |key: &&StoreKey| take(&table, key, &policy, NOW) == Some(true);
        let worker = || keys.iter().filter(admits).count();
        let admitted: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            let admitted = workers.into_iter().map(|worker| worker.join().unwrap());
            admitted.sum()
        });
        assert_eq!(admitted, 40_000 * 3);
        assert_eq!(table.depth(), table.max_depth);
    }

    #[test]
    fn reads_find_each_known_key_while_groups_are_split() {
        let (table, policy) = (Table::new(50_000), policy("p", 3));
        let keys: Vec<_> = partitions(40_000).collect();
        let (known, new) = keys.split_at(5_000);
        let charge = |key: &StoreKey| assert_eq!(take(&table, key, &policy, NOW), Some(true));
        known.iter().for_each(charge);
        let finds = |key: &StoreKey| table.read(Key::new(key, policy.id())).is_alive(NOW);
        thread::scope(|scope| {
            let writer = scope.spawn(|| new.iter().for_each(charge));
            while !writer.is_finished() {
                assert!(known.iter().all(finds));
            }
        });
        assert_eq!(table.depth(), table.max_depth);
    }

    #[test]
    fn table_has_room_for_the_bound_whatever_its_number_of_groups() {
        for max_keys in [1, 6_400, 12_700, 12_900, 25_500, 25_900, 51_300, 1_000_000] {
            let table = Table::new(max_keys);
            assert!(table.own_groups * KEYS_PER_GROUP >= max_keys);
            let groups = max_keys.div_ceil(KEYS_PER_GROUP);
            assert!(table.own_groups <= groups + groups / COMPACT_GROUPS + 1);
        }
    }

    /// A step of the model test. Keys are numbers.
    #[derive(Clone, Debug)]
    enum Step {
        Charge { key: u64, lasts: u64 },
        ChargeBoth { keys: [u64; 2], lasts: u64 },
        ChargeMany { first: u64, lasts: u64 },
        ChargeKnown { key: u64, lasts: u64 },
        Read(u64),
        Reset(u64),
        Pass(u64),
        Deepen,
    }

    const MODEL_KEYS: u64 = 500;

    fn step() -> impl Strategy<Value = Step> {
        let (key, lasts) = (0..MODEL_KEYS, 1..200_u64);
        prop_oneof![
            8 => (key.clone(), lasts.clone()).prop_map(|(key, lasts)| Step::Charge { key, lasts }),
            4 => ([key.clone(), key.clone()], lasts.clone())
                .prop_map(|(keys, lasts)| Step::ChargeBoth { keys, lasts }),
            2 => (key.clone(), lasts.clone())
                .prop_map(|(first, lasts)| Step::ChargeMany { first, lasts }),
            8 => (key.clone(), lasts).prop_map(|(key, lasts)| Step::ChargeKnown { key, lasts }),
            4 => key.clone().prop_map(Step::Read),
            2 => key.prop_map(Step::Reset),
            2 => (0..100_u64).prop_map(Step::Pass),
            1 => Just(Step::Deepen),
        ]
    }

    /// A table and its expected counts: the end of the window and the count of each key.
    struct Modeled {
        table: Table,
        counts: HashMap<u64, (u64, u64)>,
        now: u64,
    }

    impl Modeled {
        fn new() -> Self {
            let table = Table::new(51_200);
            assert_eq!((table.roots, table.max_depth), (64, 3));
            Self {
                table,
                counts: HashMap::new(),
                now: 1_000,
            }
        }

        /// Returns a key of the first root, so that few keys fill it and all split the same groups.
        fn key(number: u64) -> Key {
            let uniform = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let uniform = (uniform ^ (uniform >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            Key {
                fingerprint: (uniform >> 7).max(LEFT + 1),
                policy: 0,
            }
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::Charge { key, lasts } => self.charge(&[*key], *lasts),
                Step::ChargeBoth { keys, lasts } if keys[0] != keys[1] => self.charge(keys, *lasts),
                Step::ChargeBoth { .. } => {}
                Step::ChargeMany { first, lasts } => {
                    let keys = (*first..*first + 150).map(|key| key % MODEL_KEYS);
                    keys.for_each(|key| self.charge(&[key], *lasts));
                }
                Step::ChargeKnown { key, lasts } => self.charge_known(*key, *lasts),
                Step::Read(key) => self.check(*key),
                Step::Reset(key) => self.reset(*key),
                Step::Pass(micros) => self.now += micros,
                Step::Deepen => self.deepen(),
            }
        }

        fn charge(&mut self, keys: &[u64], lasts: u64) {
            let now = Timestamp::from_micros(self.now);
            let end = self.now + lasts;
            let table_keys: Vec<_> = keys.iter().copied().map(Self::key).collect();
            let charged = self.table.change_all(&table_keys, now, |states| {
                states
                    .iter_mut()
                    .for_each(|state| *state = charged(*state, now, end));
            });
            assert!(charged.is_some());
            keys.iter().for_each(|key| self.count(*key, end));
        }

        /// Charges a known key like a limiter with one policy.
        fn charge_known(&mut self, key: u64, lasts: u64) {
            let (now, end) = (Timestamp::from_micros(self.now), self.now + lasts);
            let charge = |mut held: Held<'_>| held.state = charged(held.state, now, end);
            match self
                .table
                .hold_at_home(Self::key(key))
                .map(charge)
                .is_some()
            {
                true => self.count(key, end),
                false => self.charge(&[key], lasts),
            }
        }

        fn count(&mut self, key: u64, end: u64) {
            let count = self.counts.entry(key).or_default();
            *count = match *count {
                (until, count) if until > self.now => (until.max(end), count + 1),
                _ => (end, 1),
            };
        }

        fn reset(&mut self, key: u64) {
            if let Some(mut held) = self.table.hold(Self::key(key)) {
                held.state = State::NONE;
            }
            self.counts.remove(&key);
        }

        fn deepen(&self) {
            let deeper = (self.table.depth() + 1).min(self.table.max_depth);
            self.table.depth.store(u64::from(deeper), Ordering::Relaxed);
        }

        fn check(&self, key: u64) {
            let alive = |until: u64| until > self.now;
            let expected = self.counts.get(&key).copied();
            let expected = expected.filter(|(until, _)| alive(*until));
            let [until, count, _] = self.table.read(Self::key(key)).to_words();
            assert_eq!(alive(until).then_some((until, count)), expected, "{key}");
        }
    }

    /// Adds one to a count that lasts at least until `end`.
    fn charged(state: State, now: Timestamp, end: u64) -> State {
        match (state.is_alive(now), state.to_words()) {
            (true, [until, count, _]) => State::from_words([until.max(end), count + 1, 0]),
            (false, _) => State::from_words([end, 1, 0]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn table_counts_as_a_map_does_while_groups_are_split_and_states_expire(
            steps in vec(step(), 1..400),
        ) {
            let mut modeled = Modeled::new();
            steps.iter().for_each(|step| modeled.take(step));
            (0..MODEL_KEYS).for_each(|key| modeled.check(key));
            // No key shares a slot, so the counts are equal.
            prop_assert!(!modeled.table.shared.load(Ordering::Relaxed));
        }
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
        // In each round, windows end and all threads insert the same new keys at once.
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
