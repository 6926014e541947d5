//! Requests for responses that cannot be stored do not wait for each other.

use std::time::Duration;

use axum::{Router, body::Body, routing::get as route};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    access_log::{AccessLogLayer, sinks::RecentRecords},
    cache::{CacheLayer, CachePolicy},
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use super::cache::{caller, get_as, get_with, response_with};
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    origin::{Origin, Site, all},
    request, text,
};

/// Each reason for which the response to a GET is not stored.
const REASONS: &[(u16, &[(&str, &str)])] = &[
    (200, &[]),
    (200, &[("cache-control", "no-store")]),
    (200, &[("cache-control", "private, max-age=60")]),
    (200, &[("cache-control", "max-age=0")]),
    (
        200,
        &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
    ),
    (200, &[("cache-control", "max-age=60"), ("vary", "*")]),
    (200, &[("cache-control", "max-age=60"), ("vary", "cookie")]),
    (
        200,
        &[
            ("cache-control", "max-age=60"),
            ("content-length", "99999999"),
        ],
    ),
    (
        200,
        &[
            ("cache-control", "max-age=60"),
            ("content-type", "text/event-stream"),
        ],
    ),
    (201, &[("cache-control", "max-age=60")]),
    (204, &[("cache-control", "max-age=60")]),
    (
        206,
        &[
            ("cache-control", "max-age=60"),
            ("content-range", "bytes 0-3/9"),
        ],
    ),
    (302, &[("cache-control", "max-age=60")]),
    (401, &[]),
    (403, &[("cache-control", "max-age=60")]),
    (404, &[]),
    (429, &[("retry-after", "1")]),
    (500, &[]),
    (503, &[("cache-control", "max-age=60")]),
];

fn origin_of(status: u16, fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::new(move |_, call| {
        let mut response = response_with(fields, format!("call {call}"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    })
}

#[tokio::test]
async fn waiters_are_released_together_and_no_later_burst_waits() {
    for (status, fields) in REASONS {
        let origin = origin_of(*status, fields);
        let site = Site::secure(&origin, |builder| builder);
        let burst = site.start_all([(); 4].map(|()| get("/slow"))).await;
        assert_eq!(origin.calls(), 1, "{status} {fields:?}");
        origin.let_through(1);
        let_all_run().await;
        // All are released at the head of the first response.
        assert_eq!(origin.calls(), 4, "{status} {fields:?}");
        origin.open();
        assert_eq!(all(burst).await.len(), 4);
        for silence_secs in [0, 1, 10, 119] {
            origin.close();
            site.advance_secs(silence_secs).await;
            // These are stored for a caller who is known.
            let is_private = fields
                .iter()
                .any(|(_, value)| value.contains("private") || *value == "cookie");
            let before = origin.calls();
            let by_caller = || match is_private {
                true => get("/slow"),
                false => get_as("/slow", &caller("known")),
            };
            let requests = [get("/slow"), get("/slow"), by_caller(), by_caller()];
            let burst = site.start_all(requests).await;
            assert_eq!(
                origin.calls(),
                before + 4,
                "{status} {fields:?} after {silence_secs} s"
            );
            origin.open();
            all(burst).await;
        }
    }
}

#[tokio::test]
async fn a_storable_response_lets_requests_wait_again() {
    let origin = origin_of(200, &[]);
    let site = Site::secure(&origin, |builder| builder);
    origin.open();
    site.send(get("/a")).await.unwrap();
    origin.responds(|_, call| {
        Ok(response_with(
            &[("cache-control", "max-age=10")],
            format!("call {call}"),
        ))
    });
    site.send(get("/a")).await.unwrap();
    site.advance_secs(10).await;
    origin.close();
    let burst = site.start_all([(); 4].map(|()| get("/a"))).await;
    assert_eq!(origin.calls(), 3);
    origin.open();
    for received in all(burst).await {
        assert_eq!(received.unwrap().body, "call 3");
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn conditional_requests_for_unstorable_responses_reach_the_handler_as_they_are() {
    let origin = origin_of(200, &[("etag", "\"v1\"")]);
    origin.open();
    let site = Site::secure(&origin, |builder| builder);
    site.send(get("/a")).await.unwrap();
    origin.asked();
    for fields in [("if-none-match", "\"v1\""), ("range", "bytes=0-1")] {
        site.send(get_with("/a", &[fields])).await.unwrap();
        assert_eq!(origin.asked()[0].headers()[fields.0], fields.1);
    }
    let head = site.send(request(Method::HEAD, "/a")).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(origin.asked()[0].method(), Method::HEAD);
}

#[tokio::test]
async fn a_route_switches_collapsing_on_or_off() {
    for (policy, calls) in [(Some(false), 4), (Some(true), 1), (None, 4)] {
        let origin = origin_of(200, &[]);
        let site = Site::secure(&origin, |builder| builder);
        let ask = || {
            let mut request = get("/a");
            if let Some(collapse) = policy {
                request
                    .extensions_mut()
                    .insert(CachePolicy::new().collapse(collapse));
            }
            request
        };
        origin.let_through(1);
        site.send(ask()).await.unwrap();
        let burst = site.start_all([(); 4].map(|()| ask())).await;
        assert_eq!(origin.calls(), 1 + calls, "{policy:?}");
        origin.open();
        all(burst).await;
    }
    let origin = origin_of(200, &[("cache-control", "max-age=60")]);
    let policy = CachePolicy::new().collapse(false);
    let site = Site::secure(&origin, |builder| builder.policy(policy));
    let burst = site.start_all([(); 4].map(|()| get("/a"))).await;
    assert_eq!(origin.calls(), 4);
    origin.open();
    all(burst).await;
}

/// A cache inside of axum's router, before an origin.
fn routed(site: &Site, layer: &CacheLayer) -> Router {
    let origin = site.origin.clone();
    let handler = move |request: Request<Body>| {
        let origin = origin.clone();
        async move {
            let (head, _) = request.into_parts();
            let request = Request::from_parts(head, Full::<Bytes>::default());
            let response = origin.oneshot(request).await.unwrap();
            response.map(Body::new)
        }
    };
    Router::new()
        .route("/items/{id}", route(handler.clone()))
        .route("/pages/{id}", route(handler))
        .layer(layer.clone())
}

#[tokio::test]
async fn a_route_template_costs_one_wait() {
    let origin = origin_of(200, &[]);
    let site = Site::secure(&origin, |builder| builder);
    let layer = CacheLayer::secure(MemoryStore::with_clock(site.hands.clock.clone()))
        .clock(site.hands.clock.clone())
        .runtime(site.hands.clone())
        .build()
        .unwrap();
    let app = routed(&site, &layer);
    let burst = async |path: &str, count: usize| {
        let started: Vec<_> = (0..count)
            .map(|_| {
                let request = Request::get(path).body(Body::empty()).unwrap();
                tokio::spawn(app.clone().oneshot(request))
            })
            .collect();
        let_all_run().await;
        started
    };
    let first = burst("/items/1", 4).await;
    assert_eq!(origin.calls(), 1);
    origin.let_through(4);
    for response in first {
        response.await.unwrap().unwrap();
    }
    site.advance_secs(10).await;
    for (path, calls) in [("/items/2", 4), ("/items/3", 4), ("/pages/1", 1)] {
        let before = origin.calls();
        let started = burst(path, 4).await;
        assert_eq!(origin.calls(), before + calls, "{path}");
        origin.let_through(4);
        for response in started {
            response.await.unwrap().unwrap();
        }
    }
    // A storable response of one id clears the route, and other ids are known by their own.
    origin.responds(|_, _| Ok(response_with(&[("cache-control", "max-age=10")], "stored")));
    origin.let_through(1);
    for response in burst("/items/4", 1).await {
        response.await.unwrap().unwrap();
    }
    let before = origin.calls();
    let cold = burst("/items/5", 4).await;
    assert_eq!(origin.calls(), before + 1);
    origin.let_through(1);
    for response in cold {
        response.await.unwrap().unwrap();
    }
    let known = burst("/items/2", 4).await;
    assert_eq!(origin.calls(), before + 5);
    origin.let_through(4);
    for response in known {
        response.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_wait_is_in_the_record() {
    let hands = Hands::default();
    let origin = origin_of(200, &[]);
    let recent = RecentRecords::default();
    let log = AccessLogLayer::builder()
        .sink(recent.clone())
        .build()
        .unwrap();
    let layer = CacheLayer::secure(MemoryStore::with_clock(hands.clock.clone()))
        .clock(hands.clock.clone())
        .runtime(hands.clone())
        .build()
        .unwrap();
    let service = log.layer(layer.layer(origin.clone()));
    let ask = || {
        let service = service.clone();
        tokio::spawn(async { text(service.oneshot(get("/a")).await.unwrap()).await })
    };
    let (leader, waiter) = (ask(), ask());
    let_all_run().await;
    hands.advance(Duration::from_millis(1_500)).await;
    origin.open();
    leader.await.unwrap();
    waiter.await.unwrap();
    let records: Vec<Value> = recent
        .all()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let waited: Vec<_> = records
        .iter()
        .map(|record| record["portcullis.cache.waited"].as_f64())
        .collect();
    assert!(
        waited.contains(&None) && waited.contains(&Some(1.5)),
        "{waited:?}"
    );
    assert!(
        records
            .iter()
            .all(|record| record["portcullis.cache.collapsed"] == false)
    );
}
