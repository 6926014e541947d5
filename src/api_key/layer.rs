//! The layer that checks API keys, and its setters.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    config::{self, Config},
    extract::KeySource,
    refusal::Challenges,
    ring::KeyRing,
    scopes::Requirement,
    service::ApiKey,
};
use crate::{error::ConfigError, rejection::Responder};

/// Lets a request through if it bears a key of the ring, and tells the inner service whose it is.
///
/// See the [module](super) for what a client sees.
#[derive(Clone)]
pub struct ApiKeyLayer {
    config: Arc<Config>,
}

impl ApiKeyLayer {
    /// Begins a layer that demands a key in `Authorization: Bearer` or `x-api-key`.
    pub fn builder(ring: &KeyRing) -> ApiKeyLayerBuilder {
        ApiKeyLayerBuilder {
            ring: ring.clone(),
            sources: None,
            optional: false,
            keeps_credential: false,
            requirement: Ok(Requirement::Nothing),
            realm: "api".to_owned(),
            responder: Responder::default(),
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
#[derive(Debug)]
#[must_use]
pub struct ApiKeyLayerBuilder {
    ring: KeyRing,
    sources: Option<Vec<KeySource>>,
    optional: bool,
    keeps_credential: bool,
    requirement: Result<Requirement, ConfigError>,
    realm: String,
    responder: Responder,
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

    /// Demands each of these scopes of every key. For one route, use
    /// [`RequireScopesLayer`](super::RequireScopesLayer).
    pub fn require_all_scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.requirement = Requirement::all(scopes);
        self
    }

    /// Demands at least one of these scopes of every key.
    pub fn require_any_scope<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.requirement = Requirement::any(scopes);
        self
    }

    /// Leaves the key in the request, marked as sensitive. By default the inner service never sees
    /// it: what it does not know it cannot log or forward.
    pub fn keep_credential(mut self) -> Self {
        self.keeps_credential = true;
        self
    }

    /// Sets the realm that challenges name. `api` by default.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// Sets who writes the body of a rejection.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// If there is no place to look for a key, or one twice; if scopes are demanded of callers who
    /// need no key; if a scope or the realm cannot stand in a header.
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
        let config = Config {
            challenges: Challenges::new(&schemes, &self.realm, &scopes)?,
            vary: config::vary(&sources),
            ring: self.ring,
            sources,
            optional: self.optional,
            keeps_credential: self.keeps_credential,
            requirement,
            responder: self.responder,
        };
        Ok(ApiKeyLayer {
            config: Arc::new(config),
        })
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
                source.header_name(),
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
