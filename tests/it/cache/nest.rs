//! The cache inside of axum routers that rewrite the URI: nested routers and services.
//!
//! A control removes axum's `OriginalUri` in front of the cache, and must mix up the responses that
//! the test separates.

use axum::{
    Router,
    body::Body,
    extract::{OriginalUri, Path},
    http::{Request, Response, Uri},
    response::IntoResponse,
    routing::get,
};
use http::{HeaderMap, Method, StatusCode};
use portcullis::{
    ManualClock,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, KeySource, NewKey, Pepper},
    cache::{CacheLayer, CachePolicy, CachePurger, Purge, PurgeMode},
    store::MemoryStore,
};
use tower::{ServiceBuilder, ServiceExt};

const FRESH: [(&str, &str); 1] = [("cache-control", "max-age=60")];

struct Seen {
    headers: HeaderMap,
    status: StatusCode,
    body: String,
}

impl Seen {
    fn is_hit(&self) -> bool {
        let status = self.headers.get("cache-status");
        status.is_some_and(|status| status.to_str().unwrap().contains("; hit"))
    }
}

async fn send(app: &Router, method: Method, uri: &str) -> Seen {
    let request = Request::builder().method(method).uri(uri);
    let request = request.header("host", "api.example");
    let request = request.body(Body::empty()).unwrap();
    let response: Response<Body> = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    Seen {
        headers: parts.headers,
        status: parts.status,
        body: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

async fn body(app: &Router, uri: &str) -> String {
    send(app, Method::GET, uri).await.body
}

async fn is_hit(app: &Router, uri: &str) -> bool {
    send(app, Method::GET, uri).await.is_hit()
}

async fn purge(purger: &CachePurger, uri: &str) {
    let uri = Purge::uri(uri.parse().unwrap());
    purger.purge([uri], PurgeMode::Hard).await.unwrap();
}

async fn catalog(Path(shop): Path<String>) -> impl IntoResponse {
    (FRESH, format!("catalog of {shop}"))
}

/// Answers each method with `name` and the URI that the handler sees.
fn items(name: &'static str) -> Router {
    let show = move |uri: Uri| async move { (FRESH, format!("{name} {uri}")) };
    let change = async || (StatusCode::CREATED, [("location", "../items/7")]);
    let routes = get(show).post(change).put(change).delete(change);
    Router::new()
        .route("/items", routes.clone())
        .route("/items/{id}", routes)
}

/// Puts a cache around a router. If it is `blind`, it takes the rewritten URI for the client's.
fn cached(router: Router, cache: &CacheLayer, blind: bool) -> Router {
    let forget = move |mut request: Request<Body>| {
        if blind {
            request.extensions_mut().remove::<OriginalUri>();
        }
        request
    };
    let layers = ServiceBuilder::new()
        .map_request(forget)
        .layer(cache.clone());
    router.layer(layers)
}

#[tokio::test]
async fn nested_routers_serve_each_parameter_of_the_prefix_its_own_responses() {
    for blind in [false, true] {
        let cache = CacheLayer::new(MemoryStore::new());
        let shop = cached(Router::new().route("/catalog", get(catalog)), &cache, blind);
        let app = Router::new().nest("/shops/{shop}", shop);
        assert_eq!(body(&app, "/shops/a/catalog").await, "catalog of a");
        let other = body(&app, "/shops/b/catalog").await;
        assert_eq!(other == "catalog of b", !blind, "{other}");
        assert!(is_hit(&app, "/shops/a/catalog").await);
    }
}

#[tokio::test]
async fn two_nests_on_one_store_never_serve_each_other() {
    let store = MemoryStore::new();
    let (one, other) = (CacheLayer::new(store.clone()), CacheLayer::new(store));
    for (first, second) in [(&one, &one), (&one, &other)] {
        for blind in [false, true] {
            let v1 = cached(items("v1"), first, blind);
            let v2 = cached(items("v2"), second, blind);
            let app = Router::new().nest("/v1", v1).nest_service("/v2", v2);
            one.purger()
                .purge([Purge::All], PurgeMode::Hard)
                .await
                .unwrap();
            assert_eq!(body(&app, "/v1/items").await, "v1 /items");
            let second_body = body(&app, "/v2/items").await;
            assert_eq!(second_body == "v2 /items", !blind, "{second_body}");
            let head = send(&app, Method::HEAD, "/v1/items").await;
            assert!(head.is_hit() && head.body.is_empty());
        }
    }
}

#[tokio::test]
async fn routers_that_nest_one_url_differently_never_serve_each_other() {
    let store = MemoryStore::new();
    let layer = || CacheLayer::new(store.clone());
    let deep = Router::new().nest("/b", items("deep").layer(layer()));
    let apps = [
        Router::new().nest("/a", deep),
        Router::new().nest("/a/b", items("nested twice").layer(layer()).layer(layer())),
        Router::new().nest(
            "/a",
            Router::new().nest("/b", items("outer")).layer(layer()),
        ),
        Router::new()
            .nest("/a/b", items("outermost"))
            .layer(layer()),
    ];
    let mut bodies = Vec::new();
    for app in &apps {
        bodies.push(body(app, "/a/b/items").await);
        assert!(is_hit(app, "/a/b/items").await);
    }
    bodies.dedup();
    assert!(bodies[0].starts_with("deep"), "{bodies:?}");
    // The first two see the same URIs: they are the same to the cache, as two instances are.
    assert_eq!(bodies.len(), 3, "{bodies:?}");
}

#[tokio::test]
async fn purges_and_unsafe_requests_reach_a_nested_response_by_the_clients_url() {
    let cache = CacheLayer::new(MemoryStore::new());
    let app = Router::new().nest("/v1", items("v1").layer(cache.clone()));
    let purger = cache.purger();
    let url = "http://api.example/v1/items/7";
    for reach in 0..6 {
        assert!(!is_hit(&app, "/v1/items/7").await, "{reach}");
        assert!(is_hit(&app, "/v1/items/7").await, "{reach}");
        purge(&purger, "http://api.example/items/7").await;
        assert!(is_hit(&app, "/v1/items/7").await, "purged by another URL");
        match reach {
            0 => purge(&purger, url).await,
            // `Location` is relative to the client's URL.
            1 => drop(send(&app, Method::POST, "/v1/items/8").await),
            2 => drop(send(&app, Method::POST, "/v1/items/7").await),
            3 => drop(send(&app, Method::PUT, "/v1/items/7").await),
            4 => drop(send(&app, Method::DELETE, "/v1/items/7?x").await),
            _ => drop(send(&app, Method::PATCH, "/v1/items/7").await),
        }
        let changed = send(&app, Method::GET, "/v1/items/7").await;
        assert_eq!(changed.status, StatusCode::OK);
        // PATCH is refused with 405, and changes nothing.
        assert_eq!(changed.is_hit(), reach == 5, "{reach}");
        purge(&purger, url).await;
    }
}

#[tokio::test]
async fn query_policy_narrows_what_a_nested_handler_sees_and_the_key_of_the_clients_url() {
    let cache = CacheLayer::secure(MemoryStore::new()).policy(CachePolicy::new().query(["page"]));
    let cache = cache.build().unwrap();
    let app = Router::new()
        .nest("/v1", items("v1").layer(cache.clone()))
        .nest("/v2", items("v2").layer(cache.clone()));
    assert_eq!(body(&app, "/v1/items?x=1&page=2").await, "v1 /items?page=2");
    assert!(is_hit(&app, "/v1/items?page=2&y").await);
    assert_eq!(body(&app, "/v2/items?page=2").await, "v2 /items?page=2");
    purge(&cache.purger(), "http://api.example/v1/items?page=2").await;
    assert!(!is_hit(&app, "/v1/items?page=2").await);
    assert!(is_hit(&app, "/v2/items?page=2&z=3").await);
}

#[tokio::test]
async fn layer_between_router_and_cache_that_rewrites_by_a_field_mixes_nothing() {
    let by_language = |mut request: Request<Body>| {
        let language = request.headers().get("accept-language");
        let language = language.map_or("en", |value| value.to_str().unwrap());
        let rewritten = format!("/{language}{}", request.uri());
        *request.uri_mut() = rewritten.parse().unwrap();
        request
    };
    let show = tower::service_fn(async |request: Request<Body>| {
        Ok::<_, std::convert::Infallible>((FRESH, request.uri().to_string()).into_response())
    });
    let cache = CacheLayer::new(MemoryStore::new());
    let layers = ServiceBuilder::new().map_request(by_language).layer(cache);
    let app: Router = Router::new().route_service("/a", layers.service(show));
    let ask = async |language: &str| {
        let request = Request::get("/a").header("accept-language", language);
        let request = request.body(Body::empty()).unwrap();
        let response: Response<Body> = app.clone().oneshot(request).await.unwrap();
        axum::body::to_bytes(response.into_body(), 1 << 10)
            .await
            .unwrap()
    };
    for _ in 0..2 {
        assert_eq!(ask("de").await, "/de/a");
        assert_eq!(ask("fr").await, "/fr/a");
    }
}

#[tokio::test]
async fn key_in_the_query_is_removed_from_the_clients_url_too() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let first = manager.create(NewKey::new("one")).await.unwrap();
    let second = manager.create(NewKey::new("two")).await.unwrap();
    let keys =
        ApiKeyLayer::builder(&ring).sources([KeySource::insecure_query_parameter("key").unwrap()]);
    let keys = keys.build().unwrap();
    let cache = CacheLayer::secure(store)
        .share_public_responses(true)
        .build()
        .unwrap();
    let show = async |OriginalUri(uri): OriginalUri| {
        ([("cache-control", "public, max-age=60")], uri.to_string())
    };
    let routes = Router::new().route("/items", get(show));
    let layers = ServiceBuilder::new().layer(keys).layer(cache.clone());
    let app = Router::new().nest("/v1", routes.layer(layers));
    let uri = |secret: &str| format!("/v1/items?key={secret}");
    let shown = body(&app, &uri(first.expose_secret())).await;
    assert_eq!(shown, "/v1/items", "the handler reads the key");
    assert!(is_hit(&app, &uri(second.expose_secret())).await);
    purge(&cache.purger(), "http://api.example/v1/items").await;
    assert!(!is_hit(&app, &uri(second.expose_secret())).await);
}
