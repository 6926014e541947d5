//! The gate and its builder.

use std::sync::Arc;

use super::{
    checks::Stages, layer::GateLayer, optional_layer::IntoOptionalLayer, settings::GateSettings,
};
use crate::{
    access_log::AccessLogLayer,
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    core::{
        audit::Auditor, error::ConfigError, http::responder::Responder,
        inherited_clock::LayerClock, net::client_addr::ClientAddrResolver, time::Clock,
    },
    rate_limit::RateLimitLayer,
};

/// Stacks the four layers in the only safe order. Each is optional.
///
/// ```text
/// client ─> access log ─> limits by address ─> API keys ─> limits by caller ─> cache ─> service
/// ```
///
/// The order matters. A cache outside authentication sends one caller's response to another caller.
/// Rate limits inside authentication do not limit attempts to guess keys. An access log inside
/// another layer does not record the requests that the outer layer rejects. `ServiceBuilder` and
/// `Router::layer` apply layers in opposite orders, so a list that is right for one is wrong for
/// the other. A gate always applies the same order.
///
/// [`Gate::build`] validates the combination of layers and returns a [`GateLayer`], which is a
/// Tower layer.
///
/// ```
/// use portcullis::{
///     Gate,
///     access_log::AccessLogLayer,
///     api_key::{ApiKeyLayer, KeyRing, Pepper},
///     cache::CacheLayer,
///     rate_limit::RateLimitLayer,
///     store::MemoryStore,
/// };
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// let store = MemoryStore::new();
/// // For this example. A service calls `Pepper::new` with a stored secret.
/// let pepper = Pepper::random(1);
/// let ring = KeyRing::builder("acmepay", store.clone()).pepper(pepper).build()?;
/// let gate = Gate::new()
///     .access_log(AccessLogLayer::stderr())
///     .rate_limit_by_address(RateLimitLayer::per_client(store.clone(), "30/s burst 60")?)
///     .api_keys(ApiKeyLayer::new(&ring)?)
///     .rate_limit_by_identity(RateLimitLayer::per_identity(store.clone(), "100/minute")?)
///     .cache(CacheLayer::new(store))
///     .build()?;
/// # let _ = gate;
/// # Ok(())
/// # }
/// ```
///
/// # Cross-origin requests
///
/// Apply tower-http's `CorsLayer` outside the gate. `CorsLayer` then responds to preflight requests
/// itself: they need no key and are not charged. The layer also adds its fields to rejections, so a
/// script in a browser can read a `401` or a `429` response. List the fields that the script reads,
/// such as `Retry-After`, in `CorsLayer::expose_headers`.
///
/// ```
/// use portcullis::{Gate, rate_limit::RateLimitLayer, store::MemoryStore};
/// use tower::ServiceBuilder;
/// use tower_http::cors::CorsLayer;
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// let limits = RateLimitLayer::per_client(MemoryStore::new(), "30/s burst 60")?;
/// let gate = Gate::new().rate_limit_by_address(limits).build()?;
/// let layers = ServiceBuilder::new().layer(CorsLayer::permissive()).layer(gate);
/// # let _ = layers;
/// # Ok(())
/// # }
/// ```
///
/// If the service inside the gate responds to preflight requests, call
/// [`exempt_preflight`](crate::rate_limit::RateLimitLayerBuilder::exempt_preflight) on the rate
/// limits by address and [`allow_preflight`](crate::api_key::ApiKeyLayerBuilder::allow_preflight)
/// on the API keys. In this case, browsers cannot read rejections from the gate.
///
/// # Layers from a configuration file
///
/// The layer methods of `Gate` take a layer or an `Option` of a layer. The types of the gate do not
/// depend on which layers are present. A configuration file can therefore switch layers on and off,
/// and gates with different layers can be in one list:
///
/// ```
/// use portcullis::{
///     ConfigError, Gate, GateLayer,
///     access_log::AccessLogLayer,
///     cache::CacheLayer,
///     rate_limit::{Quota, RateLimitLayer},
///     store::MemoryStore,
/// };
///
/// // Feature `serde`: `#[derive(serde::Deserialize)]`.
/// struct GateConfig {
///     access_log: bool,
///     limit: Option<Quota>,
///     cache: bool,
/// }
///
/// impl GateConfig {
///     fn gate(&self, store: &MemoryStore) -> Result<GateLayer, ConfigError> {
///         let limit = |quota: &Quota| RateLimitLayer::per_client(store.clone(), *quota);
///         Gate::new()
///             .access_log(self.access_log.then(AccessLogLayer::stderr))
///             .rate_limit_by_address(self.limit.as_ref().map(limit).transpose()?)
///             .cache(self.cache.then(|| CacheLayer::new(store.clone())))
///             .without_api_keys()
///             .build()
///     }
/// }
///
/// # fn main() -> Result<(), ConfigError> {
/// let store = MemoryStore::new();
/// let all = GateConfig { access_log: true, limit: Some(Quota::per_second(30)), cache: true };
/// let none = GateConfig { access_log: false, limit: None, cache: false };
/// let gates = vec![all.gate(&store)?, none.gate(&store)?];
/// # let _ = gates;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a gate does nothing until it is built"]
pub struct Gate {
    stages: Stages,
    callers_known_otherwise: bool,
    settings: GateSettings,
}

impl Gate {
    /// Creates a gate without layers, which forwards every request to the inner service.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or removes the access log, which writes one record for each request, including rejected
    /// requests. There is no access log by default.
    pub fn access_log(mut self, log: impl IntoOptionalLayer<AccessLogLayer>) -> Self {
        self.stages.access_log = log.into_optional_layer();
        self
    }

    /// Sets or removes the rate limits that apply to each client address before authentication.
    /// There are no such limits by default.
    pub fn rate_limit_by_address(mut self, limits: impl IntoOptionalLayer<RateLimitLayer>) -> Self {
        self.stages.by_address = limits.into_optional_layer();
        self
    }

    /// Sets or removes the layer that authenticates callers by their API keys. There is no such
    /// layer by default.
    pub fn api_keys(mut self, keys: impl IntoOptionalLayer<ApiKeyLayer>) -> Self {
        self.stages.api_keys = keys.into_optional_layer();
        self
    }

    /// Sets or removes the per-caller rate limits that apply after authentication. If the limits
    /// define tiers, the caller's tier determines which limits apply. There are no such limits by
    /// default.
    pub fn rate_limit_by_identity(
        mut self,
        limits: impl IntoOptionalLayer<RateLimitLayer>,
    ) -> Self {
        self.stages.by_identity = limits.into_optional_layer();
        self
    }

    /// Sets or removes the cache, which sends stored responses without calling the inner service.
    /// Each caller's responses are sent to that caller alone. There is no cache by default.
    pub fn cache(mut self, cache: impl IntoOptionalLayer<CacheLayer>) -> Self {
        self.stages.cache = cache.into_optional_layer();
        self
    }

    /// Sets the auditor for all layers without their own auditor.
    ///
    /// The auditor receives the [`AuditEvent`](crate::AuditEvent)s about keys, rejected callers,
    /// exceeded limits, stores and configuration. The auditor must not block. A
    /// [`LogQueue`](crate::access_log::sinks::LogQueue) is an auditor that queues and stores
    /// events, and [`JsonLines`](crate::access_log::sinks::JsonLines) writes them among the
    /// records.
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

    /// Sets the resolver of client addresses for the access log and the API keys. A layer with its
    /// own resolver keeps that resolver.
    ///
    /// Rate limits use the resolver of their [`Partition`](crate::rate_limit::Partition). By
    /// default, the client is the TCP peer.
    pub fn client_addr(mut self, resolver: impl Into<ClientAddrResolver>) -> Self {
        self.settings.client_addr = Some(resolver.into());
        self
    }

    /// Sets the clock for the access log, the API keys and the cache. A layer with its own clock
    /// keeps that clock.
    ///
    /// The clock determines the times of records, the expiry of keys and the freshness of cached
    /// responses. The clock is also used by the API key layer's
    /// [`KeyRing`](crate::api_key::KeyRing) and by every [`KeyManager`](crate::api_key::KeyManager)
    /// on that ring. Defaults to the system clock.
    ///
    /// A store has its own clock, which this method does not change. Rate limits use the clock of
    /// their store, and a store evicts cached responses according to its own clock. Pass the same
    /// clock to [`MemoryStore::with_clock`](crate::store::MemoryStore::with_clock). A store on
    /// Redis uses the server's time. A sink that sets the time of audit events also has its own
    /// clock.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use portcullis::{
    ///     Gate, ManualClock, access_log::AccessLogLayer, rate_limit::RateLimitLayer,
    ///     store::MemoryStore,
    /// };
    ///
    /// # fn main() -> Result<(), portcullis::ConfigError> {
    /// let clock = ManualClock::default();
    /// let store = MemoryStore::with_clock(clock.clone());
    /// let gate = Gate::new()
    ///     .clock(clock.clone())
    ///     .access_log(AccessLogLayer::stderr())
    ///     .rate_limit_by_address(RateLimitLayer::per_client(store, "100/minute")?)
    ///     .build()?;
    /// // A minute passes for the log and for the limits.
    /// clock.advance(Duration::from_secs(60));
    /// # let _ = gate;
    /// # Ok(())
    /// # }
    /// ```
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Some(LayerClock::new(clock));
        self
    }

    /// Sets the responder for all layers that reject requests, except layers with their own
    /// responder.
    ///
    /// By default, rejections are `application/problem+json` responses.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.settings.responder = Some(responder);
        self
    }

    /// Declares that the gate needs no API keys: an outer layer inserts an
    /// [`Identity`](crate::Identity), or every caller may receive the same responses.
    pub fn without_api_keys(mut self) -> Self {
        self.callers_known_otherwise = true;
        self
    }

    /// Validates the layers and returns them as one layer.
    ///
    /// # Errors
    ///
    /// Returns an error in these cases:
    ///
    /// - The gate has a cache or limits by identity, but neither API keys nor
    ///   [`Gate::without_api_keys`].
    /// - The limits before authentication count by identity, owner or tier.
    /// - [`Gate::clock`] is set, but a layer or key ring without its own clock has already read the
    ///   system clock.
    pub fn build(self) -> Result<GateLayer, ConfigError> {
        self.stages.check(self.callers_known_otherwise)?;
        self.settings.apply(&self.stages)?;
        Ok(GateLayer {
            stages: self.stages,
        })
    }
}
