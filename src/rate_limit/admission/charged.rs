//! The charges of a request while they can still be refunded or settled.

use std::{fmt, sync::Arc};

use smallvec::SmallVec;

use crate::{
    core::{
        runtime::Runtime,
        store_api::{
            store_future::{ReadyOrPending, StoreFuture},
            store_key::StoreKey,
        },
    },
    rate_limit::{
        decision::{
            charge::Charge,
            decision::{Decisions, Receipt},
        },
        policy::{policy::Policy, policy_set::PolicySet},
        store::{RateLimitStore, Refund},
    },
};

/// The cost of a request for each policy in its set, in the order of the policies.
pub(super) type Costs = SmallVec<[u64; 4]>;

/// The charges of a request, and the store that holds them.
pub(crate) struct Paid {
    store: Arc<dyn RateLimitStore>,
    runtime: Option<Arc<dyn Runtime>>,
    partition: StoreKey,
    set: Arc<PolicySet>,
    each: SmallVec<[PaidCharge; 2]>,
}

/// The charge of one policy.
#[derive(Clone, Copy, Debug)]
struct PaidCharge {
    cost: u64,
    receipt: Receipt,
    /// `true` if the charge is not settled: it was refunded, or was never made because a policy in
    /// shadow mode denied the request.
    is_final: bool,
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
            .map(|decision| match decision.is_admitted() {
                true => decision.receipt(),
                // A policy in shadow mode denied: there is nothing to refund.
                false => Receipt::default(),
            });
        Self {
            store,
            runtime: runtime.cloned(),
            partition,
            set: Arc::clone(set),
            each: costs
                .iter()
                .zip(receipts)
                .map(|(cost, receipt)| PaidCharge {
                    cost: *cost,
                    receipt,
                    is_final: *cost > 0 && receipt == Receipt::default(),
                })
                .collect(),
        }
    }

    pub(crate) fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    pub(crate) fn partition(&self) -> &StoreKey {
        &self.partition
    }

    /// Returns `true` if `other` charges the same costs to the same policies and its turn is not
    /// earlier than this turn.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        let same_or_later = |(paid, later): (&PaidCharge, &PaidCharge)| {
            paid.cost == later.cost && paid.receipt <= later.receipt
        };
        Arc::ptr_eq(&self.set, &other.set)
            && Arc::ptr_eq(&self.store, &other.store)
            && self.each.iter().zip(&other.each).all(same_or_later)
    }

    /// Refunds all charges in the background.
    pub(crate) fn give_back(&self) {
        self.send(self.refund(u64::MAX));
    }

    /// Refunds this amount to each policy, but at most the amount that was charged.
    pub(crate) fn refund(&self, amount: u64) -> StoreFuture<()> {
        let policies = self.set.policies().iter();
        let refunds: SmallVec<[Refund<'_>; 4]> = policies
            .zip(&self.each)
            .map(|(policy, paid)| Refund::new(policy, paid.receipt, amount.min(paid.cost)))
            .filter(|refund| refund.amount > 0)
            .collect();
        match refunds.is_empty() {
            true => StoreFuture::ready(()),
            false => self.store.refund(&self.partition, &refunds),
        }
    }

    /// Charges or refunds the difference to the actual cost for each policy. `None` leaves the
    /// charge unchanged.
    pub(crate) fn settle(&self, used: impl Iterator<Item = Option<u64>>) {
        let each = self.set.policies().iter().zip(&self.each).zip(used);
        let known = each.filter_map(|((policy, paid), used)| {
            let used = used.filter(|_| !paid.is_final)?;
            Some((policy, paid.cost, paid.receipt, used))
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

    /// Refunds the policies for which the function returns `false`. A later settlement does not
    /// apply to them.
    pub(super) fn keep_if(&mut self, is_charged: impl Fn(&Policy) -> bool) {
        let policies = self.set.policies().iter();
        let waived: SmallVec<[bool; 4]> = policies.map(|policy| !is_charged(policy)).collect();
        self.settle(waived.iter().map(|is_waived| is_waived.then_some(0)));
        for (paid, is_waived) in self.each.iter_mut().zip(waived) {
            paid.is_final |= is_waived;
        }
    }

    /// Waits for the store in the background. A failed call is not retried.
    fn send(&self, call: StoreFuture<()>) {
        if let (ReadyOrPending::Pending(reply), Some(runtime)) = (call.into_ready(), &self.runtime)
        {
            runtime.spawn(Box::pin(async move {
                let _ = reply.await;
            }));
        }
    }
}

/// Charges that are refunded when the deposit is dropped, unless [`keep`](Self::keep) was called.
#[derive(Debug)]
pub(crate) struct Deposit(Option<Paid>);

impl Deposit {
    pub(crate) fn new(paid: Paid) -> Self {
        Self(Some(paid))
    }

    /// Makes the charges final, because the request is admitted.
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
