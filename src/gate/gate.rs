//! The gate and its builder.

use std::sync::Arc;

use tower_layer::{Identity as Open, Stack};

use super::{checks::Stages, layer::GateLayer};
use crate::{
    access_log::{AccessLogLayer, CountRequestBodyLayer},
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    core::{
        audit::{Audit, Auditor},
        error::ConfigError,
        http::responder::Responder,
        net::client_addr::ClientAddrResolver,
    },
    rate_limit::RateLimitLayer,
};

/// Stacks the four layers in the only safe order. Each is optional.
///
/// ```text
/// client ─> access log ─> limits by address ─> API keys ─> limits by caller ─> cache ─> service
/// ```
///
/// The order matters. A cache outside of authentication sends the response of one caller to
/// another. Rate limits inside of it do not limit guesses of keys. An access log inside of either
/// does not see the requests that they reject. `ServiceBuilder` and `Router::layer` apply layers in
/// opposite orders, so the same list is right in one and wrong in the other; a gate has one order.
///
/// [`Gate::build`] validates the whole, and returns a [`GateLayer`]: a Tower layer.
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
/// let store = MemoryStore::new();
/// let ring = KeyRing::builder("acmepay", store.clone())
///     // For this example. A service calls `Pepper::new` with a stored secret.
///     .pepper(Pepper::random(1))
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
pub struct Gate<Log = Open, Addresses = Open, Keys = Open, Callers = Open, Cached = Open> {
    layer: GateLayer<Log, Addresses, Keys, Callers, Cached>,
    stages: Stages,
    callers_known_otherwise: bool,
    settings: GateSettings,
}

/// The settings of the gate for each layer that has none of its own.
#[derive(Clone, Debug, Default)]
struct GateSettings {
    auditor: Option<Arc<dyn Auditor>>,
    client_addr: Option<ClientAddrResolver>,
    responder: Option<Responder>,
}

/// Sets one layer, and keeps the others.
macro_rules! set {
    ($stage:ident, $gate:expr, $layer:expr, [$($other:ident),+]) => {{
        let gate = $gate;
        let GateLayer { $($other,)+ .. } = gate.layer;
        let $stage = $layer;
        Gate {
            layer: GateLayer { $stage, $($other,)+ },
            stages: gate.stages,
            callers_known_otherwise: gate.callers_known_otherwise,
            settings: gate.settings,
        }
    }};
}

impl Gate {
    /// Creates a gate without layers, which passes every request.
    pub fn new() -> Self {
        Self {
            layer: GateLayer {
                log: Open::new(),
                addresses: Open::new(),
                keys: Open::new(),
                callers: Open::new(),
                cached: Open::new(),
            },
            stages: Stages::default(),
            callers_known_otherwise: false,
            settings: GateSettings::default(),
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl<Log, Addresses, Keys, Callers, Cached> Gate<Log, Addresses, Keys, Callers, Cached> {
    /// Sets the access log: one record for each request, rejected ones included.
    pub fn access_log(
        mut self,
        log: AccessLogLayer,
    ) -> Gate<AccessLogLayer, Addresses, Keys, Callers, Cached> {
        self.stages.access_log = Some(log.clone());
        set!(log, self, log, [addresses, keys, callers, cached])
    }

    /// Sets the rate limits that apply before authentication, to each client address.
    pub fn rate_limit_by_address(
        mut self,
        limits: RateLimitLayer,
    ) -> Gate<Log, RateLimitLayer, Keys, Callers, Cached> {
        self.stages.by_address = Some(limits.clone());
        set!(addresses, self, limits, [log, keys, callers, cached])
    }

    /// Sets the layer that authenticates callers by their API keys.
    pub fn api_keys(
        mut self,
        keys: ApiKeyLayer,
    ) -> Gate<Log, Addresses, ApiKeyLayer, Callers, Cached> {
        self.stages.api_keys = Some(keys.clone());
        set!(keys, self, keys, [log, addresses, callers, cached])
    }

    /// Sets the rate limits that apply after authentication, to each caller, by its tier if the
    /// limits have tiers.
    pub fn rate_limit_by_identity(
        mut self,
        limits: RateLimitLayer,
    ) -> Gate<Log, Addresses, Keys, RateLimitLayer, Cached> {
        self.stages.by_identity = Some(limits.clone());
        set!(callers, self, limits, [log, addresses, keys, cached])
    }

    /// Sets the cache: stored responses are sent without a call of the inner service, each caller's
    /// to that caller alone.
    pub fn cache(mut self, cache: CacheLayer) -> Gate<Log, Addresses, Keys, Callers, CacheLayer> {
        self.stages.cache = Some(cache.clone());
        set!(cached, self, cache, [log, addresses, keys, callers])
    }

    /// Sets the auditor of all layers that have none of their own.
    ///
    /// It receives the [`AuditEvent`](crate::AuditEvent)s of keys, rejected callers, exceeded
    /// limits, stores and configuration. It must not block. A
    /// [`LogQueue`](crate::access_log::sinks::LogQueue) is an auditor with a queue and a store, and
    /// [`JsonLines`](crate::access_log::sinks::JsonLines) writes events between the records.
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
        self.settings.auditor = Some(Arc::new(auditor));
        self
    }

    /// Sets the resolver of client addresses for the access log and the API keys, unless they have
    /// one of their own.
    ///
    /// Rate limits use the resolver of their [`Partition`](crate::rate_limit::Partition). By
    /// default the client is the TCP peer.
    pub fn client_addr(mut self, resolver: impl Into<ClientAddrResolver>) -> Self {
        self.settings.client_addr = Some(resolver.into());
        self
    }

    /// Sets the responder of all layers that reject requests, unless they have one of their own.
    ///
    /// By default rejections are `application/problem+json`.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.settings.responder = Some(responder);
        self
    }

    /// Declares that no API keys are missing: an outer layer inserts an
    /// [`Identity`](crate::Identity), or every caller may see the same responses.
    pub fn without_api_keys(mut self) -> Self {
        self.callers_known_otherwise = true;
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// Returns an error if the layers do not fit together:
    ///
    /// - a cache, or limits by identity, but neither API keys nor [`Gate::without_api_keys`];
    /// - limits before authentication that count by identity, owner or tier.
    pub fn build(self) -> Result<GateLayer<Log, Addresses, Keys, Callers, Cached>, ConfigError> {
        self.stages.check(self.callers_known_otherwise)?;
        self.settings.apply(&self.stages);
        Ok(self.layer)
    }
}

impl<Addresses, Keys, Callers, Cached> Gate<AccessLogLayer, Addresses, Keys, Callers, Cached> {
    /// Counts the bytes that are read of each request body, for its record.
    ///
    /// The body that the inner service receives is a
    /// [`CountedBody`](crate::access_log::body::CountedBody): axum's `Router` accepts any body, and
    /// so does a service that is generic over it. By default the record has the length that the
    /// request declares.
    pub fn count_request_bodies(
        self,
    ) -> Gate<Stack<CountRequestBodyLayer, AccessLogLayer>, Addresses, Keys, Callers, Cached> {
        let log = Stack::new(CountRequestBodyLayer, self.layer.log.clone());
        set!(log, self, log, [addresses, keys, callers, cached])
    }
}

impl GateSettings {
    /// Applies each setting to the layers that have none of their own.
    fn apply(&self, stages: &Stages) {
        if let Some(auditor) = &self.auditor {
            stages.adopt_auditor(auditor);
        }
        if let Some(resolver) = &self.client_addr {
            stages
                .access_log
                .iter()
                .for_each(|log| log.adopt_client_addr(resolver));
            stages
                .api_keys
                .iter()
                .for_each(|keys| keys.adopt_client_addr(resolver));
        }
        if let Some(responder) = &self.responder {
            let limits = stages.by_address.iter().chain(&stages.by_identity);
            limits.for_each(|limits| limits.adopt_responder(responder));
            stages
                .api_keys
                .iter()
                .for_each(|keys| keys.adopt_responder(responder));
        }
    }
}

impl Stages {
    fn adopt_auditor(&self, auditor: &Arc<dyn Auditor>) {
        let log = self.access_log.iter().map(AccessLogLayer::audit);
        let keys = self.api_keys.iter().map(ApiKeyLayer::audit);
        let limits = self.by_address.iter().chain(&self.by_identity);
        let others = limits
            .map(RateLimitLayer::audit)
            .chain(self.api_keys.iter().map(ApiKeyLayer::ring_audit))
            .chain(self.cache.iter().map(CacheLayer::audit));
        // Rejected callers are reported once: by the log, which masks their addresses, or by the
        // keys if there is no log. The same layer reports notices.
        let has_log = self.access_log.is_some();
        let mut audits = log.chain(keys.filter(|_| !has_log)).chain(others);
        if let Some(first) = audits.next()
            && Audit::adopt(first, auditor)
        {
            first.tell_notices();
        }
        for other in audits {
            other.adopt(auditor);
        }
    }
}
