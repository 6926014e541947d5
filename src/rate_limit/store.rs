//! The port: where a limiter keeps what each partition has used.

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

/// Where a limiter keeps what each partition has used.
///
/// A store answers for two things: that reading the states of one partition, deciding on them and
/// writing them back is one step for any two callers, and what time it is. The arithmetic is
/// [`decide_all`](crate::store::backend::decide_all)'s.
///
/// A store that loses a state admits up to one more quota. One whose step is not atomic admits as
/// many requests as it has racing callers: it is no limiter. One that cannot say what it did (a
/// timeout) is never asked again for the same request.
///
/// A store that does not [carry over](crate::store::backend::Carry) what was used of a policy that another one
/// [replaces](Policy::replacing) starts that one with a full quota.
///
/// # One command
///
/// Each question is about one partition, and so about one key of a server: on Redis a hash named
/// by the partition's digest, with a field for each policy, named by its [`Policy::id`]. One script
/// reads the server's time and the fields, decides, writes the fields, and moves the key's expiry on
/// if it comes before the latest [`expires_at`](crate::store::backend::State::expires_at) of them. One key has one slot of
/// a cluster, and all words of a state are below 2^53. Beside it stands a list for each
/// [sliding log](Policy::sliding_log), in the same slot.
pub trait RateLimitStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the secret under which partitions are digested.
    fn keys(&self) -> &StoreKeys;

    /// Takes what the charges ask for, all of it or nothing, and says what is left of each.
    ///
    /// No policy stands twice among the charges.
    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Takes what one charge asks for, if the store sees at once that it is there: the short way of
    /// nearly all requests of a store in memory.
    ///
    /// `None` says nothing, and nothing has been taken: then [`take`](Self::take) is asked. So it is
    /// by default. It is only asked of a store that [has a short way](Self::can_take_now).
    fn try_take_now(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        let _ = (partition, charge);
        None
    }

    /// Returns whether [`try_take_now`](Self::try_take_now) ever says anything.
    fn can_take_now(&self) -> bool {
        false
    }

    /// Says what [`take`](Self::take) would say, and takes nothing.
    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions>;

    /// Charges what has been used already, whether it is left or not; see
    /// [`Policy::charge`](super::Policy::charge). All of it now, whenever it was used.
    ///
    /// It is asked of a store only by limiters that settle what a request truly cost, or that count
    /// on their own while the store is away. The default fails with
    /// [`Misconfigured`](crate::StoreErrorKind::Misconfigured), as a store does that cannot.
    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        let _ = (partition, charges);
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    /// Gives back what was taken too much.
    ///
    /// A refund only reaches what its receipt was given for: once the window in which it was
    /// charged is over, or the charge has leaked away, there is nothing to give back.
    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()>;

    /// Forgets what the partition has used of these policies.
    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()>;

    /// Returns what is wrong with asking this store for these policies together, if it cannot decide
    /// by them: a limiter is not built then. It asks for each list that a request may have to pass
    /// and that is known before.
    ///
    /// # Errors
    ///
    /// None by default: a store decides by all policies.
    fn check(&self, policies: &[&Policy]) -> Result<(), ConfigError> {
        let _ = policies;
        Ok(())
    }

    /// Returns whether the store can [charge](Self::charge) and [refund](Self::refund); if not, a
    /// limiter that settles is not built. It can by default.
    fn can_settle(&self) -> bool {
        true
    }

    /// Returns whether each answer comes within a time that the store sees to itself. A layer waits
    /// no longer than a deadline of its own if not, and so it is by default.
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

/// What is given back to one policy.
#[derive(Clone, Copy, Debug)]
pub struct Refund<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The receipt of the charge, from its [`Decision`](crate::store::backend::Decision).
    pub receipt: Receipt,
    /// How much of the charge was too much.
    pub amount: u64,
}

impl<'a> Refund<'a> {
    /// Creates a refund of this much.
    pub fn new(policy: &'a Policy, receipt: Receipt, amount: u64) -> Self {
        Self {
            policy,
            receipt,
            amount,
        }
    }
}
