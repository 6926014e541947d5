//! The gate: the four layers in the only safe order, checked as a whole.

use std::sync::Arc;

use tower_layer::{Identity as Open, Layer, Stack};

use crate::{
    access_log::{AccessLogLayer, CountRequestBodyLayer},
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    core::{
        audit::{Audit, Auditor},
        error::ConfigError,
    },
    rate_limit::RateLimitLayer,
};

/// Stacks the four layers in the only safe order, whichever are given, and in whatever order.
///
/// ```text
/// client ─> access log ─> limits by address ─> API keys ─> limits by caller ─> cache ─> service
/// ```
///
/// The order matters: a cache outside of authentication shows one caller's answer to the next, a
/// limiter inside of it lets anybody guess keys at full speed, and a log inside of both never sees
/// whom they turned away. `ServiceBuilder` and `Router::layer` apply layers in opposite orders, so
/// the same list is right in one and a leak in the other; this type has one order.
///
/// [`Gate::build`] checks the whole, and returns a [`GateLayer`]: a Tower layer like any other.
///
/// ```
/// use portcullis::{
///     ClientAddrResolver, Gate,
///     access_log::AccessLogLayer,
///     api_key::{ApiKeyLayer, KeyRing, Pepper},
///     cache::CacheLayer,
///     rate_limit::{Partition, Policy, Quota, RateLimitLayer},
///     store::MemoryStore,
/// };
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// # let pepper_bytes = [0, 1, 2, 3, 4, 5, 6, 7].repeat(4);
/// let store = MemoryStore::new();
/// let ring = KeyRing::builder("acmepay", store.clone())
///     .pepper(Pepper::new(1, pepper_bytes)?)
///     .build()?;
/// let by_address = Partition::client_addr(ClientAddrResolver::default());
/// let gate = Gate::new()
///     .access_log(AccessLogLayer::stderr())
///     .rate_limit_by_address(
///         RateLimitLayer::builder(store.clone(), by_address)
///             .policy(Policy::token_bucket("address", Quota::per_second(30).burst(60))?)
///             .build()?,
///     )
///     .api_keys(ApiKeyLayer::builder(&ring).build()?)
///     .rate_limit_by_identity(
///         RateLimitLayer::builder(store.clone(), Partition::identity())
///             .policy(Policy::token_bucket("caller", Quota::per_minute(100).burst(20))?)
///             .build()?,
///     )
///     .cache(CacheLayer::new(store))
///     .build()?;
/// # let _ = gate;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a gate does nothing until it is built"]
pub struct Gate<Log = Open, Addresses = Open, Keys = Open, Callers = Open, Answers = Open> {
    layer: GateLayer<Log, Addresses, Keys, Callers, Answers>,
    facts: StackFacts,
}

/// What [`Gate::build`] checks and wires, noted as the layers come, while their types are known.
#[derive(Clone, Debug, Default)]
struct StackFacts {
    api_keys: bool,
    cache: bool,
    callers_known_otherwise: bool,
    addresses_read_identity: bool,
    callers_need_identity: bool,
    auditor: Option<Arc<dyn Auditor>>,
    audits: Audits,
}

/// What tells the auditors of the layers that have come.
#[derive(Clone, Debug, Default)]
struct Audits {
    log: Option<Audit>,
    /// Of callers that are turned away; the log tells of them too.
    keys: Option<Audit>,
    others: Vec<Audit>,
}

/// Puts a layer in its place, and leaves the others in theirs.
macro_rules! put {
    ($place:ident, $facts:expr, $layer:expr, [$($other:ident),+]) => {{
        let GateLayer { $($other,)+ .. } = $layer;
        Gate {
            layer: GateLayer { $place, $($other,)+ },
            facts: $facts,
        }
    }};
}

impl Gate {
    /// Begins a gate that lets everything pass.
    pub fn new() -> Self {
        Self {
            layer: GateLayer {
                log: Open::new(),
                addresses: Open::new(),
                keys: Open::new(),
                callers: Open::new(),
                answers: Open::new(),
            },
            facts: StackFacts::default(),
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl<Log, Addresses, Keys, Callers, Answers> Gate<Log, Addresses, Keys, Callers, Answers> {
    /// Keeps a record of each request, those that the gate turns away included.
    pub fn access_log(
        self,
        log: AccessLogLayer,
    ) -> Gate<AccessLogLayer, Addresses, Keys, Callers, Answers> {
        let mut facts = self.facts;
        facts.audits.log = Some(log.audit().clone());
        put!(log, facts, self.layer, [addresses, keys, callers, answers])
    }

    /// Limits how often each client address may knock, before its key is looked at.
    pub fn rate_limit_by_address(
        self,
        addresses: RateLimitLayer,
    ) -> Gate<Log, RateLimitLayer, Keys, Callers, Answers> {
        let mut facts = self.facts;
        facts.addresses_read_identity = addresses.reads_identity();
        facts.audits.others.push(addresses.audit().clone());
        put!(addresses, facts, self.layer, [log, keys, callers, answers])
    }

    /// Finds out who calls.
    pub fn api_keys(
        self,
        keys: ApiKeyLayer,
    ) -> Gate<Log, Addresses, ApiKeyLayer, Callers, Answers> {
        let mut facts = self.facts;
        facts.api_keys = true;
        facts.audits.keys = Some(keys.audit().clone());
        facts.audits.others.push(keys.ring_audit().clone());
        put!(keys, facts, self.layer, [log, addresses, callers, answers])
    }

    /// Limits how often each caller may call, by its tier if the limits say so.
    pub fn rate_limit_by_identity(
        self,
        callers: RateLimitLayer,
    ) -> Gate<Log, Addresses, Keys, RateLimitLayer, Answers> {
        let mut facts = self.facts;
        facts.callers_need_identity = callers.needs_identity();
        facts.audits.others.push(callers.audit().clone());
        put!(callers, facts, self.layer, [log, addresses, keys, answers])
    }

    /// Answers from a store what has been answered before, to each caller what is its own.
    pub fn cache(self, answers: CacheLayer) -> Gate<Log, Addresses, Keys, Callers, CacheLayer> {
        let mut facts = self.facts;
        facts.cache = true;
        facts.audits.others.push(answers.audit().clone());
        put!(answers, facts, self.layer, [log, addresses, keys, callers])
    }

    /// Sets who is told what auditors ask for, by all layers: keys that are made, changed and
    /// revoked, callers that are turned away, limits that are exceeded, stores that stop answering
    /// and answer again, and what is configured in a way that cannot be meant.
    ///
    /// A layer that was given an auditor of its own keeps it. It must not block. A
    /// [`LogQueue`](crate::access_log::sinks::LogQueue) is an auditor with a queue and a store of its own,
    /// and [`JsonLines`](crate::access_log::sinks::JsonLines) writes events beside the records.
    ///
    /// ```
    /// use portcullis::{
    ///     Gate, TokioRuntime,
    ///     access_log::{AccessLogLayer, sinks::LogQueue},
    ///     store::MemoryStore,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), portcullis::ConfigError> {
    /// let trail = LogQueue::builder(MemoryStore::new(), TokioRuntime).build()?;
    /// let gate = Gate::new()
    ///     .access_log(AccessLogLayer::stderr())
    ///     .auditor(trail)
    ///     .build()?;
    /// # let _ = gate;
    /// # Ok(())
    /// # }
    /// ```
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.facts.auditor = Some(Arc::new(auditor));
        self
    }

    /// Says that no API keys are missing here: something outside of the gate inserts an
    /// [`Identity`](crate::Identity), or no caller may see anything that another may not.
    pub fn without_api_keys(mut self) -> Self {
        self.facts.callers_known_otherwise = true;
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// If the layers do not fit one another:
    ///
    /// - a cache or limits by caller, but neither API keys nor [`Gate::without_api_keys`]: if the
    ///   service inside tells its callers apart, the cache would stand outside of that;
    /// - limits before the keys that count by a caller, whom nobody knows there yet.
    pub fn build(self) -> Result<GateLayer<Log, Addresses, Keys, Callers, Answers>, ConfigError> {
        self.facts.check()?;
        if let Some(auditor) = &self.facts.auditor {
            self.facts.audits.adopt(auditor);
        }
        Ok(self.layer)
    }
}

impl<Addresses, Keys, Callers, Answers> Gate<AccessLogLayer, Addresses, Keys, Callers, Answers> {
    /// Counts the bytes that are really read of each request's body, for its record.
    ///
    /// The body that the service inside gets is wrapped for it, and so of another type: axum's
    /// `Router` takes a body of any type, and so does a service that is generic over it. Without this,
    /// the record has the length that the request declares.
    pub fn count_request_bodies(
        self,
    ) -> Gate<Stack<CountRequestBodyLayer, AccessLogLayer>, Addresses, Keys, Callers, Answers> {
        let log = Stack::new(CountRequestBodyLayer, self.layer.log.clone());
        put!(
            log,
            self.facts,
            self.layer,
            [addresses, keys, callers, answers]
        )
    }
}

impl Audits {
    /// Gives the layers an auditor that have none of their own.
    fn adopt(&self, auditor: &Arc<dyn Auditor>) {
        // Callers that are turned away are told of once: by the log, which masks their addresses, or
        // by the keys where there is no log. One of the two tells of notices, too.
        let first = match (&self.log, &self.keys) {
            (Some(log), _) => Some(log),
            (None, keys) => keys.as_ref().or(self.others.first()),
        };
        if let Some(first) = first
            && first.adopt(auditor)
        {
            first.tell_notices();
        }
        for other in &self.others {
            other.adopt(auditor);
        }
    }
}

impl StackFacts {
    fn check(&self) -> Result<(), ConfigError> {
        const KEYS_OR_NONE: &str = "give the gate its `api_keys`; if callers are known by other \
             means, or are all alike, say so by `without_api_keys`";

        let callers_known = self.api_keys || self.callers_known_otherwise;
        if self.addresses_read_identity {
            return Err(ConfigError::new(
                "rate_limit_by_address",
                "counted by identity, owner or tier",
                "it stands before the keys, where nobody knows the caller yet",
            )
            .fix(
                "count by `Partition::client_addr`, or hand the limits to `rate_limit_by_identity`",
            ));
        }
        if self.cache && !callers_known {
            return Err(ConfigError::new(
                "cache",
                "outside of authentication",
                "if the service inside tells its callers apart, one is shown another's answers",
            )
            .fix(KEYS_OR_NONE));
        }
        if self.callers_need_identity && !callers_known {
            return Err(ConfigError::new(
                "rate_limit_by_identity",
                "counted by identity or owner",
                "without API keys every request passes uncounted",
            )
            .fix(KEYS_OR_NONE));
        }
        Ok(())
    }
}

/// The layers of a [`Gate`], stacked. From [`Gate::build`].
#[derive(Clone, Debug)]
pub struct GateLayer<Log, Addresses, Keys, Callers, Answers> {
    log: Log,
    addresses: Addresses,
    keys: Keys,
    callers: Callers,
    answers: Answers,
}

impl<S, Log, Addresses, Keys, Callers, Answers> Layer<S>
    for GateLayer<Log, Addresses, Keys, Callers, Answers>
where
    Answers: Layer<S>,
    Callers: Layer<Answers::Service>,
    Keys: Layer<Callers::Service>,
    Addresses: Layer<Keys::Service>,
    Log: Layer<Addresses::Service>,
{
    type Service = Log::Service;

    fn layer(&self, service: S) -> Self::Service {
        // From the inside out.
        let service = self.answers.layer(service);
        let service = self.callers.layer(service);
        let service = self.keys.layer(service);
        let service = self.addresses.layer(service);
        self.log.layer(service)
    }
}
