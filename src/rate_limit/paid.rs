//! What a request was charged, for as long as it may still be given back.

use std::{fmt, sync::Arc};

use smallvec::SmallVec;

use super::{
    decision::{Decisions, Receipt},
    policy_set::PolicySet,
    store::{RateLimitStore, Refund},
};
use crate::{runtime::Runtime, store_future::StoreFuture, store_key::StoreKey};

/// What a request costs each policy of its set, in their order.
pub(super) type Costs = SmallVec<[u64; 4]>;

/// What a request was charged, and where.
pub(super) struct Paid {
    store: Arc<dyn RateLimitStore>,
    runtime: Option<Arc<dyn Runtime>>,
    partition: StoreKey,
    set: Arc<PolicySet>,
    each: SmallVec<[(u64, Receipt); 2]>,
}

impl Paid {
    pub(super) fn new(
        store: &Arc<dyn RateLimitStore>,
        runtime: Option<&Arc<dyn Runtime>>,
        partition: StoreKey,
        set: &Arc<PolicySet>,
        costs: &[u64],
        decisions: &Decisions,
    ) -> Self {
        let receipts = decisions
            .each()
            .iter()
            .map(|said| match said.is_admitted() {
                true => said.receipt(),
                // A policy that only watches has denied: there is nothing to give back.
                false => Receipt::default(),
            });
        Self {
            store: Arc::clone(store),
            runtime: runtime.cloned(),
            partition,
            set: Arc::clone(set),
            each: costs.iter().copied().zip(receipts).collect(),
        }
    }

    pub(super) fn partition(&self) -> &StoreKey {
        &self.partition
    }

    /// Returns whether the other paid the same to the same policies, for a turn that is not
    /// before this one's.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        let same_or_later = |((cost, paid), (other_cost, later)): (&(u64, _), &(u64, _))| {
            cost == other_cost && paid <= later
        };
        Arc::ptr_eq(&self.set, &other.set)
            && Arc::ptr_eq(&self.store, &other.store)
            && self.each.iter().zip(&other.each).all(same_or_later)
    }

    /// Gives all of it back.
    pub(super) fn give_back(&self) {
        let policies = self.set.policies().iter();
        let refunds: SmallVec<[Refund<'_>; 4]> = policies
            .zip(&self.each)
            .filter(|(_, (cost, _))| *cost > 0)
            .map(|(policy, (cost, receipt))| Refund::new(policy, *receipt, *cost))
            .collect();
        if !refunds.is_empty() {
            self.send(self.store.refund(&self.partition, &refunds));
        }
    }

    /// Sees to it that the store is heard out. What a store that fails does not take back is lost
    /// to the client: nobody waits for it, and it is never sent again.
    fn send(&self, asked: StoreFuture<()>) {
        if let (Err(answer), Some(runtime)) = (asked.into_ready(), &self.runtime) {
            runtime.spawn(Box::pin(async move {
                let _ = answer.await;
            }));
        }
    }
}

/// Gives back what was paid if it is dropped before it is kept.
#[derive(Debug)]
pub(super) struct Deposit(Option<Paid>);

impl Deposit {
    pub(super) fn new(paid: Paid) -> Self {
        Self(Some(paid))
    }

    /// The request goes on: what was paid stays paid.
    pub(super) fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        if let Some(paid) = &self.0 {
            paid.give_back();
        }
    }
}

impl fmt::Debug for Paid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paid")
            .field("partition", &self.partition)
            .field("each", &self.each)
            .finish_non_exhaustive()
    }
}
