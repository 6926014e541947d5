//! Responses that are stored compressed, as clients receive them.

use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity,
    cache::{Cache, CacheLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::{
    get,
    hands::let_all_run,
    origin::{Origin, Site},
};

const TEXT: &[(&str, &str)] = &[
    ("cache-control", "public, max-age=60"),
    ("content-type", "text/plain"),
    ("etag", "\"v1\""),
];
const GZIP: &[(&str, &str)] = &[("accept-encoding", "gzip, br")];

fn long() -> String {
    "the text repeats again and again. ".repeat(100)
}

fn app_of(fields: &'static [(&'static str, &'static str)]) -> App {
    let handler = Handler::new(move |request, _| match request.method() {
        &Method::POST => response_with(&[], ""),
        _ => response_with(fields, long()),
    });
    App::configured(handler, |builder| builder.compression_threshold(1_000))
}

/// Requests a response, which is stored.
async fn kept(fields: &'static [(&'static str, &'static str)]) -> App {
    let app = app_of(fields);
    assert_eq!(app.get("/a").await.body, long());
    let_all_run().await;
    app
}

/// Sends a request, and returns the head and the raw bytes of the body.
async fn raw(app: &App, request: Request<Full<bytes::Bytes>>) -> (http::response::Parts, Vec<u8>) {
    let response = app.service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts, body.collect().await.unwrap().to_bytes().to_vec())
}

fn is_gzip(body: &[u8]) -> bool {
    body.starts_with(&[0x1f, 0x8b])
}

#[tokio::test]
async fn serves_gzip_to_clients_that_accept_it_and_identity_to_others() {
    let app = kept(TEXT).await;
    let (head, body) = raw(&app, get_with("/a", GZIP)).await;
    assert!(is_gzip(&body) && body.len() < long().len() / 10);
    assert_eq!(head.headers["content-encoding"], "gzip");
    assert_eq!(head.headers["content-length"], body.len().to_string());
    assert_eq!(head.headers["etag"], "W/\"v1\"");
    assert_eq!(head.headers["vary"], "accept-encoding");
    assert!(
        head.headers["cache-status"]
            .to_str()
            .unwrap()
            .contains("hit")
    );
    for fields in [&[][..], &[("accept-encoding", "br, gzip;q=0")]] {
        let seen = app.send(get_with("/a", fields)).await;
        assert!(seen.is_hit());
        assert_eq!(seen.body, long());
        assert_eq!(seen.header("content-encoding"), None);
        assert_eq!(seen.header("content-length"), Some("3400"));
        assert_eq!(seen.header("etag"), Some("\"v1\""));
        assert_eq!(seen.header("vary"), Some("accept-encoding"));
    }
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn first_response_varies_by_accept_encoding() {
    let app = app_of(TEXT);
    let first = app.send(get_with("/a", GZIP)).await;
    assert_eq!(first.header("vary"), Some("accept-encoding"));
    assert_eq!(first.body, long());
    assert_eq!(first.header("etag"), Some("\"v1\""));
}

#[tokio::test]
async fn a_head_and_a_condition_are_answered_for_the_form_that_a_get_would_bring() {
    let app = kept(TEXT).await;
    let (_, packed) = raw(&app, get_with("/a", GZIP)).await;
    let mut head = get_with("/a", GZIP);
    *head.method_mut() = Method::HEAD;
    let (seen, body) = raw(&app, head).await;
    assert!(body.is_empty());
    assert_eq!(seen.headers["content-length"], packed.len().to_string());
    let mut head = get("/a");
    *head.method_mut() = Method::HEAD;
    let (seen, _) = raw(&app, head).await;
    assert_eq!(seen.headers["content-length"], "3400");
    assert!(!seen.headers.contains_key("content-encoding"));
    for tag in ["\"v1\"", "W/\"v1\""] {
        let mut request = get_with("/a", GZIP);
        let tag = HeaderValue::from_static(tag);
        request.headers_mut().insert("if-none-match", tag);
        let (seen, _) = raw(&app, request).await;
        assert_eq!(seen.status, StatusCode::NOT_MODIFIED);
        assert_eq!(seen.headers["etag"], "W/\"v1\"");
        assert!(!seen.headers.contains_key("content-encoding"));
    }
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn a_part_is_one_of_what_was_answered() {
    let app = kept(TEXT).await;
    let asked = [
        ("accept-encoding", "gzip"),
        ("range", "bytes=5-6"),
        ("if-range", "\"v1\""),
    ];
    let seen = app.send(get_with("/a", &asked)).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::PARTIAL_CONTENT, "ex")
    );
    assert_eq!(seen.header("content-range"), Some("bytes 5-6/3400"));
    assert_eq!(seen.header("etag"), Some("\"v1\""));
    assert_eq!(seen.header("content-encoding"), None);
}

#[tokio::test]
async fn revalidated_entry_stays_compressed_and_serves_both_codings() {
    let handler = Handler::new(|request, _| {
        if request.headers().contains_key("if-none-match") {
            // The tag is the one that the handler gave.
            assert_eq!(request.headers()["if-none-match"], "\"v1\"");
            let mut response = response_with(&[("cache-control", "public, max-age=60")], "");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        response_with(TEXT, long())
    });
    let app = App::configured(handler, |builder| builder.compression_threshold(1_000));
    app.get("/a").await;
    let_all_run().await;
    for fields in [&[][..], GZIP] {
        app.advance_secs(60);
        let (head, body) = raw(&app, get_with("/a", fields)).await;
        assert_eq!(is_gzip(&body), !fields.is_empty());
        assert_eq!(
            head.headers.contains_key("content-encoding"),
            !fields.is_empty()
        );
        assert_eq!(app.get("/a").await.body, long());
    }
    assert_eq!(app.handler.calls(), 3);
}

async fn is_kept_compressed(fields: &'static [(&'static str, &'static str)]) -> bool {
    let app = app_of(fields);
    app.send(get_with("/a", GZIP)).await;
    let_all_run().await;
    let (head, body) = raw(&app, get_with("/a", GZIP)).await;
    assert!(
        head.headers["cache-status"]
            .to_str()
            .unwrap()
            .contains("hit")
    );
    is_gzip(&body)
}

#[tokio::test]
async fn compresses_only_eligible_responses() {
    assert!(is_kept_compressed(TEXT).await);
    for fields in [
        &[("cache-control", "max-age=60")][..],
        &[
            ("cache-control", "max-age=60"),
            ("content-type", "image/png"),
        ],
        &[
            ("cache-control", "max-age=60, no-transform"),
            ("content-type", "text/plain"),
        ],
        &[
            ("cache-control", "max-age=60"),
            ("content-type", "text/plain"),
            ("content-encoding", "br"),
        ],
        &[
            ("cache-control", "max-age=60"),
            ("content-type", "text/plain"),
            ("content-digest", "sha-256=:AA==:"),
        ],
        &[
            ("cache-control", "max-age=60"),
            ("content-type", "text/plain"),
            ("vary", "accept-encoding"),
        ],
    ] {
        assert!(!is_kept_compressed(fields).await, "{fields:?}");
    }
}

#[tokio::test]
async fn private_responses_are_never_compressed() {
    let app = app_of(&[
        ("cache-control", "max-age=60"),
        ("content-type", "text/plain"),
    ]);
    let one: Identity = caller("one");
    for _ in 0..2 {
        let mut request = get_as("/a", &one);
        let gzip = HeaderValue::from_static("gzip");
        request.headers_mut().insert("accept-encoding", gzip);
        let (head, body) = raw(&app, request).await;
        assert_eq!(body, long().as_bytes());
        assert!(!head.headers.contains_key("vary"));
    }
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn a_cache_that_does_not_compress_shows_what_another_one_has_compressed_to_who_takes_it() {
    let store = MemoryStore::new();
    let handler = Handler::new(|_, _| response_with(TEXT, long()));
    let cached = |compresses: bool| -> Cache<Handler> {
        let builder = CacheLayer::secure(store.clone());
        let builder = match compresses {
            true => builder.compression_threshold(1_000),
            false => builder,
        };
        builder.build().unwrap().layer(handler.clone())
    };
    let ask = async |service: Cache<Handler>, request| {
        let body = service.oneshot(request).await.unwrap().into_body();
        body.collect().await.unwrap().to_bytes().to_vec()
    };
    ask(cached(true), get("/a")).await;
    let_all_run().await;
    assert!(is_gzip(&ask(cached(false), get_with("/a", GZIP)).await));
    assert_eq!(handler.calls(), 1);
    assert_eq!(ask(cached(false), get("/a")).await, long().as_bytes());
    assert_eq!(handler.calls(), 2);
}

#[tokio::test]
async fn body_belongs_to_its_entity_tag_although_another_request_stores_a_newer_version() {
    let text = |name: &'static str| format!("{name} ").repeat(500);
    let origin = Origin::new(move |_, call| {
        let (status, tag, body, control) = match call {
            1 => (200, "\"1\"", text("one"), "public, max-age=1"),
            // Another version than the stored one, which then cannot be requested.
            2 => (304, "\"2\"", String::new(), "public, max-age=60"),
            3 => (600, "\"2\"", text("invalid"), "no-store"),
            _ => (200, "\"2\"", text("two"), "public, max-age=60"),
        };
        let fields = [
            ("cache-control", control),
            ("content-type", "text/plain"),
            ("etag", tag),
        ];
        let mut response = response_with(&fields, body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    });
    let site = Site::secure(&origin, |builder| builder.compression_threshold(1_000));
    origin.let_through(1);
    site.send(get("/a")).await.unwrap();
    site.advance_secs(10).await;
    let asking = site.start_all([get("/a")]).await;
    origin.let_through_call(2);
    let_all_run().await;
    assert_eq!(origin.calls(), 3);
    let newer = site
        .start_all([get_with("/a", &[("if-match", "\"2\"")])])
        .await;
    origin.let_through_call(4);
    let_all_run().await;
    assert!(newer.iter().all(|newer| newer.is_finished()));
    origin.let_through_call(3);
    for seen in asking {
        let seen = seen.await.unwrap().unwrap();
        let expected = match seen.headers["etag"].to_str().unwrap() {
            "\"1\"" => text("one"),
            _ => text("two"),
        };
        assert_eq!(seen.body, expected, "{seen:?}");
    }
}
