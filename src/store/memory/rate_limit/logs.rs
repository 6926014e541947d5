//! The size-limited logs of sliding-log policies.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    rate_limit::backend::Log,
};

/// The number of shards, each with its own lock.
const SHARDS: usize = 64;

/// The number of timestamps, across all logs, for each state in the store.
const MOMENTS_PER_STATE: usize = 8;

pub(super) struct Logs {
    shards: Box<[Mutex<Shard>]>,
    /// The maximum number of timestamps in a shard. Each log counts as one additional timestamp.
    max_moments: usize,
}

#[derive(Default)]
struct Shard {
    logs: HashMap<(StoreKey, u64), Log>,
    moments: usize,
    /// The time before which a sweep would not find any more expired logs.
    sweep_at: Timestamp,
}

impl Logs {
    pub(super) fn new(max_states: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            max_moments: (max_states.saturating_mul(MOMENTS_PER_STATE) / SHARDS).max(2),
        }
    }

    /// Changes a partition's logs atomically. Logs that do not exist are empty.
    ///
    /// Returns `None` if there is not enough space for the timestamps that the change may add.
    pub(super) fn change<T>(
        &self,
        partition: &StoreKey,
        policies: &[u64],
        now: Timestamp,
        change: impl FnOnce(&mut [Log]) -> T,
    ) -> Option<T> {
        let mut shard = self.shard(partition);
        if !shard.has_room(2 * policies.len(), self.max_moments, now) {
            return None;
        }
        let mut logs: Vec<Log> = policies
            .iter()
            .map(|policy| shard.take(partition, *policy))
            .collect();
        let result = change(&mut logs);
        for (policy, log) in policies.iter().zip(logs) {
            shard.put(partition, *policy, log);
        }
        Some(result)
    }

    /// Changes a log if it exists.
    pub(super) fn change_known(
        &self,
        partition: &StoreKey,
        policy: u64,
        change: impl FnOnce(&mut Log),
    ) {
        let mut shard = self.shard(partition);
        let mut log = shard.take(partition, policy);
        change(&mut log);
        shard.put(partition, policy, log);
    }

    /// Returns a copy of a log.
    pub(super) fn read(&self, partition: &StoreKey, policy: u64) -> Log {
        let shard = self.shard(partition);
        shard
            .logs
            .get(&(*partition, policy))
            .cloned()
            .unwrap_or_default()
    }

    fn shard(&self, partition: &StoreKey) -> MutexGuard<'_, Shard> {
        let shard = usize::from(partition.as_bytes()[0]) % SHARDS;
        // The shard is consistent at each step. A panic removes a log at worst.
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn take(&mut self, partition: &StoreKey, policy: u64) -> Log {
        let log = self.logs.remove(&(*partition, policy)).unwrap_or_default();
        self.moments -= weight(&log);
        log
    }

    fn put(&mut self, partition: &StoreKey, policy: u64, log: Log) {
        if !log.is_empty() {
            self.moments += weight(&log);
            self.logs.insert((*partition, policy), log);
        }
    }

    /// Returns `true` if `more` timestamps fit, after removing expired logs if necessary.
    fn has_room(&mut self, more: usize, max_moments: usize, now: Timestamp) -> bool {
        let fits = |moments: usize| moments + more <= max_moments;
        if !fits(self.moments) && self.sweep_at <= now {
            self.logs.retain(|_, log| log.expires_at() > now);
            self.moments = self.logs.values().map(weight).sum();
            let next = self.logs.values().map(Log::expires_at).min();
            self.sweep_at = next.unwrap_or_default();
        }
        fits(self.moments)
    }
}

/// Returns the size of a log: the number of its timestamps, plus one for its slot in the map.
fn weight(log: &Log) -> usize {
    if log.is_empty() { 0 } else { log.len() + 1 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        core::store_api::store_key::StoreKeys,
        rate_limit::{
            Policy, Quota,
            backend::{Charge, StateRef, decide_all_with_logs},
        },
    };

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn partitions(count: u64) -> Vec<StoreKey> {
        let space = StoreKeys::from_secret(&[7; 32]).unwrap().space("test");
        let key = |number: u64| space.short().field(&number.to_le_bytes()).finish();
        (0..count).map(key).collect()
    }

    fn take(logs: &Logs, partition: &StoreKey, policy: &Policy, now: Timestamp) -> Option<bool> {
        logs.change(partition, &[policy.id()], now, |logs| {
            let mut memories = [StateRef::Log(&mut logs[0])];
            decide_all_with_logs(&[Charge::new(policy, 1)], &mut memories, now).is_admitted()
        })
    }

    #[test]
    fn flood_is_rejected_at_capacity_and_evicts_no_log() {
        let logs = Logs::new(1_000);
        let policy = Policy::sliding_log("log", Quota::per_minute(2)).unwrap();
        let keys = partitions(20_000);
        assert_eq!(take(&logs, &keys[0], &policy, NOW), Some(true));
        assert_eq!(take(&logs, &keys[0], &policy, NOW), Some(true));
        let refused = keys[1..]
            .iter()
            .filter(|key| take(&logs, key, &policy, NOW).is_none());
        assert!(refused.count() >= 20_000 - 8_000);
        assert_ne!(take(&logs, &keys[0], &policy, NOW), Some(true));
        let moments: usize = logs
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().moments)
            .sum();
        assert!(moments <= 8_000);

        let later = NOW + Duration::from_secs(60);
        assert_eq!(take(&logs, &keys[19_999], &policy, later), Some(true));
    }
}
