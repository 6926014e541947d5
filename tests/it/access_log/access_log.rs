//! Behavior of the access_log layer, as seen by a client and by a reader of the log.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, COOKIE, USER_AGENT},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    BoxError, ClientAddrResolver, Identity, ManualClock, PeerAddr, Timestamp, TrustedProxies,
    access_log::{
        AccessLogLayer, AccessLogLayerBuilder, FieldNaming, LogLevel, LogQuery, LogStats, LogStore,
        LogStream, Record, Sink, Trust,
        record::LogEntry,
        sinks::{JsonLines, PrettyLines, RecentRecords},
    },
    outcome::{
        AuthDenial, AuthOutcome, CacheOutcome, CacheSource, PolicyOutcome, RateLimitDecision,
        RateLimitOutcome, RecordHandle,
    },
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{get, header, request, text};

/// A layer with a clock of the test's, and what shows its records.
fn log(told: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder) -> (AccessLogLayer, Log) {
    let recent = RecentRecords::default();
    let clock = ManualClock::default();
    let builder = AccessLogLayer::builder()
        .sink(recent.clone())
        .clock(clock.clone());
    let layer = told(builder).build().unwrap();
    let stats = layer.stats();
    (
        layer,
        Log {
            recent,
            clock,
            stats,
        },
    )
}

fn default_log() -> (AccessLogLayer, Log) {
    log(|builder| builder)
}

struct Log {
    recent: RecentRecords,
    clock: ManualClock,
    stats: LogStats,
}

impl Log {
    /// Returns the one record that there is.
    fn only(&self) -> Value {
        let all = self.recent.all();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(self.stats.active(), 0);
        serde_json::from_str(&all[0]).unwrap()
    }

    fn is_empty(&self) -> bool {
        self.recent.all().is_empty()
    }
}

type HandlerResult<B> = Result<Response<B>, Infallible>;

fn ok<B>(body: B) -> HandlerResult<B> {
    Ok(Response::new(body))
}

fn full(text: &'static str) -> Full<Bytes> {
    Full::from(text)
}

/// A body that plays scripted frames and does not report its length.
struct Scripted(Vec<Step>);

#[derive(Clone, Copy)]
enum Step {
    Data(&'static str),
    Fail,
    Panic,
    Hang,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        match self.0.remove(0) {
            Step::Data(text) => {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
            Step::Fail => Poll::Ready(Some(Err("the upstream closed the connection".into()))),
            Step::Panic => panic!("a custom body"),
            Step::Hang => Poll::Pending,
        }
    }
}

async fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut future = future;
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test]
async fn a_completed_request_leaves_one_record_with_status_sizes_and_times() {
    let (layer, log) = default_log();
    let clock = log.clock.clone();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        clock.advance(Duration::from_millis(5));
        ok(Scripted(vec![Step::Data("ab"), Step::Data("cde")]))
    }));
    let response = app.oneshot(get("/things?page=2")).await.unwrap();
    assert!(log.is_empty(), "the body has not ended");
    assert_eq!(log.stats.active(), 1);
    log.clock.advance(Duration::from_millis(2));
    assert_eq!(text(response).await, "abcde");
    let record = log.only();
    assert_eq!(record["timestamp"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(record["event.name"], "http.server.request");
    assert_eq!(record["portcullis.schema.version"], 2);
    assert_eq!(record["severity_text"], "INFO");
    assert_eq!(record["severity_number"], 9);
    assert_eq!(record["http.request.method"], "GET");
    assert_eq!(record["url.path"], "/things");
    assert_eq!(record["url.query"], "page=REDACTED");
    assert_eq!(record["network.protocol.version"], "1.1");
    assert_eq!(record["http.response.status_code"], 200);
    assert_eq!(record["portcullis.outcome"], "completed");
    assert_eq!(record["http.response.body.size"], 5);
    assert_eq!(record["portcullis.response.ttfb"], 0.005);
    assert_eq!(record["http.server.request.duration"], 0.007);
    assert!(record.get("error.type").is_none());
    assert!(record.get("http.route").is_none(), "a path is no route");
}

#[tokio::test]
async fn a_body_that_knows_its_end_completes_the_record_with_its_last_frame() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| ok(full("abc"))));
    let mut body = app.oneshot(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(log.only()["http.response.body.size"], 3);
    drop(body);
    assert_eq!(log.only()["portcullis.outcome"], "completed");
}

#[tokio::test]
async fn a_response_without_a_body_completes_the_record_with_its_head() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        ok(Full::<Bytes>::default())
    }));
    let response = app.oneshot(get("/")).await.unwrap();
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "completed");
    assert_eq!(record["http.response.body.size"], 0);
    drop(response);
    log.only();
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_recorded_as_dropped() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        pending::<HandlerResult<Full<Bytes>>>().await
    }));
    let mut request = Box::pin(app.oneshot(get("/")));
    assert!(poll_once(request.as_mut()).await.is_pending());
    assert_eq!(log.stats.active(), 1);
    log.clock.advance(Duration::from_secs(1));
    drop(request);
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "dropped");
    assert_eq!(record["error.type"], "dropped");
    assert_eq!(record["http.server.request.duration"], 1.0);
    assert!(record.get("http.response.status_code").is_none());
    assert!(record.get("portcullis.response.ttfb").is_none());
    assert_eq!(record["severity_text"], "INFO");
}

#[tokio::test]
async fn a_request_that_was_never_polled_is_recorded_as_dropped() {
    let (layer, log) = default_log();
    let mut app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| ok(full("abc"))));
    drop(app.ready().await.unwrap().call(get("/")));
    assert_eq!(log.only()["portcullis.outcome"], "dropped");
}

#[tokio::test]
async fn a_client_that_leaves_amid_the_body_is_recorded_with_what_it_got() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        ok(Scripted(vec![Step::Data("abc"), Step::Hang]))
    }));
    let mut body = app.oneshot(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "body_dropped");
    assert_eq!(record["http.response.status_code"], 200);
    assert_eq!(record["http.response.body.size"], 3);
}

#[tokio::test]
async fn a_body_that_fails_is_recorded_as_an_error_and_the_error_passes_through() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        ok(Scripted(vec![Step::Data("abc"), Step::Fail]))
    }));
    let body = app.oneshot(get("/")).await.unwrap().into_body();
    let error = body.collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the upstream closed the connection");
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "body_error");
    assert_eq!(record["severity_text"], "ERROR");
    assert_eq!(record["http.response.body.size"], 3);
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_recorded_and_passes_through() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Err::<Response<Full<Bytes>>, BoxError>("the canary is in the cage".into())
    }));
    let error = app.oneshot(get("/")).await.unwrap_err();
    assert_eq!(error.to_string(), "the canary is in the cage");
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "failed");
    assert_eq!(record["error.type"], "service_error");
    assert!(!record.to_string().contains("canary"));
}

#[tokio::test]
async fn panic_in_a_service_or_its_future_is_recorded() {
    async fn panics(_: Request<Full<Bytes>>) -> HandlerResult<Full<Bytes>> {
        tokio::task::yield_now().await;
        panic!("a custom handler")
    }
    fn panics_at_once(_: Request<Full<Bytes>>) -> std::future::Ready<HandlerResult<Full<Bytes>>> {
        panic!("a custom service")
    }

    let (layer, log) = default_log();
    let app = layer.layer(service_fn(panics));
    assert!(
        tokio::spawn(app.oneshot(get("/")))
            .await
            .unwrap_err()
            .is_panic()
    );
    assert_eq!(log.only()["portcullis.outcome"], "panicked");

    let (layer, log) = default_log();
    let app = layer.layer(service_fn(panics_at_once));
    assert!(
        tokio::spawn(app.oneshot(get("/")))
            .await
            .unwrap_err()
            .is_panic()
    );
    assert_eq!(log.only()["portcullis.outcome"], "panicked");

    let (layer, log) = default_log();
    let mut body = layer
        .layer(service_fn(async |_: Request<Full<Bytes>>| {
            ok(Scripted(vec![Step::Panic]))
        }))
        .oneshot(get("/"))
        .await
        .unwrap()
        .into_body();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut body).poll_frame(&mut cx);
    }));
    assert!(unwound.is_err());
    assert!(log.is_empty(), "the body has not been dropped yet");
    drop(body);
    let record = log.only();
    assert_eq!(record["portcullis.outcome"], "panicked");
    assert_eq!(record["error.type"], "panic");
    assert_eq!(record["severity_text"], "ERROR");
}

#[tokio::test]
async fn a_response_whose_body_is_never_asked_for_is_complete() {
    let not_asked = [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NOT_MODIFIED),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::CONNECT, StatusCode::OK),
    ];
    for (method, status) in not_asked {
        let (layer, log) = default_log();
        let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Scripted(vec![Step::Data("never read")]));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }));
        drop(app.oneshot(request(method.clone(), "/")).await.unwrap());
        let record = log.only();
        assert_eq!(
            record["portcullis.outcome"], "completed",
            "{method} {status}"
        );
        assert_eq!(record["http.response.body.size"], 0);
    }
}

#[tokio::test]
async fn a_body_dropped_after_its_declared_length_is_complete() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Scripted(vec![Step::Data("abc"), Step::Hang]));
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        Ok::<_, Infallible>(response)
    }));
    let mut body = app.oneshot(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(log.only()["portcullis.outcome"], "completed");
}

#[tokio::test]
async fn a_thousand_requests_at_once_leave_a_thousand_records() {
    let recent = RecentRecords::new(2_000, 10 << 20);
    let layer = AccessLogLayer::new(recent.clone());
    let stats = layer.stats();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        tokio::task::yield_now().await;
        if request.uri().path().ends_with('0') {
            panic!("one in ten")
        }
        ok(full("abc"))
    }));
    let tasks: Vec<_> = (0..1_000)
        .map(|number| {
            let app = app.clone();
            tokio::spawn(async move {
                let response = app.oneshot(get(&format!("/{number}"))).await.unwrap();
                if number % 10 == 1 {
                    drop(response);
                } else {
                    text(response).await;
                }
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    let records: Vec<Value> = recent
        .all()
        .iter()
        .map(|record| serde_json::from_str(record).unwrap())
        .collect();
    let with = |outcome: &str| {
        records
            .iter()
            .filter(|record| record["portcullis.outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (with("completed"), with("panicked"), with("body_dropped")),
        (800, 100, 100)
    );
    assert_eq!((stats.active(), stats.emitted()), (0, 1_000));
}

#[tokio::test]
async fn outcomes_of_inner_layers_are_in_one_record() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
        record.set_auth(AuthOutcome::Allowed(
            Identity::builder("key_7").tier("pro").build(),
        ));
        let policy = |name: &str, remaining| {
            PolicyOutcome::allowed(name.into(), 10, remaining, Duration::from_secs(60))
        };
        record.push_rate_limit(RateLimitOutcome::new(
            RateLimitDecision::Allowed,
            [policy("by-address", 9)],
        ));
        record.push_rate_limit(RateLimitOutcome::new(
            RateLimitDecision::Allowed,
            [policy("daily", 5), policy("burst", 1)],
        ));
        record.set_cache(CacheOutcome::new(CacheSource::Hit));
        record.set_route("/things/{id}");
        record.add_request_bytes(7);
        record.set_field("order.id", 42_i64);
        record.set_field("order.total", 1.5);
        record.set_field("order.paid", true);
        record.set_field("order.note", "two\nlines");
        record.set_field("url.path", "mine");
        ok(full("abc"))
    }));
    text(app.oneshot(get("/things/1")).await.unwrap()).await;
    let record = log.only();
    assert_eq!(record["portcullis.auth.outcome"], "allowed");
    assert_eq!(record["portcullis.auth.key_id"], "key_7");
    assert_eq!(record["portcullis.auth.tier"], "pro");
    assert_eq!(record["portcullis.rate_limit.outcome"], "allowed");
    assert_eq!(record["portcullis.rate_limit.policy"], "burst");
    assert_eq!(record["portcullis.rate_limit.limit"], 10);
    assert_eq!(record["portcullis.rate_limit.remaining"], 1);
    assert_eq!(record["portcullis.cache.outcome"], "hit");
    assert_eq!(record["http.route"], "/things/{id}");
    assert_eq!(record["http.request.body.size"], 7);
    assert_eq!(record["order.id"], 42);
    assert_eq!(record["order.total"], 1.5);
    assert_eq!(record["order.paid"], true);
    assert_eq!(record["order.note"], "two\nlines");
    assert_eq!(record["url.path"], "/things/1");
    assert_eq!(record["field.url.path"], "mine");
}

#[tokio::test]
async fn denials_of_inner_layers_are_in_the_record() {
    let (layer, log) = default_log();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
        record.set_auth(AuthOutcome::Denied {
            reason: AuthDenial::Revoked,
            key_id: Some("key_7".into()),
        });
        let after = Duration::from_millis(1_500);
        record.push_rate_limit(RateLimitOutcome::new(
            RateLimitDecision::Denied,
            [PolicyOutcome::denied(
                "failures".into(),
                5,
                0,
                Some(after),
                after,
            )],
        ));
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        Ok::<_, Infallible>(response)
    }));
    app.oneshot(get("/")).await.unwrap();
    let record = log.only();
    assert_eq!(record["severity_text"], "WARN");
    assert_eq!(record["http.response.status_code"], 401);
    assert_eq!(record["portcullis.auth.outcome"], "denied");
    assert_eq!(record["portcullis.auth.reason"], "revoked");
    assert_eq!(record["portcullis.auth.key_id"], "key_7");
    assert_eq!(record["portcullis.rate_limit.outcome"], "limited");
    assert_eq!(record["portcullis.rate_limit.retry_after"], 1.5);
    assert!(record.get("error.type").is_none());
}

#[tokio::test]
async fn a_skipped_request_leaves_no_record_and_no_trace_in_the_response() {
    let (layer, log) = log(|builder| builder.skip(|head| head.uri.path() == "/healthz"));
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        assert!(RecordHandle::from_extensions(request.extensions()).is_none());
        ok(full("up"))
    }));
    let response = app.oneshot(get("/healthz")).await.unwrap();
    assert_eq!(header(response.headers(), "x-request-id"), None);
    text(response).await;
    assert!(log.is_empty());
}

async fn nothing(_: Request<Full<Bytes>>) -> HandlerResult<Full<Bytes>> {
    ok(Full::default())
}

fn named(name: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let name = HeaderValue::from_str(name).unwrap();
    request.headers_mut().insert("x-request-id", name);
    request
        .extensions_mut()
        .insert(PeerAddr(([10, 0, 0, 7], 4711).into()));
    request
}

#[tokio::test]
async fn a_name_that_a_stranger_sends_is_replaced_and_the_new_one_echoed() {
    let (layer, log) = default_log();
    let response = layer
        .layer(service_fn(nothing))
        .oneshot(named("mine"))
        .await
        .unwrap();
    let record = log.only();
    let id = record["portcullis.request.id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "7");
    assert_eq!(header(response.headers(), "x-request-id"), Some(id));
    assert!(!record.to_string().contains("mine"));
}

#[tokio::test]
async fn a_name_is_taken_over_from_a_trusted_peer_if_it_is_one() {
    let trusted = || Trust::Peers(vec!["10.0.0.0/8".parse().unwrap()]);
    let elsewhere = || Trust::Peers(vec!["192.0.2.0/24".parse().unwrap()]);
    let name_of = async |trust: Trust, sent: &str| {
        let (layer, log) = log(|builder| builder.trust_request_id(trust));
        layer
            .layer(service_fn(nothing))
            .oneshot(named(sent))
            .await
            .unwrap();
        log.only()["portcullis.request.id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(name_of(trusted(), "mine").await, "mine");
    assert_eq!(name_of(Trust::Everybody, "mine").await, "mine");
    assert_eq!(name_of(elsewhere(), "mine").await.len(), 36);
    assert_eq!(name_of(trusted(), "not a name").await.len(), 36);
}

#[tokio::test]
async fn record_contains_the_trace_of_a_valid_traceparent() {
    let (layer, log) = default_log();
    let mut request = get("/");
    request.headers_mut().insert(
        "traceparent",
        HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    );
    layer
        .layer(service_fn(nothing))
        .oneshot(request)
        .await
        .unwrap();
    let record = log.only();
    assert_eq!(record["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(record["parent_id"], "b7ad6b7169203331");
    assert!(record.get("span_id").is_none());
    assert_eq!(record["trace_flags"], "01");
}

#[tokio::test]
async fn client_address_is_resolved_through_trusted_proxies_and_masked() {
    let forwarded = || {
        let mut request = named("x");
        let client = HeaderValue::from_static("203.0.113.9");
        request.headers_mut().insert("x-forwarded-for", client);
        request
    };
    let proxies = || ClientAddrResolver::new(TrustedProxies::cidrs(["10.0.0.0/8"]).unwrap());
    let (layer, plain) = log(|builder| builder.client_addr(proxies()));
    layer
        .layer(service_fn(nothing))
        .oneshot(forwarded())
        .await
        .unwrap();
    let record = plain.only();
    assert_eq!(record["client.address"], "203.0.113.9");
    assert_eq!(record["network.peer.address"], "10.0.0.7");
    assert_eq!(record["network.peer.port"], 4711);

    let (layer, masked) = log(|builder| builder.client_addr(proxies()).mask_client_addr());
    layer
        .layer(service_fn(nothing))
        .oneshot(forwarded())
        .await
        .unwrap();
    let record = masked.only();
    assert_eq!(record["client.address"], "203.0.113.0");
    assert_eq!(record["network.peer.address"], "10.0.0.0");
    assert_eq!(record["portcullis.client.masked"], true);
    assert!(record.get("network.peer.port").is_none());
}

#[tokio::test]
async fn headers_are_written_on_demand_alone() {
    let x_note = HeaderName::from_static("x-note");
    let (layer, log) = log(|builder| {
        builder
            .request_headers([USER_AGENT, x_note.clone()])
            .response_headers([x_note.clone()])
    });
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        response
            .headers_mut()
            .insert("x-note", HeaderValue::from_static("back"));
        response
            .headers_mut()
            .insert("x-other", HeaderValue::from_static("unseen"));
        Ok::<_, Infallible>(response)
    }));
    let mut request = get("/");
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("curl/8"));
    headers.append("x-note", HeaderValue::from_static("one"));
    headers.append("x-note", HeaderValue::from_static("two"));
    headers.append("x-other", HeaderValue::from_static("unseen"));
    app.oneshot(request).await.unwrap();
    let record = log.only();
    assert_eq!(record["user_agent.original"], "curl/8");
    assert_eq!(
        record["http.request.header.x-note"],
        serde_json::json!(["one", "two"])
    );
    assert_eq!(
        record["http.response.header.x-note"],
        serde_json::json!(["back"])
    );
    assert!(!record.to_string().contains("unseen"));
}

#[test]
fn a_layer_that_would_write_credentials_is_not_built() {
    let error = AccessLogLayer::builder()
        .request_headers([COOKIE])
        .build()
        .unwrap_err();
    assert_eq!(error.option(), "request_headers");
}

#[tokio::test]
async fn an_unknown_method_is_counted_as_other() {
    let (layer, log) = default_log();
    let request = request(Method::from_bytes(b"BREW").unwrap(), "/");
    layer
        .layer(service_fn(nothing))
        .oneshot(request)
        .await
        .unwrap();
    let record = log.only();
    assert_eq!(record["http.request.method"], "_OTHER");
    assert_eq!(record["http.request.method_original"], "BREW");
}

#[tokio::test]
async fn the_level_is_the_users_to_choose_and_little_ones_may_be_left_out() {
    let (layer, log) = log(|builder| {
        builder
            .level(|record| match record.status() {
                Some(StatusCode::NOT_FOUND) => LogLevel::Error,
                _ => record.level(),
            })
            .min_level(LogLevel::Warn)
    });
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        if request.uri().path() == "/lost" {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        Ok::<_, Infallible>(response)
    }));
    app.clone().oneshot(get("/")).await.unwrap();
    app.oneshot(get("/lost")).await.unwrap();
    assert_eq!(log.only()["severity_text"], "ERROR");
}

/// A writer that remembers what it was given, call by call, and fails on demand.
#[derive(Clone, Default)]
struct Writer(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    calls: Vec<String>,
}

impl Writer {
    fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        written
            .calls
            .push(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_record_is_one_write_of_one_line_of_json() {
    let writer = Writer::default();
    let app = AccessLogLayer::new(JsonLines::direct(writer.clone())).layer(service_fn(nothing));
    app.clone().oneshot(get("/a")).await.unwrap();
    app.oneshot(get("/b")).await.unwrap();
    let calls = writer.calls();
    assert_eq!(calls.len(), 2);
    for line in calls {
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("}\n"));
        serde_json::from_str::<Value>(&line).unwrap();
    }
}

#[tokio::test]
async fn a_sink_that_panics_costs_the_record_and_not_the_request() {
    #[derive(Debug)]
    struct Panics;

    impl Sink for Panics {
        fn write(&self, _: &Record<'_>) {
            panic!("a custom sink")
        }
    }

    let layer = AccessLogLayer::new(Panics);
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        tokio::task::yield_now().await;
        if request.uri().path() == "/panic" {
            panic!("a custom handler")
        }
        ok(Full::<Bytes>::default())
    }));
    assert_eq!(app.clone().oneshot(get("/")).await.unwrap().status(), 200);
    // Were the sink's panic not caught, it would meet the handler's, and the process would end.
    assert!(
        tokio::spawn(app.oneshot(get("/panic")))
            .await
            .unwrap_err()
            .is_panic()
    );
    assert_eq!((layer.stats().emitted(), layer.stats().failed()), (0, 2));
}

#[tokio::test]
async fn each_convention_names_the_fields_its_own_way() {
    let keys = async |names: FieldNaming| {
        let recent = RecentRecords::default().field_naming(names);
        let app = AccessLogLayer::new(recent.clone()).layer(service_fn(nothing));
        app.oneshot(get("/a")).await.unwrap();
        serde_json::from_str::<Value>(&recent.last().unwrap()).unwrap()
    };
    let ecs = keys(FieldNaming::Ecs).await;
    assert!(ecs["event.duration"].is_u64(), "ECS counts nanoseconds");
    assert_eq!(ecs["log.level"], "INFO");
    let short = keys(FieldNaming::Short).await;
    assert_eq!(short["path"], "/a");
    assert_eq!(short["status"], 200);
}

#[tokio::test]
async fn a_request_passes_with_any_body_through_any_inner_service() {
    let (layer, log) = default_log();
    let app =
        ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(async |request: Request<String>| {
                ok(request.into_body())
            }));
    let response = app.oneshot(Request::new("abc".into())).await.unwrap();
    assert_eq!(text(response).await, "abc");
    log.only();
}

#[tokio::test]
async fn memory_store_returns_latest_records_and_evicts_the_oldest() {
    let store = MemoryStore::builder().max_log_records(3).build().unwrap();
    let entry = |second| LogEntry::new(Timestamp::from_secs(second), format!("{{\"n\":{second}}}"));
    let batch: Vec<_> = (1..=5).map(entry).collect();
    store.append(LogStream::Access, &batch).await.unwrap();
    store.append(LogStream::Audit, &batch[..1]).await.unwrap();
    let latest = |trail, query| {
        let store = store.clone();
        async move { store.recent(trail, &query).await.unwrap() }
    };
    let [one, three, four, five] = [1, 3, 4, 5].map(entry);
    let all = latest(LogStream::Access, LogQuery::default()).await;
    assert_eq!(all, [five, four.clone(), three]);
    let until = LogQuery::latest(1).until(Timestamp::from_secs(4));
    assert_eq!(latest(LogStream::Access, until).await, [four]);
    assert_eq!(latest(LogStream::Audit, LogQuery::default()).await, [one]);
}

#[tokio::test]
async fn a_pretty_line_is_for_people() {
    let writer = Writer::default();
    let layer = AccessLogLayer::builder()
        .sink(PrettyLines::direct(writer.clone()))
        .clock(ManualClock::default())
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
        record.set_auth(AuthOutcome::Allowed(Identity::builder("key_7").build()));
        record.set_cache(CacheOutcome::new(CacheSource::Miss));
        record.set_field("order.id", 42_i64);
        ok(full("abc"))
    }));
    text(app.oneshot(get("/things/7?page=2")).await.unwrap()).await;
    assert_eq!(
        writer.calls(),
        [
            "00:00:00.000 INFO  200 GET /things/7?page=REDACTED 0.0ms 3B key=key_7 cache=miss {\"order.id\":42}\n"
        ]
    );
}
