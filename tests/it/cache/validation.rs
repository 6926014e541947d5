//! Stale responses, and requests for parts.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ManualClock,
    cache::{CacheLayer, CacheLayerBuilder, Purge, PurgeMode},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::{get, hands::let_all_run, header, request, text};

const TAGGED: &[(&str, &str)] = &[
    ("cache-control", "max-age=10"),
    ("etag", "\"v1\""),
    ("x-made", "first"),
];

/// Responds `304` to requests with `"v1"`, as long as that is current.
fn validating() -> Handler {
    Handler::new(|request, call| {
        let has_it = request.headers().get("if-none-match");
        if has_it.is_some_and(|tag| tag == "\"v1\"") {
            let mut response =
                response_with(&[("cache-control", "max-age=10"), ("x-made", "again")], "");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        response_with(TAGGED, format!("call {call}"))
    })
}

#[tokio::test]
async fn not_modified_refreshes_the_entry_without_a_new_body() {
    let app = App::new(validating());
    app.get("/a").await;
    app.advance_secs(10);
    let seen = app.get("/a").await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::OK, "call 1")
    );
    let status = "portcullis; fwd=stale; fwd-status=304; stored; ttl=10";
    assert_eq!(seen.cache_status(), status);
    assert_eq!(seen.header("x-made"), Some("again"));
    assert_eq!(seen.header("content-length"), Some("6"));
    app.advance_secs(9);
    let hit = app.get("/a").await;
    assert!(hit.is_hit());
    assert_eq!(
        (hit.header("x-made"), hit.header("age")),
        (Some("again"), Some("9"))
    );
    assert_eq!(app.handler.calls(), 2);
}

#[tokio::test]
async fn revalidated_entry_has_the_tags_of_the_latest_response() {
    let app = App::new(Handler::new(|request, _| {
        let is_asked = request.headers().contains_key("if-none-match");
        let tag = if is_asked { "new" } else { "old" };
        let fields = [TAGGED, &[("surrogate-key", tag)]].concat();
        let mut response = response_with(&fields, "x");
        if is_asked {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response
    }));
    app.get("/a").await;
    app.advance_secs(10);
    assert!(app.get("/a").await.cache_status().contains("; stored"));
    for (tag, stays) in [("old", true), ("new", false)] {
        let purged = app.purger.purge([Purge::tag(tag)], PurgeMode::Hard);
        purged.await.unwrap();
        assert_eq!(app.get("/a").await.is_hit(), stays, "{tag}");
    }
}

#[tokio::test]
async fn changed_response_replaces_the_entry() {
    let app = App::new(Handler::with(TAGGED));
    app.get("/a").await;
    app.advance_secs(10);
    let seen = app.get("/a").await;
    assert_eq!(seen.body, "call 2");
    let status = "portcullis; fwd=stale; fwd-status=200; stored; ttl=10";
    assert_eq!(seen.cache_status(), status);
    assert_eq!(app.get("/a").await.body, "call 2");
}

#[tokio::test]
async fn a_clients_own_condition_is_answered_after_the_caches() {
    let app = App::new(validating());
    app.get("/a").await;
    app.advance_secs(10);
    let condition = [("if-none-match", "\"v0\", \"v1\"")];
    let seen = app.send(get_with("/a", &condition)).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    app.advance_secs(10);
    let seen = app
        .send(get_with("/a", &[("if-none-match", "\"v0\"")]))
        .await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::OK, "call 1")
    );
}

#[tokio::test]
async fn no_cache_entry_is_revalidated_on_each_request() {
    let app = App::new(Handler::new(|request, call| {
        let mut response = response_with(&[("cache-control", "no-cache"), ("etag", "\"v1\"")], "x");
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        assert!(call < 4);
        response
    }));
    for call in 1..4 {
        assert_eq!(app.get("/a").await.body, "x");
        assert_eq!(app.handler.calls(), call);
    }
}

#[tokio::test]
async fn each_caller_revalidates_its_own_entry() {
    let app = App::new(validating());
    let (one, two) = (caller("one"), caller("two"));
    app.send(get_as("/a", &one)).await;
    app.advance_secs(10);
    assert_eq!(app.send(get_as("/a", &two)).await.body, "call 2");
    assert_eq!(app.send(get_as("/a", &one)).await.body, "call 1");
}

/// Responds `304` with the fields `then` to conditional requests, and with `first` before.
fn turning(
    first: &'static [(&'static str, &'static str)],
    then: &'static [(&'static str, &'static str)],
) -> Handler {
    Handler::new(move |request, call| {
        if !request.headers().contains_key("if-none-match") {
            return response_with(first, format!("call {call}"));
        }
        let mut response = response_with(then, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    })
}

#[tokio::test]
async fn entry_that_becomes_private_is_no_longer_shared() {
    for then in [
        &[("cache-control", "private, max-age=60")][..],
        &[("cache-control", "max-age=60")],
    ] {
        let shared = &[("cache-control", "public, max-age=10"), ("etag", "\"v1\"")];
        let app = App::configured(turning(shared, then), |builder| {
            builder.share_public_responses(true)
        });
        let one = caller("one");
        app.send(get_as("/a", &one)).await;
        app.advance_secs(10);
        let seen = app.send(get_as("/a", &one)).await;
        assert_eq!(seen.body, "call 1");
        assert!(!app.get("/a").await.is_hit(), "{then:?}");
        assert!(!app.send(get_as("/a", &caller("two"))).await.is_hit());
    }
}

#[tokio::test]
async fn entry_that_begins_to_vary_serves_only_matching_requests() {
    let then = &[("cache-control", "max-age=60"), ("vary", "accept")];
    let app = App::new(turning(TAGGED, then));
    app.send(get_with("/a", &[("accept", "a")])).await;
    app.advance_secs(10);
    let seen = app.send(get_with("/a", &[("accept", "a")])).await;
    assert_eq!(seen.body, "call 1");
    assert!(!app.send(get_with("/a", &[("accept", "b")])).await.is_hit());
}

fn failing_after_one(fields: &'static [(&'static str, &'static str)]) -> Handler {
    Handler::new(move |_, call| {
        let mut response = response_with(fields, format!("call {call}"));
        if call > 1 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
}

#[tokio::test]
async fn stale_if_error_serves_the_stale_response_for_its_duration() {
    let app = App::new(failing_after_one(&[(
        "cache-control",
        "max-age=10, stale-if-error=20",
    )]));
    app.get("/a").await;
    app.advance_secs(25);
    let seen = app.get("/a").await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::OK, "call 1")
    );
    let status = "portcullis; fwd=stale; fwd-status=503; ttl=-15";
    assert_eq!(seen.cache_status(), status);
    app.advance_secs(6);
    assert_eq!(app.get("/a").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn errors_are_not_replaced_without_stale_if_error() {
    for purge in [false, true] {
        let app = App::new(failing_after_one(TAGGED));
        app.get("/a").await;
        match purge {
            true => app
                .purger
                .purge([Purge::All], PurgeMode::Soft)
                .await
                .unwrap(),
            false => app.advance_secs(10),
        }
        assert_eq!(
            app.get("/a").await.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{purge}"
        );
    }
}

#[tokio::test]
async fn must_revalidate_disables_stale_if_error() {
    for directive in [
        "must-revalidate",
        "proxy-revalidate",
        "no-cache",
        "s-maxage=10",
    ] {
        let value = format!("max-age=10, stale-if-error=99, {directive}");
        let fields: &'static _ = vec![("cache-control", &*value.leak()), ("etag", "\"a\"")].leak();
        let app = App::new(failing_after_one(fields));
        app.get("/a").await;
        app.advance_secs(11);
        let seen = app.get("/a").await;
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE, "{directive}");
    }
}

#[tokio::test]
async fn must_revalidate_disables_stale_while_revalidate() {
    for directive in [
        "must-revalidate",
        "proxy-revalidate",
        "no-cache",
        "s-maxage=10",
    ] {
        let value = format!("max-age=10, stale-while-revalidate=99, {directive}");
        let fields: &'static _ = vec![("cache-control", &*value.leak()), ("etag", "\"a\"")].leak();
        let app = App::new(Handler::with(fields));
        app.get("/a").await;
        app.advance_secs(11);
        assert_eq!(app.get("/a").await.body, "call 2", "{directive}");
    }
}

#[tokio::test]
async fn stale_if_error_replaces_a_handler_error() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let layer = CacheLayer::secure(store)
        .clock(clock.clone())
        .build()
        .unwrap();
    let service = layer.layer(service_fn(
        |request: Request<Full<bytes::Bytes>>| async move {
            match request.headers().contains_key("x-fails") {
                true => Err("gone"),
                false => Ok(response_with(
                    &[("cache-control", "max-age=10, stale-if-error=20")],
                    "x",
                )),
            }
        },
    ));
    let failing = || get_with("/a", &[("x-fails", "")]);
    assert_eq!(
        service.clone().oneshot(failing()).await.unwrap_err(),
        "gone"
    );
    text(service.clone().oneshot(get("/a")).await.unwrap()).await;
    clock.advance(std::time::Duration::from_secs(15));
    let response = service.oneshot(failing()).await.unwrap();
    let status = header(response.headers(), "cache-status");
    assert_eq!(status, Some("portcullis; hit; ttl=-5"));
    assert_eq!(text(response).await, "x");
}

#[tokio::test]
async fn stale_while_revalidate_refreshes_in_the_background() {
    let fields = &[("cache-control", "max-age=10, stale-while-revalidate=20")];
    let app = App::new(Handler::with(fields));
    app.get("/a").await;
    app.advance_secs(11);
    let seen = app.get("/a").await;
    assert_eq!(seen.body, "call 1");
    assert_eq!(seen.cache_status(), "portcullis; hit; ttl=-1");
    while app.handler.calls() < 2 || app.get("/a").await.body != "call 2" {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.handler.calls(), 2);
    app.advance_secs(31);
    assert_eq!(app.get("/a").await.body, "call 3", "too stale to be served");
}

#[tokio::test]
async fn head_request_refreshes_a_stale_entry_with_get() {
    let fields = &[("cache-control", "max-age=10, stale-while-revalidate=20")];
    let app = App::new(Handler::with(fields));
    app.get("/a").await;
    app.advance_secs(11);
    assert_eq!(app.send(request(Method::HEAD, "/a")).await.body, "");
    while app.get("/a").await.body != "call 2" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn range_and_condition_requests_refresh_the_whole_entry() {
    for field in [
        ("range", "bytes=0-1"),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let app = App::new(Handler::new(move |request, call| {
            let fields = &[("cache-control", "max-age=10, stale-while-revalidate=20")];
            let mut response = response_with(fields, format!("call {call}"));
            if request.headers().contains_key(field.0) {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            response
        }));
        app.get("/a").await;
        app.advance_secs(11);
        assert!(app.send(get_with("/a", &[field])).await.is_hit());
        let_all_run().await;
        assert_eq!(app.get("/a").await.body, "call 2", "{field:?}");
    }
}

#[tokio::test]
async fn a_part_is_cut_from_what_is_stored() {
    let app = App::new(Handler::new(|_, _| response_with(TAGGED, "0123456789")));
    app.get("/a").await;
    let seen = app.send(get_with("/a", &[("range", "bytes=2-4")])).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::PARTIAL_CONTENT, "234")
    );
    assert_eq!(seen.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(seen.header("content-length"), Some("3"));
    let seen = app.send(get_with("/a", &[("range", "bytes=10-")])).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "")
    );
    assert_eq!(seen.header("content-range"), Some("bytes */10"));
    let other = [("range", "bytes=2-4"), ("if-range", "\"v0\"")];
    let seen = app.send(get_with("/a", &other)).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::OK, "0123456789")
    );
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn partial_response_is_not_stored() {
    let app = App::new(Handler::new(|request, _| {
        let mut response: Response<_> = response_with(TAGGED, "0123456789");
        if request.headers().contains_key("range") {
            response = response_with(TAGGED, "23");
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }));
    assert_eq!(
        app.send(get_with("/a", &[("range", "bytes=2-3")]))
            .await
            .body,
        "23"
    );
    assert_eq!(app.get("/a").await.body, "0123456789");
}

#[tokio::test]
async fn preconditions_are_evaluated_by_the_origin() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for age_secs in [0, 9, 10, 20] {
        for condition in [
            ("if-match", "\"v0\""),
            ("if-match", "\"v1\""),
            ("if-match", "W/\"v1\""),
            ("if-match", "*"),
            ("if-unmodified-since", date),
        ] {
            let app = App::new(Handler::new(move |request, call| {
                let (name, value) = condition;
                if request.headers().get(name).is_some_and(|own| own == value) {
                    let mut response = response_with(&[], "judged");
                    *response.status_mut() = StatusCode::PRECONDITION_FAILED;
                    return response;
                }
                response_with(TAGGED, format!("call {call}"))
            }));
            app.get("/a").await;
            app.advance_secs(age_secs);
            for extra in [
                None,
                Some(("range", "bytes=0-1")),
                Some(("if-none-match", "\"v1\"")),
            ] {
                for method in [Method::GET, Method::HEAD] {
                    let fields: Vec<_> = extra.into_iter().chain([condition]).collect();
                    let mut asked = get_with("/a", &fields);
                    *asked.method_mut() = method;
                    let seen = app.send(asked).await;
                    assert_eq!(seen.status, StatusCode::PRECONDITION_FAILED, "{fields:?}");
                    assert!(!seen.is_hit(), "{fields:?}");
                }
            }
            // The stored response is untouched.
            assert_eq!(app.get("/a").await.is_hit(), age_secs < 10);
        }
    }
}

#[tokio::test]
async fn a_request_may_take_what_is_stale_where_requests_are_heeded() {
    let app = App::rfc(Handler::with(&[("cache-control", "max-age=10")]));
    app.get("/a").await;
    app.advance_secs(15);
    let lenient = [("cache-control", "max-stale=5")];
    assert_eq!(app.send(get_with("/a", &lenient)).await.body, "call 1");
    let strict = [("cache-control", "max-stale=4")];
    assert_eq!(app.send(get_with("/a", &strict)).await.body, "call 2");
}

/// Answers a HEAD with these fields, and all else with [`TAGGED`].
fn with_head(fields: &'static [(&'static str, &'static str)]) -> Handler {
    Handler::new(move |request, call| match *request.method() {
        Method::HEAD => response_with(fields, ""),
        _ => response_with(TAGGED, format!("call {call}")),
    })
}

#[tokio::test]
async fn head_with_a_matching_validator_refreshes_the_stored_response() {
    let fields = &[
        ("cache-control", "max-age=30"),
        ("etag", "\"v1\""),
        ("x-new", "yes"),
    ];
    let app = App::new(with_head(fields));
    app.get("/a").await;
    app.advance_secs(10);
    let head = app.send(request(Method::HEAD, "/a")).await;
    let status = "portcullis; fwd=stale; fwd-status=200; stored; ttl=30";
    assert_eq!(head.cache_status(), status);
    // Fields that the handler did not repeat remain valid.
    assert_eq!(head.header("x-made"), Some("first"));
    let hit = app.get("/a").await;
    assert_eq!((hit.is_hit(), hit.body.as_str()), (true, "call 1"));
    assert_eq!(hit.header("x-new"), Some("yes"));
    assert_eq!(hit.header("content-length"), Some("6"));
    assert_eq!(app.handler.calls(), 2);
}

#[tokio::test]
async fn head_of_another_version_invalidates_the_stored_response() {
    for other in [
        &[("cache-control", "max-age=30"), ("etag", "\"v2\"")],
        &[("cache-control", "max-age=30"), ("content-length", "7")],
    ] {
        let clock = ManualClock::default();
        let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone()));
        let app = App::built(with_head(other), clock, builder);
        app.get("/a").await;
        assert!(app.get("/a").await.is_hit());
        let mut head = get_with("/a", &[("cache-control", "no-cache")]);
        *head.method_mut() = Method::HEAD;
        let seen = app.send(head).await;
        assert_eq!(seen.cache_status(), "portcullis; fwd=request");
        assert_eq!(app.get("/a").await.body, "call 3");
    }
}

#[tokio::test]
async fn a_conditional_head_is_answered_by_the_response_that_it_refreshed() {
    let fields = &[("cache-control", "max-age=30"), ("etag", "\"v1\"")];
    let app = App::new(with_head(fields));
    app.get("/a").await;
    app.advance_secs(10);
    for (tag, status) in [
        ("\"v1\"", StatusCode::NOT_MODIFIED),
        ("\"v0\"", StatusCode::OK),
    ] {
        let mut head = get_with("/a", &[("if-none-match", tag)]);
        *head.method_mut() = Method::HEAD;
        assert_eq!(app.send(head).await.status, status);
        app.advance_secs(30);
    }
}

#[tokio::test]
async fn head_invalidates_the_stored_response_unless_the_origin_fails() {
    for (status, next) in [
        (410, "fwd=uri-miss"),
        (404, "fwd=uri-miss"),
        (503, "fwd=stale"),
    ] {
        let app = App::new(Handler::new(move |request, call| {
            let mut response = response_with(TAGGED, format!("call {call}"));
            if *request.method() == Method::HEAD {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            response
        }));
        app.get("/a").await;
        app.advance_secs(10);
        let head = app.send(request(Method::HEAD, "/a")).await;
        assert_eq!(head.status, status);
        let seen = app.get("/a").await;
        assert_eq!(
            seen.cache_status().split("; ").nth(1),
            Some(next),
            "{status}"
        );
    }
}

fn reloading(configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder) -> App {
    let clock = ManualClock::default();
    let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone()));
    App::built(Handler::with(TAGGED), clock, configure(builder))
}

#[tokio::test]
async fn max_reloads_limits_forced_revalidations() {
    let app = reloading(|builder| builder.client_reload_limit(2, Duration::from_secs(5)));
    for wish in ["no-cache", "min-fresh=60"] {
        app.get(&format!("/{wish}")).await;
        let reload = || app.send(get_with(&format!("/{wish}"), &[("cache-control", wish)]));
        assert!(!reload().await.is_hit());
        assert!(!reload().await.is_hit());
        let refused = reload().await;
        assert_eq!(
            refused.cache_status(),
            "portcullis; hit; ttl=10; detail=reloaded"
        );
    }
    app.get("/other").await;
    let other = app
        .send(get_with("/other", &[("cache-control", "no-cache")]))
        .await;
    assert!(!other.is_hit());
    app.advance_secs(5);
    let again = app
        .send(get_with("/no-cache", &[("cache-control", "no-cache")]))
        .await;
    assert!(!again.is_hit());
}

#[tokio::test]
async fn honors_request_directives_only_if_enabled() {
    let no_cache = [("cache-control", "no-cache")];
    let app = App::new(Handler::with(TAGGED));
    app.get("/a").await;
    assert!(app.send(get_with("/a", &no_cache)).await.is_hit());
    let app = App::configured(Handler::with(TAGGED), |builder| {
        builder.honor_request_directives(true)
    });
    app.get("/a").await;
    assert!(!app.send(get_with("/a", &no_cache)).await.is_hit());
}

#[tokio::test]
async fn expose_key_sends_a_digest_that_identifies_the_entry() {
    let app = reloading(CacheLayerBuilder::expose_key);
    let key = |seen: &str| {
        let (_, key) = seen.split_once("; key=\"").unwrap();
        key.split('"').next().unwrap().to_owned()
    };
    let first = key(app.get("/secret?a").await.cache_status());
    assert_eq!(first.len(), 16);
    assert!(first.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let hit = app.get("/secret?a").await;
    assert_eq!(
        (hit.is_hit(), key(hit.cache_status())),
        (true, first.clone())
    );
    assert_ne!(key(app.get("/secret?b").await.cache_status()), first);
    assert!(
        !App::new(Handler::with(TAGGED))
            .get("/a")
            .await
            .cache_status()
            .contains("key")
    );
}

#[tokio::test]
async fn soft_purge_allows_stale_while_revalidate() {
    const SWR: &[(&str, &str)] = &[("cache-control", "max-age=10, stale-while-revalidate=5")];
    for (after_secs, is_shown) in [(0, true), (14, true), (16, false)] {
        let app = App::new(Handler::with(SWR));
        app.get("/a").await;
        app.advance_secs(after_secs);
        let purge = app.purger.purge([Purge::uri(uri("/a"))], PurgeMode::Soft);
        purge.await.unwrap();
        let seen = app.get("/a").await;
        assert_eq!(seen.body == "call 1", is_shown, "{after_secs}");
        let_all_run().await;
        // The first request has had it refreshed for all.
        assert_eq!(app.get("/a").await.body, "call 2");
        assert_eq!(app.handler.calls(), 2);
    }
}

#[tokio::test]
async fn hard_purge_disables_stale_if_error() {
    for (mode, stands_in) in [(PurgeMode::Soft, true), (PurgeMode::Hard, false)] {
        let app = App::new(failing_after_one(&[(
            "cache-control",
            "max-age=10, stale-if-error=5, stale-while-revalidate=5",
        )]));
        app.get("/a").await;
        app.purger.purge([Purge::All], mode).await.unwrap();
        assert_eq!(app.get("/a").await.body == "call 1", stands_in);
    }
}

fn uri(path: &str) -> http::Uri {
    path.parse().unwrap()
}
