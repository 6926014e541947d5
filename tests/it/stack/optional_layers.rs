//! Gates whose layers a configuration switches on and off, all of one type.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version, header::CACHE_CONTROL};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use portcullis::{
    BoxError, ConfigError, Gate, GateLayer, ManualClock, PeerAddr, Timestamp,
    access_log::{AccessLogLayer, body::CountedBody, sinks::RecentRecords},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    gate::GateService,
    rate_limit::RateLimitLayer,
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};

use crate::support::{header, request, text};

type Handler = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;
type BoxBody = UnsyncBoxBody<Bytes, BoxError>;
type Boxed = BoxCloneService<Request<Full<Bytes>>, Response<BoxBody>, Infallible>;

/// The layers of one subset, over one store.
struct Layers {
    log: Option<AccessLogLayer>,
    by_address: Option<RateLimitLayer>,
    keys: Option<ApiKeyLayer>,
    by_identity: Option<RateLimitLayer>,
    cache: Option<CacheLayer>,
    records: RecentRecords,
    key: String,
    clock: ManualClock,
}

impl Layers {
    /// Creates the layers whose bits are set, from the outermost to the innermost.
    async fn of(subset: usize) -> Self {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(Pepper::random(1))
            .clock(clock.clone())
            .build()
            .unwrap();
        let key = KeyManager::new(&ring).create(NewKey::new("freya")).await;
        let records = RecentRecords::default();
        let has = |bit: usize| subset & (1 << bit) != 0;
        Self {
            log: has(0).then(|| {
                let log = AccessLogLayer::builder().sink(records.clone());
                log.clock(clock.clone()).build().unwrap()
            }),
            by_address: has(1)
                .then(|| RateLimitLayer::per_client(store.clone(), "8/hour").unwrap()),
            keys: has(2).then(|| ApiKeyLayer::new(&ring).unwrap()),
            by_identity: has(3)
                .then(|| RateLimitLayer::per_identity(store.clone(), "4/hour").unwrap()),
            cache: has(4).then(|| {
                let cache = CacheLayer::secure(store.clone()).clock(clock.clone());
                cache.build().unwrap()
            }),
            records,
            key: key.unwrap().expose_secret().to_owned(),
            clock,
        }
    }

    fn gate(&self) -> GateLayer {
        Gate::new()
            .access_log(self.log.clone())
            .rate_limit_by_address(self.by_address.clone())
            .api_keys(self.keys.clone())
            .rate_limit_by_identity(self.by_identity.clone())
            .cache(self.cache.clone())
            .without_api_keys()
            .build()
            .unwrap()
    }

    /// Stacks the layers that are present, without a gate.
    fn by_hand(&self, handler: Handler) -> Boxed {
        let mut service = boxed(handler);
        if let Some(cache) = &self.cache {
            service = boxed(cache.layer(service));
        }
        if let Some(limits) = &self.by_identity {
            service = boxed(limits.layer(service));
        }
        if let Some(keys) = &self.keys {
            service = boxed(keys.layer(service));
        }
        if let Some(limits) = &self.by_address {
            service = boxed(limits.layer(service));
        }
        match &self.log {
            Some(log) => boxed(log.layer(service)),
            None => service,
        }
    }

    /// Returns the records without generated ids, which differ between two runs.
    fn records(&self) -> Vec<BTreeMap<String, Value>> {
        let parsed = |line: &String| serde_json::from_str::<BTreeMap<String, Value>>(line).unwrap();
        let mut records: Vec<_> = self.records.all().iter().map(parsed).collect();
        for record in &mut records {
            record.retain(|name, _| !name.ends_with("id"));
        }
        records
    }
}

/// Erases the types of a service and of its response body.
fn boxed<S, B>(service: S) -> Boxed
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    BoxCloneService::new(service.map_response(|response: Response<B>| {
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    }))
}

/// Returns a handler that counts its calls: each response contains the number.
fn handler() -> (Handler, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let response = Response::builder().header(CACHE_CONTROL, "max-age=60");
            Ok(response.body(Full::from(format!("call {call}"))).unwrap())
        }
    });
    (BoxCloneService::new(handler), calls)
}

fn from_peer(mut request: Request<Full<Bytes>>, key: Option<&str>) -> Request<Full<Bytes>> {
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    if let Some(key) = key {
        let key = key.parse().unwrap();
        request.headers_mut().insert("x-api-key", key);
    }
    request
}

/// The status, the header fields without the generated request id, and the body of a response.
type Reply = (u16, BTreeMap<String, String>, String);

/// Sends one request after another, so that each layer decides in several ways.
async fn replies<S, B>(service: &S, layers: &Layers) -> Vec<Reply>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let key = Some(layers.key.as_str());
    let steps = [
        (Method::GET, "http://acme.test/a", None),
        (Method::GET, "http://acme.test/a", None),
        (Method::GET, "http://acme.test/a", key),
        (Method::GET, "http://acme.test/a", key),
        (
            Method::GET,
            "http://acme.test/a",
            Some("acmepay_live_wrong"),
        ),
        (Method::POST, "http://acme.test/a", key),
        (Method::GET, "http://acme.test/a", key),
        (Method::GET, "http://acme.test/b", key),
        (Method::GET, "http://acme.test/b", key),
        (Method::GET, "http://acme.test/b", None),
    ];
    let mut replies = Vec::new();
    for (method, uri, key) in steps {
        let request = from_peer(request(method, uri), key);
        let response = service.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let fields = response.headers().iter();
        let mut fields: BTreeMap<_, _> = fields
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let has_id = fields.remove("x-request-id").is_some();
        assert_eq!(has_id, layers.log.is_some());
        replies.push((status, fields, text(response).await));
        layers.clock.advance(Duration::from_secs(1));
    }
    replies
}

#[tokio::test]
async fn every_subset_of_layers_behaves_as_the_same_layers_stacked_by_hand() {
    let mut gates: Vec<GateLayer> = Vec::new();
    let mut layers = Vec::new();
    for subset in 0..32 {
        layers.push(Layers::of(subset).await);
        gates.push(layers[subset].gate());
    }
    let mut kinds = BTreeMap::new();
    for (subset, gate) in gates.iter().enumerate() {
        let (inner, calls) = handler();
        let service: GateService<Handler> = gate.layer(inner);
        let actual = replies(&service, &layers[subset]).await;

        let manual = Layers::of(subset).await;
        let (inner, manual_calls) = handler();
        let expected = replies(&manual.by_hand(inner), &manual).await;

        assert_eq!(actual, expected, "subset {subset:05b}");
        let records = layers[subset].records();
        assert_eq!(records, manual.records(), "subset {subset:05b}");
        let counts = [&calls, &manual_calls].map(|calls| calls.load(Ordering::SeqCst));
        assert_eq!(counts[0], counts[1], "subset {subset:05b}");
        assert_eq!(records.len(), if subset & 1 == 1 { 10 } else { 0 });
        *kinds.entry(actual).or_insert(0) += 1;
    }
    // The log changes no reply, and limits by identity need the keys. Every other layer shows.
    assert_eq!(kinds.values().sum::<i32>(), 32);
    assert_eq!(kinds.len(), 12);
}

#[tokio::test]
async fn layers_come_from_a_configuration_file() {
    /// The settings of a service.
    struct Settings {
        log: Option<AccessLogLayer>,
        limit: Option<String>,
        cache: bool,
    }
    let store = MemoryStore::new();
    let from_text = |text: &str| {
        let json: Value = serde_json::from_str(text).unwrap();
        let settings = Settings {
            log: json["log"].as_bool().map(|_| AccessLogLayer::test().0),
            limit: json["limit"].as_str().map(str::to_owned),
            cache: json["cache"].as_bool().unwrap_or(false),
        };
        let limit = |quota: &String| RateLimitLayer::per_client(store.clone(), quota.as_str());
        Gate::new()
            .access_log(settings.log)
            .rate_limit_by_address(settings.limit.as_ref().map(limit).transpose()?)
            .cache(settings.cache.then(|| CacheLayer::new(store.clone())))
            .api_keys(None)
            .without_api_keys()
            .build()
    };
    let files = [
        (
            r#"{"log": true, "limit": "1/hour", "cache": true}"#,
            429,
            true,
        ),
        (r#"{"cache": true}"#, 200, true),
        ("{}", 200, false),
    ];
    for (file, second, has_cache) in files {
        let app = axum::Router::new()
            .route(
                "/",
                axum::routing::get(([(CACHE_CONTROL, "max-age=9")], "ok")),
            )
            .layer(from_text(file).unwrap());
        let send = || {
            let request = from_peer(request(Method::GET, "http://acme.test/"), None);
            app.clone().oneshot(request.map(axum::body::Body::new))
        };
        let first = send().await.unwrap();
        assert_eq!(first.status(), 200, "{file}");
        assert_eq!(first.headers().contains_key("cache-status"), has_cache);
        assert_eq!(text(first).await, "ok");
        assert_eq!(send().await.unwrap().status(), second, "{file}");
    }
    let error = from_text(r#"{"limit": "often"}"#).unwrap_err();
    assert!(error.to_string().contains("often"), "{error}");
}

#[tokio::test]
async fn none_removes_a_layer_that_was_set() {
    let (log, records) = AccessLogLayer::test();
    let gate = Gate::new().access_log(log).access_log(None);
    let service = gate.build().unwrap().layer(handler().0);
    service.oneshot(request(Method::GET, "/")).await.unwrap();
    assert!(records.last().is_none());
}

#[tokio::test]
async fn gate_without_layers_passes_requests_and_responses_unchanged() {
    let handler = service_fn(async |request: Request<Full<Bytes>>| {
        let (head, body) = request.into_parts();
        assert_eq!(
            (head.method, head.version),
            (Method::PATCH, Version::HTTP_2)
        );
        assert_eq!(head.uri, "http://acme.test/a?b=c");
        assert_eq!(head.headers.len(), 1);
        assert_eq!(head.headers["x-api-key"], "a key");
        assert_eq!(head.extensions.len(), 1);
        assert_eq!(head.extensions.get(), Some(&7_u8));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let trailers = async { Some(Ok::<_, Infallible>(trailers)) };
        let response = Response::builder().status(299).version(Version::HTTP_2);
        let response = response.header("x-own", "kept").extension(8_u8);
        let body = Full::<Bytes>::from("onetwo").with_trailers(Box::pin(trailers));
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let gate = Gate::new().build().unwrap();
    let request = Request::patch("http://acme.test/a?b=c").version(Version::HTTP_2);
    let request = request.header("x-api-key", "a key").extension(7_u8);
    let request = request.body(Full::<Bytes>::from("body")).unwrap();
    let response = gate.layer(handler).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    assert_eq!((head.status.as_u16(), head.version), (299, Version::HTTP_2));
    assert_eq!(
        (head.headers.len(), &head.headers["x-own"]),
        (1, &"kept".parse().unwrap())
    );
    assert_eq!(
        (head.extensions.len(), head.extensions.get()),
        (1, Some(&8_u8))
    );
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
    assert_eq!(body.to_bytes(), "onetwo");
}

#[tokio::test]
async fn response_body_of_a_gate_reports_its_length_and_has_a_default() {
    fn default_of<B: Default>(_: &B) -> B {
        B::default()
    }
    for subset in [0, 31] {
        let layers = Layers::of(subset).await;
        let service = layers.gate().layer(handler().0);
        let request = from_peer(
            request(Method::POST, "http://acme.test/"),
            Some(&layers.key),
        );
        let body = service.oneshot(request).await.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(6), "{subset}");
        assert!(default_of(&body).is_end_stream());
        assert_eq!(default_of(&body).size_hint().exact(), Some(0));
    }
}

#[tokio::test]
async fn gate_that_counts_request_bodies_passes_them_without_an_access_log() {
    let gate = Gate::new().build().unwrap().count_request_bodies();
    let echo = service_fn(async |request: Request<CountedBody<Full<Bytes>>>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let request = Request::new(Full::<Bytes>::from("echo"));
    let response = gate.layer(echo).oneshot(request).await.unwrap();
    assert_eq!(text(response).await, "echo");
}

/// A ring and layers without a clock of their own, on a store with this clock.
fn without_clocks(clock: &ManualClock) -> (MemoryStore, KeyRing, ApiKeyLayer) {
    let store = MemoryStore::with_clock(clock.clone());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let keys = ApiKeyLayer::new(&ring).unwrap();
    (store, ring, keys)
}

#[tokio::test]
async fn clock_of_the_gate_sets_the_time_of_records_keys_and_cached_responses() {
    let clock = ManualClock::default();
    let (store, ring, keys) = without_clocks(&clock);
    let (log, records) = AccessLogLayer::test();
    let gate = Gate::new()
        .clock(clock.clone())
        .access_log(log)
        .api_keys(keys)
        .cache(CacheLayer::new(store))
        .build()
        .unwrap();
    let new_key = NewKey::new("freya").expires_in(Duration::from_secs(3_600));
    let key = KeyManager::new(&ring).create(new_key).await.unwrap();
    let service = gate.layer(handler().0);
    let send = async || {
        let request = request(Method::GET, "http://acme.test/");
        let request = from_peer(request, Some(key.expose_secret()));
        let response = service.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let cached = header(response.headers(), "cache-status").map(str::to_owned);
        drop(text(response).await);
        let record: Value = serde_json::from_str(&records.last().unwrap()).unwrap();
        let at = record["timestamp"].as_str().unwrap().to_owned();
        (status, cached.unwrap_or_default(), at)
    };
    let (status, cached, at) = send().await;
    assert_eq!((status, &at[..19]), (200, "2026-01-01T00:00:00"));
    assert!(cached.contains("stored; ttl=60"), "{cached}");
    clock.advance(Duration::from_secs(20));
    let (status, cached, at) = send().await;
    assert_eq!((status, &at[..19]), (200, "2026-01-01T00:00:20"));
    assert!(cached.contains("hit; ttl=40"), "{cached}");
    clock.advance(Duration::from_secs(3_600));
    let (status, _, at) = send().await;
    assert_eq!((status, &at[..19]), (401, "2026-01-01T01:00:20"));
}

#[tokio::test]
async fn clock_of_a_layer_has_priority_over_that_of_the_gate() {
    let (own, other) = (ManualClock::default(), ManualClock::new(Timestamp::EPOCH));
    let records = RecentRecords::default();
    let log = AccessLogLayer::builder()
        .sink(records.clone())
        .clock(own.clone());
    let store = MemoryStore::with_clock(own.clone());
    let cache = CacheLayer::secure(store).clock(own.clone());
    let gate = Gate::new()
        .clock(other.clone())
        .access_log(log.build().unwrap())
        .cache(cache.build().unwrap())
        .without_api_keys()
        .build()
        .unwrap();
    let service = gate.layer(handler().0);
    let send = async || {
        let request = request(Method::GET, "http://acme.test/");
        let response = service.clone().oneshot(request).await.unwrap();
        let cached = header(response.headers(), "cache-status").map(str::to_owned);
        drop(text(response).await);
        cached.unwrap()
    };
    assert!(send().await.contains("ttl=60"));
    other.advance(Duration::from_secs(3_600));
    own.advance(Duration::from_secs(1));
    assert!(send().await.contains("hit; ttl=59"));
    assert!(records.last().unwrap().contains("2026-01-01T00:00:01"));
}

#[tokio::test]
async fn clock_of_the_gate_is_refused_after_the_system_clock_was_used() {
    let clock = ManualClock::default();
    let (_, ring, keys) = without_clocks(&clock);
    KeyManager::new(&ring)
        .create(NewKey::new("freya"))
        .await
        .unwrap();
    let gate = Gate::new().clock(clock.clone()).api_keys(keys);
    let error = gate.build().unwrap_err();
    assert_eq!(error.option(), "clock");
    assert!(error.value().contains("api_keys"), "{error}");
    assert!(error.to_string().contains("`KeyRing::builder`"), "{error}");

    let (log, _) = AccessLogLayer::test();
    let used = log.layer(handler().0);
    used.oneshot(request(Method::GET, "/")).await.unwrap();
    let error = Gate::new()
        .clock(clock.clone())
        .access_log(log)
        .build()
        .unwrap_err();
    assert!(error.value().contains("access_log"), "{error}");

    let cache = CacheLayer::new(MemoryStore::new());
    let used = cache.layer(handler().0);
    used.oneshot(request(Method::GET, "http://acme.test/"))
        .await
        .unwrap();
    let gate = Gate::new()
        .clock(clock.clone())
        .cache(cache)
        .without_api_keys();
    let error = gate.build().unwrap_err();
    assert!(error.value().contains("cache"), "{error}");
}

#[tokio::test]
async fn two_gates_on_one_ring_share_the_clock_of_the_first() {
    let clock = ManualClock::default();
    let (_, _, keys) = without_clocks(&clock);
    let build = || {
        Gate::new()
            .clock(clock.clone())
            .api_keys(keys.clone())
            .build()
    };
    let gates: Result<Vec<GateLayer>, ConfigError> = [build(), build()].into_iter().collect();
    assert_eq!(gates.unwrap().len(), 2);
}
