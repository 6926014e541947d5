//! A `304` refreshes the version that it names, and no other.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::cache::CacheLayer;

use super::cache::{get_with, response_with};
use crate::support::{
    get,
    origin::{Origin, Site, all},
    request,
};

type Fields = &'static [(&'static str, &'static str)];

const EARLY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATE: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

/// Responds with the old version once, then confirms with these fields, and has a new version.
fn changing(stored: Fields, confirmed: Fields) -> Origin {
    let origin = Origin::new(move |request, call| Ok(changed(request, call, stored, confirmed)));
    origin.open();
    origin
}

fn changed(
    request: &Request<Full<Bytes>>,
    call: usize,
    stored: Fields,
    confirmed: Fields,
) -> Response<Full<Bytes>> {
    let headers = request.headers();
    let asks = ["if-none-match", "if-modified-since"];
    if call == 1 {
        return response_with(stored, "old");
    }
    if asks.iter().any(|name| headers.contains_key(*name)) {
        let mut response = response_with(confirmed, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    response_with(
        &[("cache-control", "max-age=60"), ("etag", "\"new\"")],
        "new",
    )
}

const CONTROL: &[&str] = &[
    "max-age=1",
    "max-age=1, stale-while-revalidate=600",
    "max-age=1, stale-if-error=600",
    "no-cache",
];

#[tokio::test]
async fn a_304_for_another_version_is_asked_again_without_conditions() {
    let other: &[(Fields, Fields)] = &[
        (&[("etag", "\"a\"")], &[("etag", "\"b\"")]),
        (&[("etag", "W/\"a\"")], &[("etag", "\"b\"")]),
        (&[("etag", "W/\"a\"")], &[("etag", "W/\"b\"")]),
        (
            &[("etag", "\"a\""), ("last-modified", EARLY)],
            &[("etag", "\"b\""), ("last-modified", EARLY)],
        ),
        (&[("last-modified", EARLY)], &[("last-modified", LATE)]),
        (&[("last-modified", EARLY)], &[("etag", "\"b\"")]),
        (
            &[("last-modified", EARLY)],
            &[("etag", "\"b\""), ("last-modified", EARLY)],
        ),
    ];
    for profile in [CacheLayer::secure as fn(_) -> _, CacheLayer::rfc] {
        for control in CONTROL {
            for (stored, confirmed) in other {
                let stored: Vec<_> = [&[("cache-control", *control)], *stored].concat();
                let origin = changing(Vec::leak(stored.clone()), confirmed);
                let site = Site::built(&origin, profile, |builder| builder);
                assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
                site.advance_secs(2).await;
                site.send(get("/a")).await.unwrap();
                site.advance_secs(0).await;
                let seen = site.send(get("/a")).await.unwrap();
                assert_eq!(seen.body, "new", "{stored:?} {confirmed:?}");
                assert_eq!(seen.headers["etag"], "\"new\"");
                assert_eq!(origin.calls(), 3, "{stored:?} {confirmed:?}");
            }
        }
    }
}

#[tokio::test]
async fn each_client_is_answered_by_the_new_version() {
    let stored: Fields = &[("cache-control", "max-age=1"), ("etag", "\"a\"")];
    for (fields, status, body) in [
        (&[("range", "bytes=0-1")][..], 206, "ne"),
        (&[("if-none-match", "\"new\"")], 304, ""),
        (&[("if-none-match", "\"a\"")], 200, "new"),
        (&[("if-modified-since", EARLY)], 200, "new"),
    ] {
        let origin = changing(stored, &[("etag", "\"b\"")]);
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(2).await;
        let seen = site.send(get_with("/a", fields)).await.unwrap();
        assert_eq!(
            (seen.status.as_u16(), seen.body.as_str()),
            (status, body),
            "{fields:?}"
        );
        assert!(site.send(get("/a")).await.unwrap().is_hit());
    }
}

#[tokio::test]
async fn a_304_for_the_same_version_or_for_none_refreshes_the_stored_response() {
    let same: &[(Fields, Fields)] = &[
        (&[("etag", "\"a\"")], &[]),
        (&[("etag", "\"a\"")], &[("etag", "\"a\"")]),
        (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")]),
        (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")]),
        (&[("last-modified", EARLY)], &[]),
        (&[("last-modified", EARLY)], &[("last-modified", EARLY)]),
    ];
    for (stored, confirmed) in same {
        let stored: Vec<_> = [&[("cache-control", "max-age=60")], *stored].concat();
        let origin = changing(Vec::leak(stored.clone()), confirmed);
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(61).await;
        assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
        assert!(site.send(get("/a")).await.unwrap().is_hit());
        assert_eq!(origin.calls(), 2, "{stored:?} {confirmed:?}");
    }
}

#[tokio::test]
async fn concurrent_requests_of_every_kind_are_one_call() {
    let kinds: [fn() -> Request<Full<Bytes>>; 6] = [
        || get("/a"),
        || get_with("/a", &[("if-none-match", "\"a\"")]),
        || get_with("/a", &[("if-none-match", "\"x\"")]),
        || get_with("/a", &[("if-modified-since", EARLY)]),
        || get_with("/a", &[("range", "bytes=0-1")]),
        || request(Method::HEAD, "/a"),
    ];
    for profile in [CacheLayer::secure as fn(_) -> _, CacheLayer::rfc] {
        for is_stale in [false, true] {
            for leader in kinds {
                let stored: Fields = &[("cache-control", "max-age=1"), ("etag", "\"a\"")];
                let origin =
                    Origin::new(move |_, call| Ok(response_with(stored, format!("call {call}"))));
                let site = Site::built(&origin, profile, |builder| {
                    builder.cache_partial_content(false)
                });
                if is_stale {
                    origin.let_through(1);
                    site.send(get("/a")).await.unwrap();
                    site.advance_secs(2).await;
                }
                let before = origin.calls();
                let requests = [leader]
                    .into_iter()
                    .chain(kinds.into_iter().cycle().take(99));
                let burst = site.start_all(requests.map(|request| request())).await;
                assert_eq!(origin.calls(), before + 1, "stale: {is_stale}");
                origin.open();
                let received = all(burst).await;
                assert_eq!(origin.calls(), before + 1, "stale: {is_stale}");
                let whole = format!("call {}", before + 1);
                for (number, received) in received.into_iter().enumerate().skip(1) {
                    let received = received.unwrap();
                    let expected = match (number - 1) % 6 {
                        0 | 2 => (200, whole.as_str()),
                        1 => (304, ""),
                        3 => (
                            received.status.as_u16(),
                            if received.status == 304 { "" } else { &whole },
                        ),
                        4 => (206, "ca"),
                        _ => (200, ""),
                    };
                    assert_eq!((received.status.as_u16(), received.body.as_str()), expected);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_conditional_request_on_a_cold_cache_fills_it() {
    let fields: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    for (condition, status) in [("\"a\"", 304), ("\"b\"", 200)] {
        let origin = Origin::new(move |_, _| Ok(response_with(fields, "whole")));
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        let asked = get_with("/a", &[("if-none-match", condition)]);
        let seen = site.send(asked).await.unwrap();
        assert_eq!(seen.status, status);
        assert_eq!(
            seen.cache_status(),
            "portcullis; fwd=uri-miss; stored; ttl=60"
        );
        assert!(!origin.asked()[0].headers().contains_key("if-none-match"));
        assert!(site.send(get("/a")).await.unwrap().is_hit());
    }
}

#[tokio::test]
async fn a_lone_head_or_range_on_a_cold_cache_is_forwarded_as_it_is() {
    let fields: Fields = &[("cache-control", "max-age=60")];
    let origin = Origin::new(move |_, _| Ok(response_with(fields, "whole")));
    origin.open();
    let site = Site::secure(&origin, |builder| builder);
    site.send(request(Method::HEAD, "/a")).await.unwrap();
    site.send(get_with("/a", &[("range", "bytes=0-1")]))
        .await
        .unwrap();
    let asked = origin.asked();
    assert_eq!(asked[0].method(), Method::HEAD);
    assert_eq!(asked[1].headers()["range"], "bytes=0-1");
}

#[tokio::test]
async fn a_range_is_asked_for_as_it_is_where_the_whole_cannot_be_stored() {
    let origin = Origin::new(|request, _| {
        let is_part = request.headers().contains_key("range");
        let mut response = response_with(&[], if is_part { "pa" } else { "part" });
        if is_part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    });
    let site = Site::secure(&origin, |builder| builder);
    let part = || get_with("/a", &[("range", "bytes=0-1")]);
    let burst = site.start_all([part(), part()]).await;
    origin.open();
    for received in all(burst).await {
        let received = received.unwrap();
        assert_eq!(
            (received.status.as_u16(), received.body.as_str()),
            (206, "pa")
        );
    }
}
