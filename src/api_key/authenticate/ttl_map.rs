//! A bounded map whose entries last equally long.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use crate::core::time::Timestamp;

/// Holds at most `capacity` entries, each for `lasts`: who came first goes first, by time and when
/// room is needed. Each step costs the same, whatever it holds.
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, TtlEntry<V>>,
    /// Each entry's key and number, oldest first; those that were replaced or removed included.
    order: VecDeque<(K, u64)>,
    next_number: u64,
    capacity: usize,
    lasts: Duration,
}

#[derive(Debug)]
struct TtlEntry<V> {
    value: V,
    number: u64,
    ends_at: Timestamp,
}

impl<K: Copy + Eq + Hash, V> Expiring<K, V> {
    pub(crate) fn new(capacity: usize, lasts: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            next_number: 0,
            capacity,
            lasts,
        }
    }

    pub(crate) fn get(&self, key: &K, now: Timestamp) -> Option<&V> {
        let entry = self.entries.get(key)?;
        (now < entry.ends_at).then_some(&entry.value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V, now: Timestamp) {
        self.make_room(now);
        let number = self.next_number;
        self.next_number += 1;
        let ends_at = now + self.lasts;
        self.order.push_back((key, number));
        self.entries.insert(
            key,
            TtlEntry {
                value,
                number,
                ends_at,
            },
        );
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Lets go of what has ended, and of the oldest where there is no room. Places of removed
    /// entries count: a key that comes and goes cannot make the order grow.
    fn make_room(&mut self, now: Timestamp) {
        while let Some((key, number)) = self.order.front() {
            let entry = self.entries.get(key).filter(|own| own.number == *number);
            let stays = entry.is_some_and(|own| now < own.ends_at);
            if stays && self.order.len() < self.capacity {
                return;
            }
            if entry.is_some() {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_000);
    const LASTS: Duration = Duration::from_secs(10);

    #[test]
    fn an_entry_lasts_just_so_long() {
        let mut map = Expiring::new(4, LASTS);
        map.insert(1, 'a', NOON);
        assert_eq!(map.get(&1, NOON + Duration::from_secs(9)), Some(&'a'));
        assert_eq!(map.get(&1, NOON + LASTS), None);
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut map = Expiring::new(2, LASTS);
        for key in 1..=3 {
            map.insert(key, (), NOON);
        }
        assert!(map.get(&1, NOON).is_none());
        assert!(map.get(&2, NOON).is_some() && map.get(&3, NOON).is_some());
    }

    proptest! {
        #[test]
        fn it_never_outgrows_its_bound_nor_shows_what_was_removed(
            steps in proptest::collection::vec((0..8_u8, 0..3_u8, 0..6_u64), 0..200),
        ) {
            let mut map = Expiring::new(4, LASTS);
            let mut model: HashMap<u8, (usize, Timestamp)> = HashMap::new();
            let mut now = NOON;
            for (step, (key, action, secs)) in steps.into_iter().enumerate() {
                now = now + Duration::from_secs(secs);
                match action {
                    0 => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                    1 => {
                        map.insert(key, step, now);
                        model.insert(key, (step, now + LASTS));
                    }
                    _ => {}
                }
                prop_assert!(map.entries.len() <= 4 && map.order.len() <= 4);
                // What it shows is what the model holds; it may have let go of it for want of room.
                if let Some(value) = map.get(&key, now) {
                    let (expected, ends_at) = model[&key];
                    prop_assert_eq!(*value, expected);
                    prop_assert!(now < ends_at);
                }
            }
        }
    }
}
