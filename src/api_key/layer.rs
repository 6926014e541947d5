//! The layer that checks API keys, and its setters.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    authenticate::{
        challenges::Challenges, extract::KeySource, failure_limiter::Failures, verifier::Verifier,
    },
    config::{self, ApiKeyConfig},
    manage::audit::KeyAudit,
    record::scopes::Requirement,
    ring::{builder::next_number, ring::KeyRing},
    service::ApiKey,
};
use crate::core::{
    audit::Auditor,
    error::ConfigError,
    http::rejection::Responder,
    layer_order::{LayerKind, Placement},
    net::client_addr::ClientAddrResolver,
};

/// Lets a request through if it bears a key of the ring, and tells the inner service whose it is.
///
/// See the [module](super) for what a client sees.
#[derive(Clone)]
pub struct ApiKeyLayer {
    pub(super) config: Arc<ApiKeyConfig>,
}

impl ApiKeyLayer {
    /// Begins a layer that demands a key in `Authorization: Bearer` or `x-api-key`.
    pub fn builder(ring: &KeyRing) -> ApiKeyLayerBuilder {
        ApiKeyLayerBuilder {
            ring: ring.clone(),
            sources: None,
            optional: false,
            keeps_credential: false,
            hides_forbidden: false,
            discloses_state: false,
            allows_preflight: false,
            requirement: Ok(Requirement::Nothing),
            realm: "api".to_owned(),
            responder: Responder::default(),
            failure_limit: Some((60, Duration::from_secs(60))),
            client_addr: ClientAddrResolver::default(),
            verifiers: Vec::new(),
            audit: KeyAudit::default(),
        }
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKey<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiKey::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for ApiKeyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyLayer")
            .field("sources", &self.config.sources)
            .field("optional", &self.config.optional)
            .finish_non_exhaustive()
    }
}

/// Builds an [`ApiKeyLayer`].
#[must_use]
pub struct ApiKeyLayerBuilder {
    ring: KeyRing,
    sources: Option<Vec<KeySource>>,
    optional: bool,
    keeps_credential: bool,
    hides_forbidden: bool,
    discloses_state: bool,
    allows_preflight: bool,
    requirement: Result<Requirement, ConfigError>,
    realm: String,
    responder: Responder,
    failure_limit: Option<(u32, Duration)>,
    client_addr: ClientAddrResolver,
    verifiers: Vec<Arc<dyn Verifier>>,
    audit: KeyAudit,
}

impl ApiKeyLayerBuilder {
    /// Sets the places where a key is looked for. `Authorization: Bearer` and `x-api-key` by
    /// default.
    ///
    /// A request with a key in two of them is answered `400`.
    pub fn sources(mut self, sources: impl IntoIterator<Item = KeySource>) -> Self {
        self.sources = Some(sources.into_iter().collect());
        self
    }

    /// Lets requests through that bear no key at all, without an identity. A key that is no good
    /// is still turned away.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Requires each of these scopes of every key. For one route, use
    /// [`RequireScopesLayer`](super::RequireScopesLayer).
    ///
    /// [`build`](Self::build) fails if scopes are required by two calls: the second one would replace the
    /// first.
    pub fn require_all_scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.requirement = self
            .requirement
            .and_then(|first| first.then(scopes, Requirement::all));
        self
    }

    /// Requires at least one of these scopes of every key. [`build`](Self::build) fails if scopes are
    /// required by two calls.
    pub fn require_any_scope<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.requirement = self
            .requirement
            .and_then(|first| first.then(scopes, Requirement::any));
        self
    }

    /// Leaves the key in the request, marked as sensitive. By default the inner service never sees
    /// it: what it does not know it cannot log or forward.
    pub fn forward_credential(mut self) -> Self {
        self.keeps_credential = true;
        self
    }

    /// Sets the realm that challenges name. `api` by default.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// Answers `404` where a known caller may not, so that it does not learn what there is.
    pub fn hide_forbidden(mut self) -> Self {
        self.hides_forbidden = true;
        self
    }

    /// Tells who presents a whole key that is expired, disabled, revoked or not valid yet which of
    /// these it is, as `error_description` of the challenge (RFC 6750). By default nobody is told.
    ///
    /// A wrong secret learns nothing by it. Who has found an old key learns that it was a real one.
    pub fn disclose_state(mut self) -> Self {
        self.discloses_state = true;
        self
    }

    /// Lets a browser's question before a request from another origin through, without an
    /// identity: it cannot bear a key. A CORS layer outside of this one answers it sooner.
    pub fn allow_preflight(mut self) -> Self {
        self.allows_preflight = true;
        self
    }

    /// Sets who writes the body of a rejection.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Sets how many different wrong credentials one address may present at once, and again in the
    /// course of each window. Defaults to 60 per minute.
    ///
    /// Beyond the limit, requests receive `429` before the store or a verifier is asked: a correct guess
    /// is not let in either. Repeating one wrong credential counts once within 5 seconds.
    ///
    /// A credential that was good within the last hour is exempt, so a neighbor at the same address
    /// cannot lock its owner out. Each ring remembers the fingerprints of up to 16 384 good credentials
    /// in at most 2 MiB. A credential that a process sees for the first time is not exempt.
    ///
    /// The count is kept in this process, by the address that [`client_addr`](Self::client_addr) finds.
    /// Clients without an address are not counted.
    pub fn failure_limit(mut self, failures: u32, window: Duration) -> Self {
        self.failure_limit = Some((failures, window));
        self
    }

    /// Lets each address present as many wrong keys as it likes.
    pub fn without_failure_limit(mut self) -> Self {
        self.failure_limit = None;
        self
    }

    /// Sets how the address of a client is found. By default it is the peer's: behind a proxy, name
    /// the proxy.
    pub fn client_addr(mut self, resolver: ClientAddrResolver) -> Self {
        self.client_addr = resolver;
        self
    }

    /// Adds somebody who knows callers by what is no key of the ring. They are asked in the order in
    /// which they are added.
    pub fn verifier(mut self, verifier: impl Verifier) -> Self {
        self.verifiers.push(Arc::new(verifier));
        self
    }

    /// Sets who is told of each caller that is turned away: why, its address as
    /// [`client_addr`](Self::client_addr) finds it, unmasked, and the key where the whole key was
    /// right.
    ///
    /// It is called while the request waits: it must not block. An auditor of the access log hears of
    /// these callers by their records, with addresses masked as the log masks them; named here as
    /// well, it hears of them twice.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// If there is no place to look for a key, or one twice; if scopes are demanded of callers who
    /// need no key; if a scope or the realm cannot stand in a header; if the limit of failures
    /// admits none.
    pub fn build(self) -> Result<ApiKeyLayer, ConfigError> {
        let requirement = self.requirement?;
        if self.optional && !matches!(requirement, Requirement::Nothing) {
            return Err(ConfigError::new(
                "optional",
                "set beside required scopes",
                "who needs no key has no scope, and would be turned away",
            )
            .fix("drop `optional`, or ask for scopes on routes by `RequireScopesLayer`"));
        }
        let sources = self
            .sources
            .unwrap_or_else(|| vec![KeySource::bearer(), KeySource::x_api_key()]);
        check_sources(&sources)?;
        let schemes = schemes(&sources);
        let scopes = requirement.to_challenge();
        let config = ApiKeyConfig {
            challenges: Challenges::new(&schemes, &self.realm, &scopes)?
                .hiding_forbidden(self.hides_forbidden)
                .disclosing_state(self.discloses_state),
            allows_preflight: self.allows_preflight,
            vary: config::vary(&sources),
            ring: self.ring,
            sources,
            optional: self.optional,
            keeps_credential: self.keeps_credential,
            requirement,
            responder: self.responder,
            failures: match self.failure_limit {
                Some((failures, window)) => Some(Failures::new(failures, window)?),
                None => None,
            },
            number: next_number(),
            client_addr: self.client_addr,
            verifiers: self.verifiers,
            audit: self.audit,
            placement: Placement::new(LayerKind::ApiKey, false),
        };
        Ok(ApiKeyLayer {
            config: Arc::new(config),
        })
    }
}

impl fmt::Debug for ApiKeyLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyLayerBuilder")
            .field("sources", &self.sources)
            .field("optional", &self.optional)
            .finish_non_exhaustive()
    }
}

fn check_sources(sources: &[KeySource]) -> Result<(), ConfigError> {
    if sources.is_empty() {
        return Err(ConfigError::new(
            "sources",
            "empty",
            "a key that is looked for nowhere is never found",
        )
        .fix("name a place, as `KeySource::bearer()`"));
    }
    for (at, source) in sources.iter().enumerate() {
        if sources[..at].contains(source) {
            return Err(ConfigError::new(
                "sources",
                format_args!("{source:?}"),
                "a place that is looked at twice holds two keys each time",
            )
            .fix("name each place once"));
        }
    }
    Ok(())
}

/// Returns each scheme once, `Bearer` first: clients know it best.
fn schemes(sources: &[KeySource]) -> Vec<&'static str> {
    let mut schemes: Vec<&str> = Vec::new();
    for scheme in sources.iter().map(KeySource::challenge_scheme) {
        if !schemes.contains(&scheme) {
            schemes.push(scheme);
        }
    }
    schemes.sort_by_key(|scheme| *scheme != "Bearer");
    schemes
}
