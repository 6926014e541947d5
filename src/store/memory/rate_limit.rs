//! The rate_limit part of the store in memory.

mod table;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use smallvec::SmallVec;

use self::table::{Key, Table};
use super::{MemoryStore, Shelf};
use crate::{
    error::StoreErrorKind,
    rate_limit::{Charge, Decisions, Policy, RateLimitStore, Refund, State, decide_all},
    store_future::StoreFuture,
    store_key::{StoreKey, StoreKeys},
    time::{Clock, Timestamp},
};

/// What has been used: one state for each partition and policy.
pub(super) struct Part {
    clock: Arc<dyn Clock>,
    keys: StoreKeys,
    states_max: usize,
    // Allocated whole at the first request: a store that serves other layers alone pays nothing.
    table: OnceLock<Table>,
}

impl Part {
    pub(super) fn new(shelf: &Shelf) -> Self {
        Self {
            clock: Arc::clone(&shelf.clock),
            keys: shelf.keys.clone(),
            states_max: shelf.bounds.rate_limit_partitions_max,
            table: OnceLock::new(),
        }
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::new(self.states_max))
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        let now = self.clock.now();
        let decisions = match charges {
            [charge] => self
                .table()
                .change_one(key(partition, charge.policy), now, |state| {
                    decide_all(charges, std::slice::from_mut(state), now)
                }),
            _ => {
                let keys = keys(partition, charges.iter().map(|charge| charge.policy));
                self.table()
                    .change_all(&keys, now, |states| decide_all(charges, states, now))
            }
        };
        match decisions {
            Some(decisions) => StoreFuture::ready(decisions),
            None => StoreFuture::failed(StoreErrorKind::Full),
        }
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> Decisions {
        let now = self.clock.now();
        let mut states: SmallVec<[State; 4]> = keys(partition, policies(charges))
            .iter()
            .map(|key| self.table().read(*key))
            .collect();
        decide_all(charges, &mut states, now)
    }

    fn change_known(
        &self,
        partition: &StoreKey,
        policy: &Policy,
        change: impl FnOnce(State, Timestamp) -> State,
    ) {
        let now = self.clock.now();
        self.table().change_known(key(partition, policy), |state| {
            *state = change(*state, now);
        });
    }
}

impl RateLimitStore for MemoryStore {
    fn keys(&self) -> &StoreKeys {
        &self.shared.rate_limit.keys
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.shared.rate_limit.take(partition, charges)
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        StoreFuture::ready(self.shared.rate_limit.peek(partition, charges))
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        for refund in refunds {
            let give_back = |state, now| {
                refund
                    .policy
                    .refund(state, now, refund.receipt, refund.amount)
            };
            self.shared
                .rate_limit
                .change_known(partition, refund.policy, give_back);
        }
        StoreFuture::ready(())
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        for policy in policies {
            self.shared
                .rate_limit
                .change_known(partition, policy, |_, _| State::NONE);
        }
        StoreFuture::ready(())
    }
}

fn policies<'a>(charges: &'a [Charge<'a>]) -> impl Iterator<Item = &'a Policy> {
    charges.iter().map(|charge| charge.policy)
}

fn keys<'a>(
    partition: &StoreKey,
    policies: impl Iterator<Item = &'a Policy>,
) -> SmallVec<[Key; 4]> {
    policies.map(|policy| key(partition, policy)).collect()
}

fn key(partition: &StoreKey, policy: &Policy) -> Key {
    Key::new(partition, policy.id())
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("states_max", &self.states_max)
            .finish_non_exhaustive()
    }
}
