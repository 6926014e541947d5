//! Optional and conditional fields of a record.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Gate, Identity,
    access_log::{
        AccessLogLayer, AccessLogLayerBuilder, LogLevel, Observer, Record, Sink, Trust,
        sinks::RecentRecords,
    },
    cache::CacheLayer,
    outcome::{AuthOutcome, RateLimitDecision, RateLimitOutcome, RecordHandle},
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, request, text};

fn log(
    told: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder,
) -> (AccessLogLayer, RecentRecords) {
    let recent = RecentRecords::default();
    let builder = AccessLogLayer::builder().sink(recent.clone());
    (told(builder).build().unwrap(), recent)
}

fn last(recent: &RecentRecords) -> Value {
    serde_json::from_str(&recent.last().unwrap()).unwrap()
}

/// Sends a request to a handler that writes into its record, and returns the record.
async fn record_of(
    told: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder,
    request: Request<Full<Bytes>>,
    write: impl Fn(&RecordHandle) + Clone + Send + Sync,
) -> Value {
    let (layer, recent) = log(told);
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        write(RecordHandle::from_extensions(request.extensions()).unwrap());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(request).await.unwrap();
    last(&recent)
}

#[tokio::test]
async fn the_host_that_was_asked_for_is_written_if_it_is_one() {
    let with_host = |host: &str| {
        let mut request = get("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        request
    };
    let nothing = |_: &RecordHandle| {};
    let record = record_of(|log| log, with_host("acme.test:8080"), nothing).await;
    assert_eq!(record["server.address"], "acme.test");
    assert_eq!(record["server.port"], 8080);
    let record = record_of(|log| log, with_host("[2001:db8::1]"), nothing).await;
    assert_eq!(record["server.address"], "2001:db8::1");
    assert!(record.get("server.port").is_none());
    let record = record_of(|log| log, get("https://acme.test/a"), nothing).await;
    assert_eq!(record["server.address"], "acme.test");
    for bad in ["a b", "x\"y", "user@acme.test", "acme.test:http"] {
        let record = record_of(|log| log, with_host(bad), nothing).await;
        assert!(record.get("server.address").is_none(), "{record}");
    }
}

#[tokio::test]
async fn a_record_has_a_name_of_its_own_where_the_request_brings_one() {
    let named = || {
        let mut request = get("/");
        let name = HeaderValue::from_static("sent-twice");
        request.headers_mut().insert("x-request-id", name);
        request
    };
    let nothing = |_: &RecordHandle| {};
    let trusting = |log: AccessLogLayerBuilder| log.trust_request_id(Trust::Everybody);
    let first = record_of(trusting, named(), nothing).await;
    let second = record_of(trusting, named(), nothing).await;
    assert_eq!(
        first["portcullis.request.id"],
        second["portcullis.request.id"]
    );
    assert_ne!(first["log.record.uid"], second["log.record.uid"]);
    let own = record_of(|log| log, named(), nothing).await;
    assert_eq!(own["log.record.uid"], own["portcullis.request.id"]);
}

#[tokio::test]
async fn key_owner_is_recorded_only_if_enabled_or_as_a_digest() {
    let by_freya = |record: &RecordHandle| {
        let freya = Identity::builder("key_7").owner("freya").build();
        record.set_auth(AuthOutcome::Allowed(freya));
    };
    let record = record_of(|log| log, get("/"), by_freya).await;
    assert!(!record.to_string().contains("freya"), "{record}");
    assert!(record.get("user.hash").is_none());
    let record = record_of(AccessLogLayerBuilder::include_user_id, get("/"), by_freya).await;
    assert_eq!(record["user.id"], "freya");
    let hashed = |log: AccessLogLayerBuilder| log.include_user_hash("a secret of the log's");
    let record = record_of(hashed, get("/"), by_freya).await;
    assert_eq!(record["user.hash"].as_str().unwrap().len(), 32);
    assert!(!record.to_string().contains("freya"), "{record}");
}

#[tokio::test]
async fn cache_key_digest_is_recorded_only_if_enabled() {
    let (layer, recent) = log(AccessLogLayerBuilder::include_cache_key_hash);
    let (plain, silent) = log(|log| log);
    let cache = CacheLayer::new(MemoryStore::new());
    let handler = || {
        service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        })
    };
    let app = layer.layer(cache.layer(handler()));
    let mut hashes = Vec::new();
    for path in ["/a", "/a", "/b"] {
        let mut request = get(path);
        request
            .headers_mut()
            .insert("host", "acme.test".parse().unwrap());
        app.clone().oneshot(request).await.unwrap();
        let hash = last(&recent)["portcullis.cache.key_hash"].clone();
        hashes.push(hash.as_str().unwrap().to_owned());
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
    assert_eq!(hashes[0].len(), 16);
    plain
        .layer(cache.layer(handler()))
        .oneshot(get("/a"))
        .await
        .unwrap();
    assert!(last(&silent).get("portcullis.cache.key_hash").is_none());
}

#[tokio::test]
async fn queue_delay_is_recorded() {
    let waited = |record: &RecordHandle| {
        let mut outcome = RateLimitOutcome::new(RateLimitDecision::Allowed, []);
        outcome.delayed = Duration::from_millis(1_500);
        record.push_rate_limit(outcome);
    };
    let record = record_of(|log| log, get("/"), waited).await;
    assert_eq!(record["portcullis.rate_limit.delay"], 1.5);
    let record = record_of(|log| log, get("/"), |_| {}).await;
    assert!(record.get("portcullis.rate_limit.delay").is_none());
}

/// A body of one piece and trailers, which does not say that it has ended until it is asked.
struct WithTrailers(Vec<Frame<Bytes>>);

impl WithTrailers {
    fn new(grpc_status: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        let status = HeaderValue::from_static(grpc_status);
        trailers.insert("grpc-status", status);
        let data = Frame::data(Bytes::from_static(b"hello"));
        Self(vec![Frame::trailers(trailers), data])
    }
}

impl Body for WithTrailers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }
}

#[tokio::test]
async fn the_status_of_grpc_is_read_from_the_trailers_which_end_the_response() {
    for (number, name, level, error) in [
        ("0", "OK", "INFO", Value::Null),
        ("5", "NOT_FOUND", "INFO", Value::Null),
        ("13", "INTERNAL", "ERROR", "INTERNAL".into()),
        ("99", "UNKNOWN", "ERROR", "UNKNOWN".into()),
        ("\"\n".trim_end(), "UNKNOWN", "ERROR", "UNKNOWN".into()),
    ] {
        let (layer, recent) = log(|log| log);
        let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(WithTrailers::new(number)))
        }));
        let mut body = app.oneshot(get("/")).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(recent.last().is_none());
        // A server asks no further once it has the trailers.
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        let record = last(&recent);
        assert_eq!(record["rpc.response.status_code"], name);
        assert_eq!(record["severity_text"], level);
        assert_eq!(record["error.type"], error);
        assert_eq!(record["portcullis.outcome"], "completed");
        assert_eq!(record["http.response.body.size"], 5);
    }
}

#[tokio::test]
async fn the_status_of_grpc_is_read_from_the_head_of_a_response_without_a_body() {
    let (layer, recent) = log(|log| log);
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header("grpc-status", "14");
        Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
    }));
    let mut request = get("/");
    *request.version_mut() = Version::HTTP_2;
    app.oneshot(request).await.unwrap();
    assert_eq!(last(&recent)["rpc.response.status_code"], "UNAVAILABLE");
}

#[tokio::test]
async fn gate_counts_request_bodies_if_enabled() {
    let (layer, recent) = log(|log| log);
    let gate = Gate::new().access_log(layer).build().unwrap();
    let app = gate
        .count_request_bodies()
        .layer(service_fn(async |request| {
            read_one_frame(request).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    let mut request = request(Method::POST, "/");
    *request.body_mut() = Full::from("12345");
    app.oneshot(request).await.unwrap();
    assert_eq!(last(&recent)["http.request.body.size"], 5);
}

async fn read_one_frame<B: Body + Unpin>(request: Request<B>) {
    assert!(request.into_body().frame().await.is_some());
}

/// Panics over everything that it is asked.
#[derive(Clone, Copy, Debug)]
struct Panics;

impl Sink for Panics {
    fn write(&self, _: &Record<'_>) {
        panic!("a custom sink")
    }

    fn is_enabled(&self, _: LogLevel) -> bool {
        panic!("a custom sink")
    }
}

impl Observer for Panics {
    fn on_request(&self, _: &Method) {
        panic!("a custom observer")
    }

    fn on_record(&self, _: &Record<'_>) {
        panic!("a custom observer")
    }
}

#[tokio::test]
async fn functions_of_the_users_that_panic_cost_neither_the_request_nor_its_record() {
    let panicking = |log: AccessLogLayerBuilder| {
        log.skip(|_| panic!("a custom function"))
            .level(|_| panic!("a custom function"))
            .observer(Panics)
    };
    let record = record_of(panicking, get("/a"), |_| {}).await;
    assert_eq!(record["url.path"], "/a");
    assert_eq!(record["severity_text"], "INFO", "the level by default");
}

#[tokio::test]
async fn a_sink_that_panics_costs_the_others_nothing() {
    let recent = RecentRecords::default();
    let layer = AccessLogLayer::builder().sink(Panics).sink(recent.clone());
    let layer = layer.build().unwrap();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for _ in 0..2 {
        app.clone().oneshot(get("/")).await.unwrap();
    }
    assert_eq!(recent.all().len(), 2);
    assert_eq!(layer.stats().active(), 0);
}

/// Takes records of requests that went well.
#[derive(Clone, Copy, Debug)]
struct TakesInfo;

impl Sink for TakesInfo {
    fn write(&self, _: &Record<'_>) {}

    fn is_enabled(&self, level: LogLevel) -> bool {
        level <= LogLevel::Info
    }
}

#[tokio::test]
async fn log_is_bypassed_if_no_sink_accepts_the_level() {
    for (min_level, is_kept) in [(LogLevel::Info, true), (LogLevel::Warn, false)] {
        let layer = AccessLogLayer::builder()
            .sink(TakesInfo)
            .min_level(min_level)
            .build()
            .unwrap();
        let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
            let has_record = RecordHandle::from_extensions(request.extensions()).is_some();
            let body = Full::<Bytes>::from(has_record.to_string());
            Ok::<_, Infallible>(Response::new(body))
        }));
        let response = app.oneshot(get("/")).await.unwrap();
        assert_eq!(response.headers().contains_key("x-request-id"), is_kept);
        assert_eq!(text(response).await, is_kept.to_string());
    }
}
