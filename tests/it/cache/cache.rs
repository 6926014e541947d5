//! Behavior of the cache layer as a client observes it.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity, ManualClock, StoreErrorKind, StoreFuture,
    cache::{
        Cache, CacheLayer, CacheLayerBuilder, CachePolicy, CachePurger, CacheStore, CacheTags,
        Purge, PurgeMode, body::CacheBody,
    },
    outcome::{CacheSource, RecordHandle},
    store::{
        MemoryStore, StoreKeys,
        backend::{CacheKey, Lookup, PurgeTarget, Put, PutOutcome, Selection, Touch},
    },
};
use tower::{Layer, Service, ServiceExt};

use crate::support::{get, header, request, text};

/// A handler that counts its calls, and returns configured responses.
#[derive(Clone)]
pub(crate) struct Handler {
    state: Arc<State>,
}

type Respond = dyn Fn(&Request<Full<Bytes>>, usize) -> Response<Full<Bytes>> + Send + Sync;

struct State {
    calls: AtomicUsize,
    respond: Box<Respond>,
}

type Reply = Response<Full<Bytes>>;

impl Handler {
    pub(crate) fn new(
        respond: impl Fn(&Request<Full<Bytes>>, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self {
            state: Arc::new(State {
                calls: AtomicUsize::new(0),
                respond: Box::new(respond),
            }),
        }
    }

    /// Answers `call N` with these fields.
    pub(crate) fn with(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |_, call| response_with(fields, format!("call {call}")))
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }
}

impl Service<Request<Full<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let call = self.state.calls.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok((self.state.respond)(&request, call)))
    }
}

pub(crate) fn response_with(
    fields: &[(&'static str, &'static str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    for (name, value) in fields {
        response
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    response
}

/// A cache around a handler, and the clock that both go by.
pub(crate) struct App {
    pub(crate) clock: ManualClock,
    pub(crate) service: Cache<Handler>,
    pub(crate) handler: Handler,
    pub(crate) purger: CachePurger,
}

impl App {
    pub(crate) fn new(handler: Handler) -> Self {
        Self::configured(handler, |builder| builder)
    }

    pub(crate) fn configured(
        handler: Handler,
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Self {
        let clock = ManualClock::default();
        let builder = CacheLayer::secure(MemoryStore::with_clock(clock.clone()));
        Self::built(handler, clock, configure(builder))
    }

    pub(crate) fn rfc(handler: Handler) -> Self {
        let clock = ManualClock::default();
        let builder = CacheLayer::rfc(MemoryStore::with_clock(clock.clone()));
        Self::built(handler, clock, builder)
    }

    pub(crate) fn built(handler: Handler, clock: ManualClock, builder: CacheLayerBuilder) -> Self {
        let layer = builder.clock(clock.clone()).build().unwrap();
        Self {
            clock,
            service: layer.layer(handler.clone()),
            handler,
            purger: layer.purger(),
        }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Seen {
        let response = self.service.clone().oneshot(request).await.unwrap();
        Seen::read(response).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Seen {
        self.send(get(uri)).await
    }

    pub(crate) fn advance_secs(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

/// A response as the client received it.
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    async fn read(response: Response<CacheBody<Full<Bytes>>>) -> Self {
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: text(response).await,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or_default()
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().starts_with("portcullis; hit")
    }
}

pub(crate) fn caller(key_id: &str) -> Identity {
    Identity::builder(key_id).build()
}

pub(crate) fn get_as(uri: &str, caller: &Identity) -> Request<Full<Bytes>> {
    let mut request = get(uri);
    request.extensions_mut().insert(caller.clone());
    request
}

pub(crate) fn get_with(uri: &str, fields: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = get(uri);
    for (name, value) in fields {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    request
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test]
async fn fresh_response_is_served_with_its_age() {
    let app = App::new(Handler::with(FRESH));
    let first = app.get("/a").await;
    assert_eq!(first.body, "call 1");
    assert_eq!(first.header("age"), None);
    assert_eq!(
        first.cache_status(),
        "portcullis; fwd=uri-miss; stored; ttl=60"
    );
    app.advance_secs(7);
    let second = app.get("/a").await;
    assert_eq!(second.body, "call 1");
    assert_eq!(second.header("age"), Some("7"));
    assert_eq!(second.cache_status(), "portcullis; hit; ttl=53");
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn cache_status_of_inner_caches_is_preserved() {
    let fields = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"1\""),
        ("cache-status", "far; hit; ttl=9"),
        ("cache-status", "near; fwd=miss"),
    ];
    let app = App::new(Handler::with(fields));
    for own in [
        "portcullis; fwd=uri-miss; stored; ttl=60",
        "portcullis; hit; ttl=60",
    ] {
        let seen = app.get("/a").await;
        let lines: Vec<_> = seen.headers.get_all("cache-status").iter().collect();
        assert_eq!(lines, ["far; hit; ttl=9", "near; fwd=miss", own]);
    }
}

#[tokio::test]
async fn stale_response_is_requested_again() {
    let app = App::new(Handler::with(FRESH));
    app.get("/a").await;
    app.advance_secs(59);
    assert_eq!(app.get("/a").await.body, "call 1");
    app.advance_secs(1);
    assert_eq!(app.get("/a").await.body, "call 2");
    assert_eq!(app.get("/a").await.body, "call 2");
}

#[tokio::test]
async fn response_without_freshness_is_not_stored() {
    let app = App::new(Handler::with(&[]));
    assert_eq!(
        app.get("/a").await.cache_status(),
        "portcullis; fwd=uri-miss; detail=no-freshness"
    );
    assert_eq!(app.get("/a").await.body, "call 2");
}

#[tokio::test]
async fn each_caller_has_its_own_entry() {
    let app = App::new(Handler::new(|request, _| {
        let caller = request.extensions().get::<Identity>();
        response_with(FRESH, caller.map_or("nobody", Identity::key_id).to_owned())
    }));
    let (one, two) = (caller("one"), caller("two"));
    for _ in 0..2 {
        assert_eq!(app.send(get_as("/a", &one)).await.body, "one");
        assert_eq!(app.send(get_as("/a", &two)).await.body, "two");
        assert_eq!(app.get("/a").await.body, "nobody");
    }
    assert_eq!(app.handler.calls(), 3);
}

#[tokio::test]
async fn changed_rights_select_a_different_entry() {
    let app = App::new(Handler::with(FRESH));
    let rights = [
        Identity::builder("k").scopes(["admin"]).build(),
        Identity::builder("k").build(),
        Identity::builder("k").tier("pro").build(),
        Identity::builder("k").tier("free").build(),
    ];
    for _ in 0..2 {
        for (call, rights) in (1..).zip(&rights) {
            let seen = app.send(get_as("/a", rights)).await;
            assert_eq!(seen.body, format!("call {call}"));
        }
    }
}

#[tokio::test]
async fn private_fields_are_served_only_to_their_caller() {
    let app = App::new(Handler::with(&[
        (
            "cache-control",
            "max-age=60, private=\"x-own, x-secret\", no-cache=x-live",
        ),
        ("x-own", "1"),
        ("x-secret", "1"),
        ("x-live", "1"),
        ("x-all", "1"),
    ]));
    let names = ["x-own", "x-secret", "x-live", "x-all"];
    let one = caller("one");
    for (ask, kept) in [
        (None, [false, false, false, true]),
        (Some(&one), [true, true, false, true]),
    ] {
        let request = || ask.map_or_else(|| get("/a"), |caller| get_as("/a", caller));
        let first = app.send(request()).await;
        assert_eq!(names.map(|name| first.header(name).is_some()), [true; 4]);
        let hit = app.send(request()).await;
        assert!(hit.is_hit());
        assert_eq!(names.map(|name| hit.header(name).is_some()), kept);
    }
}

#[tokio::test]
async fn unverified_credential_bypasses_the_cache() {
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
    ] {
        let app = App::new(Handler::with(&[("cache-control", "public, max-age=60")]));
        let seen = app.send(get_with("/a", &[(name, "secret")])).await;
        assert_eq!(
            seen.cache_status(),
            "portcullis; fwd=bypass; detail=credential-without-identity"
        );
        assert_eq!(app.get("/a").await.body, "call 2", "{name}");
        assert_eq!(
            app.send(get_with("/a", &[(name, "secret")])).await.body,
            "call 3"
        );
    }
}

#[tokio::test]
async fn public_responses_are_shared_only_if_the_route_allows_it() {
    let handler = || Handler::with(&[("cache-control", "public, max-age=60")]);
    let (one, two) = (caller("one"), caller("two"));

    let apart = App::new(handler());
    apart.send(get_as("/a", &one)).await;
    assert_eq!(apart.send(get_as("/a", &two)).await.body, "call 2");

    let sharing = App::configured(handler(), |builder| builder.share_public_responses(true));
    sharing.send(get_as("/a", &one)).await;
    assert_eq!(sharing.send(get_as("/a", &two)).await.body, "call 1");
    assert_eq!(sharing.get("/a").await.body, "call 1");
    assert_eq!(
        sharing
            .send(get_with("/a", &[("authorization", "junk")]))
            .await
            .body,
        "call 1"
    );
}

#[tokio::test]
async fn responses_that_are_not_public_are_never_shared() {
    let app = App::configured(Handler::with(FRESH), |builder| {
        builder.share_public_responses(true)
    });
    let (one, two) = (caller("one"), caller("two"));
    assert_eq!(app.send(get_as("/a", &one)).await.body, "call 1");
    assert_eq!(app.send(get_as("/a", &two)).await.body, "call 2");
    assert_eq!(app.send(get_as("/a", &one)).await.body, "call 1");
    assert_eq!(app.get("/a").await.body, "call 3");
    assert_eq!(
        app.send(get_as("/a", &caller("three"))).await.body,
        "call 4"
    );
}

#[tokio::test]
async fn unsafe_request_invalidates_the_url_for_every_caller() {
    let app = App::new(Handler::with(FRESH));
    let (one, two) = (caller("one"), caller("two"));
    for caller in [&one, &two] {
        app.send(get_as("/a?q", caller)).await;
        app.send(get_as("/b", caller)).await;
    }
    app.send(request(Method::POST, "/a?q")).await;
    for caller in [&one, &two] {
        assert!(!app.send(get_as("/a?q", caller)).await.is_hit());
        assert!(app.send(get_as("/b", caller)).await.is_hit());
    }
}

#[tokio::test]
async fn failed_unsafe_request_invalidates_nothing() {
    let app = App::new(Handler::new(|request, _| {
        let mut response = response_with(FRESH, "x");
        if request.method() == Method::POST {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        response
    }));
    app.get("/a").await;
    app.send(request(Method::POST, "/a")).await;
    assert!(app.get("/a").await.is_hit());
}

#[tokio::test]
async fn unsafe_request_invalidates_location_on_the_same_origin() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("location", "/b"),
        ("content-location", "http://elsewhere/c"),
    ]));
    app.get("/b").await;
    app.get("/c").await;
    app.send(request(Method::PUT, "/a")).await;
    assert!(!app.get("/b").await.is_hit());
    assert!(app.get("/c").await.is_hit());
}

#[tokio::test]
async fn response_in_flight_during_an_unsafe_request_is_not_stored() {
    let app = App::new(Handler::with(FRESH));
    let making = app.service.clone().oneshot(get("/a")).await.unwrap();
    app.send(request(Method::DELETE, "/a")).await;
    assert_eq!(text(making).await, "call 1");
    assert_eq!(app.get("/a").await.body, "call 3");
    assert_eq!(app.get("/a").await.body, "call 3");
}

#[tokio::test]
async fn no_method_but_get_and_head_is_answered_from_the_store() {
    let app = App::new(Handler::with(FRESH));
    for method in [Method::POST, Method::DELETE, Method::OPTIONS, Method::PATCH] {
        let first = app.send(request(method.clone(), "/a")).await;
        let second = app.send(request(method, "/a")).await;
        assert_ne!(first.body, second.body);
    }
}

#[tokio::test]
async fn head_is_answered_from_get_and_never_the_other_way() {
    let app = App::new(Handler::with(FRESH));
    assert_eq!(
        app.send(request(Method::HEAD, "/a")).await.header("age"),
        None
    );
    assert_eq!(app.get("/a").await.body, "call 2");
    let head = app.send(request(Method::HEAD, "/a")).await;
    assert!(head.is_hit());
    assert_eq!(
        (head.body.as_str(), head.header("content-length")),
        ("", Some("6"))
    );
}

#[tokio::test]
async fn answers_that_vary_stand_side_by_side() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("vary", "Accept, X-V"),
    ]));
    for (accept, body) in [
        ("a", "call 1"),
        ("b", "call 2"),
        ("a", "call 1"),
        ("b", "call 2"),
    ] {
        assert_eq!(
            app.send(get_with("/a", &[("accept", accept)])).await.body,
            body
        );
    }
    let seen = app.send(get_with("/a", &[("accept", "c")])).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=vary-miss; stored; ttl=60"
    );
}

#[tokio::test]
async fn the_oldest_variant_goes_when_there_are_too_many() {
    let handler = Handler::with(&[("cache-control", "max-age=60"), ("vary", "accept")]);
    let app = App::configured(handler, |builder| builder.max_variants(2));
    for accept in ["a", "b", "c"] {
        app.send(get_with("/a", &[("accept", accept)])).await;
    }
    assert!(app.send(get_with("/a", &[("accept", "b")])).await.is_hit());
    assert!(app.send(get_with("/a", &[("accept", "c")])).await.is_hit());
    assert!(!app.send(get_with("/a", &[("accept", "a")])).await.is_hit());
}

#[tokio::test]
async fn matching_condition_returns_304_from_the_cache() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("etag", "\"v1\""),
    ]));
    app.get("/a").await;
    let seen = app
        .send(get_with("/a", &[("if-none-match", "\"v1\"")]))
        .await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    assert_eq!(seen.header("etag"), Some("\"v1\""));
    assert_eq!(seen.header("content-length"), None);
    let seen = app
        .send(get_with("/a", &[("if-none-match", "\"v2\"")]))
        .await;
    assert_eq!(
        (seen.status, seen.body.as_str()),
        (StatusCode::OK, "call 1")
    );
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn repeated_fields_are_given_again_as_they_were() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("link", "</a>"),
        ("link", "</b>"),
    ]));
    app.get("/a").await;
    let seen = app.get("/a").await;
    let links: Vec<_> = seen.headers.get_all("link").iter().collect();
    assert_eq!(links, ["</a>", "</b>"]);
}

#[tokio::test]
async fn oversized_body_streams_through_without_storage() {
    let handler = Handler::new(|_, _| response_with(FRESH, vec![b'x'; 11]));
    let app = App::configured(handler, |builder| builder.max_body_bytes(10));
    let seen = app.get("/a").await;
    assert_eq!(seen.body.len(), 11);
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=uri-miss; detail=too-large"
    );
    assert!(!app.get("/a").await.is_hit());
}

#[tokio::test]
async fn unread_body_is_not_stored() {
    let app = App::configured(Handler::with(FRESH), |builder| builder.max_finish_bytes(0));
    drop(app.service.clone().oneshot(get("/a")).await.unwrap());
    assert_eq!(app.get("/a").await.body, "call 2");
}

#[tokio::test]
async fn body_of_wrong_length_is_not_stored() {
    let app = App::new(Handler::with(&[
        ("cache-control", "max-age=60"),
        ("content-length", "3"),
    ]));
    assert_eq!(
        app.get("/a").await.cache_status(),
        "portcullis; fwd=uri-miss; detail=incomplete"
    );
    assert!(!app.get("/a").await.is_hit());
}

#[tokio::test]
async fn empty_body_is_stored_without_being_polled() {
    let app = App::new(Handler::new(|_, _| response_with(FRESH, "")));
    drop(app.service.clone().oneshot(get("/a")).await.unwrap());
    assert!(app.get("/a").await.is_hit());
}

#[tokio::test]
async fn extensions_of_the_request_reach_the_handler() {
    let app = App::new(Handler::new(|request, _| {
        response_with(
            FRESH,
            request
                .extensions()
                .get::<&'static str>()
                .copied()
                .unwrap_or("none"),
        )
    }));
    let mut request = get("/a");
    request.extensions_mut().insert("here");
    assert_eq!(app.send(request).await.body, "here");
}

#[tokio::test]
async fn the_record_and_the_response_say_what_the_cache_did() {
    let app = App::new(Handler::with(FRESH));
    for source in [CacheSource::Miss, CacheSource::Hit] {
        let record = RecordHandle::default();
        let mut request = get("/a");
        request.extensions_mut().insert(record.clone());
        let response = app.service.clone().oneshot(request).await.unwrap();
        let told = response
            .extensions()
            .get::<portcullis::outcome::CacheOutcome>()
            .unwrap()
            .clone();
        assert_eq!(told.source, source);
        assert_eq!(told.stored, source == CacheSource::Miss);
        record.read(|slots| assert_eq!(slots.cache(), Some(&told)));
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn two_caches_in_one_store_do_not_see_each_other() {
    let store = MemoryStore::new();
    let service = |namespace: &str| {
        let layer = CacheLayer::secure(store.clone())
            .namespace(namespace)
            .build()
            .unwrap();
        layer.layer(Handler::with(FRESH))
    };
    let (one, two) = (service("one"), service("two"));
    text(one.clone().oneshot(get("/a")).await.unwrap()).await;
    let response = two.oneshot(get("/a")).await.unwrap();
    assert!(
        response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .contains("fwd=uri-miss")
    );
    let response = one.oneshot(get("/a")).await.unwrap();
    assert!(
        response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .contains("hit")
    );
}

#[tokio::test]
async fn only_the_rfc_profile_heeds_what_a_request_asks_of_caches() {
    let asks = [("cache-control", "no-cache")];
    let app = App::new(Handler::with(FRESH));
    app.get("/a").await;
    assert!(app.send(get_with("/a", &asks)).await.is_hit());

    let app = App::rfc(Handler::with(FRESH));
    app.get("/a").await;
    let seen = app.send(get_with("/a", &asks)).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=request; stored; ttl=60"
    );
    let seen = app
        .send(get_with("/b", &[("cache-control", "only-if-cached")]))
        .await;
    assert_eq!(seen.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(app.handler.calls(), 2);
}

#[test]
fn a_wrong_option_is_named_before_the_first_request() {
    let builder = || CacheLayer::secure(MemoryStore::new());
    let option = |builder: CacheLayerBuilder| builder.build().unwrap_err().option();
    assert_eq!(option(builder().name("two words")), "name");
    assert_eq!(
        option(builder().credential_header("a b")),
        "credential_header"
    );
    assert_eq!(option(builder().max_body_bytes(0)), "max_body_bytes");
    assert_eq!(option(builder().max_variants(0)), "max_variants");
}

/// A store that answers a little later, as one on a server does, or not at all.
#[derive(Clone)]
struct Later {
    store: MemoryStore,
    fails: Arc<AtomicBool>,
}

impl Later {
    fn new(clock: &ManualClock) -> Self {
        Self {
            store: MemoryStore::with_clock(clock.clone()),
            fails: Arc::default(),
        }
    }

    fn later<T: Send + 'static>(&self, future: StoreFuture<T>) -> StoreFuture<T> {
        if self.fails.load(Ordering::SeqCst) {
            return StoreFuture::failed(StoreErrorKind::Unavailable);
        }
        StoreFuture::pending(async {
            tokio::task::yield_now().await;
            future.await
        })
    }
}

impl CacheStore for Later {
    fn keys(&self) -> &StoreKeys {
        self.store.keys()
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.later(self.store.get(key, selection))
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.later(self.store.put(put))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.later(self.store.touch(touch))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        self.later(self.store.purge(targets, mode))
    }
}

#[tokio::test]
async fn a_store_that_answers_later_serves_as_well() {
    let clock = ManualClock::default();
    let store = Later::new(&clock);
    let builder = CacheLayer::secure(store.clone());
    let app = App::built(
        Handler::with(FRESH),
        clock,
        builder.share_public_responses(true),
    );
    let one = caller("one");
    assert_eq!(app.send(get_as("/a", &one)).await.body, "call 1");
    // The response is stored in the background.
    while !app.send(get_as("/a", &one)).await.is_hit() {
        tokio::task::yield_now().await;
    }
    app.send(request(Method::POST, "/a")).await;
    let calls = app.handler.calls();
    assert_eq!(
        app.send(get_as("/a", &one)).await.body,
        format!("call {}", calls + 1)
    );
}

#[tokio::test]
async fn a_store_that_fails_costs_a_call_of_the_handler_and_no_more() {
    let clock = ManualClock::default();
    let store = Later::new(&clock);
    let app = App::built(
        Handler::with(FRESH),
        clock,
        CacheLayer::secure(store.clone()),
    );
    store.fails.store(true, Ordering::SeqCst);
    for call in 1..3 {
        let seen = app.get("/a").await;
        assert_eq!(seen.body, format!("call {call}"));
        assert_eq!(
            seen.cache_status(),
            "portcullis; fwd=uri-miss; detail=store"
        );
    }
    assert_eq!(
        app.send(request(Method::POST, "/a")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn response_dropped_at_any_poll_is_not_stored() {
    let clock = ManualClock::default();
    let store = Later::new(&clock);
    let app = App::built(Handler::with(FRESH), clock, CacheLayer::secure(store));
    for polls in 0..4 {
        let uri = format!("/{polls}");
        let mut response = Box::pin(app.service.clone().oneshot(get(&uri)));
        let mut cx = Context::from_waker(Waker::noop());
        if (0..polls).any(|_| response.as_mut().poll(&mut cx).is_ready()) {
            // A short response is stored before its head is sent.
            continue;
        }
        drop(response);
        assert!(!app.get(&uri).await.is_hit(), "after {polls} polls");
    }
}

async fn purge(app: &App, what: Purge, mode: PurgeMode) {
    app.purger.purge([what], mode).await.unwrap();
}

#[tokio::test]
async fn tag_purge_removes_all_tagged_entries() {
    let app = App::new(Handler::new(|request, call| {
        let mut response = response_with(FRESH, format!("call {call}"));
        let path = request.uri().path().trim_start_matches('/').to_owned();
        match &*path {
            "extension" => {
                response
                    .extensions_mut()
                    .insert(CacheTags::new(["all", "extension"]));
            }
            "comma" => {
                let tags = HeaderValue::from_static("other,all");
                response.headers_mut().insert("cache-tag", tags);
            }
            _ => {
                let tags = HeaderValue::from_static("none of it");
                response.headers_mut().insert("surrogate-key", tags);
            }
        }
        response
    }));
    let paths = ["/extension", "/comma", "/space"];
    for path in paths {
        let seen = app.get(path).await;
        assert_eq!(
            (seen.header("cache-tag"), seen.header("surrogate-key")),
            (None, None)
        );
        let hit = app.get(path).await;
        assert_eq!(
            (hit.header("cache-tag"), hit.header("surrogate-key")),
            (None, None)
        );
    }
    purge(&app, Purge::tag("all"), PurgeMode::Hard).await;
    assert!(!app.get("/extension").await.is_hit());
    assert!(!app.get("/comma").await.is_hit());
    assert!(app.get("/space").await.is_hit());
}

#[tokio::test]
async fn url_purge_removes_entries_of_every_caller() {
    let app = App::new(Handler::with(FRESH));
    let (one, two) = (caller("one"), caller("two"));
    for caller in [&one, &two] {
        app.send(get_as("http://a/x?y", caller)).await;
        app.send(get_as("http://a/z", caller)).await;
    }
    purge(
        &app,
        Purge::uri("http://A/x?y".parse().unwrap()),
        PurgeMode::Hard,
    )
    .await;
    for caller in [&one, &two] {
        assert!(!app.send(get_as("http://a/x?y", caller)).await.is_hit());
        assert!(app.send(get_as("http://a/z", caller)).await.is_hit());
    }
}

#[tokio::test]
async fn caller_purge_removes_only_entries_of_that_caller() {
    let app = App::new(Handler::with(FRESH));
    let (one, two) = (caller("one"), caller("two"));
    for caller in [&one, &two] {
        app.send(get_as("/a", caller)).await;
    }
    purge(&app, Purge::Caller(one.clone()), PurgeMode::Hard).await;
    assert!(!app.send(get_as("/a", &one)).await.is_hit());
    assert!(app.send(get_as("/a", &two)).await.is_hit());
    purge(&app, Purge::All, PurgeMode::Hard).await;
    assert!(!app.send(get_as("/a", &two)).await.is_hit());
}

#[tokio::test]
async fn softly_purged_entry_is_revalidated_before_use() {
    let app = App::new(Handler::new(|request, _| {
        let mut response =
            response_with(&[("cache-control", "max-age=60"), ("etag", "\"v\"")], "x");
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response
    }));
    app.get("/a").await;
    purge(&app, Purge::All, PurgeMode::Soft).await;
    let seen = app.get("/a").await;
    let status = "portcullis; fwd=stale; fwd-status=304; stored; ttl=60";
    assert_eq!((seen.body.as_str(), seen.cache_status()), ("x", status));
    assert!(app.get("/a").await.is_hit());
}

#[tokio::test]
async fn purge_prevents_storage_of_a_response_in_flight() {
    let app = App::new(Handler::with(FRESH));
    let making = app.service.clone().oneshot(get("/a")).await.unwrap();
    purge(&app, Purge::All, PurgeMode::Hard).await;
    assert_eq!(text(making).await, "call 1");
    assert!(!app.get("/a").await.is_hit());
}

#[tokio::test]
async fn route_policy_disables_shares_or_varies_caching() {
    let app = App::new(Handler::with(&[("cache-control", "public, max-age=60")]));
    let with = |policy: CachePolicy, request: Request<Full<Bytes>>| {
        let mut request = request;
        request.extensions_mut().insert(policy);
        request
    };
    app.get("/a").await;
    let off = app.send(with(CachePolicy::new().off(), get("/a"))).await;
    assert_eq!(off.cache_status(), "portcullis; fwd=bypass; detail=off");

    let shared = || CachePolicy::new().share_public_responses(true);
    let (one, two) = (caller("one"), caller("two"));
    app.send(with(shared(), get_as("/b", &one))).await;
    assert!(app.send(with(shared(), get_as("/b", &two))).await.is_hit());
    assert!(!app.send(get_as("/b", &two)).await.is_hit());

    let by_tenant = || CachePolicy::new().vary_by([HeaderName::from_static("x-tenant")]);
    let tenant = |name| with(by_tenant(), get_with("/c", &[("x-tenant", name)]));
    let first = app.send(tenant("a")).await.body;
    assert_ne!(app.send(tenant("b")).await.body, first);
    assert_eq!(app.send(tenant("a")).await.body, first);
}

#[tokio::test]
async fn response_policy_overrides_freshness_but_not_prohibitions() {
    let policy = CachePolicy::new().default_ttl(Duration::from_secs(5));
    let handler = Handler::new(move |request, _| {
        let mut response = match request.uri().path() {
            "/forbidden" => response_with(&[("cache-control", "no-store")], "x"),
            _ => response_with(&[], "x"),
        };
        let policy = match request.uri().path() {
            "/off" => policy.clone().off(),
            "/private" => policy.clone().private(),
            _ => policy.clone(),
        };
        response.extensions_mut().insert(policy);
        response
    });
    let app = App::new(handler);
    for path in ["/off", "/private", "/forbidden"] {
        app.get(path).await;
        assert!(!app.get(path).await.is_hit(), "{path}");
    }
    app.get("/a").await;
    app.advance_secs(4);
    assert!(app.get("/a").await.is_hit());
    app.advance_secs(1);
    assert!(!app.get("/a").await.is_hit());
    let one = caller("one");
    app.send(get_as("/private", &one)).await;
    assert!(app.send(get_as("/private", &one)).await.is_hit());
}

#[tokio::test]
async fn cache_without_name_sends_no_cache_status() {
    let app = App::configured(
        Handler::with(FRESH),
        CacheLayerBuilder::without_cache_status,
    );
    for age in [None, Some("0")] {
        let seen = app.get("/a").await;
        assert_eq!(
            (seen.header("cache-status"), seen.header("age")),
            (None, age)
        );
    }
}
