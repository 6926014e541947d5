//! After a final response of the origin, the stored one never comes back.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::cache::{CacheLayer, Purge, PurgeMode};

use super::cache::{caller, get_as, get_with, response_with};
use crate::support::{
    get,
    origin::{Origin, Site, all},
    request,
};

type Fields = &'static [(&'static str, &'static str)];

/// Directives by which a stored response may be served stale.
const STALE: &[Fields] = &[
    &[
        ("cache-control", "max-age=1, stale-while-revalidate=600"),
        ("etag", "\"a\""),
    ],
    &[("cache-control", "max-age=1, stale-while-revalidate=600")],
    &[
        ("cache-control", "max-age=1, stale-if-error=600"),
        ("etag", "\"a\""),
    ],
    &[("cache-control", "max-age=1, stale-if-error=600")],
    &[
        (
            "cache-control",
            "max-age=1, stale-if-error=600, stale-while-revalidate=600",
        ),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ],
];

/// Final responses, none of which is stored.
const FINAL: &[(u16, Fields)] = &[
    (404, &[("cache-control", "no-store")]),
    (404, &[]),
    (401, &[]),
    (403, &[]),
    (410, &[]),
    (302, &[]),
    (429, &[]),
    (400, &[]),
    (204, &[("cache-control", "no-store")]),
    (501, &[("cache-control", "no-store")]),
    (200, &[("cache-control", "no-store")]),
    (200, &[("cache-control", "private, max-age=60")]),
    (200, &[("cache-control", "max-age=60"), ("vary", "*")]),
    (
        200,
        &[("cache-control", "max-age=60"), ("content-length", "999")],
    ),
    (
        200,
        &[
            ("cache-control", "max-age=60"),
            ("content-length", "99999999"),
        ],
    ),
    (304, &[("cache-control", "no-store")]),
    (304, &[("cache-control", "private")]),
    (304, &[("vary", "*")]),
];

fn response(status: u16, fields: Fields, body: &'static str) -> Response<Full<Bytes>> {
    let body = if status == 304 { "" } else { body };
    let mut response = response_with(fields, body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn old_is_gone(site: &Site, asked: impl Fn() -> Request<Full<Bytes>>, case: &str) {
    let origin = &site.origin;
    // The origin fails from now on: any stored response that is usable would be served.
    origin.responds(|_, _| Ok(response(503, &[], "failed")));
    for secs in [0, 1, 3, 60, 500] {
        site.advance_secs(secs).await;
        let seen = site.send(asked()).await.unwrap();
        assert_eq!(seen.body, "failed", "{case} after {secs} s");
    }
}

#[tokio::test]
async fn a_final_response_that_is_not_stored_invalidates_the_stored_one() {
    for profile in [CacheLayer::secure as fn(_) -> _, CacheLayer::rfc] {
        for stale in STALE {
            for (status, fields) in FINAL {
                let validates = stale.iter().any(|(name, _)| *name != "cache-control");
                if *status == 304 && !validates {
                    continue;
                }
                let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
                origin.open();
                let site = Site::built(&origin, profile, |builder| builder);
                let case = format!("{stale:?} then {status} {fields:?}");
                assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
                site.advance_secs(3).await;
                origin.responds(move |_, _| Ok(response(*status, fields, "final")));
                // The first request after it may be sent the stale one while that is refreshed.
                site.send(get("/a")).await.unwrap();
                site.advance_secs(0).await;
                let is_stored = site.send(get("/a")).await.unwrap().is_hit();
                if !is_stored {
                    old_is_gone(&site, || get("/a"), &case).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_broken_body_invalidates_the_stored_response() {
    let stale: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
    let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
    origin.open();
    let site = Site::secure(&origin, |builder| builder.max_body_bytes(8));
    assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
    site.advance_secs(3).await;
    origin.responds(move |_, _| Ok(response(200, stale, "a body that is too large")));
    site.send(get("/a")).await.unwrap();
    old_is_gone(&site, || get("/a"), "too large").await;
}

#[tokio::test]
async fn a_failing_origin_invalidates_nothing() {
    for status in [500, 502, 503, 504] {
        let stale: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
        let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        origin.responds(move |_, _| Ok(response(status, &[], "failed")));
        for _ in 0..3 {
            site.advance_secs(60).await;
            assert_eq!(site.send(get("/a")).await.unwrap().body, "old", "{status}");
        }
    }
}

#[tokio::test]
async fn a_reload_that_is_answered_otherwise_invalidates_the_fresh_response() {
    for (status, fields) in [(404, &[][..]), (200, &[("cache-control", "no-store")])] {
        for stale in STALE {
            let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
            origin.open();
            let site = Site::rfc(&origin);
            site.send(get("/a")).await.unwrap();
            origin.responds(move |_, _| Ok(response(status, fields, "final")));
            let reload = || get_with("/a", &[("cache-control", "no-cache")]);
            assert_eq!(site.send(reload()).await.unwrap().status, status);
            origin.responds(|_, _| Ok(response(503, &[], "failed")));
            let seen = site.send(get("/a")).await.unwrap();
            assert_ne!(seen.body, "old", "{stale:?} {status}");
        }
    }
}

#[tokio::test]
async fn other_variants_and_other_callers_stay() {
    let stale: Fields = &[
        ("cache-control", "max-age=60, stale-if-error=600"),
        ("vary", "accept"),
    ];
    let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
    origin.open();
    let site = Site::secure(&origin, |builder| builder);
    let (one, two) = (caller("one"), caller("two"));
    let variant = |value| get_with("/a", &[("accept", value)]);
    for request in [
        variant("a"),
        variant("b"),
        get_as("/a", &one),
        get_as("/a", &two),
    ] {
        site.send(request).await.unwrap();
    }
    site.advance_secs(60).await;
    origin.responds(|_, _| Ok(response(404, &[], "final")));
    assert_eq!(site.send(variant("a")).await.unwrap().body, "final");
    assert_eq!(site.send(get_as("/a", &one)).await.unwrap().body, "final");
    origin.responds(|_, _| Ok(response(503, &[], "failed")));
    for (request, body) in [
        (variant("a"), "failed"),
        (variant("b"), "old"),
        (get_as("/a", &one), "failed"),
        (get_as("/a", &two), "old"),
    ] {
        assert_eq!(site.send(request).await.unwrap().body, body);
    }
}

#[tokio::test]
async fn purged_stale_response_does_not_replace_an_error() {
    let stale: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
    let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
    origin.let_through(1);
    let site = Site::secure(&origin, |builder| builder);
    site.send(get("/a")).await.unwrap();
    site.advance_secs(3).await;
    origin.responds(|_, _| Ok(response(503, &[], "failed")));
    let asking = site.start_all([get("/a")]).await;
    let purge = [Purge::uri("/a".parse().unwrap())];
    site.purger.purge(purge, PurgeMode::Hard).await.unwrap();
    origin.open();
    assert_eq!(all(asking).await[0].as_ref().unwrap().body, "failed");
}

#[tokio::test]
async fn a_final_response_to_head_counts() {
    for (status, fields, is_gone) in [
        (404, &[][..], true),
        (200, &[("etag", "\"b\"")], true),
        (200, &[("content-length", "99")], true),
        (
            200,
            &[("etag", "\"a\""), ("cache-control", "no-store")],
            true,
        ),
        (200, &[], false),
        (503, &[], false),
    ] {
        let stale: Fields = &[
            ("cache-control", "max-age=1, stale-if-error=600"),
            ("etag", "\"a\""),
        ];
        let origin = Origin::new(move |_, _| Ok(response(200, stale, "old")));
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(3).await;
        origin.responds(move |_, _| Ok(response(status, fields, "")));
        site.send(request(Method::HEAD, "/a")).await.unwrap();
        origin.responds(|_, _| Ok(response(503, &[], "failed")));
        let body = site.send(get("/a")).await.unwrap().body;
        assert_eq!(body != "old", is_gone, "{status} {fields:?}");
    }
}

#[tokio::test]
async fn head_does_not_refresh_a_response_without_a_validator() {
    for profile in [CacheLayer::secure as fn(_) -> _, CacheLayer::rfc] {
        let fresh: Fields = &[("cache-control", "max-age=60, stale-if-error=86400")];
        let origin = Origin::new(move |_, _| Ok(response(200, fresh, "old")));
        origin.open();
        let site = Site::built(&origin, profile, |builder| builder);
        site.send(get("/a")).await.unwrap();
        origin.responds(move |_, _| Ok(response(200, fresh, "new")));
        for _ in 0..10 {
            site.advance_secs(61).await;
            site.send(request(Method::HEAD, "/a")).await.unwrap();
        }
        assert_eq!(site.send(get("/a")).await.unwrap().body, "new");
    }
}

#[tokio::test]
async fn head_does_not_revive_a_purged_response() {
    for validator in [&[][..], &[("etag", "\"a\"")]] {
        let fresh = [&[("cache-control", "max-age=60")], validator].concat();
        let fields = fresh.clone();
        let origin = Origin::new(move |_, _| Ok(response_with(&fields, "old")));
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        origin.responds(move |_, _| Ok(response_with(&fresh, "new")));
        let purge = [Purge::uri("/a".parse().unwrap())];
        site.purger.purge(purge, PurgeMode::Soft).await.unwrap();
        site.send(request(Method::HEAD, "/a")).await.unwrap();
        assert_eq!(site.send(get("/a")).await.unwrap().body, "new");
    }
}
