//! The TTLs of a `CachePolicy`: which responses they apply to, and what has priority over them.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use portcullis::{
    ManualClock,
    cache::{CacheLayer, CachePolicy},
    store::MemoryStore,
};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::{get, request};

type Fields = &'static [(&'static str, &'static str)];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Profile {
    Secure,
    Rfc,
}

use Profile::{Rfc, Secure};

const PROFILES: [Profile; 2] = [Secure, Rfc];

/// Puts a cache with a policy for every request around a handler.
fn app(profile: Profile, policy: CachePolicy, handler: Handler) -> App {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let builder = match profile {
        Secure => CacheLayer::secure(store),
        Rfc => CacheLayer::rfc(store),
    };
    App::built(handler, clock, builder.policy(policy))
}

/// Returns a handler that responds with this status and these fields.
fn responding(status: u16, fields: Fields) -> Handler {
    Handler::new(move |_, call| {
        let mut response = response_with(fields, format!("call {call}"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    })
}

fn default_ttl(secs: u64) -> CachePolicy {
    CachePolicy::new().default_ttl(Duration::from_secs(secs))
}

fn override_ttl(secs: u64) -> CachePolicy {
    CachePolicy::new().override_ttl(Duration::from_secs(secs))
}

/// Returns what the cache reports about the first request for such a response, without its prefix.
async fn report(profile: Profile, policy: &CachePolicy, status: u16, fields: Fields) -> String {
    let app = app(profile, policy.clone(), responding(status, fields));
    let first = app.get("/a").await;
    assert_eq!(first.status.as_u16(), status);
    let report = first.cache_status();
    let report = report.strip_prefix("portcullis; fwd=uri-miss; ").unwrap();
    let again = app.get("/a").await;
    let ttl = report.split("ttl=").nth(1).map(|ttl| ttl.parse().unwrap());
    assert_eq!(again.is_hit(), ttl.is_some_and(|ttl: i64| ttl > 0));
    report.to_owned()
}

fn is_stored(report: &str) -> bool {
    report.starts_with("stored")
}

#[tokio::test]
async fn ttl_applies_to_no_status_but_200_and_203_unless_listed() {
    let listed = |policy: CachePolicy, status| {
        let status = StatusCode::from_u16(status).unwrap();
        policy.cache_status_code(status, Duration::from_secs(7_200))
    };
    for profile in PROFILES {
        for status in 200..600 {
            let never = matches!(status, 206 | 304 | 412 | 416 | 417);
            for policy in [default_ttl(3_600), override_ttl(3_600)] {
                let report = report(profile, &policy, status, &[]).await;
                let expected = matches!(status, 200 | 203);
                assert_eq!(is_stored(&report), expected, "{profile:?} {status}");
            }
            let policy = listed(default_ttl(3_600), status);
            let report = report(profile, &policy, status, &[]).await;
            assert_eq!(is_stored(&report), !never, "{profile:?} {status}");
            if !never {
                assert_eq!(report, "stored; ttl=3600", "{profile:?} {status}");
            }
        }
    }
}

#[tokio::test]
async fn errors_keep_the_lifetime_that_they_state() {
    for profile in PROFILES {
        for policy in [default_ttl(3_600), override_ttl(3_600)] {
            for status in [301, 404, 410] {
                for (fields, expected) in [
                    (&[("cache-control", "max-age=9")][..], "stored; ttl=9"),
                    (&[("cache-control", "s-maxage=9")][..], "stored; ttl=9"),
                ] {
                    let report = report(profile, &policy, status, fields).await;
                    assert_eq!(report, expected, "{profile:?} {status}");
                }
                let zero = report(profile, &policy, status, &[("cache-control", "max-age=0")]);
                assert!(!zero.await.contains("3600"), "{profile:?} {status}");
            }
        }
    }
}

#[tokio::test]
async fn stated_lifetime_has_priority_over_the_default_ttl_and_not_over_an_override() {
    for (fields, stated) in [
        (&[("cache-control", "max-age=9")][..], 9),
        (&[("cache-control", "s-maxage=9")][..], 9),
        (&[("cache-control", "s-maxage=9, max-age=99")][..], 9),
        (
            &[("cache-control", "max-age=9, public, must-revalidate")][..],
            9,
        ),
        (&[("cache-control", "max-age=0"), ("etag", "\"1\"")][..], 0),
        (&[("cache-control", "max-age=x"), ("etag", "\"1\"")][..], 0),
        (&[("cache-control", "s-maxage=0"), ("etag", "\"1\"")][..], 0),
        (&[("expires", "0"), ("etag", "\"1\"")][..], 0),
        (&[("expires", "never"), ("etag", "\"1\"")][..], 0),
        (
            &[
                ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
                ("etag", "\"1\""),
            ][..],
            0,
        ),
    ] {
        for profile in PROFILES {
            let by_default = report(profile, &default_ttl(60), 200, fields).await;
            assert_eq!(by_default, format!("stored; ttl={stated}"), "{fields:?}");
            let overridden = report(profile, &override_ttl(60), 200, fields).await;
            assert_eq!(overridden, "stored; ttl=60", "{fields:?}");
            let both = default_ttl(5).override_ttl(Duration::from_secs(60));
            assert_eq!(report(profile, &both, 200, fields).await, "stored; ttl=60");
            let both = override_ttl(60).default_ttl(Duration::from_secs(5));
            assert_eq!(report(profile, &both, 200, fields).await, "stored; ttl=60");
        }
    }
}

#[tokio::test]
async fn default_ttl_applies_where_no_lifetime_is_stated() {
    for fields in [
        &[][..],
        &[("cache-control", "public")][..],
        &[("cache-control", "must-revalidate")][..],
        &[("cache-control", "stale-while-revalidate=9")][..],
        &[("cache-control", "no-cache=x-a"), ("x-a", "1")][..],
        &[("pragma", "no-cache")][..],
        &[("cdn-cache-control", "max-age=9")][..],
        // In place of what the `rfc` profile would guess.
        &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")][..],
    ] {
        for profile in PROFILES {
            for policy in [default_ttl(60), override_ttl(60)] {
                let report = report(profile, &policy, 200, fields).await;
                assert_eq!(report, "stored; ttl=60", "{profile:?} {fields:?}");
            }
        }
    }
}

#[tokio::test]
async fn listed_targeted_field_states_a_lifetime() {
    for (targeted, ttl) in [("max-age=9", 9), ("must-revalidate", 60)] {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let builder = CacheLayer::secure(store)
            .targeted_field("CDN-Cache-Control")
            .policy(default_ttl(60));
        let handler = Handler::new(move |_, _| {
            response_with(
                &[
                    ("cdn-cache-control", targeted),
                    ("cache-control", "max-age=5"),
                ],
                "x",
            )
        });
        let seen = App::built(handler, clock, builder).get("/a").await;
        let stored = format!("portcullis; fwd=uri-miss; stored; ttl={ttl}");
        assert_eq!(seen.cache_status(), stored);
    }
}

#[tokio::test]
async fn no_ttl_makes_a_forbidden_response_storable() {
    for (fields, secure, rfc) in [
        (&[("cache-control", "no-store")][..], "no-store", "no-store"),
        (&[("cache-control", "private")][..], "private", "private"),
        (&[("vary", "*")][..], "vary-star", "vary-star"),
        (&[("set-cookie", "a=1")][..], "set-cookie", "no-freshness"),
        (&[("set-cookie2", "a=1")][..], "set-cookie", "no-freshness"),
        (
            &[("clear-site-data", "\"*\"")][..],
            "set-cookie",
            "no-freshness",
        ),
        (
            &[("www-authenticate", "Basic")][..],
            "set-cookie",
            "no-freshness",
        ),
        (
            &[("content-type", "text/event-stream")][..],
            "event-stream",
            "event-stream",
        ),
        // Without a validator it could never be served.
        (
            &[("cache-control", "no-cache")][..],
            "expired",
            "stored; ttl=60",
        ),
    ] {
        for policy in [default_ttl(60), override_ttl(60)] {
            for (profile, expected) in [(Secure, secure), (Rfc, rfc)] {
                let app = app(profile, policy.clone(), responding(200, fields));
                let first = app.get("/a").await;
                let report = first.cache_status();
                assert!(
                    report.ends_with(expected),
                    "{profile:?} {fields:?}: {report}"
                );
                assert!(!app.get("/a").await.is_hit(), "{profile:?} {fields:?}");
            }
        }
    }
}

#[tokio::test]
async fn set_cookie_takes_no_lifetime_from_a_listed_status() {
    let policy = override_ttl(60).cache_status_code(StatusCode::NOT_FOUND, Duration::from_secs(5));
    let cookie = &[("set-cookie", "a=1")];
    assert_eq!(
        report(Rfc, &policy, 404, cookie).await,
        "detail=no-freshness"
    );
    let stated = &[("set-cookie", "a=1"), ("cache-control", "max-age=9")];
    assert_eq!(report(Rfc, &policy, 404, stated).await, "stored; ttl=5");
    let modified = &[
        ("set-cookie", "a=1"),
        ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ];
    assert_eq!(report(Rfc, &policy, 404, modified).await, "stored; ttl=5");
}

#[tokio::test]
async fn no_cache_is_revalidated_at_each_use_whatever_the_ttl() {
    for profile in PROFILES {
        for policy in [default_ttl(60), override_ttl(60)] {
            let app = app(profile, policy, validated(&[("cache-control", "no-cache")]));
            let first = app.get("/a").await;
            assert!(first.cache_status().contains("stored"));
            for _ in 0..2 {
                let seen = app.get("/a").await;
                assert!(!seen.is_hit() && seen.cache_status().contains("fwd-status=304"));
                assert_eq!(seen.body, "call 1");
            }
        }
    }
}

#[tokio::test]
async fn private_response_is_stored_for_its_caller_with_the_default_ttl() {
    for profile in PROFILES {
        let handler = responding(200, &[("cache-control", "private")]);
        let app = app(profile, default_ttl(60), handler);
        let asks = |who| app.send(get_as("/a", &caller(who)));
        asks("one").await;
        assert!(asks("one").await.is_hit());
        assert!(!asks("two").await.is_hit());
        assert!(!app.get("/a").await.is_hit());
    }
}

#[tokio::test]
async fn ttl_shares_nothing_that_a_credential_requested() {
    let credential = [("authorization", "Bearer a")];
    for policy in [default_ttl(60), override_ttl(60)] {
        for profile in PROFILES {
            let app = app(profile, policy.clone(), responding(200, &[]));
            app.send(get_with("/a", &credential)).await;
            assert!(!app.send(get_with("/a", &credential)).await.is_hit());
            assert!(!app.get("/a").await.is_hit());
        }
    }
}

#[tokio::test]
async fn listed_status_limits_every_lifetime() {
    let listed = |policy: CachePolicy| {
        policy.cache_status_code(StatusCode::NOT_FOUND, Duration::from_secs(5))
    };
    let stated = |value| -> Fields {
        match value {
            0 => &[],
            2 => &[("cache-control", "max-age=2")],
            9 => &[("cache-control", "max-age=9")],
            _ => &[("cache-control", "s-maxage=9")],
        }
    };
    for (policy, states, ttl) in [
        (CachePolicy::new(), 0, 5),
        (CachePolicy::new(), 2, 2),
        (CachePolicy::new(), 9, 5),
        (CachePolicy::new(), 10, 5),
        (default_ttl(3), 0, 3),
        (default_ttl(60), 0, 5),
        (default_ttl(1), 2, 2),
        (default_ttl(60), 9, 5),
        (override_ttl(3), 9, 3),
        (override_ttl(60), 2, 5),
        (override_ttl(60), 0, 5),
    ] {
        for profile in PROFILES {
            let report = report(profile, &listed(policy.clone()), 404, stated(states)).await;
            assert_eq!(report, format!("stored; ttl={ttl}"), "{policy:?} {states}");
        }
    }
    let policy = override_ttl(60).cache_status_code(StatusCode::OK, Duration::from_secs(5));
    assert_eq!(report(Secure, &policy, 200, &[]).await, "stored; ttl=5");
}

#[tokio::test]
async fn response_ttl_of_either_kind_replaces_the_route_ttl() {
    let with = |policy: Option<CachePolicy>, fields: Fields| {
        Handler::new(move |_, _| {
            let mut response = response_with(fields, "x");
            if let Some(policy) = policy.clone() {
                response.extensions_mut().insert(policy);
            }
            response
        })
    };
    let stated: Fields = &[("cache-control", "max-age=9")];
    for (route, response, fields, ttl) in [
        (default_ttl(60), None, &[][..], 60),
        (default_ttl(60), Some(CachePolicy::new()), &[][..], 60),
        (default_ttl(60), Some(default_ttl(1)), &[][..], 1),
        (default_ttl(60), Some(override_ttl(1)), stated, 1),
        (override_ttl(60), Some(default_ttl(1)), stated, 9),
        (override_ttl(60), Some(default_ttl(1)), &[][..], 1),
        (override_ttl(60), Some(override_ttl(1)), stated, 1),
        (override_ttl(60), None, stated, 60),
        (CachePolicy::new(), Some(default_ttl(1)), &[][..], 1),
    ] {
        for profile in PROFILES {
            let handler = with(response.clone(), fields);
            let seen = app(profile, route.clone(), handler).get("/a").await;
            let stored = format!("portcullis; fwd=uri-miss; stored; ttl={ttl}");
            assert_eq!(seen.cache_status(), stored, "{route:?} {response:?}");
        }
    }
}

/// Returns a handler whose responses have an entity tag, which it confirms.
fn validated(fields: Fields) -> Handler {
    Handler::new(move |request, call| {
        let fields = [fields, &[("etag", "\"1\"")]].concat();
        let mut response = response_with(&fields, format!("call {call}"));
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Full::default();
        }
        response
    })
}

#[tokio::test]
async fn revalidation_starts_the_ttl_again() {
    for (policy, fields, ttl) in [
        (default_ttl(60), &[][..], 60),
        (default_ttl(60), &[("cache-control", "max-age=9")][..], 9),
        (override_ttl(60), &[("cache-control", "max-age=9")][..], 60),
        (override_ttl(60), &[("cache-control", "max-age=0")][..], 60),
    ] {
        for profile in PROFILES {
            let app = app(profile, policy.clone(), validated(fields));
            app.get("/a").await;
            app.advance_secs(ttl + 1);
            let seen = app.get("/a").await;
            let status = format!("portcullis; fwd=stale; fwd-status=304; stored; ttl={ttl}");
            assert_eq!((seen.cache_status(), &*seen.body), (&*status, "call 1"));
            app.advance_secs(ttl - 1);
            assert!(app.get("/a").await.is_hit());
        }
    }
}

#[tokio::test]
async fn revalidation_of_a_listed_status_stays_within_its_limit() {
    let handler = Handler::new(|request, call| {
        let mut response = response_with(&[("etag", "\"1\"")], format!("call {call}"));
        *response.status_mut() = match request.headers().contains_key(header::IF_NONE_MATCH) {
            true => StatusCode::NOT_MODIFIED,
            false => StatusCode::NOT_FOUND,
        };
        response
    });
    let policy = override_ttl(60).cache_status_code(StatusCode::NOT_FOUND, Duration::from_secs(5));
    let app = app(Secure, policy, handler);
    app.get("/a").await;
    app.advance_secs(6);
    let seen = app.get("/a").await;
    let status = "portcullis; fwd=stale; fwd-status=304; stored; ttl=5";
    assert_eq!(
        (seen.status, seen.cache_status()),
        (StatusCode::NOT_FOUND, status)
    );
}

#[tokio::test]
async fn head_is_answered_from_an_entry_within_its_ttl_and_stores_none() {
    for profile in PROFILES {
        let app = app(profile, default_ttl(60), validated(&[]));
        let head = || app.send(request(Method::HEAD, "/a"));
        assert!(!head().await.cache_status().contains("stored"));
        assert!(!app.get("/a").await.is_hit());
        app.advance_secs(59);
        assert!(head().await.is_hit());
        app.advance_secs(1);
        assert!(!head().await.is_hit());
    }
}

#[tokio::test]
async fn stale_windows_follow_the_ttl() {
    let handler = Handler::new(|_, call| {
        let mut response = response_with(&[("cache-control", "stale-if-error=30")], "x");
        if call > 1 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    });
    let app = app(Secure, default_ttl(60), handler);
    app.get("/a").await;
    app.advance_secs(89);
    assert_eq!(app.get("/a").await.status, StatusCode::OK);
    app.advance_secs(2);
    assert_eq!(app.get("/a").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn must_revalidate_forbids_stale_use_after_the_ttl() {
    for control in ["must-revalidate, stale-if-error=600", "proxy-revalidate"] {
        for profile in PROFILES {
            let handler = Handler::new(move |_, call| {
                let mut response = response_with(&[("cache-control", control)], "x");
                if call > 1 {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            });
            let app = app(profile, default_ttl(60), handler);
            app.get("/a").await;
            app.advance_secs(61);
            let seen = app.get("/a").await;
            assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE, "{control}");
        }
    }
}

#[tokio::test]
async fn ttl_counts_from_the_generation_of_the_response() {
    for policy in [default_ttl(60), override_ttl(60)] {
        let aged = report(Secure, &policy, 200, &[("age", "20")]).await;
        assert_eq!(aged, "stored; ttl=40");
        let old = report(Secure, &policy, 200, &[("age", "60")]).await;
        assert_eq!(old, "detail=expired");
    }
}

#[tokio::test]
async fn ttl_of_any_length_is_within_bounds() {
    for (ttl, expected) in [
        (Duration::ZERO, "stored; ttl=0"),
        (Duration::from_millis(999), "stored; ttl=0"),
        (Duration::from_millis(1_999), "stored; ttl=1"),
        (Duration::MAX, "stored; ttl=2147483648"),
    ] {
        for policy in [
            CachePolicy::new().default_ttl(ttl),
            CachePolicy::new().override_ttl(ttl),
        ] {
            let report = report(Secure, &policy, 200, &[("etag", "\"1\"")]).await;
            assert_eq!(report, expected, "{ttl:?}");
        }
    }
}

#[tokio::test]
async fn part_of_a_response_gets_the_default_ttl() {
    let handler = Handler::new(|_, call| {
        let fields = &[("content-range", "bytes 0-1/10"), ("etag", "\"1\"")];
        let mut response = response_with(fields, format!("{call:02}"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response
    });
    let app = app(Rfc, default_ttl(60), handler);
    let part = || get_with("/a", &[("range", "bytes=0-1")]);
    app.send(part()).await;
    app.advance_secs(59);
    assert!(app.send(part()).await.is_hit());
    app.advance_secs(1);
    assert!(!app.send(part()).await.is_hit());
}

#[tokio::test]
async fn post_is_stored_only_with_a_lifetime_of_its_own() {
    for (fields, is_stored) in [
        (&[("content-location", "/a")][..], false),
        (
            &[("content-location", "/a"), ("cache-control", "max-age=9")][..],
            true,
        ),
    ] {
        let clock = ManualClock::default();
        let builder = CacheLayer::secure(MemoryStore::with_clock(clock.clone()))
            .cache_posts(true)
            .policy(default_ttl(60));
        let app = App::built(responding(200, fields), clock, builder);
        app.send(request(Method::POST, "/a")).await;
        assert_eq!(app.get("/a").await.is_hit(), is_stored);
    }
}

#[tokio::test]
async fn policy_of_a_request_replaces_the_policy_of_the_layer() {
    let under = |policy: CachePolicy| -> Request<Full<Bytes>> {
        let mut request = get("/a");
        request.extensions_mut().insert(policy);
        request
    };
    let handler = Handler::new(|_, _| Response::new(Full::default()));
    let app = app(Secure, default_ttl(60), handler);
    let seen = app.send(under(CachePolicy::new())).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=uri-miss; detail=no-freshness"
    );
    let seen = app.send(under(default_ttl(5))).await;
    assert!(seen.cache_status().ends_with("stored; ttl=5"));
}
