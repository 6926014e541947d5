//! The API-key layer and its builder.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    authenticate::{
        challenges::Challenges,
        failure_limiter::Failures,
        key_source::{KeySource, check_sources, schemes},
        verifier::Verifier,
        websocket::checked_subprotocol,
    },
    config::{self, ApiKeyConfig},
    manage::audit::KeyAudit,
    record::scopes::Requirement,
    ring::{builder::next_number, no_store::NoStore, ring::KeyRing},
    service::ApiKey,
};
use crate::core::{
    audit::Auditor,
    error::ConfigError,
    http::responder::Responder,
    inherited::Inherited,
    layer_order::{LayerKind, Placement},
    net::client_addr::ClientAddrResolver,
    not_built::not_built,
};

/// Authenticates requests by API key. Requests with an accepted key receive the caller's
/// [`Identity`](crate::Identity) as an extension, and all other requests are rejected.
///
/// See the [module](super) for the responses.
#[derive(Clone)]
pub struct ApiKeyLayer {
    pub(super) config: Arc<ApiKeyConfig>,
}

impl ApiKeyLayer {
    /// Creates a layer with default options. Each request must have a valid key in `Authorization:
    /// Bearer` or `x-api-key`.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`ApiKeyLayerBuilder::build`].
    pub fn new(ring: &KeyRing) -> Result<Self, ConfigError> {
        Self::builder(ring).build()
    }

    /// Creates a builder for a layer without a ring, a store or a pepper. A [`Verifier`], such as
    /// [`StaticKeys`](super::StaticKeys), checks every credential.
    ///
    /// ```
    /// use portcullis::{Identity, api_key::{ApiKeyLayer, StaticKeys}};
    ///
    /// let billing = Identity::builder("billing").build();
    /// let keys = StaticKeys::new().key("c9wQkA0mD3vB7nXr5sLt2yHu8eGj4fPz", billing)?;
    /// let layer = ApiKeyLayer::with_verifier(keys).build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn with_verifier(verifier: impl Verifier) -> ApiKeyLayerBuilder {
        let ring = KeyRing::builder("none", NoStore).without_pepper().build();
        let ring = ring.expect("the options of a ring without keys are valid");
        Self::builder(&ring).verifier(verifier)
    }

    /// Creates a builder for a layer that requires a key in `Authorization: Bearer` or `x-api-key`.
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
            responder: Inherited::default(),
            failure_limit: Some((60, Duration::from_secs(60))),
            client_addr: Inherited::default(),
            verifiers: Vec::new(),
            audit: KeyAudit::default(),
            subprotocol: None,
        }
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKey<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiKey::new(inner, Some(Arc::clone(&self.config)))
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
    responder: Inherited<Responder>,
    failure_limit: Option<(u32, Duration)>,
    client_addr: Inherited<ClientAddrResolver>,
    verifiers: Vec<Arc<dyn Verifier>>,
    audit: KeyAudit,
    subprotocol: Option<String>,
}

not_built!(ApiKeyLayerBuilder);

impl ApiKeyLayerBuilder {
    /// Sets the locations from which the key of a request is read.
    ///
    /// Defaults to `Authorization: Bearer` and `x-api-key`. A request with keys in two locations
    /// receives `400`.
    pub fn sources(mut self, sources: impl IntoIterator<Item = KeySource>) -> Self {
        self.sources = Some(sources.into_iter().collect());
        self
    }

    /// Admits requests without a key. Such requests receive no identity. This option is off by
    /// default.
    ///
    /// If a request has a key, the key must be valid: a request with a wrong key is still rejected.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Requires each key to have all of these scopes. Defaults to no required scopes.
    ///
    /// Use [`RequireScopesLayer`](super::RequireScopesLayer) for the scopes of a single route.
    /// [`build`](Self::build) fails if scopes are required more than once, because the last call
    /// would replace the others.
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

    /// Requires each key to have at least one of these scopes. Defaults to no required scopes.
    ///
    /// [`build`](Self::build) fails if scopes are required more than once.
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

    /// Leaves the key in the request and marks it as sensitive.
    ///
    /// By default, this layer removes the key, so that the inner service cannot log or forward it.
    pub fn forward_credential(mut self) -> Self {
        self.keeps_credential = true;
        self
    }

    /// Sets the realm in the challenges. Defaults to `api`.
    ///
    /// [`build`](Self::build) fails unless the realm consists of one or more printable ASCII
    /// characters.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// Responds with `404` instead of `403`, so that callers cannot probe for resources that they
    /// are not allowed to use. This option is off by default.
    pub fn hide_forbidden(mut self) -> Self {
        self.hides_forbidden = true;
        self
    }

    /// Discloses in a challenge's `error_description` (RFC 6750) that a key is expired, disabled,
    /// revoked or not yet valid. This option is off by default.
    ///
    /// Only a request with the whole key, including its secret, receives this description. The
    /// description confirms to anyone who finds an old key that the key was real.
    pub fn disclose_state(mut self) -> Self {
        self.discloses_state = true;
        self
    }

    /// Admits CORS preflight requests without an identity, because browsers send them without a
    /// key. This option is off by default.
    ///
    /// The option is unnecessary if a CORS layer outside this one handles preflight requests.
    pub fn allow_preflight(mut self) -> Self {
        self.allows_preflight = true;
        self
    }

    /// Sets the responder that writes the bodies of rejections. The default responder writes
    /// `application/problem+json`.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = Inherited::set(responder);
        self
    }

    /// Sets the limit on wrong credentials per address. Defaults to 60 per minute.
    ///
    /// An address can present `failures` different wrong credentials at once. It regains that
    /// number of attempts gradually over each `window`.
    ///
    /// Requests beyond the limit receive `429` without a store or verifier call, even if their
    /// credential is correct. A wrong credential that is repeated within 5 seconds counts once.
    ///
    /// A credential that was accepted within the last hour is exempt, so another client at the same
    /// address cannot lock out the credential's owner. Each ring remembers the fingerprints of up
    /// to 16 384 accepted credentials, which use at most 2 MiB. A credential that the process has
    /// not seen before is not exempt.
    ///
    /// Each process counts failures by the address that the [`client_addr`](Self::client_addr)
    /// resolver returns. Failures of clients without an address are not counted.
    ///
    /// [`build`](Self::build) fails if `failures` is 0, if `window` is longer than a day, or if the
    /// limit exceeds one failure per microsecond.
    pub fn failure_limit(mut self, failures: u32, window: Duration) -> Self {
        self.failure_limit = Some((failures, window));
        self
    }

    /// Removes the limit on wrong credentials per address. By default, the limit is 60 per minute.
    pub fn without_failure_limit(mut self) -> Self {
        self.failure_limit = None;
        self
    }

    /// Sets the resolver that determines the client's address. Defaults to the peer address. Behind
    /// a proxy, use a resolver that trusts the proxy.
    pub fn client_addr(mut self, resolver: impl Into<ClientAddrResolver>) -> Self {
        self.client_addr = Inherited::set(resolver.into());
        self
    }

    /// Adds a verifier for credentials that are not keys of the ring. Defaults to none.
    ///
    /// Verifiers are called in the order in which they are added.
    pub fn verifier(mut self, verifier: impl Verifier) -> Self {
        self.verifiers.push(Arc::new(verifier));
        self
    }

    /// Sets the auditor that receives an event for each rejected request. Defaults to none.
    ///
    /// The event contains the reason and the unmasked address that the
    /// [`client_addr`](Self::client_addr) resolver returns. If the whole key was correct, it also
    /// contains the key id.
    ///
    /// The auditor is called while the request waits and must not block. An auditor of the access
    /// log already receives these events from the records, with masked addresses. If the same
    /// auditor is also set here, it receives each event twice.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    /// Selects this subprotocol when a WebSocket is opened, for an inner service that does not
    /// support subprotocols. This option is off by default. Use it with
    /// [`KeySource::websocket_protocol`](super::KeySource::websocket_protocol).
    ///
    /// If the client offered exactly this subprotocol, the layer adds it as
    /// `Sec-WebSocket-Protocol` to the response that opens the connection. The status of this
    /// response is `101`, or `200` for an extended CONNECT. A subprotocol that the inner service
    /// selects takes precedence.
    ///
    /// By setting this option, the service agrees to the subprotocol. Otherwise, a response without
    /// the field means that the service agreed to no subprotocol (RFC 6455 section 4.2.2), and the
    /// layer passes the response on unchanged.
    ///
    /// [`build`](Self::build) fails if `name` is not a token (RFC 9110 section 5.6.2). It also
    /// fails if `name` starts with the prefix of a key source, because the response would contain a
    /// key.
    pub fn websocket_subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Returns an error in these cases:
    ///
    /// - there are no key sources, or two of them would find the same key;
    /// - scopes are required while keys are [`optional`](Self::optional);
    /// - a scope, the realm or the subprotocol is not valid in a header;
    /// - the failure limit is out of range.
    pub fn build(self) -> Result<ApiKeyLayer, ConfigError> {
        let requirement = self.requirement?;
        if self.optional && !matches!(requirement, Requirement::Nothing) {
            return Err(ConfigError::new(
                "optional",
                "set together with required scopes",
                "a request without a key has no scopes and would always be rejected",
            )
            .fix("drop `optional`, or require scopes on routes with `RequireScopesLayer`"));
        }
        let sources = self
            .sources
            .unwrap_or_else(|| vec![KeySource::bearer(), KeySource::x_api_key()]);
        check_sources(&sources)?;
        let subprotocol = self.subprotocol.as_deref();
        let subprotocol = subprotocol.map(|name| checked_subprotocol(name, &sources));
        let scopes = requirement.to_challenge();
        let config = ApiKeyConfig {
            challenges: Challenges::new(&schemes(&sources), &self.realm, &scopes)?
                .hiding_forbidden(self.hides_forbidden)
                .disclosing_state(self.discloses_state),
            subprotocol: subprotocol.transpose()?,
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
