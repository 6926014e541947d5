//! Cross-origin requests: a CORS layer outside of the gate, and preflight requests without one.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, Gate, Identity, ManualClock, PeerAddr,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    outcome::{RateLimitDecision, RateLimitOutcome},
    rate_limit::{CallerList, Partition, Policy, Quota, RateLimitLayer, RateLimitLayerBuilder},
    store::MemoryStore,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::cors::{Any, CorsLayer};

use crate::support::{self, get, header, text};

const ORIGIN: &str = "https://app.acme.test";

fn store() -> MemoryStore {
    MemoryStore::with_clock(ManualClock::default())
}

fn by_address(store: MemoryStore, limit: u64) -> RateLimitLayerBuilder {
    let by_address = Partition::client_addr(ClientAddrResolver::default());
    let policy = Policy::fixed_window("address", Quota::per_minute(limit)).unwrap();
    RateLimitLayer::builder(store, by_address).policy(policy)
}

fn from_browser(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let origin = ORIGIN.parse().unwrap();
    request.headers_mut().insert("origin", origin);
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
}

fn preflight() -> Request<Full<Bytes>> {
    let mut request = from_browser(support::request(Method::OPTIONS, "http://acme.test/data"));
    let method = "GET".parse().unwrap();
    request
        .headers_mut()
        .insert("access-control-request-method", method);
    request
}

#[tokio::test]
async fn cors_outside_of_the_gate_adds_its_fields_to_rejections_and_hits() {
    let store = store();
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("freya")).await.unwrap();
    let gate = Gate::new()
        .rate_limit_by_address(by_address(store.clone(), 3).build().unwrap())
        .api_keys(ApiKeyLayer::new(&ring).unwrap())
        .cache(CacheLayer::new(store))
        .build()
        .unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .expose_headers(["retry-after".parse().unwrap()]);
    let app = ServiceBuilder::new()
        .layer(cors)
        .layer(gate)
        .service(service_fn(move |_: Request<_>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder().header("cache-control", "max-age=60");
            let body = Full::<Bytes>::from("data");
            std::future::ready(Ok::<_, Infallible>(response.body(body).unwrap()))
        }));
    let with_key = || {
        let mut request = from_browser(get("http://acme.test/data"));
        let key = key.expose_secret().parse().unwrap();
        request.headers_mut().insert("x-api-key", key);
        request
    };
    let without = from_browser(get("http://acme.test/data"));
    for (request, status) in [
        (without, 401),
        (with_key(), 200),
        (with_key(), 200),
        (with_key(), 429),
    ] {
        // Each request is preceded by a preflight, and none of them is charged.
        let response = app.clone().oneshot(preflight()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(text(response).await, "");
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        let headers = response.headers();
        assert_eq!(header(headers, "access-control-allow-origin"), Some("*"));
        let exposed = header(headers, "access-control-expose-headers");
        assert_eq!(exposed, Some("retry-after"));
        assert_eq!(headers.contains_key("retry-after"), status == 429);
        text(response).await;
    }
    assert_eq!(
        calls.load(Ordering::SeqCst),
        1,
        "the third request is a hit"
    );
}

/// Sends a request, and returns its status and decision.
async fn decide(
    layer: &RateLimitLayer,
    request: Request<Full<Bytes>>,
) -> (StatusCode, RateLimitDecision) {
    let mut request = request;
    request
        .extensions_mut()
        .insert(portcullis::outcome::RecordHandle::default());
    let app = layer.layer(service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let response = app.oneshot(request).await.unwrap();
    let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
    (response.status(), outcome.decision)
}

#[tokio::test]
async fn preflight_is_charged_by_default_and_exempt_if_enabled() {
    let charged = by_address(store(), 1).build().unwrap();
    assert_eq!(
        decide(&charged, preflight()).await.1,
        RateLimitDecision::Allowed
    );
    assert_eq!(decide(&charged, preflight()).await.0, 429);

    let exempt = by_address(store(), 1).exempt_preflight().build().unwrap();
    for _ in 0..3 {
        let decided = decide(&exempt, preflight()).await;
        assert_eq!(decided, (StatusCode::OK, RateLimitDecision::Skipped));
    }
    let request = || from_browser(get("/"));
    assert_eq!(
        decide(&exempt, request()).await.1,
        RateLimitDecision::Allowed
    );
    assert_eq!(decide(&exempt, request()).await.0, 429);
    assert_eq!(decide(&exempt, preflight()).await.0, 200);
}

#[tokio::test]
async fn only_a_whole_preflight_is_exempt() {
    let without = |name| {
        let mut request = preflight();
        request.headers_mut().remove(name);
        request
    };
    let with_method = |method| {
        let mut request = preflight();
        *request.method_mut() = method;
        request
    };
    let mut methods: Vec<Method> = ["options", "OPTIONSX", "PURGE"]
        .map(|name| name.parse().unwrap())
        .into();
    methods.extend([
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::TRACE,
        Method::CONNECT,
    ]);
    let mut requests = vec![
        without("origin"),
        without("access-control-request-method"),
        from_browser(get("/")),
    ];
    requests.extend(methods.into_iter().map(with_method));
    for request in requests {
        let case = format!("{} {:?}", request.method(), request.headers());
        let layer = by_address(store(), 1).exempt_preflight().build().unwrap();
        let first = decide(&layer, request.clone()).await;
        assert_eq!(first.1, RateLimitDecision::Allowed, "{case}");
        assert_eq!(decide(&layer, request).await.0, 429, "{case}");
    }
}

#[tokio::test]
async fn exempt_preflight_adds_to_other_exemptions_and_denied_callers_are_rejected() {
    let layer = by_address(store(), 1)
        .skip(|head| head.uri.path() == "/health")
        .exempt_preflight()
        .build()
        .unwrap();
    for request in [preflight(), from_browser(get("/health"))] {
        let decided = decide(&layer, request).await;
        assert_eq!(decided, (StatusCode::OK, RateLimitDecision::Skipped));
    }
    let network = "203.0.113.0/24".parse().unwrap();
    let denied = CallerList::new().networks(ClientAddrResolver::default(), [network]);
    let layer = by_address(store(), 1)
        .deny(denied)
        .exempt_preflight()
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    assert_eq!(app.oneshot(preflight()).await.unwrap().status(), 403);
}

#[tokio::test]
async fn preflight_passes_a_gate_whose_service_answers_it() {
    let store = store();
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let keys = ApiKeyLayer::builder(&ring).allow_preflight();
    let gate = Gate::new()
        .rate_limit_by_address(by_address(store, 1).exempt_preflight().build().unwrap())
        .api_keys(keys.build().unwrap())
        .build()
        .unwrap();
    let inner = service_fn(async |request: Request<_>| {
        assert!(request.extensions().get::<Identity>().is_none());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut app = gate.layer(CorsLayer::permissive().layer(inner));
    for _ in 0..3 {
        let response = app.ready().await.unwrap().call(preflight()).await.unwrap();
        assert_eq!(response.status(), 200);
        let allowed = header(response.headers(), "access-control-allow-methods");
        assert!(allowed.is_some(), "the service answered");
    }
    let request = from_browser(get("/"));
    let rejected = app.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(rejected.status(), 401);
}
