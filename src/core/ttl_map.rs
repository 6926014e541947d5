//! A bounded map whose entries expire.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    hash::Hash,
};

use crate::core::time::Timestamp;

/// A map that holds at most `capacity` entries, each with its own expiry.
///
/// An expired entry is absent, and the next insertion frees its memory. If the map is full,
/// [`insert`](Self::insert) evicts the entry that expires first, and
/// [`try_insert`](Self::try_insert) inserts nothing. A lookup takes constant time, and an insertion
/// at most logarithmic time, amortized.
#[derive(Debug)]
pub(crate) struct TtlMap<K, V> {
    entries: HashMap<K, TtlEntry<V>>,
    /// The expiry of each entry, earliest first. Removed and replaced entries leave an item behind,
    /// so the number of items can be up to twice the capacity.
    expiries: BinaryHeap<Reverse<TtlItem<K>>>,
    capacity: usize,
}

#[derive(Debug)]
struct TtlEntry<V> {
    value: V,
    expires_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TtlItem<K> {
    at: Timestamp,
    key: K,
}

impl<K: Copy + Ord + Hash, V> TtlMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            expiries: BinaryHeap::new(),
            capacity,
        }
    }

    /// Returns the number of entries. Expired entries count until the next insertion.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &K, now: Timestamp) -> Option<&V> {
        let entry = self.entries.get(key)?;
        (now < entry.expires_at).then_some(&entry.value)
    }

    /// Inserts or replaces an entry. If the map is full, the entry that expires first is evicted.
    pub(crate) fn insert(&mut self, key: K, value: V, expires_at: Timestamp, now: Timestamp) {
        if self.has_room(&key, now) || self.evict_first() {
            self.put(key, value, expires_at);
        }
    }

    /// Inserts or replaces an entry, unless the map is full. Returns `true` if the entry was
    /// inserted.
    pub(crate) fn try_insert(
        &mut self,
        key: K,
        value: V,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let has_room = self.has_room(&key, now);
        if has_room {
            self.put(key, value, expires_at);
        }
        has_room
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.expiries.clear();
    }

    /// Evicts expired entries. Returns `true` if an entry with this key fits.
    fn has_room(&mut self, key: &K, now: Timestamp) -> bool {
        while let Some(Reverse(first)) = self.expiries.peek().copied()
            && first.at <= now
        {
            self.expiries.pop();
            self.evict(first);
        }
        self.entries.len() < self.capacity || self.entries.contains_key(key)
    }

    /// Evicts the entry that expires first. Returns `false` if the map is empty.
    fn evict_first(&mut self) -> bool {
        while let Some(Reverse(first)) = self.expiries.pop() {
            if self.evict(first) {
                return true;
            }
        }
        false
    }

    /// Evicts the entry with this expiry, if it still exists. Returns `true` if the entry existed.
    fn evict(&mut self, expiry: TtlItem<K>) -> bool {
        match self.entries.entry(expiry.key) {
            Entry::Occupied(entry) if entry.get().expires_at == expiry.at => {
                entry.remove();
                true
            }
            Entry::Occupied(_) | Entry::Vacant(_) => false,
        }
    }

    fn put(&mut self, key: K, value: V, expires_at: Timestamp) {
        if self.expiries.len() >= 2 * self.capacity {
            self.compact();
        }
        let at = expires_at;
        self.expiries.push(Reverse(TtlItem { at, key }));
        self.entries.insert(key, TtlEntry { value, expires_at });
    }

    /// Removes the items of entries that were removed or replaced.
    fn compact(&mut self) {
        let expiry = |(key, entry): (&K, &TtlEntry<V>)| {
            let (at, key) = (entry.expires_at, *key);
            Reverse(TtlItem { at, key })
        };
        self.expiries = self.entries.iter().map(expiry).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_000);

    fn after(secs: u64) -> Timestamp {
        NOON + Duration::from_secs(secs)
    }

    #[test]
    fn entry_is_absent_once_it_expires() {
        let mut map = TtlMap::new(4);
        map.insert(1, 'a', after(10), NOON);
        assert_eq!(map.get(&1, after(9)), Some(&'a'));
        assert_eq!(map.get(&1, after(10)), None);
        map.insert(2, 'b', after(20), after(10));
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn full_map_evicts_the_entry_that_expires_first() {
        let mut map = TtlMap::new(2);
        map.insert(1, (), after(3), NOON);
        map.insert(2, (), after(1), NOON);
        map.insert(3, (), after(2), NOON);
        assert!(map.get(&2, NOON).is_none());
        assert!(map.get(&1, NOON).is_some() && map.get(&3, NOON).is_some());
        map.insert(1, (), after(9), NOON);
        assert!(
            map.get(&3, NOON).is_some(),
            "a replaced entry needs no room"
        );
    }

    #[test]
    fn full_map_refuses_other_keys_until_an_entry_expires() {
        let mut map = TtlMap::new(2);
        assert!(map.try_insert(1, 'a', after(1), NOON));
        assert!(map.try_insert(2, 'b', after(2), NOON));
        assert!(!map.try_insert(3, 'c', after(3), NOON));
        assert!(map.try_insert(2, 'd', after(9), NOON));
        assert!(map.try_insert(3, 'c', after(3), after(1)));
        assert_eq!(map.get(&2, after(2)), Some(&'d'));
        assert!(!TtlMap::new(0).try_insert(1, (), after(1), NOON));
    }

    #[test]
    fn replaced_entry_lives_as_long_as_its_successor() {
        let mut map = TtlMap::new(2);
        map.insert(1, 'a', after(1), NOON);
        map.insert(1, 'b', after(5), NOON);
        map.insert(2, 'c', after(9), after(1));
        assert_eq!(map.get(&1, after(4)), Some(&'b'));
    }

    #[test]
    fn key_that_comes_and_goes_takes_bounded_memory() {
        let mut map = TtlMap::new(4);
        for _ in 0..1_000 {
            map.insert(1, (), after(1), NOON);
            map.remove(&1);
            assert!(map.expiries.len() <= 8);
        }
    }

    proptest! {
        #[test]
        fn map_agrees_with_a_model_within_its_bounds(
            steps in proptest::collection::vec(
                (0..8_u8, 0..4_u8, 0..6_u64, 1..12_u64), 0..200
            ),
        ) {
            let mut map = TtlMap::new(4);
            let mut model: HashMap<u8, (usize, Timestamp)> = HashMap::new();
            let mut now = NOON;
            for (step, (key, action, secs, ttl)) in steps.into_iter().enumerate() {
                now = now + Duration::from_secs(secs);
                let expires_at = now + Duration::from_secs(ttl);
                model.retain(|_, (_, expires_at)| now < *expires_at);
                let fits = model.len() < 4 || model.contains_key(&key);
                match action {
                    0 => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                    1 => {
                        map.insert(key, step, expires_at, now);
                        if !fits {
                            let first = model.iter().min_by_key(|(key, own)| (own.1, **key));
                            let first = *first.unwrap().0;
                            model.remove(&first);
                        }
                        model.insert(key, (step, expires_at));
                    }
                    2 => {
                        prop_assert_eq!(map.try_insert(key, step, expires_at, now), fits);
                        if fits {
                            model.insert(key, (step, expires_at));
                        }
                    }
                    _ => {}
                }
                prop_assert!(map.entries.len() <= 4 && map.expiries.len() <= 8);
                for key in 0..8 {
                    let expected = model.get(&key).map(|(step, _)| step);
                    prop_assert_eq!(map.get(&key, now), expected);
                }
            }
        }
    }
}
