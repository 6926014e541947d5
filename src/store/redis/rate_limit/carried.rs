//! The partitions whose use of previous policies has been carried over.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{core::store_api::store_key::StoreKey, rate_limit::Policy};

/// The most partitions and policies that are remembered. Beyond them all are forgotten, and carried
/// over once more, which does no harm.
const CARRIED_MAX: usize = 10_000;

/// The partitions whose use of a previous policy has been carried over.
#[derive(Debug, Default)]
pub(super) struct Carried(Mutex<HashSet<(StoreKey, u64)>>);

impl Carried {
    pub(super) fn contains(&self, partition: &StoreKey, policy: &Policy) -> bool {
        self.lock().contains(&(*partition, policy.id()))
    }

    pub(super) fn insert(&self, partition: StoreKey, policy: &Policy) {
        let mut carried = self.lock();
        if carried.len() >= CARRIED_MAX {
            carried.clear();
        }
        carried.insert((partition, policy.id()));
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(StoreKey, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
