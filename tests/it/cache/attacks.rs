//! Attacks on caches: each named class that `cache_leaks` does not cover.
//!
//! Each probe must fail against the cache. If a control adds evidence, the probe also runs against
//! a deliberately vulnerable cache and must succeed there.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    ManualClock, StoreFuture,
    cache::{CacheLayer, CachePolicy, CacheStore, Purge, PurgeMode},
    store::{
        MemoryStore, StoreKeys,
        backend::{CacheKey, Lookup, PurgeTarget, Put, PutOutcome, Selection, Touch},
    },
};
use tower::{Layer, ServiceExt, service_fn};

use super::{
    cache::{App, Handler, caller, get_as, get_with, response_with},
    leaks::{Client, body, handler, holds, responder, with_fields},
};
use crate::support::{get, request};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// Answers with all of its target.
fn echo() -> Client {
    responder(|request| with_fields(FRESH, request.uri().to_string()))
}

#[tokio::test]
async fn a_page_that_looks_like_a_file_is_no_more_public_for_that() {
    // Deception: a victim is led to its account under a name that ends as a style sheet's does.
    for path in [
        "/account/x.css",
        "/account;.js",
        "/account%2f..%2fstatic.png",
        "/account/.jpg",
    ] {
        for fields in [&[][..], FRESH] {
            holds(|cached| async move {
                let client = cached(handler(fields));
                let secret = [("cookie", "session=victim")];
                let victim = body(&client, get_with(path, &secret)).await;
                body(&client, get(path)).await != victim
            })
            .await;
        }
        let app = App::new(Handler::with(&[]));
        app.get(path).await;
        assert!(
            !app.get(path).await.is_hit(),
            "{path} was stored because of its name"
        );
    }
}

#[tokio::test]
async fn paths_that_a_server_may_take_for_one_are_several() {
    let app = App::new(Handler::with(FRESH));
    let paths = [
        "/a/b",
        "/a//b",
        "/a%2fb",
        "/a%2Fb",
        "/a/./b",
        "/a/x/../b",
        "/a/%2e/b",
        "/A/b",
        "/a/b/",
        "/a/b%00",
        "/a/b;x",
        "/a/b?",
        "/a/b%3f",
    ];
    for (call, path) in (1..).zip(paths) {
        assert_eq!(app.get(path).await.body, format!("call {call}"), "{path}");
    }
    for (call, path) in (1..).zip(paths) {
        assert_eq!(app.get(path).await.body, format!("call {call}"), "{path}");
    }
}

#[tokio::test]
async fn rerouting_fields_do_not_poison_the_cache() {
    for name in [
        "x-forwarded-host",
        "x-forwarded-path",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-protocol",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-forwarded-uri",
        "x-forwarded-user",
        "x-host",
        "x-http-host-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
        "x-scheme",
        "x-script-name",
        "x-url-scheme",
        "front-end-https",
        "forwarded",
        "x_forwarded_host",
        "x-forwarded_host",
        "front_end_https",
    ] {
        holds(|cached| async move {
            let client = cached(responder(move |request| {
                let value = request.headers().get(name);
                with_fields(FRESH, format!("<script src=//{value:?}>"))
            }));
            let evil = body(&client, get_with("/a", &[(name, "host=evil.example")])).await;
            body(&client, get("/a")).await != evil
        })
        .await;
    }
}

/// Reads a host from `Forwarded` as lenient parsers do: without regard to quotes, with any space.
fn lenient_host(request: &Request<Full<Bytes>>) -> Option<String> {
    let lines = request.headers().get_all("forwarded").iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split([',', ';']));
    pairs.find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_host = name.trim().eq_ignore_ascii_case("host");
        is_host.then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[tokio::test]
async fn host_in_forwarded_does_not_poison_the_cache() {
    for lines in [
        &["host=evil"][..],
        &["host =evil, for=203.0.113.66"],
        &["for=203.0.113.66;host= evil"],
        &["for=203.0.113.66, HOST\t=\t\"evil\""],
        &["for=\"203.0.113.66;host=evil\""],
        &["for=\"203.0.113.66, host=evil\""],
        &["for=203.0.113.66\";host=evil"],
        &["by=_a;host=evil;for=_b"],
        &["for=203.0.113.66", "host=evil"],
    ] {
        holds(|cached| async move {
            let client = cached(responder(|request| {
                let host = lenient_host(request).unwrap_or("good".to_owned());
                with_fields(FRESH, format!("<script src=//{host}>"))
            }));
            let fields: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            let evil = body(&client, get_with("/a", &fields)).await;
            assert_eq!(evil, "<script src=//evil>", "{lines:?}");
            let plain = [
                get("/a"),
                get_with("/a", &[("forwarded", "for=198.51.100.7")]),
            ];
            let mut is_good = true;
            for request in plain {
                is_good &= body(&client, request).await == "<script src=//good>";
            }
            is_good
        })
        .await;
    }
}

#[tokio::test]
async fn addresses_in_forwarded_fields_make_no_second_response() {
    let app = App::new(Handler::with(FRESH));
    for name in [
        "x-forwarded-for",
        "x-forwarded-by",
        "x-original-forwarded-for",
        "x-real-ip",
    ] {
        app.get("/a").await;
        let seen = app.send(get_with("/a", &[(name, "203.0.113.66")])).await;
        assert_eq!(seen.body, "call 1", "{name}");
    }
    for value in [
        "for=1.2.3.4;proto=http",
        "for=5.6.7.8; proto=http",
        "by=_a;proto=http",
    ] {
        let seen = app.send(get_with("/a", &[("forwarded", value)])).await;
        assert_eq!(seen.body, "call 2", "{value}");
    }
}

#[tokio::test]
async fn purge_by_url_reaches_responses_to_rerouted_requests() {
    let app = App::new(Handler::with(FRESH));
    let routed = || {
        get_with(
            "http://h/a",
            &[("x-forwarded-host", "i"), ("forwarded", "host=i")],
        )
    };
    app.send(routed()).await;
    assert!(app.send(routed()).await.is_hit());
    let url = Purge::uri("http://h/a".parse().unwrap());
    app.purger.purge([url], PurgeMode::Hard).await.unwrap();
    assert!(!app.send(routed()).await.is_hit());
}

/// Removes what `Connection` lists, as a proxy does before it forwards, then answers for the site,
/// the language and the tenant that are left.
fn forwarding() -> Client {
    responder(|request| {
        let listed = request.headers().get_all("connection").iter();
        let listed = listed.filter_map(|line| line.to_str().ok());
        let listed: Vec<_> = listed
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .collect();
        let seen = ["host", "accept-language", "x-tenant"].map(|name| {
            let is_listed = listed
                .iter()
                .any(|option| option.eq_ignore_ascii_case(name));
            let value = request.headers().get(name).filter(|_| !is_listed);
            value.map_or("default", |value| value.to_str().unwrap())
        });
        let mut response = with_fields(FRESH, seen.join(" "));
        let vary = http::HeaderValue::from_static("accept-language");
        response.headers_mut().insert("vary", vary);
        response
    })
}

const SHOP: [(&str, &str); 3] = [
    ("host", "shop.example"),
    ("accept-language", "de"),
    ("x-tenant", "acme"),
];

#[tokio::test]
async fn fields_listed_in_connection_do_not_poison_the_cache() {
    for lines in [
        &["host"][..],
        &["close, host"],
        &["close", "HOST"],
        &["Accept-Language"],
        &["keep-alive,\tx-tenant ,"],
        &["te", "upgrade", "x-tenant"],
    ] {
        for method in [Method::GET, Method::HEAD] {
            holds(|cached| {
                let method = method.clone();
                async move {
                    let client = cached(forwarding());
                    let connection = lines.iter().map(|line| ("connection", *line));
                    let fields: Vec<_> = SHOP.into_iter().chain(connection).collect();
                    let mut evil = get_with("/a", &fields);
                    *evil.method_mut() = method;
                    evil.extensions_mut().insert(by_tenant());
                    body(&client, evil).await;
                    let mut victim = get_with("/a", &SHOP);
                    victim.extensions_mut().insert(by_tenant());
                    body(&client, victim).await == "shop.example de acme"
                }
            })
            .await;
        }
    }
}

fn by_tenant() -> CachePolicy {
    CachePolicy::new().vary_by([http::HeaderName::from_static("x-tenant")])
}

#[tokio::test]
async fn request_with_a_connection_option_is_neither_answered_from_the_store_nor_stored() {
    let app = App::new(Handler::with(FRESH));
    app.get("/a").await;
    let listed = || get_with("/a", &[("connection", "close, x-any")]);
    for _ in 0..2 {
        let seen = app.send(listed()).await;
        let expected = "portcullis; fwd=bypass; detail=connection-option";
        assert_eq!(seen.cache_status(), expected);
    }
    assert_eq!(app.get("/a").await.body, "call 1");
    for harmless in ["close", "Keep-Alive, TE", "upgrade, http2-settings", ""] {
        let seen = app.send(get_with("/a", &[("connection", harmless)])).await;
        assert!(seen.is_hit(), "{harmless}");
    }
}

#[tokio::test]
async fn post_that_bypasses_the_cache_is_not_stored_for_get() {
    for field in [
        ("connection", "host"),
        ("x-http-method-override", "PUT"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "PATCH"),
        ("x_http_method_override", "DELETE"),
        ("upgrade", "websocket"),
        ("content-type", "application/grpc"),
        ("accept", "text/event-stream"),
    ] {
        let posted = [("cache-control", "max-age=60"), ("content-location", "/a")];
        for is_fat in [false, true] {
            let clock = ManualClock::default();
            let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone())).cache_posts(true);
            let app = App::built(
                Handler::new(move |_, _| response_with(&posted, "")),
                clock,
                builder,
            );
            let post = |fields: &[(&'static str, &'static str)]| {
                let mut post = get_with("/a", fields);
                *post.method_mut() = Method::POST;
                *post.body_mut() = Full::from(if is_fat { "x" } else { "" });
                post
            };
            app.send(post(&[field])).await;
            assert!(!app.get("/a").await.is_hit(), "{field:?}");
            app.send(post(&[])).await;
            assert!(app.get("/a").await.is_hit(), "{field:?}");
            // A resource that the request changed is invalidated regardless.
            app.send(post(&[field])).await;
            assert!(!app.get("/a").await.is_hit(), "{field:?}");
        }
    }
}

#[tokio::test]
async fn another_method_in_a_field_is_not_answered_for_get() {
    for name in [
        "x-http-method",
        "x-http-method-override",
        "x-method",
        "x-method-override",
        "x_http_method_override",
    ] {
        holds(|cached| async move {
            let client = cached(responder(move |request| {
                let mut response = with_fields(FRESH, "page".to_owned());
                if request.headers().contains_key(name) {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                response
            }));
            body(&client, get_with("/a", &[(name, "HEAD")])).await;
            client.oneshot(get("/a")).await.unwrap().status() == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn value_that_is_no_list_fills_no_other_values_variant() {
    for (name, fills) in [
        ("origin", &["https://app.example,"][..]),
        ("origin", &[",https://app.example"]),
        ("origin", &["https://app.example", ""]),
        ("origin", &["", "https://app.example"]),
        ("x-tenant", &["https://app.example ,"]),
        ("user-agent", &["https://app.example,,"]),
        ("accept", &["https://app.example,"]),
    ] {
        holds(|cached| async move {
            // As a CORS layer does: the whole value of the one line, or nothing.
            let client = cached(responder(move |request| {
                let mut lines = request.headers().get_all(name).iter();
                let only = lines.next().filter(|_| lines.next().is_none());
                let is_known = only.is_some_and(|line| line == "https://app.example");
                let mut response = with_fields(FRESH, format!("{name} {is_known}"));
                response.headers_mut().insert("vary", name.parse().unwrap());
                response
            }));
            let lines: Vec<_> = fills.iter().map(|line| (name, *line)).collect();
            body(&client, get_with("/a", &lines)).await;
            let site = get_with("/a", &[(name, "https://app.example")]);
            body(&client, site).await == format!("{name} true")
        })
        .await;
    }
}

#[tokio::test]
async fn lists_are_compared_by_their_members_and_other_fields_by_their_bytes() {
    for (name, is_list) in [
        ("accept", true),
        ("accept-charset", true),
        ("accept-encoding", true),
        ("accept-language", true),
        ("cache-control", true),
        ("x-list", true),
        ("user-agent", false),
        ("x-tenant", false),
    ] {
        let app = App::configured(
            Handler::new(move |_, call| {
                let mut response = response_with(FRESH, format!("call {call}"));
                response.headers_mut().insert("vary", name.parse().unwrap());
                response
            }),
            |builder| builder.list_header("x-list"),
        );
        app.send(get_with("/a", &[(name, "a, b")])).await;
        for lines in [&["a,b"][..], &["a", "b"], &["a ,\tb"]] {
            let fields: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
            let seen = app.send(get_with("/a", &fields)).await;
            assert_eq!(seen.is_hit(), is_list, "{name} {lines:?}");
        }
    }
    let builder = CacheLayer::secure(MemoryStore::new()).list_header("no name");
    let error = builder.build().unwrap_err().to_string();
    assert!(error.contains("list_header"), "{error}");
}

#[tokio::test]
async fn a_parameter_cannot_be_cloaked() {
    // No query is served the response to another one, however a framework parses them.
    let queries = [
        "a=1",
        "a=1&a=2",
        "a=2&a=1",
        "a=1;a=2",
        "a=1&utm_content=x;a=2",
        "a=1&utm_content=x",
        "a=1&%61=2",
        "a=1%26a=2",
        "a[]=1",
        "a=1&",
        "&a=1",
        "a=1#",
        "A=1",
        "a=1+",
        "a=1%20",
        "a=1?a=2",
    ];
    holds(|cached| async move {
        let client = cached(echo());
        let mut seen = BTreeSet::new();
        for query in queries.iter().filter(|query| !query.contains('#')) {
            let uri = format!("/a?{query}");
            seen.insert(body(&client, get(&uri)).await);
            if body(&client, get(&uri)).await != uri {
                return false;
            }
        }
        seen.len() == queries.len() - 1
    })
    .await;
}

#[tokio::test]
async fn a_get_with_a_body_is_neither_answered_from_the_store_nor_kept() {
    fn fat() -> Request<Full<Bytes>> {
        Request::get("/a").body(Full::from("poison")).unwrap()
    }
    holds(|cached| async move {
        let client = cached(echo_body());
        let poisoned = body(&client, fat()).await;
        let clean = body(&client, get("/a")).await;
        clean != poisoned && body(&client, fat()).await == poisoned
    })
    .await;
}

/// Answers with the request's body.
fn echo_body() -> Client {
    Client::new(service_fn(async |request: Request<Full<Bytes>>| {
        let sent = request.into_body().collect().await?.to_bytes();
        let response = with_fields(FRESH, format!("{sent:?}"));
        Ok::<_, Infallible>(response.map(|text| Full::from(text).boxed_unsync()))
    }))
}

#[tokio::test]
async fn request_induced_errors_are_not_stored() {
    for status in [
        400, 401, 403, 405, 406, 407, 408, 409, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425,
        426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 511, 599,
    ] {
        let app = App::new(Handler::new(move |request, _| {
            let mut response = response_with(FRESH, "");
            if request.headers().contains_key("x-oversized") {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            response
        }));
        let provoked = app.send(get_with("/a", &[("x-oversized", "x")])).await;
        assert_eq!(provoked.status.as_u16(), status);
        assert_eq!(
            app.get("/a").await.status,
            StatusCode::OK,
            "{status} was kept"
        );
    }
}

#[tokio::test]
async fn failed_conditions_and_ranges_are_not_stored_for_others() {
    for (field, status, reason) in [
        (("range", "bytes=99-"), 416, "range"),
        (("if-match", "\"x\""), 412, "condition"),
        (("expect", "x"), 417, "condition"),
    ] {
        // Neither the profile `rfc` nor a route that opts in to this status stores the response.
        let code = StatusCode::from_u16(status).unwrap();
        let policy = CachePolicy::new().cache_status_code(code, Duration::from_secs(60));
        let app = App::rfc(Handler::new(move |request, _| {
            let mut response = response_with(FRESH, "");
            if request.headers().contains_key(field.0) {
                *response.status_mut() = code;
            }
            response
        }));
        for policy in [None, Some(policy)] {
            let mut asked = get_with("/a", &[field]);
            if let Some(policy) = policy {
                asked.extensions_mut().insert(policy);
            }
            let provoked = app.send(asked).await;
            let refused = format!("portcullis; fwd=uri-miss; detail={reason}");
            assert_eq!(
                (provoked.status, provoked.cache_status()),
                (code, &*refused)
            );
        }
        assert_eq!(
            app.get("/a").await.status,
            StatusCode::OK,
            "{status} was kept"
        );
    }
}

#[tokio::test]
async fn a_range_that_is_refused_from_the_store_is_not_cacheable() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("cdn-cache-control", "max-age=60"),
        ("expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("etag", "\"1\""),
    ]));
    app.get("/a").await;
    for (field, status) in [(("range", "bytes=99-"), 416)] {
        let seen = app.send(get_with("/a", &[field])).await;
        assert_eq!((seen.status.as_u16(), seen.is_hit()), (status, true));
        for name in ["cache-control", "cdn-cache-control", "expires"] {
            assert_eq!(seen.header(name), None, "{status}");
        }
    }
}

#[tokio::test]
async fn responses_with_per_client_fields_are_not_stored() {
    for name in [
        "set-cookie",
        "set-cookie2",
        "clear-site-data",
        "www-authenticate",
        "authentication-info",
    ] {
        let app = App::new(Handler::new(move |_, call| {
            let mut response = response_with(FRESH, format!("call {call}"));
            response
                .headers_mut()
                .insert(name, http::HeaderValue::from_static("x"));
            response
        }));
        app.get("/a").await;
        assert_eq!(app.get("/a").await.body, "call 2", "{name} was kept");
    }
}

#[tokio::test]
async fn responses_that_vary_by_credentials_are_not_shared() {
    for by in [
        "authorization",
        "Cookie",
        "accept, X-API-Key",
        "*",
        "accept, *",
    ] {
        let app = App::configured(
            Handler::new(move |_, call| {
                let mut response = response_with(
                    &[("cache-control", "public, max-age=60")],
                    format!("call {call}"),
                );
                response.headers_mut().insert("vary", by.parse().unwrap());
                response
            }),
            |builder| builder.share_public_responses(true),
        );
        app.get("/a").await;
        assert!(!app.get("/a").await.is_hit(), "`Vary: {by}` was shared");
    }
}

#[tokio::test]
async fn cache_does_not_reveal_requests_of_other_callers() {
    let app = App::new(Handler::with(FRESH));
    let (victim, spy) = (caller("victim"), caller("spy"));
    app.send(get_as("/a", &victim)).await;
    assert!(app.send(get_as("/a", &victim)).await.is_hit());
    // Requested and unrequested paths look the same and cost the same.
    for path in ["/a", "/b"] {
        let seen = app.send(get_as(path, &spy)).await;
        assert_eq!(
            seen.cache_status(),
            "portcullis; fwd=uri-miss; stored; ttl=60"
        );
        assert_eq!(seen.header("age"), None);
    }
    let silent = App::configured(Handler::with(FRESH), |builder| {
        builder.without_cache_status()
    });
    silent.get("/a").await;
    assert_eq!(silent.get("/a").await.header("cache-status"), None);
}

/// A store that records the keys of its lookups.
#[derive(Clone)]
struct Telling(MemoryStore, Arc<Mutex<Vec<CacheKey>>>);

impl CacheStore for Telling {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.0)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.1.lock().unwrap().push(*key);
        self.0.get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.0.put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        CacheStore::touch(&self.0, touch)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.0, targets, mode)
    }
}

#[tokio::test]
async fn cache_key_discloses_nothing_and_depends_on_the_secret() {
    let keys = async |path: &str| {
        let store = Telling(MemoryStore::new(), Arc::default());
        let layer = CacheLayer::new(store.clone());
        let service = layer.layer(Handler::with(FRESH));
        service.oneshot(get(path)).await.unwrap();
        let asked = store.1.lock().unwrap();
        asked[0]
    };
    let (one, two) = (keys("/secret").await, keys("/secret").await);
    assert!(!format!("{one:?}").contains("secret"));
    // Another secret yields other keys: trying URIs does not reveal the requested ones.
    assert_ne!(one.full(), two.full());
    assert_ne!(one.uri(), two.uri());
}

#[tokio::test]
async fn many_ranges_cost_no_more_than_the_whole() {
    let app = App::new(Handler::new(|_, _| {
        response_with(FRESH, vec![b'x'; 10_000])
    }));
    app.get("/a").await;
    let many = (0..1_300)
        .map(|from| format!("{from}-"))
        .collect::<Vec<_>>()
        .join(",");
    for asked in [
        &format!("bytes={many}"),
        "bytes=0-,0-,0-",
        "bytes=0-0,-1",
        "bytes=-,",
    ] {
        let mut request = get("/a");
        request
            .headers_mut()
            .insert("range", asked.parse().unwrap());
        let seen = app.send(request).await;
        assert!(
            seen.body.len() <= 10_000,
            "{} bytes for a few",
            seen.body.len()
        );
        assert_eq!(seen.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_range_that_is_not_stored_is_no_reason_to_fetch_the_whole() {
    let app = App::new(Handler::new(|request, _| {
        let asked = request.headers().get("range").unwrap().to_str().unwrap();
        assert_eq!(
            asked, "bytes=0-0",
            "the handler was asked for more than the client"
        );
        let mut response = response_with(FRESH, "x");
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response
            .headers_mut()
            .insert("content-range", "bytes 0-0/1000000000".parse().unwrap());
        response
    }));
    let seen = app.send(get_with("/a", &[("range", "bytes=0-0")])).await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::PARTIAL_CONTENT, "x")
    );
}

#[tokio::test]
async fn a_flood_of_urls_does_not_drive_out_what_is_asked_for_often() {
    let store = MemoryStore::builder()
        .max_cache_bytes(4 << 20)
        .max_rate_limit_partitions(1)
        .build()
        .unwrap();
    let app = App::built(
        Handler::new(|_, _| response_with(FRESH, vec![b'x'; 1_000])),
        portcullis::ManualClock::default(),
        CacheLayer::secure(store),
    );
    let hot: Vec<_> = (0..100).map(|number| format!("/hot/{number}")).collect();
    for _ in 0..3 {
        for path in &hot {
            app.get(path).await;
        }
    }
    let (mut hits, mut asked) = (0, 0);
    for number in 0..20_000 {
        app.get(&format!("/?bust={number}")).await;
        if number % 4 == 0 {
            asked += 1;
            hits += usize::from(app.get(&hot[number / 4 % hot.len()]).await.is_hit());
        }
    }
    assert!(
        hits * 10 >= asked * 9,
        "only {hits} of {asked} were still there"
    );
}

#[tokio::test]
async fn reloads_and_unknown_credentials_do_not_bypass_the_cache_of_others() {
    let app = App::new(Handler::with(FRESH));
    assert_eq!(app.get("/a").await.body, "call 1");
    for fields in [
        &[("cache-control", "no-cache")][..],
        &[("cache-control", "no-store, max-age=0")],
        &[("pragma", "no-cache")],
        &[("cache-control", "only-if-cached")],
    ] {
        assert_eq!(
            app.send(get_with("/a", fields)).await.body,
            "call 1",
            "{fields:?}"
        );
    }
    // An unknown credential reaches the handler, and does not affect other requests.
    app.send(get_with("/a", &[("authorization", "junk")])).await;
    assert_eq!(app.get("/a").await.body, "call 1");
    // Nor does a method that is safe, or one that is refused.
    app.send(request(Method::OPTIONS, "/a")).await;
    assert_eq!(app.get("/a").await.body, "call 1");
}

#[tokio::test]
async fn cache_tags_and_hop_by_hop_fields_reach_no_client() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("surrogate-key", "internal"),
        ("cache-tag", "internal"),
        ("connection", "x-hop, close"),
        ("x-hop", "1"),
        ("keep-alive", "5"),
        ("proxy-authenticate", "Basic"),
    ]));
    app.get("/a").await;
    let hit = app.get("/a").await;
    assert!(hit.is_hit());
    for name in [
        "surrogate-key",
        "cache-tag",
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
    ] {
        assert_eq!(hit.header(name), None, "{name} was given again");
    }
}

#[tokio::test]
async fn cache_tags_are_removed_from_responses_that_are_not_stored() {
    let app = App::new(Handler::new(|request, _| {
        let tags = ("surrogate-key", "internal");
        if request.headers().contains_key("if-none-match") {
            let mut response = response_with(&[tags, ("cache-control", "no-store")], "");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        response_with(
            &[tags, ("cache-control", "max-age=10"), ("etag", "\"1\"")],
            "x",
        )
    }));
    app.get("/a").await;
    app.advance_secs(10);
    for asked in [
        get("/a"),
        request(Method::HEAD, "/b"),
        request(Method::POST, "/b"),
        request(Method::OPTIONS, "/b"),
        get_with("/b", &[("cookie", "a=1")]),
    ] {
        let said = format!("{asked:?}");
        let seen = app.send(asked).await;
        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(seen.header("surrogate-key"), None, "{said}");
    }
}

/// A body that breaks off.
#[derive(Clone, Copy)]
struct BreaksOff {
    begun: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("broken off")]
struct BrokenOff;

impl Body for BreaksOff {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.begun {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        self.begun = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half")))))
    }
}

#[tokio::test]
async fn aborted_body_is_not_stored() {
    let handler = service_fn(async |_: Request<Full<Bytes>>| {
        let mut response = Response::new(BreaksOff { begun: false });
        let fresh = http::HeaderValue::from_static("max-age=60");
        response.headers_mut().insert("cache-control", fresh);
        Ok::<_, Infallible>(response)
    });
    let service = CacheLayer::new(MemoryStore::new()).layer(handler);
    for _ in 0..2 {
        let response = service.clone().oneshot(get("/a")).await.unwrap();
        let status = response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(!status.contains("; hit"), "{status}");
        let error = response.into_body().collect().await.unwrap_err();
        assert!(error.is::<BrokenOff>(), "{error}");
    }
}
