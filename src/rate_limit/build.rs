//! Validates the options of the layer and builds it.

use std::sync::Arc;

use super::{
    admission::{
        charging::Charging,
        penalty::{Bans, Penalty},
        queue::TurnQueue,
    },
    builder::RateLimitLayerBuilder,
    config::RateLimitConfig,
    counted::{Checks, LimiterCounts},
    failover::stores::Stores,
    layer::RateLimitLayer,
    partition::stored::{SingleComponent, StoredPartition},
    placement,
    policy::{
        overrides::OwnSets,
        policy_sets::{LiveSets, PolicySets},
        spec::{LimitSpec, has_queue},
    },
};
use crate::core::error::ConfigError;

impl RateLimitLayerBuilder {
    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Returns an error if
    ///
    /// - no policy is set, two policies that apply to the same request have the same name, or the
    ///   fallback tier is missing,
    /// - the share that was passed to
    ///   [`OnStoreError::local`](crate::rate_limit::OnStoreError::local) is zero, or a policy
    ///   refers to another local store,
    /// - a policy is a queue, and either there is no runtime or the maximum number of waiters is
    ///   zero,
    /// - the store does not [support](crate::rate_limit::RateLimitStore::check) a policy, the
    ///   limiter settles or refunds charges but the store cannot, or the store timeout is zero,
    /// - credits or per-key limits are enabled, but the partition does not start with
    ///   [`Partition::identity`](crate::rate_limit::Partition::identity).
    pub fn build(mut self) -> Result<RateLimitLayer, ConfigError> {
        let bans = self.limits.penalty.take();
        let bans = bans.map(Penalty::build).transpose()?.map(Arc::new);
        let sets = self.spec(bans.as_deref()).sets()?;
        let partition = self.partition.in_store(self.stores.store.keys())?;
        self.check(&sets, &partition)?;
        let fast = self.fast_component(&partition, bans.is_some());
        let checks = self.checks(&partition, &sets);
        let max_waiters = self.max_waiters;
        let queue = |runtime| Arc::new(TurnQueue::new(runtime, max_waiters));
        let reads = self.limits.reads;
        let config = Arc::new(RateLimitConfig {
            queue: self.stores.runtime.clone().map(queue),
            stores: Stores::new(self.stores, self.audit.clone()),
            charging: Charging {
                partition,
                fast,
                sets: LiveSets::new(sets),
                own: reads.any().then(|| OwnSets::new(reads)),
                options: self.charging,
            },
            callers: self.callers,
            responses: self.responses,
            bans,
            audit: self.audit,
            checks,
        });
        placement::compare(&config);
        Ok(RateLimitLayer { config })
    }

    fn spec<'a>(&'a self, bans: Option<&'a Bans>) -> LimitSpec<'a> {
        LimitSpec {
            policies: &self.limits.policies,
            tiers: self.limits.tiers.as_ref(),
            reads: self.limits.reads,
            bans,
            stores: &self.stores,
            charging: &self.charging,
        }
    }

    fn check(&self, sets: &PolicySets, partition: &StoredPartition) -> Result<(), ConfigError> {
        if self.charging.settles {
            self.stores.check_settlement("settle_after_response")?;
        }
        if self.charging.charge_if.is_some() {
            self.stores.check_settlement("charge_if")?;
        }
        self.stores.check_timeout()?;
        self.check_waiters(sets)?;
        self.check_allowances(partition)
    }

    fn check_waiters(&self, sets: &PolicySets) -> Result<(), ConfigError> {
        if self.max_waiters > 0 || !sets.policies().any(has_queue) {
            return Ok(());
        }
        let problem = "a policy has a queue, and no request could wait in it";
        let error = ConfigError::new("max_waiters", 0, problem);
        Err(error.fix("set at least 1, or use `Policy::leaky_bucket`"))
    }

    fn check_allowances(&self, partition: &StoredPartition) -> Result<(), ConfigError> {
        if !self.limits.reads.any() || partition.counts_callers_by_line() {
            return Ok(());
        }
        let value = format!("counted by {:?}", self.partition);
        let problem = "credits and per-key limits are counted by lineage";
        let error = ConfigError::new("credits", value, problem);
        Err(error.fix("start the partition with `Partition::identity()`"))
    }

    fn checks(&self, partition: &StoredPartition, sets: &PolicySets) -> Checks {
        let is_conditional = self.charging.cost.is_some()
            || self.charging.charge_if.is_some()
            || self.charging.policies_with.is_some()
            || self.callers.exempts();
        let counted = LimiterCounts::new(partition, sets).conditional(is_conditional);
        let reads_identity = partition.reads_identity()
            || (sets.by_tier() && self.charging.tier_with.is_none())
            || self.limits.reads.any()
            || self.callers.reads_identity();
        Checks::new(counted, reads_identity)
    }

    /// Returns the component of the fast path if no option requires the slow path.
    fn fast_component(
        &self,
        partition: &StoredPartition,
        has_bans: bool,
    ) -> Option<SingleComponent> {
        let is_fast = self.stores.store.can_take_now()
            && !self.charging.has_functions()
            && !self.charging.settles
            && self.callers.is_empty()
            && !self.limits.reads.any()
            && !self.responses.exposes_outcome
            && !has_bans;
        partition.single_component().filter(|_| is_fast)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{
        core::{
            error::StoreErrorKind,
            store_api::{
                store_future::StoreFuture,
                store_key::{StoreKey, StoreKeys},
            },
        },
        rate_limit::{
            Partition, Policy, PolicyList, Quota, RateLimitStore,
            backend::{Charge, Decisions, Refund},
        },
    };

    /// A store whose calls all fail.
    #[derive(Debug)]
    struct Unasked(StoreKeys);

    impl RateLimitStore for Unasked {
        fn keys(&self) -> &StoreKeys {
            &self.0
        }

        fn take(&self, _: &StoreKey, _: &[Charge<'_>]) -> StoreFuture<Decisions> {
            StoreFuture::failed(StoreErrorKind::Unavailable)
        }

        fn peek(&self, _: &StoreKey, _: &[Charge<'_>]) -> StoreFuture<Decisions> {
            StoreFuture::failed(StoreErrorKind::Unavailable)
        }

        fn refund(&self, _: &StoreKey, _: &[Refund<'_>]) -> StoreFuture<()> {
            StoreFuture::failed(StoreErrorKind::Unavailable)
        }

        fn reset(&self, _: &StoreKey, _: &[&Policy]) -> StoreFuture<()> {
            StoreFuture::failed(StoreErrorKind::Unavailable)
        }
    }

    fn without_a_runtime() -> RateLimitLayerBuilder {
        let store = Unasked(StoreKeys::random());
        let by_method = RateLimitLayer::builder(store, Partition::method());
        let mut stores = by_method.stores;
        stores.runtime = None;
        RateLimitLayerBuilder {
            stores,
            ..by_method
        }
    }

    fn queue() -> Policy {
        Policy::leaky_queue("queue", Quota::per_second(1), Duration::from_secs(9)).unwrap()
    }

    #[test]
    fn a_queue_where_nothing_can_wait_is_refused_by_name() {
        let error = without_a_runtime().policy(queue()).build().unwrap_err();
        assert_eq!((error.option(), error.value()), ("runtime", "none"));
    }

    #[tokio::test]
    async fn a_queue_that_is_chosen_where_nothing_can_wait_is_a_500_and_never_a_rush() {
        let list = PolicyList::new([queue()]).unwrap();
        let layer = without_a_runtime()
            .policies_with(move |_| std::future::ready(Some(list.clone())))
            .build()
            .unwrap();
        let app = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(()))
        }));
        for _ in 0..2 {
            let response = app.clone().oneshot(Request::new(())).await.unwrap();
            assert_eq!(response.status(), 500);
        }
    }
}
