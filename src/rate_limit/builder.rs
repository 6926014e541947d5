//! The builder of the layer.

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use super::{
    admission::{charging::ChargingOptions, penalty::Penalty},
    config::ResponseOptions,
    failover::{on_store_error::OnStoreError, stores::StoreOptions},
    headers::RateLimitFields,
    layer::RateLimitLayer,
    partition::{
        caller_list::{CallerList, CallerRules},
        partition::Partition,
    },
    policy::{overrides::Reads, policy::Policy, policy_set::PolicyList, tiers::Tiers},
    request_head::RequestHead,
    store::RateLimitStore,
};
use crate::core::{
    audit::{Audit, Auditor},
    http::responder::Responder,
    inherited::Inherited,
    not_built::not_built,
    runtime::Runtime,
};

/// The default maximum number of requests that wait in queues.
const MAX_WAITERS: usize = 10_000;

impl RateLimitLayer {
    /// Returns a builder for a limiter that counts each partition in this store.
    pub fn builder(store: impl RateLimitStore, partition: Partition) -> RateLimitLayerBuilder {
        RateLimitLayerBuilder {
            stores: StoreOptions::new(Arc::new(store)),
            partition,
            limits: LimitOptions::default(),
            charging: ChargingOptions::default(),
            callers: CallerRules::default(),
            responses: ResponseOptions::default(),
            max_waiters: MAX_WAITERS,
            audit: Audit::default(),
        }
    }
}

/// A builder of [`RateLimitLayer`]. Created by [`RateLimitLayer::builder`].
#[must_use]
pub struct RateLimitLayerBuilder {
    pub(super) stores: StoreOptions,
    pub(super) partition: Partition,
    pub(super) limits: LimitOptions,
    pub(super) charging: ChargingOptions,
    pub(super) callers: CallerRules,
    pub(super) responses: ResponseOptions,
    pub(super) max_waiters: usize,
    pub(super) audit: Audit,
}

/// The limits of a layer that is being built.
#[derive(Default)]
pub(super) struct LimitOptions {
    pub(super) policies: Vec<Policy>,
    pub(super) tiers: Option<Tiers>,
    pub(super) reads: Reads,
    pub(super) penalty: Option<Penalty>,
}

not_built!(RateLimitLayerBuilder);

impl RateLimitLayerBuilder {
    /// Adds a policy for all requests. None by default.
    ///
    /// The policies of a request are decided together: if one denies, none is charged.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.limits.policies.push(policy);
        self
    }

    /// Adds policies for the callers of each tier. None by default.
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.limits.tiers = Some(tiers);
        self
    }

    /// Computes the tier of a request by a function: by its method, its route, or an extension of
    /// an outer layer. Defaults to the tier of the caller's [`Identity`](crate::Identity).
    pub fn tier_with<F>(mut self, tier: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    {
        self.charging.tier_with = Some(Arc::new(tier));
        self
    }

    /// Charges the credits of the caller's [`Identity`](crate::Identity) by an additional policy
    /// named `credits`. The whole amount of a period can be spent at once. Off by default.
    ///
    /// Credits are counted by lineage, so the usage of a rotated key includes that of the previous
    /// key. If the credits of a key change, the new amount applies from the next request, less the
    /// usage of the current period. Callers without credits are not limited by the policy.
    ///
    /// ```
    /// use portcullis::{
    ///     rate_limit::{Partition, RateLimitLayer},
    ///     store::MemoryStore,
    /// };
    ///
    /// let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
    ///     .credits()
    ///     .cost(|head, policy| match policy.name() {
    ///         // A search costs five credits.
    ///         "credits" if head.uri.path() == "/search" => 5,
    ///         _ => 1,
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn credits(mut self) -> Self {
        self.limits.reads.credits = true;
        self
    }

    /// Replaces the policies of the tier with the limit of the caller's
    /// [`Identity`](crate::Identity), if it has one. Off by default.
    ///
    /// The limit is a bucket named `own`: it holds the amount, and refills by the amount in each
    /// period. Policies for all requests still apply.
    pub fn per_key_limits(mut self) -> Self {
        self.limits.reads.limit = true;
        self
    }

    /// Looks up the policies of a request by an asynchronous function of its head. None by default.
    ///
    /// The returned policies replace those of [`policy`](Self::policy) and [`tiers`](Self::tiers),
    /// which apply if the function returns `None`.
    ///
    /// The function copies the parts of the head that it needs, because the future cannot borrow
    /// them. It is called for each request that is not exempt, and the request waits for it, so it
    /// should cache its results. A list with a queue needs a [`runtime`](Self::runtime): without
    /// one, its requests are rejected with `500`.
    ///
    /// ```
    /// use portcullis::{
    ///     rate_limit::{Partition, Policy, PolicyList, Quota, RateLimitLayer},
    ///     store::MemoryStore,
    /// };
    ///
    /// let large = PolicyList::new([Policy::token_bucket("large", Quota::per_second(100))?])?;
    /// let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
    ///     .policy(Policy::token_bucket("small", Quota::per_second(1))?)
    ///     .policies_with(move |head| {
    ///         let (large, query) = (large.clone(), head.uri.query().map(str::to_owned));
    ///         async move { query.is_some_and(|query| query == "large").then_some(large) }
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn policies_with<F, Fut>(mut self, choose: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<PolicyList>> + Send + 'static,
    {
        self.charging.policies_with = Some(Arc::new(move |head| Box::pin(choose(head))));
        self
    }

    /// Settles the cost of each request after its response. Off by default.
    ///
    /// The [`cost`](Self::cost) becomes an estimate, and a [`Settlement`](super::Settlement) in the
    /// extensions of each admitted request receives the actual cost. The store must support
    /// [`charge`](RateLimitStore::charge), or [`build`](Self::build) returns an error. Each
    /// admitted request allocates for the settlement.
    pub fn settle(mut self) -> Self {
        self.charging.settles = true;
        self
    }

    /// Inserts the [`RateLimitOutcome`](crate::outcome::RateLimitOutcome) into the extensions of
    /// each admitted request and of its response, so that handlers can read the remaining quota.
    /// Off by default, because it allocates.
    ///
    /// The response of a denied request always has the outcome, and so does every response of a
    /// service with an access log.
    pub fn expose_outcome(mut self) -> Self {
        self.responses.exposes_outcome = true;
        self
    }

    /// Bans partitions that are denied too often. No partition is banned by default.
    pub fn penalty(mut self, penalty: Penalty) -> Self {
        self.limits.penalty = Some(penalty);
        self
    }

    /// Sets the receiver of audit events: bans, and denials by policies in shadow mode. None by
    /// default. The auditor must not block.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = Audit::to(auditor);
        self
    }

    /// Computes the cost of a request for a policy. Defaults to 1.
    ///
    /// A request with a cost of 0 is admitted and not charged. A cost above the policy's
    /// [`capacity`](Policy::capacity) is always denied.
    pub fn cost<F>(mut self, cost: F) -> Self
    where
        F: Fn(&RequestHead<'_>, &Policy) -> u64 + Send + Sync + 'static,
    {
        self.charging.cost = Some(Arc::new(cost));
        self
    }

    /// Exempts requests that match the predicate. None by default.
    pub fn skip<F>(mut self, skip: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.callers.skip = Some(Arc::new(skip));
        self
    }

    /// Exempts the requests of these callers. None by default.
    pub fn allow(mut self, callers: CallerList) -> Self {
        self.callers.allow = callers;
        self
    }

    /// Rejects the requests of these callers with `403`, even if they are exempt. None by default.
    pub fn deny(mut self, callers: CallerList) -> Self {
        self.callers.deny = callers;
        self
    }

    /// Sets the maximum jitter that is added to `Retry-After`, so that clients whose windows end at
    /// the same time do not all retry at the same time. Defaults to zero.
    ///
    /// The jitter of a partition is always the same.
    pub fn retry_jitter(mut self, most: Duration) -> Self {
        self.responses.retry_jitter = most;
        self
    }

    /// Sets the runtime that sleeps for requests in a [queue](Policy::leaky_queue), measures the
    /// [store timeout](Self::store_timeout), and runs background tasks. Defaults to Tokio with the
    /// feature `tokio`, and to none without it.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.stores.run_on(Arc::new(runtime));
        self
    }

    /// Sets the timeout for the store. Defaults to 25 ms, or to the timeout of a store that
    /// [has one](RateLimitStore::has_timeout). Must not be zero.
    ///
    /// After the timeout, the request is handled as if the store had
    /// [failed](Self::on_store_error).
    ///
    /// The [`runtime`](Self::runtime) measures the time, by default the Tokio runtime of the
    /// request (feature `tokio`). Without a runtime there is no timeout. It does not apply to
    /// in-memory stores.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.stores.deadline.set(Some(after));
        self
    }

    /// Removes the timeout for the store, for stores that enforce their own timeout. By default,
    /// that of [`store_timeout`](Self::store_timeout) applies.
    pub fn without_store_timeout(mut self) -> Self {
        self.stores.deadline.set(None);
        self
    }

    /// Sets the maximum number of requests of all partitions that wait in queues. Defaults to
    /// 10 000. Must be at least 1 if there is a queue. Requests beyond it are not charged and
    /// receive `503`.
    ///
    /// A [queue](Policy::leaky_queue) bounds the waiting requests of one partition. This option
    /// bounds the memory of all of them.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// Sets the header fields that report limits to callers. Defaults to
    /// [`Off`](RateLimitFields::Off).
    pub fn fields(mut self, fields: RateLimitFields) -> Self {
        self.responses.fields = fields;
        self
    }

    /// Sets the handling of requests when the store fails. Defaults to [`OnStoreError::Deny`].
    pub fn on_store_error(mut self, action: OnStoreError) -> Self {
        self.stores.on_error = action;
        self
    }

    /// Sets the writer of rejection bodies. Defaults to `application/problem+json`.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responses.responder = Inherited::set(responder);
        self
    }
}

impl fmt::Debug for RateLimitLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayerBuilder")
            .field("partition", &self.partition)
            .field("policies", &self.limits.policies)
            .field("tiers", &self.limits.tiers)
            .finish_non_exhaustive()
    }
}
