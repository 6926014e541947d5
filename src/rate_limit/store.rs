//! The store interface of rate limits.

use std::{fmt, sync::Arc};

use super::{
    decision::{
        charge::Charge,
        decision::{Decision, Decisions, Receipt},
    },
    policy::policy::Policy,
};
use crate::core::{
    error::{ConfigError, StoreErrorKind},
    store_api::{
        store_future::StoreFuture,
        store_key::{StoreKey, StoreKeys},
    },
    time::Timestamp,
};

/// A store of the usage of each partition.
///
/// A store provides two things: an atomic read, decision and write of the states of one partition,
/// and the current time. [`decide_all`](crate::store::backend::decide_all) does the arithmetic.
///
/// A store that loses a state admits up to one more quota. A store whose step is not atomic admits
/// one request per racing caller, and so does not limit. A call with an unknown result (a timeout)
/// is never repeated for the same request.
///
/// A store that does not [carry over](crate::store::backend::Carry) the usage of a policy that
/// another one [replaces](Policy::replacing) starts the new policy with a full quota.
///
/// # Server layout
///
/// Each call concerns one partition, and so one key of a server. On Redis it is a hash named by the
/// digest of the partition, with one field per policy, named by its [`Policy::id`]. One script
/// reads the server's time and the fields, decides, writes the fields, and extends the key's expiry
/// to the latest [`expires_at`](crate::store::backend::State::expires_at) of them. The key has one
/// slot of a cluster, and all words of a state are below 2^53. Each [sliding
/// log](Policy::sliding_log) has a list in the same slot.
pub trait RateLimitStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the secret under which partitions are digested.
    fn keys(&self) -> &StoreKeys;

    /// Takes the costs of all charges or of none, and returns the decision for each.
    ///
    /// Each policy occurs at most once in `charges`.
    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Takes the cost of one charge if the store can decide immediately. It is the fast path of
    /// in-memory stores.
    ///
    /// `None` means that nothing was taken; [`take`](Self::take) is called instead. The default
    /// returns `None`. It is only called if [`can_take_now`](Self::can_take_now) returns `true`.
    fn try_take_now(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        let _ = (partition, charge);
        None
    }

    /// Returns `true` if [`try_take_now`](Self::try_take_now) can return a decision.
    fn can_take_now(&self) -> bool {
        false
    }

    /// Returns the decisions that [`take`](Self::take) would return, without taking anything.
    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Charges usage after the fact, even beyond the remaining quota; see
    /// [`Policy::charge`](super::Policy::charge). The whole amount is charged at the current time.
    ///
    /// Only limiters that settle the actual cost of requests, or that decide locally while the
    /// store is unavailable, call it. The default fails with
    /// [`Misconfigured`](crate::StoreErrorKind::Misconfigured), for stores that do not support it.
    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        let _ = (partition, charges);
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    /// Refunds an excess charge.
    ///
    /// A refund only applies to the charge of its receipt: after the window of the charge has
    /// ended, or the charge has leaked away, it has no effect.
    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()>;

    /// Deletes the usage of the partition under these policies.
    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()>;

    /// Checks that the store can decide by these policies together. It is called when a limiter is
    /// built, for each list of policies that is known by then.
    ///
    /// # Errors
    ///
    /// Returns an error if the store does not support a policy. The default supports all policies.
    fn check(&self, policies: &[&Policy]) -> Result<(), ConfigError> {
        let _ = policies;
        Ok(())
    }

    /// Returns `true` if the store can [charge](Self::charge) and [refund](Self::refund). A limiter
    /// that settles requires it. The default returns `true`.
    fn can_settle(&self) -> bool {
        true
    }

    /// Returns `true` if the store limits the time of each call itself. The layer applies its own
    /// timeout otherwise. The default returns `false`.
    fn has_timeout(&self) -> bool {
        false
    }
}

impl<T: RateLimitStore + ?Sized> RateLimitStore for Arc<T> {
    fn keys(&self) -> &StoreKeys {
        (**self).keys()
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        (**self).take(partition, charges)
    }

    fn try_take_now(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        (**self).try_take_now(partition, charge)
    }

    fn can_take_now(&self) -> bool {
        (**self).can_take_now()
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        (**self).peek(partition, charges)
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        (**self).charge(partition, charges)
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        (**self).refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        (**self).reset(partition, policies)
    }

    fn check(&self, policies: &[&Policy]) -> Result<(), ConfigError> {
        (**self).check(policies)
    }

    fn can_settle(&self) -> bool {
        (**self).can_settle()
    }

    fn has_timeout(&self) -> bool {
        (**self).has_timeout()
    }
}

/// A refund to one policy.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Refund<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The receipt of the charge, from its [`Decision`](crate::store::backend::Decision).
    pub receipt: Receipt,
    /// The excess amount of the charge.
    pub amount: u64,
}

impl<'a> Refund<'a> {
    /// Creates a refund of this amount.
    pub fn new(policy: &'a Policy, receipt: Receipt, amount: u64) -> Self {
        Self {
            policy,
            receipt,
            amount,
        }
    }
}
