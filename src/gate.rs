//! The gate: the four layers in the only safe order, checked as a whole.

use tower_layer::{Identity as Open, Layer};

use crate::{
    access_log::AccessLogLayer, api_key::ApiKeyLayer, cache::CacheLayer, error::ConfigError,
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
///     .limit_addresses(
///         RateLimitLayer::builder(store.clone(), by_address)
///             .policy(Policy::token_bucket("address", Quota::per_second(30).burst(60))?)
///             .build()?,
///     )
///     .api_keys(ApiKeyLayer::builder(&ring).build()?)
///     .limit_callers(
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
    facts: Facts,
}

/// What [`Gate::build`] checks, noted as the layers come, while their types are known.
#[derive(Clone, Debug, Default)]
struct Facts {
    api_keys: bool,
    cache: bool,
    callers_known_otherwise: bool,
    addresses_read_identity: bool,
    callers_need_identity: bool,
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
            facts: Facts::default(),
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
        let GateLayer {
            addresses,
            keys,
            callers,
            answers,
            ..
        } = self.layer;
        self.facts.gate(log, addresses, keys, callers, answers)
    }

    /// Limits how often each client address may knock, before its key is looked at.
    pub fn limit_addresses(
        self,
        limits: RateLimitLayer,
    ) -> Gate<Log, RateLimitLayer, Keys, Callers, Answers> {
        let mut facts = self.facts;
        facts.addresses_read_identity = limits.reads_identity();
        let GateLayer {
            log,
            keys,
            callers,
            answers,
            ..
        } = self.layer;
        facts.gate(log, limits, keys, callers, answers)
    }

    /// Finds out who calls.
    pub fn api_keys(
        self,
        keys: ApiKeyLayer,
    ) -> Gate<Log, Addresses, ApiKeyLayer, Callers, Answers> {
        let mut facts = self.facts;
        facts.api_keys = true;
        let GateLayer {
            log,
            addresses,
            callers,
            answers,
            ..
        } = self.layer;
        facts.gate(log, addresses, keys, callers, answers)
    }

    /// Limits how often each caller may call, by its tier if the limits say so.
    pub fn limit_callers(
        self,
        limits: RateLimitLayer,
    ) -> Gate<Log, Addresses, Keys, RateLimitLayer, Answers> {
        let mut facts = self.facts;
        facts.callers_need_identity = limits.needs_identity();
        let GateLayer {
            log,
            addresses,
            keys,
            answers,
            ..
        } = self.layer;
        facts.gate(log, addresses, keys, limits, answers)
    }

    /// Answers from a store what has been answered before, to each caller what is its own.
    pub fn cache(self, cache: CacheLayer) -> Gate<Log, Addresses, Keys, Callers, CacheLayer> {
        let mut facts = self.facts;
        facts.cache = true;
        let GateLayer {
            log,
            addresses,
            keys,
            callers,
            ..
        } = self.layer;
        facts.gate(log, addresses, keys, callers, cache)
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
        Ok(self.layer)
    }
}

impl Facts {
    fn gate<Log, Addresses, Keys, Callers, Answers>(
        self,
        log: Log,
        addresses: Addresses,
        keys: Keys,
        callers: Callers,
        answers: Answers,
    ) -> Gate<Log, Addresses, Keys, Callers, Answers> {
        Gate {
            layer: GateLayer {
                log,
                addresses,
                keys,
                callers,
                answers,
            },
            facts: self,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        const KEYS_OR_NONE: &str = "give the gate its `api_keys`; if callers are known by other \
             means, or are all alike, say so by `without_api_keys`";

        let callers_known = self.api_keys || self.callers_known_otherwise;
        if self.addresses_read_identity {
            return Err(ConfigError::new(
                "limit_addresses",
                "counted by identity, owner or tier",
                "it stands before the keys, where nobody knows the caller yet",
            )
            .fix("count by `Partition::client_addr`, or hand the limits to `limit_callers`"));
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
                "limit_callers",
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
