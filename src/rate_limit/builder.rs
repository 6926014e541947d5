//! The builder of the layer.

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use super::{
    admission::{charging::ChargingOptions, penalty::Penalty, response_head::ResponseHead},
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
    /// Creates a builder for a limiter that counts the usage of each partition in this store.
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
    /// Adds a policy that applies to all requests. None by default.
    ///
    /// All policies that apply to a request decide together: if one denies, none is charged.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.limits.policies.push(policy);
        self
    }

    /// Sets additional policies for the callers in each tier. None by default.
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.limits.tiers = Some(tiers);
        self
    }

    /// Sets a function that computes the tier of a request, for example from its method, its route,
    /// or an extension that an outer layer inserted. Defaults to the tier of the caller's
    /// [`Identity`](crate::Identity).
    pub fn tier_with<F>(mut self, tier: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    {
        self.charging.tier_with = Some(Arc::new(tier));
        self
    }

    /// Limits each caller to the credits of its [`Identity`](crate::Identity), under an additional
    /// policy named `credits`. A caller can spend all credits of a period at once. Off by default.
    ///
    /// Credits are counted per [lineage](crate::Identity::lineage), so the usage of a rotated key
    /// includes the usage of the previous key. If a key's credits change, the new amount, minus the
    /// usage in the current period, applies from the next request on. The policy does not limit
    /// callers without credits.
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

    /// Replaces the tier's policies with the limit of the caller's [`Identity`](crate::Identity),
    /// if the identity has a limit. Off by default.
    ///
    /// The limit is applied as a bucket named `own`, which holds the limit's amount and refills by
    /// that amount in each period. Policies for all requests still apply.
    pub fn per_key_limits(mut self) -> Self {
        self.limits.reads.limit = true;
        self
    }

    /// Sets an asynchronous function that selects the policies of a request from its head. None by
    /// default.
    ///
    /// The selected policies replace the policies from [`policy`](Self::policy) and
    /// [`tiers`](Self::tiers). If the function returns `None`, the policies from `policy` and
    /// `tiers` apply.
    ///
    /// The future cannot borrow the head, so the function must copy the parts that it needs. The
    /// function is called for each request that is not exempt. The request waits for the result, so
    /// the function should cache its results. A list that contains a queue needs a
    /// [`runtime`](Self::runtime). Without a runtime, requests to which such a list applies are
    /// rejected with `500`.
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

    /// Enables settlement, which charges the actual cost of each request after its response. Off by
    /// default.
    ///
    /// The [`cost`](Self::cost) becomes an estimate, and the limiter inserts a
    /// [`Settlement`](super::Settlement), which receives the actual cost, into the extensions of
    /// each admitted request. The store must support [`charge`](RateLimitStore::charge); otherwise,
    /// [`build`](Self::build) returns an error. The settlement adds an allocation to each admitted
    /// request.
    pub fn settle_after_response(mut self) -> Self {
        self.charging.settles = true;
        self
    }

    /// Charges only the responses for which the predicate returns `true`, separately for each
    /// policy. By default, every admitted request is charged.
    ///
    /// Each request still reserves its [cost](Self::cost), and is rejected if too little quota is
    /// left. When the head of the response is known, the charge is refunded for each policy for
    /// which the predicate returns `false`. Concurrent requests therefore never exceed the limit in
    /// charged responses. While requests are in flight, their reservations can cause another
    /// request to be rejected, even if that request would not be charged. Choose a limit above the
    /// number of concurrent requests from one client. The `RateLimit` fields and the outcome show
    /// the quota before the refund.
    ///
    /// The predicate receives only the head of the response. A request without a response remains
    /// charged. This is the case if the client disconnects before the head, the handler panics, or
    /// the inner service returns an error. Cached responses and rejections by inner layers are
    /// treated like other responses. Requests that this limiter rejects are never charged. The
    /// refund applies only to the window of the charge. The store must support
    /// [refunds](RateLimitStore::can_settle); otherwise, [`build`](Self::build) returns an error.
    /// With [`settle_after_response`](Self::settle_after_response), only the policies to which the
    /// response is charged are settled.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use http::StatusCode;
    /// use portcullis::{
    ///     ClientAddrResolver,
    ///     rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    ///     store::MemoryStore,
    /// };
    ///
    /// // At most 10 failed logins in 15 minutes from each client, and 1000 requests per hour of
    /// // which server errors are not charged.
    /// let by_client = Partition::client_addr(ClientAddrResolver::default());
    /// let layer = RateLimitLayer::builder(MemoryStore::new(), by_client)
    ///     .policy(Policy::fixed_window("logins", Quota::new(10, Duration::from_secs(15 * 60)))?)
    ///     .policy(Policy::token_bucket("requests", Quota::per_hour(1_000))?)
    ///     .charge_if(|response, policy| match policy.name() {
    ///         "logins" => matches!(
    ///             response.status,
    ///             StatusCode::UNAUTHORIZED
    ///                 | StatusCode::FORBIDDEN
    ///                 | StatusCode::UNPROCESSABLE_ENTITY
    ///         ),
    ///         _ => !response.status.is_server_error(),
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// To limit scans for nonexistent pages, charge only responses with `StatusCode::NOT_FOUND`.
    pub fn charge_if<F>(mut self, is_charged: F) -> Self
    where
        F: Fn(&ResponseHead<'_>, &Policy) -> bool + Send + Sync + 'static,
    {
        self.charging.charge_if = Some(Arc::new(is_charged));
        self
    }

    /// Inserts the [`RateLimitOutcome`](crate::outcome::RateLimitOutcome) into the extensions of
    /// each admitted request and of its response, so that handlers can read the remaining quota.
    /// Off by default, because inserting the outcome allocates.
    ///
    /// The response to a denied request always contains the outcome. If the service has an access
    /// log, every response contains the outcome.
    pub fn expose_outcome(mut self) -> Self {
        self.responses.exposes_outcome = true;
        self
    }

    /// Sets a penalty that bans partitions that are denied too often. No partition is banned by
    /// default.
    pub fn penalty(mut self, penalty: Penalty) -> Self {
        self.limits.penalty = Some(penalty);
        self
    }

    /// Sets the auditor that receives events about bans and about denials by policies in shadow
    /// mode. None by default. The auditor must not block.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = Audit::to(auditor);
        self
    }

    /// Sets a function that computes the cost of a request for a policy. Defaults to 1.
    ///
    /// A request with a cost of 0 is admitted and not charged. A request whose cost exceeds the
    /// policy's [`capacity`](Policy::capacity) is always denied.
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

    /// Exempts CORS preflight requests: `OPTIONS` requests with `Origin` and
    /// `Access-Control-Request-Method`. Off by default.
    ///
    /// Preflight requests reach the inner service unmetered, so the inner service must handle them
    /// at low cost. Callers on the [`deny`](Self::deny) list are still rejected. The option is
    /// unnecessary if a CORS layer outside this one responds to preflight requests itself. The
    /// corresponding option for API keys is `ApiKeyLayerBuilder::allow_preflight`.
    pub fn exempt_preflight(mut self) -> Self {
        self.callers.exempts_preflight = true;
        self
    }

    /// Exempts requests from these callers. None by default.
    pub fn allow(mut self, callers: CallerList) -> Self {
        self.callers.allow = callers;
        self
    }

    /// Rejects requests from these callers with `403`, even if the requests are exempt. None by
    /// default.
    pub fn deny(mut self, callers: CallerList) -> Self {
        self.callers.deny = callers;
        self
    }

    /// Sets the maximum jitter that is added to `Retry-After`. Jitter prevents clients whose
    /// windows end at the same time from retrying simultaneously. Defaults to zero.
    ///
    /// The jitter of a partition never changes.
    pub fn retry_jitter(mut self, most: Duration) -> Self {
        self.responses.retry_jitter = most;
        self
    }

    /// Sets the runtime that implements delays in a [queue](Policy::leaky_queue), enforces the
    /// [store timeout](Self::store_timeout), and runs background tasks. Defaults to Tokio with the
    /// feature `tokio`. Without that feature, there is no runtime by default.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.stores.run_on(Arc::new(runtime));
        self
    }

    /// Sets the timeout for store calls. Defaults to 25 ms, or to the store's own timeout if the
    /// store [has one](RateLimitStore::has_timeout). The timeout must not be zero.
    ///
    /// A request whose store call times out is handled as if the store had
    /// [failed](Self::on_store_error).
    ///
    /// The [`runtime`](Self::runtime) enforces the timeout; by default, that is the Tokio runtime
    /// of the request (feature `tokio`). Without a runtime, there is no timeout. The timeout does
    /// not apply to in-memory stores.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.stores.deadline.set(Some(after));
        self
    }

    /// Removes the timeout for store calls, for stores that enforce their own timeout. By default,
    /// the [`store_timeout`](Self::store_timeout) applies.
    pub fn without_store_timeout(mut self) -> Self {
        self.stores.deadline.set(None);
        self
    }

    /// Sets the maximum number of requests that can wait in queues, across all partitions. Defaults
    /// to 10 000. The value must be at least 1 if a policy is a queue. Requests beyond the maximum
    /// are not charged and receive `503`.
    ///
    /// A [queue](Policy::leaky_queue) bounds the number of waiting requests in one partition. This
    /// option bounds the memory of all queues together.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// Sets the header fields that report limits to clients. Defaults to
    /// [`Off`](RateLimitFields::Off).
    pub fn fields(mut self, fields: RateLimitFields) -> Self {
        self.responses.fields = fields;
        self
    }

    /// Sets how requests are handled when the store fails. Defaults to [`OnStoreError::Deny`].
    pub fn on_store_error(mut self, action: OnStoreError) -> Self {
        self.stores.on_error = action;
        self
    }

    /// Sets the responder that writes rejection bodies. Defaults to `application/problem+json`.
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
