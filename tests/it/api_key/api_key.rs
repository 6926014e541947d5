//! Behavior of the api_key layer, as seen by a client.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ConfigError, Identity, ManualClock, ResponseBody, StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyLayer, ApiKeyLayerBuilder, ApiKeyStore, GeneratedKey, KeyError, KeyId, KeyManager,
        KeyQuery, KeyRing, KeySource, NewKey, Pepper, RequireScopesLayer,
        record::{KeyPage, StoredKey},
    },
    outcome::{AuthDenial, AuthOutcome, RecordHandle},
    store::{MemoryStore, backend::KeyUse},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{get, header, request, text};

pub(crate) type ApiKeyResponse = Response<ResponseBody<Full<Bytes>>>;

pub(crate) struct Keys {
    pub(crate) clock: ManualClock,
    pub(crate) ring: KeyRing,
    pub(crate) manager: KeyManager,
}

pub(crate) fn pepper() -> Pepper {
    Pepper::new(1, (0..32).collect::<Vec<u8>>()).unwrap()
}

pub(crate) fn ring(store: impl ApiKeyStore, clock: &ManualClock) -> KeyRing {
    KeyRing::builder("acmepay", store)
        .environments(["live", "test"])
        .pepper(pepper())
        .clock(clock.clone())
        // The tests control when a store replies.
        .without_store_timeout()
        .build()
        .unwrap()
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self::kept_in(MemoryStore::new())
    }

    pub(crate) fn kept_in(store: impl ApiKeyStore) -> Self {
        let clock = ManualClock::default();
        let ring = ring(store, &clock);
        Self {
            manager: KeyManager::new(&ring),
            clock,
            ring,
        }
    }

    pub(crate) async fn create(&self, new: NewKey) -> GeneratedKey {
        self.manager.create(new).await.unwrap()
    }

    pub(crate) async fn reader(&self) -> GeneratedKey {
        self.create(NewKey::new("acme").tier("pro").scopes(["data.read"]))
            .await
    }

    pub(crate) fn layer(&self) -> ApiKeyLayerBuilder {
        ApiKeyLayer::builder(&self.ring)
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> ApiKeyResponse {
        send(self.layer().build().unwrap(), request).await
    }
}

/// Sends a request through a layer to a handler that reports what it receives.
pub(crate) async fn send<L>(layer: L, request: Request<Full<Bytes>>) -> ApiKeyResponse
where
    L: Layer<Handler>,
    L::Service: Service<Request<Full<Bytes>>, Response = ApiKeyResponse, Error = Infallible>,
{
    layer
        .layer(service_fn(handler))
        .oneshot(request)
        .await
        .unwrap()
}

pub(crate) type Handler = tower::util::ServiceFn<
    fn(Request<Full<Bytes>>) -> std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>,
>;

pub(crate) fn handler(
    request: Request<Full<Bytes>>,
) -> std::future::Ready<Result<Response<Full<Bytes>>, Infallible>> {
    let caller = request.extensions().get::<Identity>();
    let name = caller.map_or("nobody", |caller| caller.owner().unwrap());
    let seen = format!("{name} {:?}", request.headers());
    std::future::ready(Ok(Response::new(Full::from(seen))))
}

pub(crate) fn with_header(name: &str, value: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let name = http::HeaderName::try_from(name).unwrap();
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

pub(crate) fn with_key(key: &str) -> Request<Full<Bytes>> {
    with_header("x-api-key", key)
}

/// A key of the right form and checksum that no store knows.
pub(crate) async fn unknown_key() -> String {
    let key = Keys::new().reader().await;
    key.expose_secret().to_owned()
}

pub(crate) fn challenges(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all("www-authenticate").iter();
    lines.map(|line| line.to_str().unwrap()).collect()
}

pub(crate) fn outcome(response: &ApiKeyResponse) -> &AuthOutcome {
    response.extensions().get().unwrap()
}

pub(crate) fn denial(response: &ApiKeyResponse) -> AuthDenial {
    match outcome(response) {
        AuthOutcome::Denied { reason, .. } => *reason,
        other => panic!("{other:?} is no denial"),
    }
}

/// Returns everything in a response that a client can see.
pub(crate) async fn bytes_of(response: ApiKeyResponse) -> String {
    let head = format!("{} {:?}", response.status(), response.headers());
    head + &text(response).await
}

#[tokio::test]
async fn a_good_key_reaches_the_handler_as_an_identity_from_either_place() {
    let keys = Keys::new();
    let key = keys.reader().await;
    for request in [
        with_key(key.expose_secret()),
        with_header("authorization", &format!("Bearer {}", key.expose_secret())),
        with_header("authorization", &format!("bearer  {}", key.expose_secret())),
    ] {
        let response = keys.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(text(response).await.starts_with("acme "));
    }
}

#[tokio::test]
async fn missing_key_gets_401_with_challenges() {
    let response = Keys::new().send(get("/")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        header(response.headers(), "cache-control"),
        Some("no-store")
    );
    assert_eq!(
        challenges(response.headers()),
        [r#"Bearer realm="api""#, r#"ApiKey realm="api""#]
    );
    assert_eq!(denial(&response), AuthDenial::Missing);
    let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(
        body["type"],
        "urn:problem-type:portcullis:missing-credentials"
    );
    assert_eq!(body["status"], 401);
}

/// Threat A2: a response reveals neither the state of a key nor its existence.
#[tokio::test]
async fn each_key_that_is_no_good_is_answered_with_the_same_bytes() {
    let keys = Keys::new();
    let now = Timestamp::from_secs(1_767_225_600);
    let hour = Duration::from_secs(3_600);
    let new = || NewKey::new("acme");
    let good = keys.reader().await;
    let revoked = keys.reader().await;
    keys.manager.revoke(revoked.id(), "leaked").await.unwrap();
    let expired = keys.create(new().expires_at(now)).await;
    let early = keys.create(new().not_before(now + hour)).await;
    // The id of one key with the secret of another, and the checksum that belongs to it.
    let forged = forged(good.expose_secret(), &unknown_key().await);

    let cases = [
        ("garbage".to_owned(), AuthDenial::Malformed),
        (
            good.expose_secret().replace("live", "test"),
            AuthDenial::Malformed,
        ),
        (unknown_key().await, AuthDenial::Unknown),
        (forged, AuthDenial::Unknown),
        (revoked.expose_secret().to_owned(), AuthDenial::Revoked),
        (expired.expose_secret().to_owned(), AuthDenial::Expired),
        (early.expose_secret().to_owned(), AuthDenial::NotYetValid),
    ];
    let mut bodies = Vec::new();
    for (key, reason) in cases {
        let response = keys.send(with_key(&key)).await;
        assert_eq!(denial(&response), reason);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            header(response.headers(), "cache-control"),
            Some("no-store")
        );
        assert_eq!(
            challenges(response.headers())[0],
            r#"Bearer realm="api", error="invalid_token""#
        );
        bodies.push(bytes_of(response).await);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
}

/// Puts the secret of one key behind the names and the id of another, checksum included.
pub(crate) fn forged(names_of: &str, secret_of: &str) -> String {
    let split = names_of.len() - 49;
    let (names, secret) = (&names_of[..split], &secret_of[secret_of.len() - 49..]);
    let checked = format!("{names}{}", &secret[..43]);
    let mut rest = u64::from(crc32(checked.as_bytes()));
    let mut check = Vec::new();
    for _ in 0..6 {
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        check.insert(0, digits[usize::try_from(rest % 62).unwrap()]);
        rest /= 62;
    }
    checked + std::str::from_utf8(&check).unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    static TABLE: LazyLock<[u32; 256]> = LazyLock::new(|| {
        std::array::from_fn(|byte| {
            let byte = u32::try_from(byte).unwrap();
            (0..8).fold(byte, |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    });
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

/// Threat A9: a second reader of the request could pick the other key.
#[tokio::test]
async fn two_keys_are_answered_400_even_if_both_are_good() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let key = key.expose_secret();
    let bearer = format!("Bearer {key}");
    for lines in [
        [("x-api-key", key), ("x-api-key", key)],
        [("x-api-key", key), ("authorization", &bearer)],
        [("authorization", &bearer), ("authorization", &bearer)],
        [("authorization", &bearer), ("authorization", "Basic eDp5")],
    ] {
        let mut request = get("/");
        for (name, value) in lines {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let response = keys.send(request).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{lines:?}");
        assert_eq!(denial(&response), AuthDenial::Ambiguous);
        assert!(challenges(response.headers())[0].contains("invalid_request"));
    }
}

/// Threat A8: anonymous is who presents nothing, not who presents nonsense.
#[tokio::test]
async fn an_optional_layer_lets_nothing_through_and_turns_nonsense_away() {
    let keys = Keys::new();
    let send = |request| send(keys.layer().optional().build().unwrap(), request);
    let anonymous = send(get("/")).await;
    assert_eq!(anonymous.status(), StatusCode::OK);
    assert_eq!(header(anonymous.headers(), "cache-control"), None);
    assert!(header(anonymous.headers(), "vary").is_some());
    for wrong in ["", "garbage", &unknown_key().await] {
        assert_eq!(
            send(with_key(wrong)).await.status(),
            StatusCode::UNAUTHORIZED
        );
    }
    let empty = send(with_header("authorization", "Bearer")).await;
    assert_eq!(empty.status(), StatusCode::UNAUTHORIZED);
}

/// Threat A11: what the handler does not know it cannot leak.
#[tokio::test]
async fn credential_is_hidden_from_the_handler_by_default() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let bearer = format!("Bearer {}", key.expose_secret());
    for request in [
        with_key(key.expose_secret()),
        with_header("authorization", &bearer),
    ] {
        let seen = text(keys.send(request).await).await;
        assert_eq!(seen, "acme {}");
    }
    let layer = keys.layer().forward_credential().build().unwrap();
    let seen = text(send(layer, with_key(key.expose_secret())).await).await;
    assert_eq!(seen, r#"acme {"x-api-key": Sensitive}"#);
}

/// Threat C3: no external shared cache stores the response to a key.
#[tokio::test]
async fn authenticated_response_is_private_and_varies_by_key_sources() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let response = keys.send(with_key(key.expose_secret())).await;
    assert_eq!(header(response.headers(), "cache-control"), Some("private"));
    assert_eq!(
        header(response.headers(), "vary"),
        Some("authorization, x-api-key")
    );
}

#[tokio::test]
async fn revoked_key_is_rejected_at_the_next_request() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let send = || keys.send(with_key(key.expose_secret()));
    assert_eq!(send().await.status(), StatusCode::OK);
    let alice = keys.manager.acting_as("alice");
    let revoked = alice.revoke(key.id(), "leaked").await.unwrap();
    assert_eq!(revoked.version(), 2);
    assert_eq!(send().await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_expires_by_the_calendar() {
    let keys = Keys::new();
    let new = NewKey::new("acme").expires_in(Duration::from_secs(60));
    let key = keys.create(new).await;
    let send = || keys.send(with_key(key.expose_secret()));
    keys.clock.advance(Duration::from_secs(59));
    assert_eq!(send().await.status(), StatusCode::OK);
    keys.clock.advance(Duration::from_secs(1));
    assert_eq!(send().await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_layer_that_asks_for_a_scope_answers_403_and_names_it() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let with = |scope: &str| keys.layer().require_all_scopes([scope]).build().unwrap();
    let request = || with_key(key.expose_secret());
    assert_eq!(
        send(with("data.read"), request()).await.status(),
        StatusCode::OK
    );
    let response = send(with("data.write"), request()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        challenges(response.headers())[0],
        r#"Bearer realm="api", error="insufficient_scope", scope="data.write""#
    );
    match outcome(&response) {
        AuthOutcome::Denied { reason, key_id } => {
            assert_eq!(*reason, AuthDenial::MissingScope);
            assert_eq!(key_id.as_deref(), Some(key.id().as_str()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_route_asks_for_scopes_of_its_own() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let outer = keys.layer().optional().build().unwrap();
    let status = async |route: RequireScopesLayer, request| {
        let inner = route.layer(service_fn(handler));
        outer.layer(inner).oneshot(request).await.unwrap().status()
    };
    let all = || RequireScopesLayer::all(["data.read", "data.write"]).unwrap();
    let any = || RequireScopesLayer::any(["data.read", "data.write"]).unwrap();
    let good = || with_key(key.expose_secret());
    assert_eq!(status(all(), get("/")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(all(), good()).await, StatusCode::FORBIDDEN);
    assert_eq!(status(any(), good()).await, StatusCode::OK);
    let known = RequireScopesLayer::none;
    assert_eq!(status(known(), get("/")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(known(), good()).await, StatusCode::OK);
}

#[tokio::test]
async fn denied_head_has_no_body_and_denied_grpc_has_a_status() {
    let keys = Keys::new();
    let response = keys.send(request(Method::HEAD, "/")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(response).await, "");
    let mut request = with_header("content-type", "application/grpc");
    let response = keys.send(request.clone()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "over HTTP/1.1");
    *request.version_mut() = http::Version::HTTP_2;
    let response = keys.send(request).await;
    assert_eq!(header(response.headers(), "grpc-status"), Some("16"));
}

#[tokio::test]
async fn record_and_response_contain_the_auth_outcome() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let record = RecordHandle::default();
    let mut request = with_key(key.expose_secret());
    request.extensions_mut().insert(record.clone());
    let response = keys.send(request).await;
    assert!(matches!(outcome(&response), AuthOutcome::Allowed(_)));
    record.read(|slots| match slots.auth() {
        Some(AuthOutcome::Allowed(identity)) => assert_eq!(identity.key_id(), key.id().as_str()),
        other => panic!("{other:?}"),
    });
    let without_a_record = keys.send(with_key(key.expose_secret())).await;
    assert!(without_a_record.extensions().get::<AuthOutcome>().is_none());
}

/// Answers each question about a key by a failure, later.
pub(crate) struct Failing(pub(crate) StoreErrorKind);

impl ApiKeyStore for Failing {
    fn find(&self, _: KeyId) -> StoreFuture<Option<StoredKey>> {
        let kind = self.0;
        StoreFuture::pending(async move {
            tokio::task::yield_now().await;
            Err(kind.into())
        })
    }

    fn create(&self, _: StoredKey) -> StoreFuture<()> {
        StoreFuture::failed(self.0)
    }

    fn update(&self, _: StoredKey, _: u64) -> StoreFuture<()> {
        StoreFuture::failed(self.0)
    }

    fn list(&self, _: KeyQuery) -> StoreFuture<KeyPage> {
        StoreFuture::failed(self.0)
    }

    fn record_uses(&self, _: Vec<KeyUse>) -> StoreFuture<()> {
        StoreFuture::failed(self.0)
    }

    fn purge(&self, _: Timestamp, _: usize) -> StoreFuture<usize> {
        StoreFuture::failed(self.0)
    }
}

/// Threats X4 and L6: a failing store admits no caller and counts no failed attempt.
#[tokio::test]
async fn unavailable_store_returns_503_and_corrupt_store_500() {
    let key = unknown_key().await;
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Timeout] {
        let response = Keys::kept_in(Failing(kind)).send(with_key(&key)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let wait: u64 = header(response.headers(), "retry-after")
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=5).contains(&wait));
        assert!(matches!(outcome(&response), AuthOutcome::StoreFailed(own) if *own == kind));
    }
    for kind in [StoreErrorKind::Corrupt, StoreErrorKind::Misconfigured] {
        let response = Keys::kept_in(Failing(kind)).send(with_key(&key)).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let failing = Keys::kept_in(Failing(StoreErrorKind::Unavailable));
    let malformed = failing.send(with_key("garbage")).await;
    assert_eq!(malformed.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_record_under_an_unknown_pepper_is_an_error_of_ours() {
    let store = MemoryStore::new();
    let keys = Keys::kept_in(store.clone());
    let key = keys.reader().await;
    let other = Pepper::new(2, (1..33).collect::<Vec<u8>>()).unwrap();
    let ring = KeyRing::builder("acmepay", store)
        .pepper(other)
        .build()
        .unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let response = send(layer, with_key(key.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

fn option<T>(built: Result<T, ConfigError>) -> &'static str {
    match built {
        Ok(_) => "built",
        Err(error) => error.option(),
    }
}

/// Threat A13: there is no default secret, and no way to forget one.
#[test]
fn rejects_invalid_ring_and_layer_options() {
    let keys = Keys::new();
    let builder = || KeyRing::builder("acmepay", MemoryStore::new());
    assert_eq!(option(builder().build()), "pepper");
    assert_eq!(
        option(builder().pepper(pepper()).without_pepper().build()),
        "without_pepper"
    );
    assert_eq!(
        option(builder().without_pepper().environments([""; 0]).build()),
        "environments"
    );
    let wrong = KeyRing::builder("Acme Pay", MemoryStore::new()).without_pepper();
    assert_eq!(option(wrong.build()), "prefix");
    assert_eq!(option(keys.layer().sources([]).build()), "sources");
    let twice = [KeySource::bearer(), KeySource::bearer()];
    assert_eq!(option(keys.layer().sources(twice).build()), "sources");
    assert_eq!(
        option(keys.layer().optional().require_any_scope(["a"]).build()),
        "optional"
    );
    assert_eq!(
        option(keys.layer().require_all_scopes(["a b"]).build()),
        "scopes"
    );
    assert_eq!(option(keys.layer().realm("a\nb").build()), "realm");
}

#[tokio::test]
async fn full_store_rejects_new_keys_and_preserves_existing_ones() {
    let store = MemoryStore::builder().max_api_keys(2).build().unwrap();
    let keys = Keys::kept_in(store);
    let first = keys.reader().await;
    keys.reader().await;
    match keys.manager.create(NewKey::new("acme")).await {
        Err(KeyError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Full),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        keys.send(with_key(first.expose_secret())).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn pages_hold_each_key_of_an_owner_once_while_others_are_made() {
    let keys = Keys::new();
    let mut made = Vec::new();
    for number in 0..10 {
        made.push(keys.reader().await.id());
        keys.create(NewKey::new("other")).await;
        if number % 3 == 0 {
            keys.clock.advance(Duration::from_secs(1));
        }
    }
    let mut found = Vec::new();
    let mut query = KeyQuery::for_owner("acme").limit(3);
    loop {
        let page = keys.manager.list(query.clone()).await.unwrap();
        found.extend(page.keys.iter().map(|listed| listed.record.id()));
        keys.create(NewKey::new("other")).await;
        match page.next {
            Some(next) => query = query.after(next),
            None => break,
        }
    }
    made.sort();
    found.sort();
    assert_eq!(found, made);
}

/// Threat A17: no type with a `Debug` output exposes a secret.
#[tokio::test]
async fn no_debug_shows_a_secret() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let layer = keys.layer().build().unwrap();
    let service = layer.layer(service_fn(handler));
    let response = service
        .clone()
        .oneshot(with_key(key.expose_secret()))
        .await
        .unwrap();
    let found = keys.manager.get(key.id()).await.unwrap();
    let page = keys.manager.list(KeyQuery::all()).await.unwrap();
    let secret = key.expose_secret()[key.expose_secret().len() - 49..].to_owned();
    let shown = format!(
        "{:?} {:?} {layer:?} {key:?} {found:?} {page:?} {response:?} {:?} {:?}",
        keys.ring,
        keys.manager,
        pepper(),
        key.record().identity(),
    );
    for at in 0..secret.len() - 8 {
        assert!(!shown.contains(&secret[at..at + 8]), "{shown}");
    }
    let secret_key = key.into_secret();
    assert_eq!(format!("{secret_key:?}"), "SecretKey");
}
