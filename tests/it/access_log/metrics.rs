//! Request metrics, which cover every metric that the dashboard queries.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use portcullis::{
    AuditEvent, Auditor, ClientAddrResolver, ManualClock, PeerAddr, StoreErrorKind, StoreFuture,
    TokioRuntime,
    access_log::{
        AccessLogLayer, CountRequestBodyLayer, LogLevel, LogQuery, LogStore, LogStream, Record,
        Sink,
        record::LogEntry,
        sinks::{DropCounts, LogQueue, Metrics, RecentRecords},
    },
    cache::CacheLayer,
    outcome::{
        AuthDenial, AuthOutcome, CacheOutcome, CacheSource, PolicyOutcome, RateLimitDecision,
        RateLimitOutcome, RecordHandle, StoreCall,
    },
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{get, request, slow_store::SlowStore};

/// Runs requests with a recorder of the test's own, and returns what Prometheus would read.
fn scraped(run: impl AsyncFnOnce(Metrics)) -> String {
    let recorder: PrometheusRecorder = PrometheusBuilder::new()
        .set_buckets(&[0.005, 0.01, 0.1, 1.0, 10.0])
        .unwrap()
        .build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(run(Metrics::new())));
    recorder.handle().render()
}

/// Returns the lines of series whose name begins so.
fn series<'a>(scrape: &'a str, name: &str) -> Vec<&'a str> {
    let is_sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
    scrape.lines().filter(is_sample).collect()
}

fn layer(metrics: Metrics) -> AccessLogLayer {
    AccessLogLayer::builder()
        .sink(RecentRecords::default())
        .observer(metrics)
        .build()
        .unwrap()
}

type HandlerResult = Result<Response<Full<Bytes>>, Infallible>;

async fn respond(_: Request<Full<Bytes>>) -> HandlerResult {
    Ok(Response::new(Full::from("hello")))
}

#[test]
fn a_request_is_counted_by_method_route_and_status() {
    let scrape = scraped(async |metrics| {
        let app = layer(metrics).layer(service_fn(async |request: Request<Full<Bytes>>| {
            let record = RecordHandle::from_extensions(request.extensions()).unwrap();
            record.set_route("/users/{id}");
            respond(request).await
        }));
        let response = app.oneshot(get("/users/7")).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    let count = series(&scrape, "http_server_request_duration_count");
    assert_eq!(
        count,
        [
            "http_server_request_duration_count{http_request_method=\"GET\",http_route=\"/users/{id}\",http_response_status_code=\"200\"} 1"
        ]
    );
    let bytes = series(&scrape, "http_server_response_body_size_sum");
    assert!(bytes[0].ends_with(" 5"), "{bytes:?}");
}

#[test]
fn a_flood_of_paths_and_methods_leaves_a_constant_number_of_series() {
    let lines = |requests: u32| {
        let scrape = scraped(async |metrics| {
            let app = layer(metrics).layer(service_fn(respond));
            for number in 0..requests {
                let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
                drop(
                    app.clone()
                        .oneshot(request(method, &format!("/{number}")))
                        .await,
                );
            }
        });
        scrape.lines().count()
    };
    assert_eq!(lines(100_000), lines(10));
}

#[test]
fn requests_that_are_given_up_or_panic_are_counted_and_none_stays_active() {
    let scrape = scraped(async |metrics| {
        let mut app = layer(metrics).layer(service_fn(async |request: Request<Full<Bytes>>| {
            assert_ne!(request.uri().path(), "/panic");
            respond(request).await
        }));
        for _ in 0..100 {
            drop(app.ready().await.unwrap().call(get("/dropped")));
        }
        let panicking = app.clone().oneshot(get("/panic"));
        // A runtime of one thread: the task, too, runs under the recorder.
        assert!(tokio::spawn(panicking).await.is_err());
    });
    assert_eq!(series(&scrape, "http_server_active_requests").len(), 1);
    assert!(series(&scrape, "http_server_active_requests")[0].ends_with(" 0"));
    let counts = series(&scrape, "http_server_request_duration_count");
    let with = |error: &str| counts.iter().find(|line| line.contains(error)).unwrap();
    assert!(with("error_type=\"dropped\"").ends_with(" 100"));
    assert!(with("error_type=\"panic\"").ends_with(" 1"));
    assert!(
        counts
            .iter()
            .all(|line| line.contains("http_route=\"<unmatched>\""))
    );
}

/// A response whose body ends only after ten minutes.
async fn stream(clock: ManualClock, metrics: Metrics, response: http::response::Builder) {
    let layer = AccessLogLayer::builder()
        .sink(RecentRecords::default())
        .observer(metrics)
        .clock(clock.clone());
    let response = Mutex::new(Some(response));
    let app = layer
        .build()
        .unwrap()
        .layer(service_fn(|_: Request<Full<Bytes>>| {
            clock.advance(Duration::from_millis(50));
            let response = response.lock().unwrap().take().unwrap();
            async { Ok::<_, Infallible>(response.body(Full::<Bytes>::from("hello")).unwrap()) }
        }));
    let response = app.oneshot(get("/")).await.unwrap();
    clock.advance(Duration::from_secs(600));
    response.into_body().collect().await.unwrap();
}

#[test]
fn time_to_head_is_recorded_apart_from_the_time_to_the_end_of_the_body() {
    let scrape = scraped(async |metrics| {
        stream(ManualClock::default(), metrics, Response::builder()).await;
    });
    let sum = |name| series(&scrape, name)[0].rsplit_once(' ').unwrap().1;
    assert_eq!(sum("portcullis_response_time_to_head_sum"), "0.05");
    assert_eq!(sum("http_server_request_duration_sum"), "600.05");
    assert!(series(&scrape, "portcullis_stream_duration").is_empty());
}

#[test]
fn separate_streams_do_not_count_as_request_durations() {
    let day = Duration::from_secs(86_400);
    let events = || Response::builder().header("content-type", "Text/Event-Stream; charset=utf-8");
    let upgrade = || Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let plain = || Response::builder().header("content-type", "text/plain");
    for (response, after, is_stream) in [
        (events(), day, true),
        (upgrade(), day, true),
        (plain(), day, false),
        (plain(), Duration::from_secs(600), true),
        (plain(), Duration::from_secs(601), false),
    ] {
        let scrape = scraped(async |metrics| {
            stream(
                ManualClock::default(),
                metrics.separate_streams(after),
                response,
            )
            .await;
        });
        let (apart, together) = (
            "portcullis_stream_duration_count",
            "http_server_request_duration_count",
        );
        assert_eq!(
            series(&scrape, apart).len(),
            usize::from(is_stream),
            "{scrape}"
        );
        assert_eq!(
            series(&scrape, together).len(),
            usize::from(!is_stream),
            "{scrape}"
        );
        assert_eq!(
            series(&scrape, "portcullis_response_time_to_head_count").len(),
            1
        );
    }
}

#[test]
fn sampling_and_levels_leave_the_counts_whole() {
    let scrape = scraped(async |metrics| {
        let layer = AccessLogLayer::builder()
            .sink(RecentRecords::default())
            .observer(metrics)
            .sample_one_in(1_000_000)
            .min_level(LogLevel::Error)
            .build()
            .unwrap();
        for _ in 0..50 {
            drop(layer.layer(service_fn(respond)).oneshot(get("/")).await);
        }
    });
    assert!(series(&scrape, "http_server_request_duration_count")[0].ends_with(" 50"));
}

/// Makes every metric have every label once.
async fn everything(metrics: Metrics) {
    let layer = layer(metrics);
    let app = layer.layer(CountRequestBodyLayer.layer(service_fn(
        async |request: Request<portcullis::access_log::body::CountedBody<Full<Bytes>>>| {
            let record = RecordHandle::from_extensions(request.extensions()).unwrap();
            record.set_auth(AuthOutcome::Denied {
                reason: AuthDenial::Revoked,
                key_id: None,
            });
            if request.uri().path() == "/down" {
                let timeout = StoreErrorKind::Timeout;
                record.set_auth(AuthOutcome::StoreFailed(timeout));
                record.push_store_call(StoreCall::new("api_key", Duration::ZERO, timeout));
            }
            record.set_cache(CacheOutcome::new(CacheSource::Hit));
            let policy = PolicyOutcome::allowed("daily".into(), 1, 1, Default::default());
            record.push_rate_limit(RateLimitOutcome::new(RateLimitDecision::Allowed, [policy]));
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok::<_, Infallible>(response)
        },
    )));
    for path in ["/", "/down"] {
        app.clone().oneshot(get(path)).await.unwrap();
    }
}

#[test]
fn local_decisions_are_counted_separately() {
    let scrape = scraped(async |metrics| {
        let app = layer(metrics).layer(service_fn(async |request: Request<Full<Bytes>>| {
            let record = RecordHandle::from_extensions(request.extensions()).unwrap();
            let (kind, wait) = (StoreErrorKind::Timeout, std::time::Duration::from_secs(1));
            let policy = PolicyOutcome::denied("daily".into(), 1, 0, Some(wait), wait);
            let decision = RateLimitDecision::LocallyDenied(kind);
            record.push_rate_limit(RateLimitOutcome::new(decision, [policy]));
            let policy = PolicyOutcome::allowed("hourly".into(), 1, 0, wait);
            let decision = RateLimitDecision::LocallyAllowed(kind);
            record.push_rate_limit(RateLimitOutcome::new(decision, [policy]));
            respond(request).await
        }));
        let response = app.oneshot(get("/")).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    let decisions = series(&scrape, "portcullis_rate_limit_decisions").join("\n");
    for label in ["outcome=\"local_limited\"", "outcome=\"local_allowed\""] {
        assert!(decisions.contains(label), "{decisions}");
    }
}

#[test]
fn reason_for_not_storing_is_counted_even_if_found_at_the_end() {
    let scrape = scraped(async |metrics| {
        let cache = CacheLayer::secure(MemoryStore::new()).max_body_bytes(8);
        let handler = service_fn(async |request: Request<Full<Bytes>>| {
            let mut response = Response::builder().header("cache-control", "max-age=60");
            if request.uri().path() == "/private" {
                response = response.header("cache-control", "private");
            }
            // The length is not known in advance.
            let body = Full::new(Bytes::from_static(b"more than eight"));
            let body = body.with_trailers(std::future::ready(None));
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let app = layer(metrics).layer(cache.build().unwrap().layer(handler));
        for path in ["/long", "/private"] {
            let response = app.clone().oneshot(get(path)).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    });
    let requests = series(&scrape, "portcullis_cache_requests").join("\n");
    for reason in ["too-large", "private"] {
        let labels = format!("{{outcome=\"miss\",reason=\"{reason}\"}} 1");
        assert!(requests.contains(&labels), "{requests}");
    }
}

#[test]
fn store_durations_and_errors_are_counted_by_layer() {
    let scrape = scraped(async |metrics| {
        let store = SlowStore::default();
        let partition = Partition::client_addr(ClientAddrResolver::default());
        let limits = RateLimitLayer::builder(store.clone(), partition)
            .policy(Policy::fixed_window("address", Quota::per_second(100)).unwrap())
            .on_store_error(OnStoreError::Allow)
            .build()
            .unwrap();
        let app = layer(metrics).layer(limits.layer(service_fn(respond)));
        for is_down in [false, false, true] {
            store.is_down(is_down);
            let mut request = get("/");
            let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
            request.extensions_mut().insert(peer);
            drop(app.clone().oneshot(request).await.unwrap());
        }
    });
    assert_eq!(
        series(&scrape, "portcullis_store_duration_count"),
        ["portcullis_store_duration_count{layer=\"rate_limit\"} 3"]
    );
    assert_eq!(
        series(&scrape, "portcullis_store_errors"),
        ["portcullis_store_errors{layer=\"rate_limit\",kind=\"unavailable\"} 1"]
    );
}

#[test]
fn log_store_durations_and_errors_are_counted() {
    #[derive(Debug)]
    struct Down;

    impl LogStore for Down {
        fn append(&self, _: LogStream, _: &[LogEntry]) -> StoreFuture<()> {
            StoreFuture::pending(async { Err(StoreErrorKind::Unavailable.into()) })
        }

        fn recent(&self, _: LogStream, _: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
            StoreFuture::ready(Vec::new())
        }
    }

    let scrape = scraped(async |metrics| {
        let queue = LogQueue::builder(Down, TokioRuntime)
            .observer(metrics)
            .build()
            .unwrap();
        let layer = AccessLogLayer::new(queue.clone());
        drop(layer.layer(service_fn(respond)).oneshot(get("/")).await);
        let event = AuditEvent::StoreUp {
            store: "cache".into(),
        };
        assert!(queue.audit_now(&event).await.is_err());
        assert!(!queue.flush().await);
    });
    let count = series(&scrape, "portcullis_store_duration_count").join("\n");
    let errors = series(&scrape, "portcullis_store_errors").join("\n");
    for layer in ["access_log", "audit"] {
        let label = format!("{{layer=\"{layer}\"}} 1");
        assert!(count.contains(&label), "{count}");
        let label = format!("{{layer=\"{layer}\",kind=\"unavailable\"}} 1");
        assert!(errors.contains(&label), "{errors}");
    }
}

#[test]
fn losses_of_all_sinks_and_auditors_are_counted() {
    #[derive(Debug)]
    struct Loses;

    impl Sink for Loses {
        fn write(&self, record: &Record<'_>) {
            assert_ne!(record.path(), "/panic", "as it was asked");
        }

        fn drop_counts(&self) -> DropCounts {
            let mut drop_counts = DropCounts::default();
            (
                drop_counts.queue_full,
                drop_counts.store_failed,
                drop_counts.writer_failed,
            ) = (3, 4, 5);
            drop_counts
        }
    }

    #[derive(Debug)]
    struct Forgets;

    impl Auditor for Forgets {
        fn audit(&self, _: &AuditEvent) {}

        fn lost(&self) -> u64 {
            6
        }
    }

    let scrape = scraped(async |metrics| {
        let layer = AccessLogLayer::builder()
            .sink(Loses)
            .sink(Arc::new(Loses))
            .auditor(Forgets)
            .observer(metrics)
            .build()
            .unwrap();
        for path in ["/", "/panic"] {
            drop(layer.layer(service_fn(respond)).oneshot(get(path)).await);
        }
    });
    for (reason, lost) in [
        ("queue_full", 6),
        ("store_failed", 8),
        ("writer_failed", 10),
        ("panicked", 1),
    ] {
        let line = format!("portcullis_log_lost{{reason=\"{reason}\"}} {lost}");
        assert_eq!(series(&scrape, &line), [&line], "{scrape}");
    }
    assert_eq!(
        series(&scrape, "portcullis_audit_lost"),
        ["portcullis_audit_lost 6"]
    );
}

#[test]
fn no_label_has_anything_that_a_client_wrote() {
    const CANARY: &str = "C4n4ryC4n4ry";
    let scrape = scraped(async |metrics| {
        let app = layer(metrics).layer(service_fn(respond));
        let method = Method::from_bytes(CANARY.as_bytes()).unwrap();
        let mut request = request(
            method,
            &format!("http://{CANARY}/{CANARY}?{CANARY}={CANARY}"),
        );
        for name in [
            "host",
            "user-agent",
            "x-request-id",
            "traceparent",
            "cookie",
            "forwarded",
        ] {
            request.headers_mut().insert(name, CANARY.parse().unwrap());
        }
        drop(app.oneshot(request).await.unwrap());
    });
    assert!(scrape.contains("_OTHER"));
    assert!(
        !scrape.to_lowercase().contains(&CANARY.to_lowercase()),
        "{scrape}"
    );
}

/// Returns the names of the metrics in a text, and the labels that stand with them: in braces, or
/// in the parentheses of a `by`.
fn asked_for(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let words: Vec<&str> = text.split(|char| !word(char)).collect();
    let names = words
        .iter()
        .filter(|word| word.starts_with("http_server_") || word.starts_with("portcullis_"))
        .map(|name| (*name).to_owned())
        .collect();
    let mut labels = BTreeSet::new();
    for braces in text.split('{').skip(1) {
        let inside = braces.split('}').next().unwrap_or_default();
        for matcher in inside.split(',') {
            if let Some((label, _)) = matcher.split_once('=') {
                let label = label.trim().trim_end_matches(['!', '~']);
                if label.chars().all(word) {
                    labels.insert(label.to_owned());
                }
            }
        }
    }
    for by in text.split("by (").skip(1) {
        let inside = by.split(')').next().unwrap_or_default();
        labels.extend(inside.split(',').map(|label| label.trim().to_owned()));
    }
    (names, labels)
}

/// Returns the expressions of a dashboard or a file of alerts: nothing else in them names metrics.
fn expressions(text: &str) -> Vec<String> {
    let marked = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("\"expr\":") || line.starts_with("expr:")
    };
    let lines = text.lines().filter(marked);
    lines.map(|line| line.replace("\\\"", "\"")).collect()
}

#[test]
fn every_metric_and_label_of_the_dashboards_exists() {
    let scrape = scraped(everything);
    let dashboards = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dashboards");
    for file in ["grafana.json", "alerts.yml"] {
        let text = fs::read_to_string(dashboards.join(file)).unwrap();
        let expressions = expressions(&text);
        assert!(expressions.len() >= 5, "{file}");
        for expression in expressions {
            let (names, labels) = asked_for(&expression);
            assert!(!names.is_empty(), "{file}: {expression}");
            for name in names {
                assert!(!series(&scrape, &name).is_empty(), "{file} asks for {name}");
            }
            for label in labels {
                let known = label == "le" || scrape.contains(&format!("{label}=\""));
                assert!(known, "{file} asks for the label {label}");
            }
        }
    }
    let grafana = fs::read_to_string(dashboards.join("grafana.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&grafana).unwrap();
}

#[test]
fn dashboard_contains_every_metric() {
    let scrape = scraped(everything);
    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dashboards/grafana.json");
    let dashboard = fs::read_to_string(dashboard).unwrap();
    for line in scrape.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(dashboard.contains(name), "{name} is missing");
    }
}
