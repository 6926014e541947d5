//! Attacks and careless calls on the api_key layer: one test per threat.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, Identity, PeerAddr, Responder, StoreErrorKind, StoreFuture, TrustedProxies,
    api_key::{
        Constraints, Credential, KeySource, NewKey, RequireScopesLayer, StaticKeys, Verdict,
        Verifier,
    },
    outcome::{AuthDenial, AuthOutcome},
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use super::api_key::{
    ApiKeyResponse, Keys, bytes_of, challenges, denial, handler, outcome, send, unknown_key,
    with_header, with_key,
};
use crate::support::{self, header, strict::Strict, text};

fn at(mut request: Request<Full<Bytes>>, address: &str) -> Request<Full<Bytes>> {
    let address: SocketAddr = address.parse().unwrap();
    request.extensions_mut().insert(PeerAddr(address));
    request
}

fn with_method(mut request: Request<Full<Bytes>>, method: Method) -> Request<Full<Bytes>> {
    *request.method_mut() = method;
    request
}

/// Threat A1: no source compares digests or secrets but by `subtle`, nor lets them be compared.
#[test]
fn nothing_secret_can_be_compared_but_in_constant_time() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api_key/key");
    for (file, types) in [
        ("digest.rs", ["KeyDigest", "Pepper"]),
        ("secret.rs", ["SecretKey", "SecretKey"]),
    ] {
        let source = std::fs::read_to_string(folder.join(file)).unwrap();
        for name in types {
            let before = source.split(&format!("struct {name}")).next().unwrap();
            let derives = before
                .lines()
                .rev()
                .find(|line| line.starts_with("#[derive"));
            assert!(!derives.unwrap_or_default().contains("PartialEq"), "{name}");
            assert!(!source.contains(&format!("PartialEq for {name}")), "{name}");
            assert!(!source.contains(&format!("Display for {name}")), "{name}");
        }
    }
}

/// Threat A10: who calls is known from the key, and from no header.
#[tokio::test]
async fn no_header_makes_an_identity() {
    let keys = Keys::new();
    let layer = || keys.layer().optional().build().unwrap();
    for name in [
        "x-consumer-id",
        "x-identity",
        "x-user",
        "x-authenticated-userid",
    ] {
        let forged = with_header(name, "acme");
        let seen = text(send(layer(), forged).await).await;
        assert!(seen.starts_with("nobody "), "{seen}");
    }
}

/// Threat A15: scopes belong to routes; no way of writing a path gets around them.
#[tokio::test]
async fn no_way_of_writing_a_path_gets_around_a_routes_scopes() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let admin = RequireScopesLayer::all(["admin"]).unwrap();
    let app = Router::new()
        .route("/open", get(async || "open"))
        .route("/admin/keys", get(async || "secret").layer(admin))
        .layer(keys.layer().build().unwrap());
    for path in [
        "/admin/keys",
        "/admin//keys",
        "//admin/keys",
        "/admin%2Fkeys",
        "/admin/%6Beys",
        "/./admin/keys",
        "/open/../admin/keys",
        "/ADMIN/keys",
        "/admin/keys/",
        "/admin/keys;x=y",
        "/admin/keys?x=/open",
    ] {
        let request = Request::builder()
            .uri(path)
            .header("x-api-key", key.expose_secret())
            .body(axum::body::Body::empty())
            .unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_ne!(response.status(), StatusCode::OK, "{path}");
    }
    let open = Request::builder()
        .uri("/open")
        .header("x-api-key", key.expose_secret())
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(app.oneshot(open).await.unwrap().status(), StatusCode::OK);
}

/// Threat A16: an address that a client claims opens nothing, and neither does having none.
#[tokio::test]
async fn a_key_for_a_network_is_no_good_from_elsewhere_whatever_is_claimed() {
    let keys = Keys::new();
    let office = Constraints::new().networks(["203.0.113.0/24".parse().unwrap()]);
    let key = keys.create(NewKey::new("acme").constraints(office)).await;
    let request = || with_key(key.expose_secret());
    let forwarded = |from: &str| {
        let mut request = request();
        let claimed = from.parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", claimed);
        request
    };
    let direct = || keys.layer().build().unwrap();
    let behind_proxy = || {
        let proxy = TrustedProxies::cidrs(["10.0.0.0/8"]).unwrap();
        let resolver = ClientAddrResolver::new(proxy);
        keys.layer().client_addr(resolver).build().unwrap()
    };
    let status = async |layer, request| send(layer, request).await.status();
    let (ok, forbidden) = (StatusCode::OK, StatusCode::FORBIDDEN);
    assert_eq!(status(direct(), at(request(), "203.0.113.9:1")).await, ok);
    assert_eq!(
        status(direct(), at(request(), "[::ffff:203.0.113.9]:1")).await,
        ok
    );
    assert_eq!(
        status(direct(), at(request(), "198.51.100.1:1")).await,
        forbidden
    );
    assert_eq!(status(direct(), request()).await, forbidden);
    let claimed = forwarded("203.0.113.9");
    assert_eq!(
        status(direct(), at(claimed, "198.51.100.1:1")).await,
        forbidden
    );
    let spoofed = forwarded("203.0.113.9, 198.51.100.1");
    assert_eq!(
        status(behind_proxy(), at(spoofed, "10.0.0.1:1")).await,
        forbidden
    );
    let honest = forwarded("203.0.113.9");
    assert_eq!(status(behind_proxy(), at(honest, "10.0.0.1:1")).await, ok);
}

#[tokio::test]
async fn a_restricted_key_is_refused_without_a_word_about_why() {
    let keys = Keys::new();
    let reads = Constraints::new()
        .methods([Method::GET])
        .origins(["https://app.example"]);
    let key = keys.create(NewKey::new("acme").constraints(reads)).await;
    let request = |origin: &str| {
        let mut request = with_key(key.expose_secret());
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
        request
    };
    let good = keys.send(request("https://app.example")).await;
    assert_eq!(good.status(), StatusCode::OK);
    let wrong_origin = keys.send(request("https://evil.example")).await;
    assert_eq!(denial(&wrong_origin), AuthDenial::Restricted);
    assert!(challenges(wrong_origin.headers()).is_empty());
    let wrong_method = with_method(request("https://app.example"), Method::POST);
    let wrong_method = keys.send(wrong_method).await;
    assert_eq!(wrong_method.status(), StatusCode::FORBIDDEN);
    assert_eq!(bytes_of(wrong_origin).await, bytes_of(wrong_method).await);
}

#[tokio::test]
async fn hide_forbidden_returns_404_without_disclosing_scopes() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let layer = keys.layer().require_all_scopes(["admin"]).hide_forbidden();
    let response = send(layer.build().unwrap(), with_key(key.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(challenges(response.headers()).is_empty());
    assert!(!text(response).await.contains("scope"));
    let route = RequireScopesLayer::all(["admin"]).unwrap().hide_forbidden();
    let inner = route.layer(service_fn(handler));
    let service = keys.layer().build().unwrap().layer(inner);
    let response = service
        .oneshot(with_key(key.expose_secret()))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_preflight_passes_where_it_is_allowed_and_nothing_else_does() {
    let keys = Keys::new();
    let preflight = || {
        let mut request = support::request(Method::OPTIONS, "/");
        let headers = request.headers_mut();
        headers.insert("origin", "https://app.example".parse().unwrap());
        headers.insert("access-control-request-method", "PUT".parse().unwrap());
        request
    };
    assert_eq!(
        keys.send(preflight()).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let layer = || keys.layer().allow_preflight().build().unwrap();
    let response = send(layer(), preflight()).await;
    assert!(text(response).await.starts_with("nobody "));
    let plain = support::request(Method::OPTIONS, "/");
    assert_eq!(
        send(layer(), plain).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let posted = with_method(preflight(), Method::POST);
    assert_eq!(
        send(layer(), posted).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let mut garbage = preflight();
    garbage
        .headers_mut()
        .insert("x-api-key", "garbage".parse().unwrap());
    assert_eq!(
        send(layer(), garbage).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_key_in_the_query_is_no_key_unless_it_was_asked_for() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let request = || support::get(&format!("/p?a=b&key={}&c=d", key.expose_secret()));
    let response = keys.send(request()).await;
    assert_eq!(denial(&response), AuthDenial::Missing);
    let query = KeySource::insecure_query_parameter("key").unwrap();
    let layer = keys.layer().sources([query]).build().unwrap();
    let seen = |request: Request<Full<Bytes>>| {
        let uri = request.uri().to_string();
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Full::<
            Bytes,
        >::from(
            uri
        ))))
    };
    let response = layer
        .layer(service_fn(seen))
        .oneshot(request())
        .await
        .unwrap();
    assert_eq!(header(response.headers(), "vary"), None);
    assert_eq!(text(response).await, "/p?a=b&c=d");
}

#[tokio::test]
async fn basic_is_challenged_by_its_name_and_only_where_it_is_accepted() {
    let keys = Keys::new();
    let sources = [KeySource::basic(), KeySource::bearer()];
    let layer = keys.layer().sources(sources).build().unwrap();
    let response = send(layer, support::get("/")).await;
    assert_eq!(
        challenges(response.headers()),
        [r#"Bearer realm="api""#, r#"Basic realm="api""#]
    );
    let default = keys.send(support::get("/")).await;
    assert!(
        challenges(default.headers())
            .iter()
            .all(|line| !line.starts_with("Basic"))
    );
}

const TOKEN: &str = "a-token-that-is-no-key-of-the-ring";

/// Returns a configured verdict for each token that starts with its letter.
#[derive(Clone)]
struct Says {
    asked: Arc<AtomicU64>,
    verdict: fn() -> StoreFuture<Verdict>,
}

impl Says {
    fn new(verdict: fn() -> StoreFuture<Verdict>) -> Self {
        let asked = Arc::default();
        Self { asked, verdict }
    }
}

impl Verifier for Says {
    fn verify(&self, _: &Credential<'_>) -> StoreFuture<Verdict> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        (self.verdict)()
    }
}

fn known() -> Verdict {
    Verdict::Caller(
        Identity::builder("user-7")
            .owner("bob")
            .scopes(["a"])
            .build(),
    )
}

fn later(verdict: Verdict) -> StoreFuture<Verdict> {
    StoreFuture::pending(async move {
        tokio::task::yield_now().await;
        Ok(verdict)
    })
}

#[tokio::test]
async fn verifiers_are_asked_in_order_until_one_decides_at_once_or_later() {
    let keys = Keys::new();
    let not_mine = Says::new(|| StoreFuture::ready(Verdict::NotRecognized));
    let not_mine_later = Says::new(|| later(Verdict::NotRecognized));
    let knows_later = Says::new(|| later(known()));
    let never = Says::new(|| panic!("nobody asks further"));
    let layer = keys
        .layer()
        .verifier(not_mine)
        .verifier(not_mine_later)
        .verifier(knows_later)
        .verifier(never.clone())
        .build()
        .unwrap();
    let seen = text(send(layer.clone(), with_key(TOKEN)).await).await;
    assert_eq!(seen, "bob {}");
    assert_eq!(never.asked.load(Ordering::SeqCst), 0);
    // A key of the ring is the ring's to decide on.
    let key = keys.reader().await;
    assert_eq!(
        send(layer.clone(), with_key(key.expose_secret()))
            .await
            .status(),
        StatusCode::OK
    );
    let stranger = send(layer, with_key(&unknown_key().await)).await;
    assert_eq!(denial(&stranger), AuthDenial::Unknown);
}

#[tokio::test]
async fn a_credential_that_is_nobodys_or_rejected_is_answered_like_any_wrong_key() {
    let keys = Keys::new();
    let garbage = bytes_of(keys.send(with_key("garbage")).await).await;
    for verdict in [
        (|| StoreFuture::ready(Verdict::NotRecognized)) as fn() -> StoreFuture<Verdict>,
        || StoreFuture::ready(Verdict::Rejected),
        || later(Verdict::Rejected),
    ] {
        let layer = keys.layer().verifier(Says::new(verdict)).build().unwrap();
        assert_eq!(bytes_of(send(layer, with_key(TOKEN)).await).await, garbage);
    }
}

#[tokio::test]
async fn rejected_credentials_count_as_failures_of_their_address() {
    let keys = Keys::new();
    let rejects = Says::new(|| StoreFuture::ready(Verdict::Rejected));
    let layer = keys
        .layer()
        .verifier(rejects)
        .failure_limit(2, Duration::from_secs(60))
        .build()
        .unwrap();
    let mut statuses = Vec::new();
    for token in ["a", "b", "a", "c"] {
        let response = send(layer.clone(), at(with_key(token), "203.0.113.9:1")).await;
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 429]);
}

/// A verifier that fails has not rejected the credential, and no weaker verifier is tried instead.
#[tokio::test]
async fn a_verifier_that_fails_stops_the_chain() {
    let keys = Keys::new();
    for failing in [
        (|| StoreFuture::failed(StoreErrorKind::Unavailable)) as fn() -> StoreFuture<Verdict>,
        || StoreFuture::pending(async { Err(StoreErrorKind::Timeout.into()) }),
    ] {
        let weaker = Says::new(|| StoreFuture::ready(known()));
        let layer = keys
            .layer()
            .verifier(Says::new(failing))
            .verifier(weaker.clone());
        let response = send(layer.build().unwrap(), with_key(TOKEN)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(weaker.asked.load(Ordering::SeqCst), 0);
    }
}

/// Threat X1: what panics in a user's hands is answered by 500, and the next request is served.
#[tokio::test]
async fn a_verifier_that_panics_is_answered_for_by_500() {
    let keys = Keys::new();
    for panicking in [
        (|| panic!("a custom verifier")) as fn() -> StoreFuture<Verdict>,
        || StoreFuture::pending(async { panic!("a custom verifier") }),
    ] {
        let layer = keys.layer().verifier(Says::new(panicking)).build().unwrap();
        let response = send(layer.clone(), with_key(TOKEN)).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let key = keys.reader().await;
        let next = send(layer, with_key(key.expose_secret())).await;
        assert_eq!(next.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn static_keys_work_with_a_ring_and_have_scopes() {
    let keys = Keys::new();
    let caller = Identity::builder("billing")
        .owner("billing")
        .scopes(["a"])
        .build();
    let fixed = StaticKeys::new().key(TOKEN, caller).unwrap();
    let layer = |scope: &str| {
        let layer = keys.layer().verifier(fixed.clone());
        layer.require_all_scopes([scope]).build().unwrap()
    };
    let seen = text(send(layer("a"), with_key(TOKEN)).await).await;
    assert_eq!(seen, "billing {}");
    let response = send(layer("b"), with_key(TOKEN)).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

/// Threat X3: the service that is called is the one that was polled ready.
#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let layer = keys
        .layer()
        .verifier(Says::new(|| later(known())))
        .build()
        .unwrap();
    for polls in 0..3 {
        for request in [with_key(key.expose_secret()), with_key(TOKEN)] {
            let inner = Strict::new(polls, polls);
            let calls = inner.calls();
            let response = layer.layer(inner).oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(calls.load(Ordering::SeqCst), 1);
        }
    }
}

/// Threat X2: who leaves at any moment leaves nothing half done.
#[tokio::test]
async fn a_request_that_is_dropped_after_any_poll_leaves_the_layer_whole() {
    let keys = Keys::new();
    let layer = keys
        .layer()
        .verifier(Says::new(|| later(known())))
        .build()
        .unwrap();
    for polls in 0..6 {
        let service = layer.layer(Strict::new(0, 2));
        let mut request = Box::pin(service.oneshot(with_key(TOKEN)));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls {
            if request.as_mut().poll(&mut cx).is_ready() {
                break;
            }
        }
        drop(request);
        let response = send(layer.clone(), with_key(TOKEN)).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// Threat X1: a responder that panics is answered for by 500, by each layer that has one.
#[tokio::test]
async fn a_responder_that_panics_is_answered_for_by_500_by_each_layer() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let responder = || Responder::new(|_| panic!("a custom responder"));
    let layer = keys.layer().responder(responder()).build().unwrap();
    let route = RequireScopesLayer::none().responder(responder());
    let by_header = Partition::header(http::header::HOST);
    let limits = RateLimitLayer::builder(MemoryStore::new(), by_header)
        .policy(Policy::fixed_window("one", Quota::per_minute(1)).unwrap())
        .responder(responder())
        .build()
        .unwrap();
    let ask = || support::get("/");
    let _admitted = send(limits.clone(), ask()).await;
    for refused in [
        send(layer.clone(), ask()).await,
        send(route, ask()).await,
        send(limits, ask()).await,
    ] {
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let no_store = header(refused.headers(), "cache-control") == Some("no-store");
        assert!(no_store);
        let problem: serde_json::Value = serde_json::from_str(&text(refused).await).unwrap();
        assert_eq!(problem["status"], 500);
    }
    let response = send(layer, with_key(key.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// Threat A5: a malformed key costs no more than a parse.
#[test]
fn malformed_keys_up_to_a_megabyte_are_rejected_without_panic() {
    let keys = Keys::new();
    let service = keys.layer().build().unwrap().layer(service_fn(handler));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for len in [
        0,
        1,
        71,
        72,
        75,
        76,
        102,
        103,
        128,
        129,
        4_096,
        1 << 16,
        1 << 20,
    ] {
        for byte in [b' ', b'0', b'_', b'a', 0x80, 0xff] {
            let mut request = support::get("/");
            let value = http::HeaderValue::from_bytes(&vec![byte; len]).unwrap();
            request.headers_mut().insert("x-api-key", value);
            let mut call = std::pin::pin!(service.clone().oneshot(request));
            let std::task::Poll::Ready(response) = call.as_mut().poll(&mut cx) else {
                panic!("a malformed key never waits");
            };
            let response: ApiKeyResponse = response.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert!(matches!(
                outcome(&response),
                AuthOutcome::Denied {
                    reason: AuthDenial::Malformed,
                    ..
                }
            ));
        }
    }
}
