//! The store interface for rate limits.

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

/// A store that counts the usage of each partition.
///
/// A store provides the current time and an atomic step. The step reads the states of one
/// partition, decides the request, and writes the new states.
/// [`decide_all`](crate::store::backend::decide_all) performs the arithmetic.
///
/// If a store loses a state, up to one additional quota is admitted. If a store's step is not
/// atomic, each concurrent request of a caller can be admitted, so the limit is not enforced. If
/// the result of a call is unknown, for example because the call timed out, the call is never
/// repeated for the same request.
///
/// A policy can [replace](Policy::replacing) another one. A store that does not [carry
/// over](crate::store::backend::CarriedCounts) the usage of the replaced policy starts the new
/// policy with a full quota.
///
/// # Server layout
///
/// Each call concerns one partition, and therefore one key on a server. On Redis, the key is
/// derived from the digest of the partition, and its value is a hash. The hash has one field per
/// policy, and the name of the field is the policy's [`Policy::id`]. One script reads the server's
/// time and the fields, decides, and writes the fields. It also extends the key's expiry to the
/// latest [`expires_at`](crate::store::backend::State::expires_at) of the fields. In a cluster, the
/// key belongs to a single slot. All words of a state are below 2^53. Each [sliding
/// log](Policy::sliding_log) is stored as a list in the same slot.
pub trait RateLimitStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the secret with which partition digests are keyed.
    fn keys(&self) -> &StoreKeys;

    /// Takes either the costs of all charges or, if a policy denies, nothing. Returns the decision
    /// for each charge.
    ///
    /// Each policy occurs at most once in `charges`.
    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Takes the cost of one charge if the store can decide immediately. This method is the fast
    /// path of in-memory stores.
    ///
    /// `None` means that nothing was taken, and [`take`](Self::take) is called instead. The default
    /// implementation returns `None`. This method is called only if
    /// [`can_take_now`](Self::can_take_now) returns `true`.
    fn try_take_now(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        let _ = (partition, charge);
        None
    }

    /// Returns `true` if [`try_take_now`](Self::try_take_now) can return a decision. The default
    /// implementation returns `false`.
    fn can_take_now(&self) -> bool {
        false
    }

    /// Returns the decisions that [`take`](Self::take) would return, but takes nothing.
    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Charges amounts that are already used, even beyond the remaining quota; see
    /// [`Policy::charge`](super::Policy::charge). The entire amount is charged at the current time.
    ///
    /// This method is called only by limiters that settle the actual cost of requests or that
    /// decide locally while the store is unavailable. The default implementation, for stores that
    /// do not support such charges, fails with
    /// [`Misconfigured`](crate::StoreErrorKind::Misconfigured).
    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        let _ = (partition, charges);
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    /// Refunds excess charges.
    ///
    /// A refund applies only to the charge that its receipt identifies. After the window of the
    /// charge has ended, or the charge has leaked away, a refund has no effect.
    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()>;

    /// Deletes the usage of the partition under these policies.
    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()>;

    /// Checks that the store can decide requests to which all of these policies apply. This method
    /// is called when a limiter is built, once for each list of policies that is known at that
    /// time.
    ///
    /// # Errors
    ///
    /// Returns an error if the store does not support a policy. The default implementation supports
    /// all policies.
    fn check(&self, policies: &[&Policy]) -> Result<(), ConfigError> {
        let _ = policies;
        Ok(())
    }

    /// Returns `true` if the store supports [`charge`](Self::charge) and [`refund`](Self::refund).
    /// A limiter that settles costs, or that charges only some responses, requires both. The
    /// default implementation returns `true`.
    fn can_settle(&self) -> bool {
        true
    }

    /// Returns `true` if the store enforces its own timeout on each call. Otherwise, the layer
    /// applies a timeout. The default implementation returns `false`.
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

/// A refund of a charge to one policy.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Refund<'a> {
    /// The policy to which the refund applies.
    pub policy: &'a Policy,
    /// The receipt of the charge, from the [`Decision`](crate::store::backend::Decision).
    pub receipt: Receipt,
    /// The amount to refund.
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
