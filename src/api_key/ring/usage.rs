//! The time of the last use and the number of uses of each key, reported to the store periodically.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    api_key::{key::format::KeyId, store::KeyUse},
    core::time::Timestamp,
};

/// The number of tables, each with its own lock.
const TABLES: usize = 16;
/// The maximum number of keys per table between two reports. Uses of further keys are not counted.
const TABLE_KEYS_MAX: usize = 1_024;

/// The uses since the last report.
pub(crate) struct Usage {
    tables: [Mutex<HashMap<KeyId, KeyUse>>; TABLES],
}

impl Usage {
    pub(crate) fn new() -> Self {
        Self {
            tables: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(crate) fn add(&self, used: KeyUse) {
        let last = used.id.as_str().bytes().next_back().unwrap_or_default();
        let mut table = lock(&self.tables[usize::from(last) % TABLES]);
        let full = table.len() >= TABLE_KEYS_MAX;
        match table.entry(used.id) {
            Entry::Occupied(mut own) => {
                let own = own.get_mut();
                own.at = own.at.max(used.at);
                own.uses = own.uses.saturating_add(used.uses);
            }
            Entry::Vacant(_) if full => {}
            Entry::Vacant(place) => drop(place.insert(used)),
        }
    }

    pub(crate) fn record(&self, id: KeyId, at: Timestamp) {
        self.add(KeyUse::new(id, at, 1));
    }

    /// Removes and returns all pending uses.
    pub(crate) fn take(&self) -> Vec<KeyUse> {
        let mut uses = Vec::new();
        for table in &self.tables {
            let table = mem::take(&mut *lock(table));
            uses.extend(table.into_values());
        }
        uses
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Usage")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks, so a poisoned lock is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::key::format::tests::id;

    #[test]
    fn the_latest_moment_and_the_sum_are_reported_once() {
        let usage = Usage::new();
        for secs in [3, 9, 5] {
            usage.record(id(1), Timestamp::from_secs(secs));
        }
        usage.record(id(2), Timestamp::from_secs(1));
        let mut uses = usage.take();
        uses.sort_by_key(|own| own.id);
        assert_eq!(uses[0], KeyUse::new(id(1), Timestamp::from_secs(9), 3));
        assert_eq!(uses[1], KeyUse::new(id(2), Timestamp::from_secs(1), 1));
        assert!(usage.take().is_empty());
    }

    #[test]
    fn a_flood_of_keys_is_bounded() {
        let usage = Usage::new();
        for number in 0..100_000 {
            usage.record(id(number), Timestamp::EPOCH);
        }
        assert!(usage.take().len() <= TABLES * TABLE_KEYS_MAX);
    }
}
