//! The layer, and how it is built.

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    callers::Callers,
    config::{Config, Cost, PoliciesBy, Skip, TierBy},
    config_notices,
    counted::Counted,
    headers::RateLimitFields,
    limits::Limits,
    local_store::LocalStore,
    on_store_error::OnStoreError,
    own_sets::{OwnSets, Reads},
    partition::Partition,
    penalty::{Bans, Penalty},
    placement,
    policy::Policy,
    policy_set::{LiveSets, PolicyList, Tiers},
    request_head::RequestHead,
    service::RateLimit,
    store::RateLimitStore,
    waiting::Line,
    wanted::Wanted,
    watched::Watched,
};
use crate::{
    audit::{Audit, Auditor},
    deadline::Deadline,
    error::ConfigError,
    layer_order::{LayerKind, Placement},
    rejection::Responder,
    runtime::{self, Runtime},
    store_watch::StoreWatch,
};

/// How long a request waits for the store, unless the layer is told otherwise.
const DEADLINE: Duration = Duration::from_millis(25);

/// Limits how often a partition of the requests may pass: see the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

impl RateLimitLayer {
    /// Begins a limiter that counts in this store, and says who shares a quota.
    pub fn builder(store: impl RateLimitStore, partition: Partition) -> RateLimitLayerBuilder {
        RateLimitLayerBuilder {
            store: Arc::new(store),
            partition,
            policies: Vec::new(),
            tiers: None,
            fields: RateLimitFields::default(),
            on_store_error: OnStoreError::default(),
            responder: Responder::default(),
            allow: Callers::new(),
            deny: Callers::new(),
            skip: None,
            tier_by: None,
            cost: None,
            retry_jitter: Duration::ZERO,
            runtime: runtime::ambient(),
            deadline: Deadline::after(DEADLINE),
            waiters_max: WAITERS_MAX,
            policies_by: None,
            penalty: None,
            settles: false,
            tells_handlers: false,
            audit: Audit::default(),
            reads: Reads::default(),
        }
    }
}

impl RateLimitLayer {
    /// Returns a handle by which the limits are changed while they are in use.
    pub fn limits(&self) -> Limits {
        Limits::new(Arc::clone(&self.config))
    }

    /// Returns whether the limiter counts or chooses by something of the caller's identity.
    pub(crate) fn reads_identity(&self) -> bool {
        self.config.reads_identity
    }

    /// Returns whether the limiter lets every request pass whose caller is not known.
    pub(crate) fn needs_identity(&self) -> bool {
        self.config.partition.needs_identity()
    }

    /// Returns what tells the layer's auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.config.audit
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, Arc::clone(&self.config))
    }
}

/// Builds a [`RateLimitLayer`].
#[must_use]
pub struct RateLimitLayerBuilder {
    store: Arc<dyn RateLimitStore>,
    partition: Partition,
    policies: Vec<Policy>,
    tiers: Option<Tiers>,
    fields: RateLimitFields,
    on_store_error: OnStoreError,
    responder: Responder,
    allow: Callers,
    deny: Callers,
    skip: Option<Arc<Skip>>,
    tier_by: Option<Arc<TierBy>>,
    cost: Option<Arc<Cost>>,
    retry_jitter: Duration,
    runtime: Option<Arc<dyn Runtime>>,
    deadline: Deadline,
    waiters_max: usize,
    reads: Reads,
    policies_by: Option<Arc<PoliciesBy>>,
    penalty: Option<Penalty>,
    settles: bool,
    tells_handlers: bool,
    audit: Audit,
}

/// So many requests wait for their turns at most, unless another number is given.
const WAITERS_MAX: usize = 10_000;

impl RateLimitLayerBuilder {
    /// Adds a policy that each request must pass.
    ///
    /// Several are decided together: denied by one, a request is charged to none.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.push(policy);
        self
    }

    /// Sets which further policies the callers of each tier must pass.
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = Some(tiers);
        self
    }

    /// Chooses the tier of a request by a function, instead of by the caller's
    /// [`Identity`](crate::Identity): by method, by route, or by what a layer outside of this one
    /// has left in the extensions.
    pub fn tier_by<F>(mut self, tier: F) -> Self
    where
        F: for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    {
        self.tier_by = Some(Arc::new(tier));
        self
    }

    /// Charges the credits of the caller's [`Identity`](crate::Identity), as one more policy of the
    /// name `credits`: so much in each period, all of it at once if the caller likes.
    ///
    /// They are counted by the caller's line of keys, so that a rotated key has used what it had
    /// used. When the key's credits are changed, the new amount holds from the next request on, and
    /// what has been used of the period stays used. A caller without credits is not held to any.
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
    ///         // A search is worth five.
    ///         "credits" if head.uri.path() == "/search" => 5,
    ///         _ => 1,
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn credits(mut self) -> Self {
        self.reads.credits = true;
        self
    }

    /// Puts the limit of the caller's [`Identity`](crate::Identity), where it has one, in the place
    /// of its tier's policies: a bucket of the name `own`, which holds the amount and gains as much
    /// in each period. The policies that all must pass still hold.
    pub fn own_limits(mut self) -> Self {
        self.reads.limit = true;
        self
    }

    /// Chooses the policies of a request by an asynchronous function of its head, in the place of
    /// those that [`policy`](Self::policy) and [`tiers`](Self::tiers) name: of a plan that is
    /// looked up, say. Those apply where it finds `None`.
    ///
    /// The function copies what it needs of the head before it waits. It is asked for each request
    /// that is not skipped, and the request waits for it: let it remember what it has found. A list
    /// with a queue needs a [`runtime`](Self::runtime): without one such a request is answered `500`.
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
    ///     .policies_by(move |head| {
    ///         let (large, query) = (large.clone(), head.uri.query().map(str::to_owned));
    ///         async move { query.is_some_and(|query| query == "large").then_some(large) }
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn policies_by<F, Fut>(mut self, choose: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<PolicyList>> + Send + 'static,
    {
        self.policies_by = Some(Arc::new(move |head| Box::pin(choose(head))));
        self
    }

    /// Settles what each request truly cost, once that is known: the [`cost`](Self::cost) is an
    /// estimate then, and a [`Settlement`](super::Settlement) in the extensions of each admitted
    /// request takes what it came to.
    ///
    /// The store must be able to [charge](RateLimitStore::charge). Each admitted request allocates
    /// a little for it.
    pub fn settle(mut self) -> Self {
        self.settles = true;
        self
    }

    /// Puts the [`RateLimitOutcome`](crate::RateLimitOutcome) into the extensions of each admitted
    /// request, so that handlers can read what is left, and of its response. It allocates, and so is
    /// not done unless this is called. The response of a denied request has it in any case, and
    /// so has each response where an access log keeps a record.
    pub fn tell_handlers(mut self) -> Self {
        self.tells_handlers = true;
        self
    }

    /// Bans who is denied too often.
    pub fn penalty(mut self, penalty: Penalty) -> Self {
        self.penalty = Some(penalty);
        self
    }

    /// Sets who is told what auditors ask for: bans, and what policies that only watch would have
    /// denied. It must not block.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = Audit::to(auditor);
        self
    }

    /// Sets how much a request costs a policy. One, unless this is called.
    ///
    /// A cost of zero passes and is not charged; one above what the quota ever holds is always
    /// denied.
    pub fn cost<F>(mut self, cost: F) -> Self
    where
        F: Fn(&RequestHead<'_>, &Policy) -> u64 + Send + Sync + 'static,
    {
        self.cost = Some(Arc::new(cost));
        self
    }

    /// Lets the requests pass uncounted for which this says so.
    pub fn skip<F>(mut self, skip: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.skip = Some(Arc::new(skip));
        self
    }

    /// Lets these callers pass uncounted.
    pub fn allow(mut self, callers: Callers) -> Self {
        self.allow = callers;
        self
    }

    /// Turns these callers away with `403`, whatever else is said of them.
    pub fn deny(mut self, callers: Callers) -> Self {
        self.deny = callers;
        self
    }

    /// Adds up to this much to `Retry-After`, so that clients whose windows end together do not
    /// all come back together. Each partition has its own part of it, always the same. None by
    /// default.
    pub fn retry_jitter(mut self, most: Duration) -> Self {
        self.retry_jitter = most;
        self
    }

    /// Sets what sleeps for requests that wait for their turn in a
    /// [queue](Policy::leaky_queue), and tells when the store's time is over. Tokio by default, where the feature `tokio` is on.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.runtime = Some(runtime);
        self
    }

    /// Sets how long a request waits for the store to answer, before it is decided as for one that
    /// [fails](Self::on_store_error). 25 milliseconds by default, or what a store that has a
    /// [deadline of its own](RateLimitStore::has_deadline) waits.
    ///
    /// The time is told by [`runtime`](Self::runtime); by default by the Tokio runtime that the
    /// request runs on (feature `tokio`), and where there is none, there is no deadline. A store in
    /// memory is never waited for.
    pub fn store_deadline(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Lets requests wait for as long as the store takes: for a store with a deadline of its own.
    pub fn without_store_deadline(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Sets how many requests of all partitions wait for their turns at most. 10 000 by default.
    ///
    /// A [queue](Policy::leaky_queue) bounds how many of one partition wait; this bounds what all
    /// of them take in memory. One more is turned away with `503`, charged to nobody.
    pub fn waiters_max(mut self, waiters: usize) -> Self {
        self.waiters_max = waiters;
        self
    }

    /// Sets which header fields tell callers of their limits. None by default.
    pub fn fields(mut self, fields: RateLimitFields) -> Self {
        self.fields = fields;
        self
    }

    /// Sets what happens to a request when the store fails. It is turned away by default: a limiter
    /// has no other store to ask until [`OnStoreError::local`] names one.
    pub fn on_store_error(mut self, action: OnStoreError) -> Self {
        self.on_store_error = action;
        self
    }

    /// Sets who writes the bodies of rejections.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// If there is no policy, two of one request have the same name, the tiers have no fallback, the
    /// share of [`OnStoreError::local`] is zero, there is a queue and nothing to wait by, or the
    /// store [cannot decide](RateLimitStore::check) by the policies; if callers' own allowances are to
    /// be read, and the partition does not begin with [`Partition::identity`].
    pub fn build(self) -> Result<RateLimitLayer, ConfigError> {
        let bans = self.penalty.map(Penalty::build).transpose()?;
        let sets = Wanted {
            policies: &self.policies,
            tiers: self.tiers.as_ref(),
            reads: self.reads,
            store: &*self.store,
            ban: bans.as_ref().map(Bans::policy),
            on_store_error: &self.on_store_error,
            has_runtime: self.runtime.is_some(),
            others_are_chosen: self.policies_by.is_some(),
        }
        .sets()?
        .with_tiers_by_function(self.tier_by.is_some());
        config_notices::Limits {
            sets: &sets,
            tiers: self.tiers.as_ref(),
            share: self.on_store_error.share()?,
            has_penalty_for_denials: bans.as_ref().is_some_and(|bans| !bans.counts_auth()),
            has_others: self.policies_by.is_some() || self.reads.any(),
        }
        .report();
        if self.settles && !self.store.can_settle() {
            return Err(ConfigError::new(
                "settle",
                format_args!("{:?}", self.store),
                "the store can neither charge nor refund",
            )
            .fix("count by another store, such as a `MemoryStore`"));
        }
        if self.deadline.is_zero() {
            let problem = "no store answers in no time, so every request is decided without it";
            return Err(ConfigError::new("store_deadline", "0ns", problem)
                .fix("give some dozens of milliseconds, or call `without_store_deadline`"));
        }
        if self.waiters_max == 0 && sets.policies().any(|policy| policy.max_wait().is_some()) {
            let problem = "a policy lets requests wait in a queue, and none may wait";
            return Err(ConfigError::new("waiters_max", 0, problem)
                .fix("give at least 1, or use `Policy::leaky_bucket`"));
        }
        let line = |runtime| Arc::new(Line::new(runtime, self.waiters_max));
        let partition = self.partition.in_store(self.store.keys());
        if self.reads.any() && !partition.counts_callers_by_line() {
            return Err(ConfigError::new(
                "credits",
                format_args!("counted by {:?}", self.partition),
                "what is one caller's own is counted by its line of keys",
            )
            .fix("begin the partition with `Partition::identity()`"));
        }
        let reads_identity = partition.reads_identity()
            || (sets.by_tier() && self.tier_by.is_none())
            || self.reads.any()
            || self.allow.reads_identity()
            || self.deny.reads_identity();
        let is_conditional = self.skip.is_some()
            || self.cost.is_some()
            || self.policies_by.is_some()
            || !self.allow.is_empty();
        let audit = self.audit;
        let is_plain = self.store.admits_at_once()
            && self.cost.is_none()
            && self.tier_by.is_none()
            && self.deny.is_empty()
            && self.allow.is_empty()
            && self.skip.is_none()
            && self.policies_by.is_none()
            && !self.reads.any()
            && bans.is_none()
            && !self.settles
            && !self.tells_handlers;
        let watch = StoreWatch::new("rate_limit", audit.clone());
        let local = self.on_store_error.store().map(LocalStore::new);
        let config = Config {
            local: local.map(Arc::new),
            plain_by: partition.only_part().filter(|_| is_plain),
            beside: Arc::new(Watched::new(&self.store, &watch)),
            watch,
            deadline: self.deadline.beside(self.store.has_deadline()),
            audit,
            reads_identity,
            placement: Placement::new(LayerKind::RateLimit, reads_identity),
            counted: Counted::new(&partition, &sets).conditional(is_conditional),
            partition,
            own: self.reads.any().then(|| OwnSets::new(self.reads)),
            store: self.store,
            sets: LiveSets::new(sets),
            fields: self.fields,
            on_store_error: self.on_store_error,
            responder: self.responder,
            allow: self.allow,
            deny: self.deny,
            skip: self.skip,
            tier_by: self.tier_by,
            cost: self.cost,
            retry_jitter: self.retry_jitter,
            line: self.runtime.clone().map(line),
            policies_by: self.policies_by,
            bans: bans.map(Arc::new),
            settles: self.settles,
            tells_handlers: self.tells_handlers,
            runtime: self.runtime,
        };
        let config = Arc::new(config);
        placement::compare(&config);
        Ok(RateLimitLayer { config })
    }
}

impl fmt::Debug for RateLimitLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayerBuilder")
            .field("partition", &self.partition)
            .field("policies", &self.policies)
            .field("tiers", &self.tiers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        error::StoreErrorKind,
        rate_limit::{Charge, Decisions, Quota, Refund},
        store_future::StoreFuture,
        store_key::{StoreKey, StoreKeys},
    };

    /// A store that nobody should ask.
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
        RateLimitLayerBuilder {
            runtime: None,
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
            .policies_by(move |_| std::future::ready(Some(list.clone())))
            .build()
            .unwrap();
        let app = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(()))
        }));
        for _ in 0..2 {
            let answer = app.clone().oneshot(Request::new(())).await.unwrap();
            assert_eq!(answer.status(), 500);
        }
    }
}
