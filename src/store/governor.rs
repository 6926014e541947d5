//! Rate limits that a `governor` limiter decides.

use std::{fmt, num::NonZeroU32, sync::Arc};

use governor::{
    InsufficientCapacity, NotUntil, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::{StateInformationMiddleware, StateSnapshot},
    state::keyed::DefaultKeyedStateStore,
};

use crate::{
    core::{
        error::{ConfigError, StoreError, StoreErrorKind},
        store_api::{
            store_future::StoreFuture,
            store_key::{StoreKey, StoreKeys},
        },
        time::{Clock, SystemClock},
    },
    rate_limit::{
        Policy, RateLimitStore,
        backend::{Charge, Decision, Decisions, Receipt, Refund},
    },
};

/// The type of `governor` limiter that a [`GovernorStore`] uses.
pub type GovernorLimiter = RateLimiter<
    StoreKey,
    DefaultKeyedStateStore<StoreKey>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// A [`RateLimitStore`] that makes its decisions with a `governor` limiter.
///
/// The limiter decides with its own quota. The quota of the [`Policy`] appears only in headers and
/// records. Derive both quotas from the same value so that they agree:
///
/// ```
/// use std::num::NonZeroU32;
/// use governor::{RateLimiter, middleware::StateInformationMiddleware};
/// use portcullis::{
///     ClientAddrResolver,
///     rate_limit::{Partition, Policy, RateLimitLayer},
///     store::GovernorStore,
/// };
///
/// let quota = governor::Quota::per_second(NonZeroU32::new(10).unwrap());
/// let limiter = RateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>();
/// let by_addr = Partition::client_addr(ClientAddrResolver::default());
/// let layer = RateLimitLayer::builder(GovernorStore::new(limiter), by_addr)
///     .policy(Policy::token_bucket("address", quota)?)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// Unsupported features are rejected. Building a layer fails if the layer has several policies per
/// request, a penalty (which is a second policy), a queue, or settlement. Peeking, charging,
/// refunding and resetting fail with [`StoreErrorKind::Misconfigured`], and so do requests for
/// which [`policies_with`](crate::rate_limit::RateLimitLayerBuilder::policies_with) returns
/// unsupported policies.
///
/// Partitions are never evicted. Call `retain_recent` on the limiter periodically; otherwise, the
/// limiter's memory grows with each new client. A [`MemoryStore`](super::MemoryStore) has none of
/// these restrictions.
#[derive(Clone)]
pub struct GovernorStore {
    limiter: Arc<GovernorLimiter>,
    keys: StoreKeys,
    clock: SystemClock,
}

impl GovernorStore {
    /// Creates a store that uses this limiter. Keep a clone of the `Arc` to call `retain_recent` on
    /// the limiter.
    pub fn new(limiter: impl Into<Arc<GovernorLimiter>>) -> Self {
        Self {
            limiter: limiter.into(),
            keys: StoreKeys::random(),
            clock: SystemClock::new(),
        }
    }

    fn refusal(&self, charges: &[Charge<'_>]) -> StoreError {
        let policies: Vec<&Policy> = charges.iter().map(|charge| charge.policy).collect();
        match self.check(&policies) {
            Err(problem) => StoreError::with_source(StoreErrorKind::Misconfigured, problem),
            Ok(()) => StoreErrorKind::Misconfigured.into(),
        }
    }

    fn decide(&self, partition: &StoreKey, charge: &Charge<'_>) -> Decision {
        let capacity = charge.policy.capacity();
        let Ok(cost) = u32::try_from(charge.cost) else {
            return Decision::denied(capacity, Default::default(), None);
        };
        let Some(cost) = NonZeroU32::new(cost) else {
            return Decision::admitted(capacity, Default::default(), Receipt::default());
        };
        match self.limiter.check_key_n(partition, cost) {
            Ok(Ok(snapshot)) => self.admitted(&snapshot),
            Ok(Err(until)) => self.denied(&until),
            Err(InsufficientCapacity(_)) => Decision::denied(capacity, Default::default(), None),
        }
    }

    fn admitted(&self, snapshot: &StateSnapshot) -> Decision {
        let quota = snapshot.quota();
        let left = snapshot.remaining_burst_capacity();
        let used = quota.burst_size().get() - left;
        let reset_after = quota.replenish_interval() * used;
        let receipt = Receipt::new(self.clock.now() + reset_after);
        Decision::admitted(left.into(), reset_after, receipt)
    }

    fn denied(&self, until: &NotUntil<governor::clock::QuantaInstant>) -> Decision {
        let wait = until.wait_time_from(self.limiter.clock().now());
        let reset_after = until.quota().burst_size_replenished_in();
        Decision::denied(0, reset_after, Some(wait))
    }
}

impl RateLimitStore for GovernorStore {
    fn keys(&self) -> &StoreKeys {
        &self.keys
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        let charge = match charges {
            [charge] if charge.policy.max_wait().is_none() => charge,
            others => return StoreFuture::failed(self.refusal(others)),
        };
        let decision = self.decide(partition, charge);
        let passes = decision.is_admitted() || charge.policy.is_shadow();
        StoreFuture::ready(Decisions::new(passes, self.clock.now(), [decision]))
    }

    fn peek(&self, _: &StoreKey, _: &[Charge<'_>]) -> StoreFuture<Decisions> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn refund(&self, _: &StoreKey, _: &[Refund<'_>]) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn reset(&self, _: &StoreKey, _: &[&Policy]) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn check(&self, policies: &[&Policy]) -> Result<(), ConfigError> {
        let fix = "drop it, or use a `MemoryStore`";
        if let [_, second, ..] = policies {
            let problem = "a `GovernorStore` supports one policy only";
            return Err(ConfigError::new("policies", second.name(), problem).fix(fix));
        }
        match policies.iter().find(|policy| policy.max_wait().is_some()) {
            Some(queue) => {
                let problem = "a `GovernorStore` does not support queues";
                Err(ConfigError::new("policies", queue.name(), problem).fix(fix))
            }
            None => Ok(()),
        }
    }

    fn can_settle(&self) -> bool {
        false
    }
}

impl fmt::Debug for GovernorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernorStore")
            .field("partitions", &self.limiter.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rate_limit::{Partition, Penalty, Quota, RateLimitLayer};

    fn store(quota: governor::Quota) -> GovernorStore {
        GovernorStore::new(RateLimiter::keyed(quota).with_middleware())
    }

    fn per_hour(limit: u32) -> governor::Quota {
        governor::Quota::per_hour(NonZeroU32::new(limit).unwrap())
    }

    fn take(store: &GovernorStore, policy: &Policy, cost: u64) -> Decision {
        let key = store.keys().space("test").short().finish();
        let result = store.take(&key, &[Charge::new(policy, cost)]).into_ready();
        result.ready().unwrap().unwrap().each()[0]
    }

    #[test]
    fn a_governor_limiter_decides_by_its_quota() {
        let store = store(per_hour(3));
        let policy = Policy::token_bucket("hour", per_hour(3)).unwrap();
        assert_eq!(take(&store, &policy, 2).remaining(), 1);
        assert!(take(&store, &policy, 0).is_admitted());
        let denied = take(&store, &policy, 2);
        let wait = denied.retry_after().unwrap().as_secs();
        assert!((1_190..=1_200).contains(&wait), "{wait}");
        assert!(take(&store, &policy, 4).is_unsatisfiable());
        assert!(take(&store, &policy, u64::MAX).is_unsatisfiable());
        assert!(take(&store, &policy, 1).is_admitted());
    }

    #[test]
    fn rejects_operations_that_governor_lacks() {
        let store = store(per_hour(3));
        let one = Policy::token_bucket("one", Quota::per_hour(3)).unwrap();
        let two = Policy::token_bucket("two", Quota::per_hour(3)).unwrap();
        let key = store.keys().space("test").short().finish();
        let charges = [Charge::new(&one, 1), Charge::new(&two, 1)];
        let kind = |error: Result<Decisions, crate::StoreError>| error.unwrap_err().kind();
        let queue = Policy::leaky_queue("queue", Quota::per_hour(3), Duration::from_secs(1));
        let queue = queue.unwrap();
        for result in [
            store.take(&key, &charges),
            store.take(&key, &[Charge::new(&queue, 1)]),
            store.peek(&key, &charges[..1]),
        ] {
            let result = result.into_ready().ready().unwrap();
            assert_eq!(kind(result), StoreErrorKind::Misconfigured);
        }
        let reset = store.reset(&key, &[&one]).into_ready().ready().unwrap();
        assert!(reset.is_err());
        let charged = store
            .charge(&key, &charges[..1])
            .into_ready()
            .ready()
            .unwrap();
        assert!(charged.is_err());
    }

    #[test]
    fn a_limiter_that_asks_for_what_governor_cannot_do_is_not_built() {
        let policy = |name| Policy::token_bucket(name, Quota::per_hour(3)).unwrap();
        let builder = || {
            let store = store(per_hour(3));
            RateLimitLayer::builder(store, Partition::method()).policy(policy("one"))
        };
        assert!(builder().build().is_ok());
        let queue = Policy::leaky_queue("queue", Quota::per_hour(3), Duration::from_secs(1));
        let alone = RateLimitLayer::builder(store(per_hour(3)), Partition::method());
        for (refused, option, value) in [
            (builder().policy(policy("two")), "policies", "two"),
            (builder().penalty(Penalty::after(3)), "policies", "penalty"),
            (alone.policy(queue.unwrap()), "policies", "queue"),
            (
                builder().settle_after_response(),
                "settle_after_response",
                "GovernorStore { partitions: 0, .. }",
            ),
        ] {
            let error = refused.build().unwrap_err();
            assert_eq!((error.option(), error.value()), (option, value));
        }
        let limits = builder().build().unwrap().handle();
        assert!(
            limits
                .replace_policies([policy("one"), policy("two")], None)
                .is_err()
        );
    }
}
