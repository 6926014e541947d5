//! The stack that an application would build from other crates: `TraceLayer`, `tower_governor` by
//! address and by caller, a SHA-256 key check in a map, and `axum-response-cache`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::axum_response_cache::CacheLayer;
use ::tower_governor::GovernorError;
use ::tower_governor::key_extractor::KeyExtractor;
use axum::Router;
use axum::body::Body;
use axum::routing::Route;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use sha2::{Digest, Sha256};
use tower::{BoxError, Layer, Service, layer::layer_fn};
use tower_http::validate_request::{ValidateRequest, ValidateRequestHeaderLayer};
use tracing::{Level, subscriber::DefaultGuard};

use super::tower_governor::{layer, wide};
use super::tower_http_trace::{in_json, json_subscriber, one_event};
use crate::harness::{Case, Who};
use crate::workload::{
    CREDENTIAL, CachedOrigin, JsonOrigin, Requests, drive, drive_hits, origin, serve, serve_hits,
};

const NAME: &str = "glued";

/// The TTL of the cache. It does not read `Cache-Control`, so it wraps only the routes with
/// storable responses.
const LIFESPAN: Duration = Duration::from_secs(3600);

/// Returns the rows of the suite `stack`, with `secrets` as keys.
pub fn cases(secrets: &[HeaderValue], requests: &Requests) -> Vec<Case> {
    let (glued, cached) = (Glued::new(secrets), CachedOrigin::default());
    let miss = glued.clone().around(origin());
    let hit = glued
        .clone()
        .around(CacheLayer::with_lifespan(LIFESPAN).layer(cached.service()));
    let miss = drive(miss, requests.clone());
    let hit = drive_hits(hit, &cached, requests.clone());
    let with_fields = drive(glued.clone().around(origin()), requests.clone());
    vec![
        Case::peer("stack/miss", NAME, in_json(Level::INFO, miss)),
        Case::peer(
            "stack/miss_with_fields",
            NAME,
            in_json(Level::INFO, with_fields),
        ),
        Case::peer("stack/hit", NAME, in_json(Level::INFO, hit)).whole(),
    ]
}

/// The layers around all routes, and their callers.
#[derive(Clone)]
pub struct Glued {
    check: KeyCheck,
}

impl Glued {
    pub fn new(secrets: &[HeaderValue]) -> Self {
        let digest = |secret: &HeaderValue| Sha256::digest(secret.as_bytes()).into();
        let caller = |number: usize| Caller(format!("client-{number}").into());
        let callers = secrets.iter().enumerate();
        let callers = callers.map(|(number, secret)| (digest(secret), caller(number)));
        Self {
            check: KeyCheck(Arc::new(callers.collect())),
        }
    }

    /// Returns the row of a server with these layers around its routes.
    pub fn row(&self, name: &'static str, router: Router, requests: Requests) -> Case {
        let router = self.around_routes(router);
        Case::metered(name, Who::Peer(NAME), serve(|| logged(router), requests)).whole()
    }

    /// Returns the same row with a filled cache.
    pub fn hits(&self, name: &'static str, requests: Requests) -> Case {
        let origin = JsonOrigin::cacheable();
        let cached = origin.router().layer(CacheLayer::with_lifespan(LIFESPAN));
        let router = self.around_routes(cached);
        let meter = serve_hits(|| logged(router), &origin, requests);
        Case::metered(name, Who::Peer(NAME), meter).whole()
    }

    fn around_routes(&self, router: Router) -> Router {
        let glued = self.clone();
        router.layer(layer_fn(move |route: Route| glued.clone().around(route)))
    }

    /// Wraps a service in the layers.
    pub fn around<S>(
        self,
        service: S,
    ) -> impl Service<
        Request<Body>,
        Response = Response<
            impl http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        >,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let by_address = layer(wide().use_headers().finish());
        let by_caller = layer(wide().use_headers().key_extractor(ByCaller).finish());
        let check = ValidateRequestHeaderLayer::custom(self.check);
        one_event().layer(by_address.layer(check.layer(by_caller.layer(service))))
    }
}

/// Makes this thread write spans and events as JSON while the returned guard is alive.
fn logged(router: Router) -> (Router, DefaultGuard) {
    let subscriber = json_subscriber(Level::INFO);
    (router, tracing::subscriber::set_default(subscriber))
}

/// An authenticated caller, as a request extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Caller(Arc<str>);

/// Looks the caller up by the SHA-256 of the key.
#[derive(Clone)]
struct KeyCheck(Arc<HashMap<[u8; 32], Caller>>);

impl<B> ValidateRequest<B> for KeyCheck {
    type ResponseBody = Body;

    fn validate(&mut self, request: &mut Request<B>) -> Result<(), Response<Body>> {
        let known = request.headers().get(CREDENTIAL).and_then(|secret| {
            let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
            self.0.get(&digest)
        });
        let Some(caller) = known else {
            let mut refusal = Response::new(Body::empty());
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            return Err(refusal);
        };
        request.extensions_mut().insert(caller.clone());
        Ok(())
    }
}

/// Limits by caller.
#[derive(Clone)]
struct ByCaller;

impl KeyExtractor for ByCaller {
    type Key = Caller;

    fn extract<B>(&self, request: &Request<B>) -> Result<Caller, GovernorError> {
        let caller = request.extensions().get();
        caller.cloned().ok_or(GovernorError::UnableToExtractKey)
    }
}
