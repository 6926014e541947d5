//! Start records: a line as soon as a request runs, in case the process is killed before its end.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::UPGRADE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity, Task,
    access_log::{
        AccessLogLayer, AccessLogLayerBuilder, FieldNaming, LogLevel, LogStats, Record, Sink,
        sinks::{PrettyLines, RecentRecords},
    },
    outcome::{AuthOutcome, RecordHandle},
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{endless::Endless, get, hands::Hands, paper::Paper, request};
use tokio::sync::watch;

struct Log {
    recent: RecentRecords,
    layer: AccessLogLayer,
    stats: LogStats,
}

fn log(build: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder) -> Log {
    let recent = RecentRecords::new(10_000, 100 << 20);
    let builder = AccessLogLayer::builder().sink(recent.clone());
    let layer = build(builder).build().unwrap();
    Log {
        recent,
        stats: layer.stats(),
        layer,
    }
}

fn all(log: AccessLogLayerBuilder) -> AccessLogLayerBuilder {
    log.start_records(|_| true)
}

impl Log {
    fn records(&self) -> Vec<Value> {
        let parse = |record: &String| serde_json::from_str(record).unwrap();
        self.recent.all().iter().map(parse).collect()
    }

    fn starts(&self) -> Vec<Value> {
        let mut records = self.records();
        records.retain(is_start);
        records
    }

    /// Sends a request whose path decides about the response, and reads it to its end.
    async fn send(&self, request: Request<Full<Bytes>>) {
        let app = self
            .layer
            .layer(service_fn(async |request: Request<Full<Bytes>>| {
                let mut response = Response::new(Full::<Bytes>::from("data: 1\n\n"));
                match request.uri().path() {
                    "/events" => {
                        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
                        let caller = Identity::builder("key_7").build();
                        record.set_auth(AuthOutcome::Allowed(caller));
                        let stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
                        response.headers_mut().insert("content-type", stream);
                    }
                    "/upgrade" => *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS,
                    "/fail" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                    "/panic" => panic!("a handler of the application"),
                    _ => {}
                }
                Ok::<_, Infallible>(response)
            }));
        let _ = tokio::spawn(async {
            let response = app.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        })
        .await;
    }
}

fn is_start(record: &Value) -> bool {
    record["event.name"] == "http.server.request.start"
}

#[tokio::test]
async fn no_start_record_is_written_by_default() {
    let log = log(|log| log);
    for path in ["/", "/events", "/upgrade"] {
        log.send(get(path)).await;
    }
    assert!(log.starts().is_empty());
    assert_eq!((log.stats.started(), log.stats.emitted()), (0, 3));
}

#[tokio::test]
async fn start_record_precedes_the_handler_and_shares_the_request_id() {
    let log = log(all);
    let recent = log.recent.clone();
    let app = log.layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
        assert_eq!(recent.all().len(), 1, "written before the handler runs");
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    app.oneshot(get("/a?token=s3cret")).await.unwrap();
    let [start, end] = &log.records()[..] else {
        panic!("{:?}", log.records());
    };
    assert!(is_start(start) && !is_start(end));
    assert_eq!(start["portcullis.outcome"], "running");
    for shared in [
        "portcullis.request.id",
        "timestamp",
        "url.path",
        "url.query",
        "http.request.method",
    ] {
        assert_eq!(start[shared], end[shared], "{shared}");
    }
    assert_ne!(start["log.record.uid"], end["log.record.uid"]);
    for later in [
        "http.response.status_code",
        "http.server.request.duration",
        "http.response.body.size",
        "portcullis.response.ttfb",
        "error.type",
    ] {
        assert!(start.get(later).is_none(), "{later} in {start}");
    }
    assert_eq!(log.stats.started(), 1);
    assert_eq!((log.stats.emitted(), log.stats.failed()), (1, 0));
}

#[tokio::test]
async fn request_that_never_ends_leaves_its_start_record() {
    let log = log(all);
    let mut app = log.layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let running = app.call(get("/long"));
    assert_eq!(log.starts()[0]["url.path"], "/long");
    // As a kill does: nothing is dropped.
    std::mem::forget(running);
    assert_eq!(log.records().len(), 1);
}

#[tokio::test]
async fn predicates_choose_requests_by_their_head() {
    let log = log(|log| {
        log.start_records(|head| head.headers.contains_key(UPGRADE))
            .start_records(|head| head.method == Method::CONNECT)
            .skip(|head| head.uri.path() == "/skipped")
    });
    let upgrade = |path: &str| {
        let mut request = get(path);
        let websocket = HeaderValue::from_static("websocket");
        request.headers_mut().insert(UPGRADE, websocket);
        request
    };
    log.send(get("/plain")).await;
    log.send(upgrade("/chat")).await;
    log.send(upgrade("/skipped")).await;
    log.send(request(Method::CONNECT, "acme.test:443")).await;
    let starts = log.starts();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert_eq!(starts[0]["url.path"], "/chat");
    assert_eq!(starts[1]["http.request.method"], "CONNECT");
    assert_eq!(log.records().len(), 5);
}

#[tokio::test]
async fn streams_have_a_start_record_when_their_response_begins() {
    let log = log(AccessLogLayerBuilder::start_records_for_streams);
    for path in ["/", "/events", "/upgrade", "/fail", "/panic"] {
        log.send(get(path)).await;
    }
    let starts = log.starts();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert_eq!(starts[0]["url.path"], "/events");
    assert_eq!(starts[0]["http.response.status_code"], 200);
    assert_eq!(starts[0]["portcullis.auth.key_id"], "key_7");
    assert!(starts[0]["portcullis.response.ttfb"].is_number());
    assert_eq!(starts[1]["http.response.status_code"], 101);
    // The fields that the layers wrote are in the end record, too.
    let ends = log.records();
    let end = |record: &&Value| record["url.path"] == "/events" && !is_start(record);
    assert_eq!(
        ends.iter().find(end).unwrap()["portcullis.auth.key_id"],
        "key_7"
    );
}

#[tokio::test]
async fn requests_that_run_for_long_have_a_start_record_after_the_time_that_was_set() {
    let hands = Hands::default();
    let minute = Duration::from_secs(60);
    let log = log(|log| {
        log.clock(hands.clock.clone())
            .runtime(hands.clone())
            .start_records_after(minute)
    });
    // One waits for its head, one amid its body, and one ends in time.
    let (gate, opened) = watch::channel(false);
    let app = log
        .layer
        .layer(service_fn(move |request: Request<Full<Bytes>>| {
            let mut opened = opened.clone();
            let opened = async move { drop(opened.wait_for(|is_open| *is_open).await) };
            async move {
                let body: Late = match request.uri().path() {
                    "/body" => Late(Box::pin(opened)),
                    "/head" => {
                        opened.await;
                        Late(Box::pin(ready(())))
                    }
                    _ => Late(Box::pin(ready(()))),
                };
                Ok::<_, Infallible>(Response::new(body))
            }
        }));
    let send = |path: &str| {
        let response = app.clone().oneshot(get(path));
        tokio::spawn(async move { response.await.unwrap().into_body().collect().await.unwrap() })
    };
    let running = [send("/head"), send("/body")];
    send("/short").await.unwrap();
    hands.advance(minute - Duration::from_micros(1)).await;
    assert!(log.starts().is_empty(), "{:?}", log.records());
    hands.advance(Duration::from_micros(1)).await;
    let starts = log.starts();
    let mut paths: Vec<_> = starts
        .iter()
        .map(|it| it["url.path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/body", "/head"]);
    let status = |path: &str| {
        let start = starts.iter().find(|start| start["url.path"] == path);
        start.unwrap().get("http.response.status_code").cloned()
    };
    assert_eq!((status("/head"), status("/body")), (None, Some(200.into())));
    hands.advance(minute * 10).await;
    gate.send_replace(true);
    for request in running {
        request.await.unwrap();
    }
    assert_eq!((log.stats.started(), log.stats.emitted()), (2, 3));
}

#[tokio::test]
async fn body_that_is_never_pending_has_its_start_record_too() {
    let hands = Hands::default();
    let log = log(|log| {
        log.clock(hands.clock.clone())
            .runtime(hands.clone())
            .start_records_after(Duration::from_secs(1))
    });
    let app = log.layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Endless))
    }));
    let mut body = app.oneshot(get("/")).await.unwrap().into_body();
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
    }
    assert!(log.records().is_empty());
    hands.advance(Duration::from_secs(1)).await;
    body.frame().await.unwrap().unwrap();
    assert_eq!(log.starts().len(), 1);
}

/// A body without data that ends when its future is ready.
struct Late(Task);

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.as_mut().poll(cx).map(|()| None)
    }
}

#[tokio::test]
async fn request_has_one_start_record_however_many_options_match() {
    let log = log(|log| all(all(log)).start_records_for_streams());
    log.send(get("/events")).await;
    assert_eq!(log.starts().len(), 1);
    assert_eq!((log.stats.started(), log.stats.emitted()), (1, 1));
}

#[tokio::test]
async fn start_record_is_redacted_as_the_record_of_the_end() {
    let log = log(|log| {
        all(log)
            .redact_path("/reset/{token}")
            .request_headers([http::header::USER_AGENT])
    });
    let mut request = get("/reset/s3cret?page=s3cret&s3cret");
    for name in ["authorization", "cookie", "x-api-key", "referer"] {
        let value = HeaderValue::from_static("s3cret");
        request.headers_mut().insert(name, value);
    }
    let agent = HeaderValue::from_static("agent/1");
    request.headers_mut().insert("user-agent", agent);
    log.send(request).await;
    let [start, end] = &log.records()[..] else {
        panic!("{:?}", log.records());
    };
    assert!(!start.to_string().contains("s3cret"), "{start}");
    for shared in ["url.path", "url.query", "user_agent.original"] {
        assert_eq!(start[shared], end[shared]);
    }
}

#[tokio::test]
async fn start_records_and_their_ends_are_sampled_alike() {
    let log = log(|log| all(log).sample_one_in(5));
    for _ in 0..200 {
        log.send(get("/")).await;
    }
    for _ in 0..20 {
        log.send(get("/fail")).await;
    }
    let id = |record: &Value| record["portcullis.request.id"].as_str().unwrap().to_owned();
    let starts = log.starts();
    assert!((10..=90).contains(&starts.len()), "{}", starts.len());
    assert!(
        starts
            .iter()
            .all(|start| start["portcullis.sample_rate"] == 5)
    );
    let mut ends = log.records();
    ends.retain(|record| !is_start(record));
    for start in &starts {
        assert!(ends.iter().any(|end| id(end) == id(start)), "{start}");
    }
    let routine = |end: &&Value| end["url.path"] == "/";
    for end in ends.iter().filter(routine) {
        assert!(starts.iter().any(|start| id(start) == id(end)), "{end}");
    }
    assert_eq!(log.stats.started(), starts.len() as u64);
    assert_eq!(log.stats.emitted(), ends.len() as u64);
    assert_eq!(log.stats.emitted() + log.stats.sampled_out(), 220);
}

#[tokio::test]
async fn levels_and_predicates_that_panic_apply_to_start_records() {
    let quiet = log(|log| all(log).min_level(LogLevel::Warn));
    quiet.send(get("/fail")).await;
    assert!(
        quiet.starts().is_empty(),
        "a request that starts is routine"
    );
    assert_eq!(quiet.records().len(), 1);
    let raised = log(|log| {
        all(log)
            .min_level(LogLevel::Warn)
            .level(|record| match record.is_start() {
                true => LogLevel::Warn,
                false => record.level(),
            })
    });
    raised.send(get("/")).await;
    assert_eq!(raised.starts()[0]["severity_text"], "WARN");
    assert_eq!(raised.records().len(), 1);
    let panicking = log(|log| log.start_records(|_| panic!("a predicate of the application")));
    panicking.send(get("/")).await;
    assert_eq!(
        (panicking.starts().len(), panicking.records().len()),
        (0, 1)
    );
}

/// Panics over start records.
#[derive(Debug)]
struct Panics;

impl Sink for Panics {
    fn write(&self, record: &Record<'_>) {
        assert!(!record.is_start(), "a sink of the application");
    }
}

#[tokio::test]
async fn sink_that_panics_over_a_start_record_costs_nothing_else() {
    let log = log(|log| all(log).sink(Panics));
    log.send(get("/")).await;
    assert_eq!(log.records().len(), 2, "the other sink has both");
    assert_eq!((log.stats.started(), log.stats.failed()), (0, 1));
    assert_eq!((log.stats.emitted(), log.stats.active()), (1, 0));
}

#[tokio::test]
async fn start_record_has_the_trace_ids_of_its_request() {
    let log = log(|log| all(log).create_trace_ids());
    log.send(get("/")).await;
    let [start, end] = &log.records()[..] else {
        panic!("{:?}", log.records());
    };
    assert!(start["span_id"].is_string());
    for shared in ["trace_id", "span_id", "trace_flags"] {
        assert_eq!(start[shared], end[shared]);
    }
}

#[tokio::test]
async fn start_records_are_distinct_in_every_form() {
    let paper = Paper::default();
    let log = log(|log| all(log).sink(PrettyLines::direct(paper.clone())));
    log.send(get("/a")).await;
    let text = paper.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("--- GET /a started"), "{text}");
    assert!(lines[1].contains(" 200 GET /a "), "{text}");
    for (names, field) in [
        (FieldNaming::Ecs, "event.action"),
        (FieldNaming::Short, "event"),
    ] {
        let recent = RecentRecords::default().field_naming(names);
        let layer = AccessLogLayer::builder()
            .sink(recent.clone())
            .start_records(|_| true);
        let app = layer
            .build()
            .unwrap()
            .layer(service_fn(async |_: Request<Full<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        app.oneshot(get("/")).await.unwrap();
        let start: Value = serde_json::from_str(&recent.all()[0]).unwrap();
        assert_eq!(start[field], "http.server.request.start");
    }
}
