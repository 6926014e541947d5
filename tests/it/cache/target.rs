//! The URL of a request: the one that the client sent, in every spelling that names it.

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use portcullis::{
    ClientUri, ManualClock,
    cache::{CacheLayer, CachePolicy, Purge, PurgeMode},
    store::MemoryStore,
};
use tower::{ServiceBuilder, util::BoxCloneService};

use super::{
    cache::{App, Handler, response_with},
    leaks::{Client, body, holds, responder, with_fields},
};
use crate::support::{get, request};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// Makes a request with a `Host` field, if there is one.
fn to(method: Method, (uri, host): (&str, &str)) -> Request<Full<Bytes>> {
    let mut request = request(method, uri);
    if !host.is_empty() {
        request.headers_mut().insert("host", host.parse().unwrap());
    }
    request
}

/// The URIs of one resource whose scheme is known, each with its `Host` field.
const OF_HTTP: [(&str, &str); 8] = [
    ("http://h/e", ""),
    ("http://h/e", "h"),
    ("http://h/e", "h:80"),
    ("http://h/e", "h:"),
    ("http://h:80/e", ""),
    ("http://h:80/e", "H"),
    ("http://h:/e", "h:080"),
    ("http://H:0080/e", "h"),
];

const OF_HTTPS: [(&str, &str); 4] = [
    ("https://h/e", ""),
    ("https://h/e", "h:443"),
    ("https://h:443/e", "h"),
    ("https://h:/e", "h"),
];

/// The same resource where its scheme is not known.
const OF_ORIGIN: [(&str, &str); 5] = [
    ("/e", "h"),
    ("/e", "h:80"),
    ("/e", "h:443"),
    ("/e", "h:"),
    ("/e", "h:0080"),
];

#[tokio::test]
async fn default_port_of_a_known_scheme_is_not_a_second_resource() {
    for spellings in [&OF_HTTP[..], &OF_HTTPS] {
        let app = App::new(Handler::with(FRESH));
        for spelling in spellings {
            let seen = app.send(to(Method::GET, *spelling)).await;
            assert_eq!(seen.body, "call 1", "{spelling:?}");
        }
        let others = [
            ("http://h:443/e", "h:443"),
            ("https://h:80/e", "h:80"),
            ("http://h:8080/e", "h:8080"),
            ("/e", "h"),
        ];
        for other in others {
            assert!(
                !app.send(to(Method::GET, other)).await.is_hit(),
                "{other:?}"
            );
        }
    }
}

#[tokio::test]
async fn host_that_contradicts_the_target_still_bypasses() {
    let app = App::new(Handler::with(FRESH));
    for contradicting in [
        ("http://h/e", "h:443"),
        ("https://h/e", "h:80"),
        ("http://h/e", "h:8080"),
        ("http://h/e", "evil"),
        ("http://h/e", "h:80:80"),
        ("http://user@h/e", "user@h"),
        ("/e", "user@h"),
    ] {
        let seen = app.send(to(Method::GET, contradicting)).await;
        let expected = "portcullis; fwd=bypass; detail=authority";
        assert_eq!(seen.cache_status(), expected, "{contradicting:?}");
    }
}

fn all_spellings() -> impl Iterator<Item = (&'static str, &'static str)> {
    OF_HTTP.into_iter().chain(OF_HTTPS).chain(OF_ORIGIN)
}

#[tokio::test]
async fn unsafe_request_invalidates_every_spelling_of_its_port() {
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let app = App::new(Handler::with(FRESH));
        for changed in all_spellings() {
            for shown in all_spellings() {
                app.send(to(Method::GET, shown)).await;
            }
            app.send(to(method.clone(), changed)).await;
            let mut seen = Vec::new();
            for shown in [OF_HTTP[0], OF_HTTPS[0]].into_iter().chain(OF_ORIGIN) {
                seen.push(app.send(to(Method::GET, shown)).await.is_hit());
            }
            assert!(!seen.contains(&true), "{method} {changed:?}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn purge_reaches_every_spelling_of_a_url() {
    let spellings = [
        "/a%2Fb/c?d=e",
        "/a%2fb/c?d=e",
        "/%61%2Fb/c?d=e",
        "/a%2Fb/%63?%64=e",
    ];
    for purged in [
        "http://h/a%2Fb/c?d=e",
        "http://H:80/a%2fb/c?d=e",
        "https://h:443/%61%2Fb/%63?d=%65",
        "http://h:/a%2Fb/c?d=e",
    ] {
        let app = App::new(Handler::with(FRESH));
        for (path, host) in spellings
            .iter()
            .flat_map(|path| [(*path, "h"), (*path, "h:80")])
        {
            let ask = || app.send(to(Method::GET, (path, host)));
            assert!(
                !ask().await.is_hit(),
                "{path}: each spelling has its own response"
            );
            assert!(ask().await.is_hit());
            for other in [
                "http://h/a/b/c?d=e",
                "http://h:8080/a%2Fb/c?d=e",
                "http://h/a%2Fb/c",
            ] {
                purge(&app, other, PurgeMode::Hard).await;
            }
            assert!(ask().await.is_hit(), "{path} was purged by another URL");
        }
        purge(&app, purged, PurgeMode::Hard).await;
        for (path, host) in spellings
            .iter()
            .flat_map(|path| [(*path, "h"), (*path, "h:80")])
        {
            let seen = app.send(to(Method::GET, (path, host))).await;
            assert!(
                !seen.is_hit(),
                "{path} at {host} outlived the purge of {purged}"
            );
        }
    }
}

#[tokio::test]
async fn soft_purge_reaches_every_spelling_of_a_url() {
    let app = App::new(Handler::new(|request, call| {
        let tag = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
        let mut response = response_with(&tag, format!("call {call}"));
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response
    }));
    app.send(to(Method::GET, ("/%61", "h:80"))).await;
    purge(&app, "http://h/a", PurgeMode::Soft).await;
    let seen = app.send(to(Method::GET, ("/%61", "h:80"))).await;
    assert!(
        seen.cache_status().contains("fwd=stale"),
        "{}",
        seen.cache_status()
    );
}

async fn purge(app: &App, uri: &str, mode: PurgeMode) {
    let uri = Purge::uri(uri.parse().unwrap());
    app.purger.purge([uri], mode).await.unwrap();
}

#[tokio::test]
async fn location_is_normalized_before_it_invalidates() {
    for field in ["location", "content-location"] {
        for (host, reference, is_ours) in [
            ("h", "/%61", true),
            ("h:80", "http://h/a", true),
            ("h", "http://h:80/%61", true),
            ("h", "http://h:/a", true),
            ("h:443", "https://h/a", true),
            ("h:443", "//h/a", true),
            ("h", "//h:443/a", true),
            ("h", "/x/%2e%2E/a", true),
            ("h", "%2E/a", true),
            ("h", "/%2561", false),
            ("h", "/%41", false),
            ("h", "http://h:8080/a", false),
            ("h", "http://i/a", false),
        ] {
            let app = App::new(Handler::new(move |request, call| {
                let mut response = response_with(FRESH, format!("call {call}"));
                if request.method() == Method::POST {
                    let value = reference.parse().unwrap();
                    response.headers_mut().insert(field, value);
                }
                response
            }));
            for spelling in ["/a", "/%61"] {
                app.send(to(Method::GET, (spelling, host))).await;
            }
            app.send(to(Method::POST, ("/new", host))).await;
            for spelling in ["/a", "/%61"] {
                let seen = app.send(to(Method::GET, (spelling, host))).await;
                assert_eq!(!seen.is_hit(), is_ours, "{field} {host} {reference}");
            }
        }
    }
}

#[tokio::test]
async fn post_is_stored_if_content_location_is_equivalent_to_its_target() {
    for (target, reference, is_kept) in [
        ("/%61?b", "/a?b", true),
        ("/a?b", "/%61?%62", true),
        ("/a%2fb", "/a%2Fb", true),
        ("/a/b", "/a%2Fb", false),
        ("/a", "/%41", false),
    ] {
        let clock = ManualClock::default();
        let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone())).cache_posts(true);
        let handler = Handler::new(move |_, call| {
            let mut response = response_with(FRESH, format!("call {call}"));
            let value = reference.parse().unwrap();
            response.headers_mut().insert("content-location", value);
            response
        });
        let app = App::built(handler, clock, builder);
        app.send(request(Method::POST, target)).await;
        assert_eq!(
            app.get(target).await.is_hit(),
            is_kept,
            "{target} {reference}"
        );
    }
}

/// Strips the first segment of the path, as an outer layer can, and declares it if `says_so`.
fn stripped(client: Client, says_so: bool) -> Client {
    let strip = move |mut request: Request<Full<Bytes>>| {
        let sent = request.uri().clone();
        let at = sent.path()[1..].find('/').unwrap() + 1;
        let path_and_query = sent.path_and_query().unwrap().as_str();
        *request.uri_mut() = path_and_query[at..].parse().unwrap();
        if says_so {
            request.extensions_mut().insert(ClientUri(sent));
        }
        request
    };
    BoxCloneService::new(ServiceBuilder::new().map_request(strip).service(client))
}

/// Answers with the path that the client sent.
fn echo_sent() -> Client {
    responder(|request| {
        let sent = request.extensions().get::<ClientUri>();
        let sent = sent.map_or_else(|| request.uri().clone(), |sent| sent.0.clone());
        with_fields(FRESH, sent.to_string())
    })
}

#[tokio::test]
async fn rewriting_layer_that_names_the_clients_uri_mixes_nothing() {
    holds(|cached| async move {
        let client = stripped(cached(echo_sent()), true);
        let one = body(&client, get("/acme/orders")).await;
        one == "/acme/orders" && body(&client, get("/globex/orders")).await == "/globex/orders"
    })
    .await;
}

#[tokio::test]
async fn purge_and_unsafe_requests_go_by_the_clients_uri() {
    let app = App::new(Handler::with(FRESH));
    let ask = |method: Method, sent: &'static str| {
        let mut request = to(method, ("/orders", "h"));
        let sent = ClientUri(Uri::from_static(sent));
        request.extensions_mut().insert(sent);
        app.send(request)
    };
    ask(Method::GET, "/acme/orders").await;
    ask(Method::GET, "/globex/orders").await;
    purge(&app, "http://h/orders", PurgeMode::Hard).await;
    assert!(ask(Method::GET, "/acme/orders").await.is_hit());
    ask(Method::POST, "/acme/orders").await;
    assert!(!ask(Method::GET, "/acme/orders").await.is_hit());
    assert!(ask(Method::GET, "/globex/orders").await.is_hit());
    purge(&app, "http://h/globex/orders", PurgeMode::Hard).await;
    assert!(!ask(Method::GET, "/globex/orders").await.is_hit());
    // The authority of the client's URI is the one that `Host` must not contradict.
    let status = ask(Method::GET, "http://i/acme/orders").await;
    assert_eq!(
        status.cache_status(),
        "portcullis; fwd=bypass; detail=authority"
    );
}

#[tokio::test]
async fn query_policy_narrows_the_clients_uri_too() {
    let app = App::configured(
        Handler::new(|request, _| response_with(FRESH, request.uri().to_string())),
        |builder| builder.policy(CachePolicy::new().query(["page"])),
    );
    let ask = |seen: &'static str, sent: &'static str| {
        let mut request = to(Method::GET, (seen, "h"));
        let sent = ClientUri(Uri::from_static(sent));
        request.extensions_mut().insert(sent);
        app.send(request)
    };
    let first = ask("/orders?page=1&x", "/acme/orders?page=1&x").await;
    assert_eq!(first.body, "/orders?page=1");
    assert!(
        ask("/orders?page=1&y", "/acme/orders?page=1&y")
            .await
            .is_hit()
    );
    assert!(
        !ask("/orders?page=1", "/globex/orders?page=1")
            .await
            .is_hit()
    );
}
