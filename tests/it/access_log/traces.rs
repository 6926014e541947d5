//! The ids of traces and spans in a record: the caller's, the request's own, and created ones.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use portcullis::{
    PeerAddr,
    access_log::{
        AccessLogLayer, AccessLogLayerBuilder, FieldNaming, RequestLog, Trust,
        record::TraceContext,
        sinks::{JsonLines, PrettyLines, RecentRecords},
    },
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{get, paper::Paper};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{CALLER}-{flags}")
}

/// A span of the server's own in a trace of this id byte.
fn span(trace: u8, span: u8) -> TraceContext {
    TraceContext::new([trace; 16], [span; 8], 1).unwrap()
}

/// The request as the handler received it, and its record.
struct Seen {
    fields: HeaderMap,
    context: Option<TraceContext>,
    record: Value,
}

impl Seen {
    fn traceparent(&self) -> Option<&str> {
        self.fields
            .get("traceparent")
            .map(|it| it.to_str().unwrap())
    }

    fn has(&self, name: &str) -> bool {
        self.record.get(name).is_some()
    }

    /// Asserts that the handler, the extension, and the record refer to one span.
    fn assert_consistent(&self) {
        let context = self.context.unwrap();
        assert_eq!(self.traceparent().unwrap(), context.traceparent());
        assert_eq!(self.record["trace_id"], context.trace_id());
        assert_eq!(self.record["span_id"], context.span_id());
        assert_eq!(self.record["trace_flags"], context.flags());
    }
}

async fn send(
    build: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder,
    request: Request<Full<Bytes>>,
) -> Seen {
    let recent = RecentRecords::default();
    let builder = AccessLogLayer::builder().sink(recent.clone());
    let layer = build(builder).build().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let noted = Arc::clone(&seen);
    let app = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let context = request.extensions().get::<TraceContext>().copied();
        *noted.lock().unwrap() = Some((request.headers().clone(), context));
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    app.oneshot(request).await.unwrap();
    let (fields, context) = seen.lock().unwrap().take().unwrap();
    Seen {
        fields,
        context,
        record: serde_json::from_str(&recent.last().unwrap()).unwrap(),
    }
}

fn with(values: &[&str]) -> Request<Full<Bytes>> {
    let mut request = get("/");
    for value in values {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append("traceparent", value);
    }
    request
}

#[tokio::test]
async fn span_of_the_caller_is_the_parent_and_never_the_own_span() {
    for flags in ["00", "01"] {
        let seen = send(|log| log, with(&[&traceparent(flags)])).await;
        assert_eq!(seen.record["trace_id"], TRACE_ID);
        assert_eq!(seen.record["parent_id"], CALLER);
        assert_eq!(seen.record["trace_flags"], flags);
        assert!(!seen.has("span_id"), "{}", seen.record);
        assert_eq!(seen.traceparent(), Some(&*traceparent(flags)));
        assert!(seen.context.is_none());
    }
    let seen = send(|log| log, get("/")).await;
    for name in ["trace_id", "span_id", "parent_id", "trace_flags"] {
        assert!(!seen.has(name), "{name} in {}", seen.record);
    }
}

/// Values that no reader of `traceparent` may accept.
fn invalid() -> Vec<Vec<String>> {
    let valid = traceparent("01");
    let zeros = |count| "0".repeat(count);
    let lines = [
        String::new(),
        "00".to_owned(),
        valid[..54].to_owned(),
        format!("{valid}-more"),
        valid.replacen("00", "ff", 1),
        valid.replacen("00", "0g", 1),
        valid.to_uppercase(),
        valid.replace('-', "_"),
        valid.replace(TRACE_ID, &zeros(32)),
        valid.replace(CALLER, &zeros(16)),
        format!("{}.more", valid.replacen("00", "cc", 1)),
        format!(" {valid}, {valid}"),
    ];
    let mut all: Vec<_> = lines.into_iter().map(|line| vec![line]).collect();
    all.push(vec![valid.clone(), valid]);
    all
}

#[tokio::test]
async fn invalid_traceparent_leaves_no_ids_and_starts_a_new_trace_where_ids_are_created() {
    for lines in invalid() {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let seen = send(|log| log, with(&lines)).await;
        for name in ["trace_id", "span_id", "parent_id", "trace_flags"] {
            assert!(!seen.has(name), "{name} of {lines:?}");
        }
        let mut request = with(&lines);
        let state = HeaderValue::from_static("vendor=of-another-trace");
        request.headers_mut().insert("tracestate", state);
        let seen = send(AccessLogLayerBuilder::create_trace_ids, request).await;
        seen.assert_consistent();
        assert_ne!(seen.record["trace_id"], TRACE_ID, "{lines:?}");
        assert!(!seen.has("parent_id"));
        assert_eq!(seen.fields.get_all("traceparent").iter().count(), 1);
        assert!(!seen.fields.contains_key("tracestate"));
    }
}

#[tokio::test]
async fn later_version_is_read_and_continued_as_version_00() {
    for longer in ["", "-what-follows"] {
        let later = format!("{}{longer}", traceparent("01").replacen("00", "cc", 1));
        let seen = send(AccessLogLayerBuilder::create_trace_ids, with(&[&later])).await;
        seen.assert_consistent();
        assert_eq!(seen.record["parent_id"], CALLER);
        assert!(seen.traceparent().unwrap().starts_with("00-"));
        assert_eq!(seen.traceparent().unwrap().len(), 55);
    }
}

#[tokio::test]
async fn created_ids_continue_a_trusted_trace_and_reach_the_handler() {
    for (sent, continued) in [("00", "00"), ("01", "01"), ("ff", "03")] {
        let mut request = with(&[&traceparent(sent)]);
        let state = HeaderValue::from_static("vendor=kept");
        request.headers_mut().insert("tracestate", state);
        let seen = send(AccessLogLayerBuilder::create_trace_ids, request).await;
        seen.assert_consistent();
        assert_eq!(seen.record["trace_id"], TRACE_ID);
        assert_eq!(seen.record["parent_id"], CALLER);
        assert_ne!(seen.record["span_id"], CALLER);
        assert_eq!(seen.record["trace_flags"], continued);
        assert_eq!(seen.fields["tracestate"], "vendor=kept");
    }
}

#[tokio::test]
async fn created_ids_are_random_and_nothing_of_an_untrusted_trace_is_left() {
    let untrusting =
        |log: AccessLogLayerBuilder| log.trust_traceparent(Trust::Nobody).create_trace_ids();
    let one = send(untrusting, with(&[&traceparent("01")])).await;
    let other = send(untrusting, with(&[&traceparent("01")])).await;
    for seen in [&one, &other] {
        seen.assert_consistent();
        assert!(!seen.has("parent_id"));
        assert!(!seen.record.to_string().contains(TRACE_ID));
        assert!(!seen.traceparent().unwrap().contains(TRACE_ID));
    }
    assert_ne!(one.record["trace_id"], other.record["trace_id"]);
    assert_ne!(one.record["span_id"], other.record["span_id"]);
    let peers = || Trust::Peers(vec!["10.0.0.0/8".parse().unwrap()]);
    let mut request = with(&[&traceparent("01")]);
    let peer = PeerAddr(([10, 0, 0, 7], 4711).into());
    request.extensions_mut().insert(peer);
    let trusted = send(
        |log| log.trust_traceparent(peers()).create_trace_ids(),
        request,
    )
    .await;
    assert_eq!(trusted.record["parent_id"], CALLER);
}

#[tokio::test]
async fn sampled_flag_of_a_new_trace_matches_whether_its_record_is_emitted() {
    let (mut sampled, mut kept) = (0, 0);
    let recent = RecentRecords::new(1_000, 1 << 20);
    let layer = AccessLogLayer::builder()
        .sink(recent.clone())
        .sample_one_in(2)
        .create_trace_ids();
    let app = layer
        .build()
        .unwrap()
        .layer(service_fn(async |request: Request<Full<Bytes>>| {
            let context = request.extensions().get::<TraceContext>().unwrap();
            let mut response = Response::new(Full::<Bytes>::default());
            let flag = if context.is_sampled() { "yes" } else { "no" };
            response
                .headers_mut()
                .insert("sampled", HeaderValue::from_static(flag));
            Ok::<_, Infallible>(response)
        }));
    for _ in 0..200 {
        let response = app.clone().oneshot(get("/")).await.unwrap();
        sampled += usize::from(response.headers()["sampled"] == "yes");
        let now_kept = recent.all().len();
        assert_eq!(now_kept > kept, response.headers()["sampled"] == "yes");
        kept = now_kept;
    }
    assert!((1..200).contains(&sampled), "{sampled}");
}

#[tokio::test]
async fn hook_gives_the_own_span_and_the_caller_is_its_parent_in_the_same_trace_alone() {
    let own = TraceContext::new([0xaa; 16], [0xbb; 8], 0).unwrap();
    let seen = send(
        |log| log.trace_ids(move || Some(own)),
        with(&[&traceparent("01")]),
    )
    .await;
    assert_eq!(seen.record["trace_id"], "aa".repeat(16));
    assert_eq!(seen.record["span_id"], "bb".repeat(8));
    assert_eq!(seen.record["trace_flags"], "00");
    assert!(
        !seen.has("parent_id"),
        "the caller's span is in another trace"
    );
    assert_eq!(seen.context, Some(own));
    assert_eq!(seen.traceparent(), Some(&*traceparent("01")), "unchanged");

    let trace_id = u128::from_str_radix(TRACE_ID, 16).unwrap().to_be_bytes();
    let own = TraceContext::new(trace_id, [0xbb; 8], 1).unwrap();
    let seen = send(
        |log| log.trace_ids(move || Some(own)),
        with(&[&traceparent("01")]),
    )
    .await;
    assert_eq!(seen.record["span_id"], "bb".repeat(8));
    assert_eq!(seen.record["parent_id"], CALLER);
}

#[tokio::test]
async fn hook_that_returns_the_callers_span_or_panics_gives_none() {
    let trace_id = u128::from_str_radix(TRACE_ID, 16).unwrap().to_be_bytes();
    let caller = u64::from_str_radix(CALLER, 16).unwrap().to_be_bytes();
    let remote = TraceContext::new(trace_id, caller, 1).unwrap();
    let returns = move |log: AccessLogLayerBuilder| log.trace_ids(move || Some(remote));
    let panics = |log: AccessLogLayerBuilder| log.trace_ids(|| panic!("a hook of the application"));
    for seen in [
        send(returns, with(&[&traceparent("01")])).await,
        send(panics, with(&[&traceparent("01")])).await,
    ] {
        assert!(!seen.has("span_id"), "{}", seen.record);
        assert_eq!(seen.record["parent_id"], CALLER);
        assert_eq!(seen.record["trace_id"], TRACE_ID);
    }
}

#[tokio::test]
async fn hook_is_called_at_the_head_and_again_at_the_end_if_there_was_no_span() {
    for (first, calls) in [(true, 1), (false, 2)] {
        let called = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&called);
        let hook = move || {
            let call = count.fetch_add(1, Ordering::Relaxed);
            (first || call > 0).then(|| span(1, 2))
        };
        let seen = send(|log| log.trace_ids(hook), get("/")).await;
        assert_eq!(called.load(Ordering::Relaxed), calls);
        assert_eq!(seen.record["span_id"], "02".repeat(8));
        assert_eq!(seen.context.is_some(), first);
    }
}

#[tokio::test]
async fn ids_are_created_only_where_the_hook_knows_none() {
    let known = |log: AccessLogLayerBuilder| log.create_trace_ids().trace_ids(|| Some(span(1, 2)));
    let seen = send(known, with(&[&traceparent("01")])).await;
    assert_eq!(seen.record["span_id"], "02".repeat(8));
    assert_eq!(seen.traceparent(), Some(&*traceparent("01")));
    let unknown = |log: AccessLogLayerBuilder| log.create_trace_ids().trace_ids(|| None);
    let seen = send(unknown, with(&[&traceparent("01")])).await;
    seen.assert_consistent();
    assert_eq!(seen.record["parent_id"], CALLER);
}

#[tokio::test]
async fn span_that_is_set_inside_has_priority_and_the_first_call_counts() {
    let recent = RecentRecords::default();
    let builder = AccessLogLayer::builder().sink(recent.clone());
    let layer = builder
        .trace_ids(|| Some(span(1, 2)))
        .create_trace_ids()
        .build();
    let app = layer
        .unwrap()
        .layer(service_fn(async |request: Request<Full<Bytes>>| {
            let log = RequestLog::from_extensions(request.extensions());
            log.set_span(span(3, 4));
            log.set_span(span(5, 6));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    app.oneshot(get("/")).await.unwrap();
    let record: Value = serde_json::from_str(&recent.last().unwrap()).unwrap();
    assert_eq!(record["trace_id"], "03".repeat(16));
    assert_eq!(record["span_id"], "04".repeat(8));
}

#[tokio::test]
async fn request_that_is_dropped_has_its_ids_too() {
    let recent = RecentRecords::default();
    let builder = AccessLogLayer::builder().sink(recent.clone());
    let layer = builder.create_trace_ids().build().unwrap();
    let mut app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    drop(app.call(with(&[&traceparent("01")])));
    let record: Value = serde_json::from_str(&recent.last().unwrap()).unwrap();
    assert_eq!(record["portcullis.outcome"], "dropped");
    assert_eq!(record["parent_id"], CALLER);
    assert!(record["span_id"].is_string());
}

#[tokio::test]
async fn each_convention_names_the_ids_its_own_way() {
    for (names, [trace, span, parent]) in [
        (FieldNaming::Otel, ["trace_id", "span_id", "parent_id"]),
        (FieldNaming::Ecs, ["trace.id", "span.id", "parent.id"]),
        (FieldNaming::Short, ["trace_id", "span_id", "parent_id"]),
    ] {
        let paper = Paper::default();
        let layer = AccessLogLayer::builder()
            .sink(JsonLines::direct(paper.clone()).field_naming(names))
            .create_trace_ids()
            .build();
        let app = layer
            .unwrap()
            .layer(service_fn(async |_: Request<Full<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        app.oneshot(with(&[&traceparent("01")])).await.unwrap();
        let record = &paper.records()[0];
        assert_eq!(record[trace], TRACE_ID);
        assert_eq!(record[parent], CALLER);
        assert_eq!(record[span].as_str().unwrap().len(), 16);
    }
    let paper = Paper::default();
    let layer = AccessLogLayer::new(PrettyLines::direct(paper.clone()));
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(with(&[&traceparent("01")])).await.unwrap();
    let text = paper.text();
    assert!(text.contains(&format!(" trace={TRACE_ID}")), "{text}");
}
