//! What a request was charged, for as long as it may still be given back.

use std::{fmt, sync::Arc};

use smallvec::SmallVec;

use crate::{
    core::{
        runtime::Runtime,
        store_api::{store_future::StoreFuture, store_key::StoreKey},
    },
    rate_limit::{
        decision::{
            charge::Charge,
            decision::{Decisions, Receipt},
        },
        policy::policy_set::PolicySet,
        store::{RateLimitStore, Refund},
    },
};

/// What a request costs each policy of its set, in their order.
pub(super) type Costs = SmallVec<[u64; 4]>;

/// What a request was charged, and where.
pub(crate) struct Paid {
    store: Arc<dyn RateLimitStore>,
    runtime: Option<Arc<dyn Runtime>>,
    partition: StoreKey,
    set: Arc<PolicySet>,
    each: SmallVec<[(u64, Receipt); 2]>,
}

impl Paid {
    pub(crate) fn new(
        store: Arc<dyn RateLimitStore>,
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
            store,
            runtime: runtime.cloned(),
            partition,
            set: Arc::clone(set),
            each: costs.iter().copied().zip(receipts).collect(),
        }
    }

    pub(crate) fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    pub(crate) fn partition(&self) -> &StoreKey {
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
    pub(crate) fn give_back(&self) {
        self.send(self.refund(u64::MAX));
    }

    /// Gives so much of it back to each policy, and no more than that was charged.
    pub(crate) fn refund(&self, amount: u64) -> StoreFuture<()> {
        let policies = self.set.policies().iter();
        let refunds: SmallVec<[Refund<'_>; 4]> = policies
            .zip(&self.each)
            .map(|(policy, (cost, receipt))| Refund::new(policy, *receipt, amount.min(*cost)))
            .filter(|refund| refund.amount > 0)
            .collect();
        match refunds.is_empty() {
            true => StoreFuture::ready(()),
            false => self.store.refund(&self.partition, &refunds),
        }
    }

    /// Charges or gives back the difference to what each policy was truly used; nothing where that
    /// is not known.
    pub(crate) fn settle(&self, used: impl Iterator<Item = Option<u64>>) {
        let each = self.set.policies().iter().zip(&self.each).zip(used);
        let known = each.filter_map(|((policy, (cost, receipt)), used)| {
            // What only watched and denied was charged nothing.
            let charged = *cost == 0 || *receipt != Receipt::default();
            Some((policy, *cost, *receipt, used.filter(|_| charged)?))
        });
        let (mut refunds, mut charges) = (SmallVec::<[_; 4]>::new(), SmallVec::<[_; 4]>::new());
        for (policy, cost, receipt, used) in known {
            match used.checked_sub(cost) {
                Some(0) => {}
                Some(more) => charges.push(Charge::new(policy, more)),
                None => refunds.push(Refund::new(policy, receipt, cost - used)),
            }
        }
        if !refunds.is_empty() {
            self.send(self.store.refund(&self.partition, &refunds));
        }
        if !charges.is_empty() {
            self.send(self.store.charge(&self.partition, &charges));
        }
    }

    /// Waits for the store in the background. An amount that is lost is never sent again.
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
pub(crate) struct Deposit(Option<Paid>);

impl Deposit {
    pub(crate) fn new(paid: Paid) -> Self {
        Self(Some(paid))
    }

    /// The request goes on: what was paid stays paid.
    pub(crate) fn keep(&mut self) -> Option<Paid> {
        self.0.take()
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
