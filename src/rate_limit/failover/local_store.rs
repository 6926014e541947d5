//! The store in this process that decides while the limiter's store fails.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use smallvec::SmallVec;

use crate::{
    core::{
        store_api::{
            store_future::{ReadyOrPending, StoreFuture},
            store_key::{StoreKey, StoreKeys},
        },
        time::Timestamp,
    },
    rate_limit::{
        decision::{charge::Charge, decision::Decisions},
        policy::{policy::Policy, policy_set::PolicySet},
        store::{RateLimitStore, Refund},
    },
};

/// A local store that also tracks the amounts that have not yet been charged to the limiter's main
/// store.
///
/// The store has two counts per partition. The first count decides requests. It is lowered only by
/// amounts that the main store acknowledged while the main store had quota left. Over any number of
/// outages, a window therefore admits at most the limit plus one share, even if charges are lost.
/// The second count, under a separate key, contains the unsent amounts. Both counts expire with
/// their windows and are subject to the local store's limits.
///
/// A local store that does not reply immediately has only the first count, which is never lowered.
#[derive(Debug)]
pub(crate) struct LocalStore {
    store: Arc<dyn RateLimitStore>,
    /// The time until which an unsent amount can exist, in microseconds on the local store's clock.
    /// Zero if there are no unsent amounts.
    unsent_until: AtomicU64,
    // Both counts change together.
    counts: Mutex<()>,
}

/// An amount for each policy, in the order of the policies.
type Amounts = SmallVec<[u64; 4]>;

/// The local counts of one partition while they are being charged to the main store.
pub(crate) struct Payment {
    local: Arc<LocalStore>,
    local_set: Arc<PolicySet>,
    partition: StoreKey,
    amounts: Amounts,
    /// The time at which all amounts have expired, according to the local store's clock.
    counts_until: Timestamp,
}

impl LocalStore {
    pub(crate) fn new(store: &Arc<dyn RateLimitStore>) -> Self {
        Self {
            store: Arc::clone(store),
            unsent_until: AtomicU64::new(0),
            counts: Mutex::new(()),
        }
    }

    /// Returns `true` if unsent amounts can exist.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent_until.load(Ordering::Relaxed) > 0
    }

    /// Takes the unsent amounts of a partition, if there are any. An amount is never taken twice.
    pub(super) fn payment(
        self: &Arc<Self>,
        partition: &StoreKey,
        local_set: Arc<PolicySet>,
    ) -> Option<Payment> {
        let until = self.unsent_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let policies = local_set.policies();
        let _both = self.lock();
        let (counted, used) = self.used(partition, policies)?;
        if counted.at().as_micros() >= until {
            let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = self.unsent_until.compare_exchange(until, 0, set, failed);
            return None;
        }
        let (_, unsent) = self.used(&unsent_key(partition), policies)?;
        // Amounts of an ended window are not charged.
        let amounts: Amounts = used.iter().zip(unsent).map(|(a, b)| b.min(*a)).collect();
        if amounts.iter().all(|amount| *amount == 0) {
            return None;
        }
        self.forget(&unsent_key(partition), policies)?;
        Some(Payment {
            local: Arc::clone(self),
            counts_until: counted.at() + longest_reset(&counted),
            partition: *partition,
            amounts,
            local_set,
        })
    }

    /// Returns the amounts that still count for a key, if the store replies immediately.
    fn used(&self, key: &StoreKey, policies: &[Policy]) -> Option<(Decisions, Amounts)> {
        let counted = self.store.peek(key, &charges(policies, None));
        let counted = counted.into_ready().ready()?.ok()?;
        let each = policies.iter().zip(counted.each());
        let used = each.map(|(policy, said)| policy.capacity().saturating_sub(said.remaining()));
        let used = used.collect();
        Some((counted, used))
    }

    fn forget(&self, key: &StoreKey, policies: &[Policy]) -> Option<()> {
        let all: SmallVec<[&Policy; 4]> = policies.iter().flat_map(Policy::with_previous).collect();
        self.store.reset(key, &all).into_ready().ready()?.ok()
    }

    /// Adds amounts to the unsent ones.
    fn add_unsent(&self, partition: &StoreKey, charges: &[Charge<'_>], until: Timestamp) {
        let charged = self.store.charge(&unsent_key(partition), charges);
        if let ReadyOrPending::Ready(_) = charged.into_ready() {
            self.unsent_until
                .fetch_max(until.as_micros(), Ordering::Relaxed);
        }
    }

    /// Lowers the counts under a key by these amounts.
    fn lower(&self, key: &StoreKey, policies: &[Policy], by: &[u64]) -> Option<()> {
        let (_, used) = self.used(key, policies)?;
        for ((policy, used), by) in policies.iter().zip(used).zip(by) {
            if used == 0 || *by == 0 {
                continue;
            }
            self.forget(key, std::slice::from_ref(policy))?;
            let rest = Charge::new(policy, used.saturating_sub(*by));
            if rest.cost > 0 {
                self.store.charge(key, &[rest]).into_ready().ready()?.ok()?;
            }
        }
        Some(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Payment {
    /// Charges the main store once, and then lowers the local count by the amounts that the main
    /// store acknowledged with quota left.
    pub(crate) async fn send(self, store: Arc<dyn RateLimitStore>, set: Arc<PolicySet>) {
        let charges = self.charges_to(&set);
        let charged = store.charge(&self.partition, &charges);
        drop(charges);
        if let Err(error) = charged.await {
            // After any other failure it is not known whether the amounts were charged.
            if error.kind().is_undone() {
                self.put_back();
            }
            return;
        }
        let look = self::charges(set.policies(), None);
        let look = store.peek(&self.partition, &look);
        if let Ok(left) = look.await {
            self.acknowledge(&set, &left);
        }
    }

    fn charges_to<'a>(&self, set: &'a PolicySet) -> SmallVec<[Charge<'a>; 4]> {
        let named = |name: &str| set.policies().iter().find(|policy| policy.name() == name);
        let amounts = self.local_set.policies().iter().zip(&self.amounts);
        amounts
            .filter(|(_, amount)| **amount > 0)
            .filter_map(|(policy, amount)| Some(Charge::new(named(policy.name())?, *amount)))
            .collect()
    }

    /// Marks the amounts as unsent again because they were not charged.
    fn put_back(&self) {
        let charges = charges(self.local_set.policies(), Some(&self.amounts));
        let _both = self.local.lock();
        self.local
            .add_unsent(&self.partition, &charges, self.counts_until);
    }

    /// Lowers the local count by the charged amounts of those policies that have quota left in the
    /// main store.
    fn acknowledge(&self, set: &PolicySet, left: &Decisions) {
        let policies = self.local_set.policies();
        let _both = self.local.lock();
        let (Some((counted, used)), Some((_, unsent))) = (
            self.local.used(&self.partition, policies),
            self.local.used(&unsent_key(&self.partition), policies),
        ) else {
            return;
        };
        if counted.at() >= self.counts_until {
            return;
        }
        let has_left = |name: &str| {
            let mut each = set.policies().iter().zip(left.each());
            each.any(|(policy, said)| policy.name() == name && said.remaining() > 0)
        };
        let counts = policies.iter().zip(used.iter().zip(&unsent));
        let by = counts.zip(&self.amounts);
        let by: Amounts = by
            .map(
                |((policy, (used, unsent)), amount)| match has_left(policy.name()) {
                    true => (*amount).min(used.saturating_sub(*unsent)),
                    false => 0,
                },
            )
            .collect();
        // An unchanged count is safe: it only denies more.
        let _ = self.local.lower(&self.partition, policies, &by);
    }
}

impl RateLimitStore for LocalStore {
    fn keys(&self) -> &StoreKeys {
        self.store.keys()
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        let _both = self.lock();
        let decisions = match self.store.take(partition, charges).into_ready() {
            ReadyOrPending::Ready(Ok(decisions)) => decisions,
            ReadyOrPending::Ready(Err(error)) => return StoreFuture::failed(error),
            ReadyOrPending::Pending(pending) => return StoreFuture::Pending(pending),
        };
        if decisions.is_admitted() {
            let each = charges.iter().zip(decisions.each());
            // A policy in shadow mode that denies is not charged.
            let charged = each.filter(|(charge, said)| said.is_admitted() && charge.cost > 0);
            let charged: SmallVec<[Charge<'_>; 4]> = charged.map(|(charge, _)| *charge).collect();
            let until = decisions.at() + longest_reset(&decisions);
            self.add_unsent(partition, &charged, until);
        }
        StoreFuture::ready(decisions)
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.store.peek(partition, charges)
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        let _both = self.lock();
        // The amounts count no longer than those of the request that is settled.
        let until = Timestamp::from_micros(self.unsent_until.load(Ordering::Relaxed));
        self.add_unsent(partition, charges, until);
        self.store.charge(partition, charges)
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        let _both = self.lock();
        for refund in refunds {
            let policy = std::slice::from_ref(refund.policy);
            // Amounts that were sent concurrently remain charged.
            let _ = self.lower(&unsent_key(partition), policy, &[refund.amount]);
        }
        self.store.refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        let _both = self.lock();
        let unsent = self.store.reset(&unsent_key(partition), policies);
        let reset = self.store.reset(partition, policies);
        match unsent.into_ready() {
            ReadyOrPending::Ready(Ok(())) => reset,
            ReadyOrPending::Ready(Err(error)) => StoreFuture::failed(error),
            ReadyOrPending::Pending(pending) => StoreFuture::pending(async move {
                pending.await?;
                reset.await
            }),
        }
    }
}

/// Returns charges of these amounts, or charges of zero if there are no amounts.
fn charges<'a>(policies: &'a [Policy], amounts: Option<&[u64]>) -> SmallVec<[Charge<'a>; 4]> {
    let amount = |index: usize| amounts.map_or(0, |amounts| amounts[index]);
    let policies = policies.iter().enumerate();
    policies
        .map(|(index, policy)| Charge::new(policy, amount(index)))
        .collect()
}

fn longest_reset(decisions: &Decisions) -> std::time::Duration {
    let each = decisions.each().iter().map(|said| said.reset_after());
    each.max().unwrap_or_default()
}

/// Returns the key of a partition's unsent amounts. The key is not the digest of any partition.
fn unsent_key(partition: &StoreKey) -> StoreKey {
    let mut digest = *partition.as_bytes();
    digest[15] ^= 0xa5;
    StoreKey::from_bytes(digest)
}
