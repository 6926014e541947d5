//! Limits by route and by method, of requests that axum routes.

use axum::{
    Router,
    body::Body,
    routing::{MethodRouter, get},
};
use http::{Method, Request};
use portcullis::{
    ManualClock,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt};

fn layer(partition: Partition, limit: u64) -> RateLimitLayer {
    RateLimitLayer::builder(MemoryStore::with_clock(ManualClock::default()), partition)
        .policy(Policy::fixed_window("few", Quota::per_minute(limit)).unwrap())
        .build()
        .unwrap()
}

fn router() -> Router {
    let hi: MethodRouter = get(async || "hi").post(async || "hi");
    Router::new()
        .route("/users/{id}", hi.clone())
        .route("/teams/{id}", hi)
}

async fn statuses<const N: usize>(app: &Router, requests: [(Method, &'static str); N]) -> [u16; N] {
    let mut statuses = [0; N];
    for (status, (method, path)) in statuses.iter_mut().zip(requests) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        *status = app
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16();
    }
    statuses
}

#[tokio::test]
async fn route_partition_ignores_path_parameters() {
    let app = router().layer(layer(Partition::route(), 2));
    let get = |path| (Method::GET, path);
    let users = [get("/users/1"), get("/users/2"), get("/users/3")];
    assert_eq!(statuses(&app, users).await, [200, 200, 429]);
    assert_eq!(statuses(&app, [get("/teams/1")]).await, [200]);
}

#[tokio::test]
async fn unknown_routes_share_one_partition() {
    let around = layer(Partition::route(), 2).layer(router());
    let app = Router::new().fallback_service(around);
    let get = |path| (Method::GET, path);
    let made_up = [get("/users/1"), get("/a"), get("/b")];
    assert_eq!(statuses(&app, made_up).await, [200, 404, 429]);
}

#[tokio::test]
async fn each_method_of_each_route_is_counted_apart_where_both_are_asked_for() {
    let app = router().layer(layer(Partition::route().and(Partition::method()), 1));
    let asked = [
        (Method::GET, "/users/1"),
        (Method::POST, "/users/1"),
        (Method::GET, "/teams/1"),
        (Method::GET, "/users/2"),
        (Method::POST, "/users/2"),
    ];
    assert_eq!(statuses(&app, asked).await, [200, 200, 200, 429, 429]);
}
