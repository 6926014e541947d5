//! Responses to `POST` that are stored for later `GET` requests for the same target.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    ManualClock,
    cache::{CacheLayer, CacheLayerBuilder, CachePurger, Purge, PurgeMode},
    store::MemoryStore,
};

use super::cache::{App, Handler, caller, get_as, response_with};
use crate::support::request;

const AS_GOT: &[(&str, &str)] = &[
    ("cache-control", "max-age=60"),
    ("content-location", "/a?b"),
];

fn app(handler: Handler) -> App {
    configured(handler, |builder| builder.cache_posts(true))
}

fn configured(
    handler: Handler,
    configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
) -> App {
    let clock = ManualClock::default();
    let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone()));
    App::built(handler, clock, configure(builder))
}

fn post(uri: &str) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, uri);
    *request.body_mut() = Full::from("x");
    request
}

#[tokio::test]
async fn post_with_matching_content_location_is_stored_for_get() {
    let app = app(Handler::with(AS_GOT));
    let posted = app.send(post("/a?b")).await;
    assert_eq!(
        posted.cache_status(),
        "portcullis; fwd=method; stored; ttl=60"
    );
    let got = app.get("/a?b").await;
    assert_eq!((got.is_hit(), got.body.as_str()), (true, "call 1"));
    // Each POST reaches the handler, and what it changed is what is got.
    assert_eq!(app.send(post("/a?b")).await.body, "call 2");
    assert_eq!(app.get("/a?b").await.body, "call 2");
}

#[tokio::test]
async fn other_post_responses_are_not_stored() {
    let fresh = ("cache-control", "max-age=60");
    let old = ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT");
    let named = ("content-location", "/a?b");
    for (fields, status) in [
        (vec![fresh], StatusCode::OK),
        (vec![fresh, ("content-location", "/a")], StatusCode::OK),
        (
            vec![fresh, ("content-location", "http://other/a?b")],
            StatusCode::OK,
        ),
        (vec![named], StatusCode::OK),
        (vec![named, old], StatusCode::OK),
        (
            vec![named, ("cache-control", "max-age=60, no-store")],
            StatusCode::OK,
        ),
        (vec![named, fresh], StatusCode::CREATED),
        (vec![named, fresh], StatusCode::NOT_FOUND),
    ] {
        let said = format!("{fields:?} {status}");
        let app = app(Handler::new(move |_, _| {
            let mut response = response_with(&fields, "posted");
            *response.status_mut() = status;
            response
        }));
        app.send(post("/a?b")).await;
        assert!(!app.get("/a?b").await.is_hit(), "{said}");
    }
}

#[tokio::test]
async fn put_is_never_stored_and_post_only_if_enabled() {
    let app = app(Handler::with(AS_GOT));
    app.send(request(Method::PUT, "/a?b")).await;
    assert!(!app.get("/a?b").await.is_hit());
    let app = configured(Handler::with(AS_GOT), |builder| builder);
    app.send(post("/a?b")).await;
    assert!(!app.get("/a?b").await.is_hit());
}

#[tokio::test]
async fn post_response_is_not_shared_between_callers() {
    let app = app(Handler::with(AS_GOT));
    let (one, two) = (caller("one"), caller("two"));
    let mut request = post("/a?b");
    request.extensions_mut().insert(one.clone());
    app.send(request).await;
    assert!(app.send(get_as("/a?b", &one)).await.is_hit());
    assert!(!app.send(get_as("/a?b", &two)).await.is_hit());
}

#[tokio::test]
async fn purge_during_a_post_prevents_its_storage() {
    let purger: Arc<Mutex<Option<CachePurger>>> = Arc::default();
    let within = Arc::clone(&purger);
    let app = app(Handler::new(move |_, call| {
        if let Some(purger) = &*within.lock().unwrap() {
            let here = Purge::uri("/a?b".parse().unwrap());
            drop(purger.purge([here], PurgeMode::Soft));
        }
        response_with(AS_GOT, format!("call {call}"))
    }));
    *purger.lock().unwrap() = Some(app.purger.clone());
    let posted = app.send(post("/a?b")).await;
    assert_eq!(
        posted.cache_status(),
        "portcullis; fwd=method; detail=purged"
    );
    assert!(!app.get("/a?b").await.is_hit());
}
