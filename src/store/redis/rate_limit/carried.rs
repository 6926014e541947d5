//! The partitions whose usage under previous policies has been carried over.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{core::store_api::store_key::StoreKey, rate_limit::Policy};

/// The maximum number of entries. When it is exceeded, all entries are removed, and usage is
/// carried over again. Carrying over is idempotent.
const CARRIED_MAX: usize = 10_000;

/// The partitions whose usage under a previous policy has been carried over.
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
