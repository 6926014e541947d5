//! Custom responders, settings of the gate for all layers, and partitions by name.

use std::convert::Infallible;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Gate, PeerAddr, RejectionKind, Responder, TrustedProxies,
    access_log::{AccessLogLayer, sinks::RecentRecords},
    api_key::{ApiKeyLayer, StaticKeys},
    rate_limit::{Partition, Policy, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

type Body = Full<bytes::Bytes>;

/// Prints all that a responder sees of a rejection.
fn describing() -> Responder {
    Responder::new(|rejection| {
        let path = rejection.request().map(|request| request.uri.path());
        let limits = rejection.rate_limit();
        let denied = limits.map(|outcome| outcome.policies()[0].denied);
        let text = format!(
            "{:?} {} {path:?} {denied:?} id:{}",
            rejection.kind(),
            rejection.status(),
            rejection.request_id().is_some(),
        );
        (HeaderValue::from_static("text/plain"), text.into())
    })
}

fn request(path: &str) -> Request<Body> {
    let mut request = Request::get(path).body(Body::default()).unwrap();
    let peer = PeerAddr::from(std::net::SocketAddr::from(([10, 0, 0, 1], 4711)));
    request.extensions_mut().insert(peer);
    request
}

async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new("hello".into()))
}

#[tokio::test]
async fn responder_of_the_gate_sees_the_request_and_the_kind_of_each_rejection() {
    let records = RecentRecords::default();
    let store = MemoryStore::new();
    let gate = Gate::new()
        .responder(describing())
        .client_addr(TrustedProxies::Hops(1))
        .access_log(AccessLogLayer::new(records.clone()))
        .rate_limit_by_address(RateLimitLayer::per_client(store, "1/hour").unwrap())
        .api_keys(
            ApiKeyLayer::with_verifier(StaticKeys::new())
                .build()
                .unwrap(),
        )
        .build()
        .unwrap();
    let service = gate.layer(service_fn(hello));
    let mut bodies = Vec::new();
    for path in ["/first", "/second"] {
        let mut request = request(path);
        let forwarded = HeaderValue::from_static("203.0.113.9");
        request.headers_mut().insert("x-forwarded-for", forwarded);
        let response = service.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        bodies.push(String::from_utf8(body.to_vec()).unwrap());
    }
    assert_eq!(
        bodies,
        [
            "MissingCredential 401 Unauthorized Some(\"/first\") None id:true",
            "QuotaExceeded 429 Too Many Requests Some(\"/second\") Some(true) id:true",
        ]
    );
    let record = records.last().unwrap();
    assert!(record.contains("203.0.113.9"), "{record}");
}

#[tokio::test]
async fn responder_of_a_layer_has_priority_over_that_of_the_gate() {
    let keys = ApiKeyLayer::with_verifier(StaticKeys::new())
        .responder(Responder::new(|rejection| {
            assert_eq!(rejection.kind(), RejectionKind::MissingCredential);
            (HeaderValue::from_static("text/plain"), "own".into())
        }))
        .build()
        .unwrap();
    let gate = Gate::new().responder(describing()).api_keys(keys);
    let service = gate.build().unwrap().layer(service_fn(hello));
    let response = service.oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "own");
}

#[tokio::test]
async fn global_partition_counts_all_requests_together() {
    let policy = Policy::fixed_window("all", "1/hour").unwrap();
    let layer = RateLimitLayer::new(MemoryStore::new(), Partition::global(), policy).unwrap();
    let service = layer.layer(service_fn(hello));
    let mut statuses = Vec::new();
    for path in ["/a", "/b"] {
        let response = service.clone().oneshot(request(path)).await.unwrap();
        statuses.push(response.status());
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);
}

#[test]
fn header_name_of_a_partition_and_quota_text_are_validated() {
    let policy = || Policy::fixed_window("tenant", "1/hour").unwrap();
    let by = |name: &str| Partition::header(name).and(Partition::method());
    RateLimitLayer::new(MemoryStore::new(), by("x-tenant"), policy()).unwrap();
    let error = RateLimitLayer::new(MemoryStore::new(), by("x tenant"), policy()).unwrap_err();
    assert_eq!(
        (error.option(), error.value()),
        ("partition header", "x tenant")
    );
    assert!(Policy::fixed_window("calls", "many").is_err());
}
