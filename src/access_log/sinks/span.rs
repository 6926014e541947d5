//! An optional `tracing` span around the work of each request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tracing::{Span, field::Empty};

use super::{
    json::words,
    scope::{Scope, Scopes},
};
use crate::{
    access_log::{
        emit::level::LogLevel,
        layer::AccessLogLayerBuilder,
        record::{record::Record, trace_context::TraceContext},
    },
    core::notice,
};

/// The target of the spans: `portcullis::request`.
const TARGET: &str = "portcullis::request";

impl AccessLogLayerBuilder {
    /// Opens a `tracing` span of this level with target `portcullis::request` for each request. By
    /// default, no span is opened.
    ///
    /// A span costs more than the record. The handler and the response body run inside the span.
    /// The span closes when the record is written, after the event of a
    /// [`TracingSink`](crate::access_log::sinks::TracingSink). The span's fields have OpenTelemetry
    /// names, and an OpenTelemetry bridge reads `otel.name`, `otel.kind` and `otel.status_code`.
    ///
    /// The fields `trace_id`, `parent_id` and `trace_flags` come from a valid and
    /// [trusted](Self::trust_traceparent) `traceparent` header. With [`trace_ids`](Self::trace_ids)
    /// or [`create_trace_ids`](Self::create_trace_ids), `span_id` is the id of the request's own
    /// span. A bridge continues the caller's trace only if one of the bridge's layers sets the
    /// remote parent. That layer can be outside the access log. If it is inside, it must set the
    /// remote parent of this span.
    pub fn span(mut self, level: LogLevel) -> Self {
        self.config.scopes = Some(Arc::new(RequestSpans { level }));
        self
    }
}

#[derive(Debug)]
struct RequestSpans {
    level: LogLevel,
}

struct RequestSpan {
    span: Span,
}

/// Creates a span with a constant level, as `tracing` requires.
macro_rules! span {
    ($level:expr, $record:expr) => {{
        let record = $record;
        let method = words::method(record.method());
        let query = record.query();
        ::tracing::span!(
            target: TARGET,
            $level,
            "http.request",
            "otel.name" = method,
            "otel.kind" = "server",
            "otel.status_code" = Empty,
            "portcullis.request.id" = record.request_id().as_str(),
            "trace_id" = record.trace().map(TraceContext::trace_id),
            "span_id" = Empty,
            "parent_id" = record.trace().map(TraceContext::span_id),
            "trace_flags" = record.trace().map(TraceContext::flags),
            "http.request.method" = method,
            "url.path" = &*record.path(),
            "url.query" = query.as_deref(),
            "url.scheme" = record.scheme(),
            "http.route" = record.route(),
            "server.address" = record.server().map(|(host, _)| host),
            "network.protocol.version" = words::version(record.version()),
            "client.address" = record.client_addr().map(::tracing::field::display),
            "http.response.status_code" = Empty,
            "rpc.response.status_code" = Empty,
            "error.type" = Empty,
            "portcullis.outcome" = Empty,
            "portcullis.auth.key_id" = Empty,
        )
    }};
}

impl Scopes for RequestSpans {
    fn open(&self, record: &Record<'_>) -> Box<dyn Scope> {
        let span = match self.level {
            LogLevel::Debug => span!(::tracing::Level::DEBUG, record),
            LogLevel::Info => span!(::tracing::Level::INFO, record),
            LogLevel::Warn => span!(::tracing::Level::WARN, record),
            LogLevel::Error => span!(::tracing::Level::ERROR, record),
        };
        if span.is_disabled() {
            notice_without_subscriber();
        }
        Box::new(RequestSpan { span })
    }
}

/// Emits one notice if no subscriber is installed that can open a span.
fn notice_without_subscriber() {
    static REPORTED: AtomicBool = AtomicBool::new(false);

    if !REPORTED.load(Ordering::Relaxed) && notice::lacks_subscriber() {
        notice::once(&REPORTED, || {
            "`AccessLogLayerBuilder::span` opens no span: no `tracing` subscriber is installed. Install one \
             before the first request, such as `tracing_subscriber::fmt::init()`, or remove the call"
                .to_owned()
        });
    }
}

impl Scope for RequestSpan {
    fn enter(&self) {
        self.span
            .with_subscriber(|(id, subscriber)| subscriber.enter(id));
    }

    fn leave(&self) {
        self.span
            .with_subscriber(|(id, subscriber)| subscriber.exit(id));
    }

    fn identify(&self, own: &TraceContext, caller: Option<&TraceContext>) {
        self.span.record("span_id", own.span_id());
        if caller.is_none_or(|caller| caller.trace_id() != own.trace_id()) {
            self.span.record("trace_id", own.trace_id());
        }
    }

    fn end(&self, record: &Record<'_>) {
        let span = &self.span;
        if span.is_disabled() {
            return;
        }
        if let Some(route) = record.route() {
            let name = format!("{} {route}", words::method(record.method()));
            span.record("http.route", route).record("otel.name", name);
        }
        if let Some(status) = record.status() {
            span.record("http.response.status_code", status.as_u16());
        }
        if let Some(status) = record.grpc_status() {
            span.record("rpc.response.status_code", status);
        }
        if let Some(error) = record.error_type() {
            span.record("error.type", error)
                .record("otel.status_code", "ERROR");
        }
        if let Some(key_id) = words::auth_key_id(record.data().auth()) {
            span.record("portcullis.auth.key_id", key_id);
        }
        span.record("portcullis.outcome", record.outcome().as_str());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        convert::Infallible,
        fmt,
        sync::{Arc, Mutex},
    };

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use tower::{Layer, ServiceExt, service_fn};
    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use super::*;
    use crate::{
        access_log::{AccessLogLayer, sinks::RecentRecords},
        core::record::RecordHandle,
    };

    /// Collects the calls of the span API and the fields.
    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<SpanCalls>>);

    #[derive(Default)]
    struct SpanCalls {
        done: Vec<&'static str>,
        fields: BTreeMap<String, String>,
    }

    impl Collector {
        fn told(&self, done: &'static str) {
            self.0.lock().unwrap().done.push(done);
        }
    }

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == TARGET && *metadata.level() <= tracing::Level::INFO
        }

        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            self.told("new");
            attributes.record(&mut Fields(&mut self.0.lock().unwrap().fields));
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, record: &span::Record<'_>) {
            record.record(&mut Fields(&mut self.0.lock().unwrap().fields));
        }

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &span::Id) {
            self.told("enter");
        }

        fn exit(&self, _: &span::Id) {
            self.told("exit");
        }

        fn try_close(&self, _: span::Id) -> bool {
            self.told("close");
            true
        }
    }

    struct Fields<'a>(&'a mut BTreeMap<String, String>);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Sends a request under a collector and returns the collected calls.
    async fn told(level: Option<LogLevel>, path: &str) -> SpanCalls {
        told_by(path, |builder, _| match level {
            Some(level) => builder.span(level),
            None => builder,
        })
        .await
    }

    /// Sends a request to a layer that is built with access to the collector.
    #[expect(clippy::disallowed_methods, reason = "the task of a test's own")]
    async fn told_by(
        path: &str,
        build: impl FnOnce(AccessLogLayerBuilder, Arc<Mutex<SpanCalls>>) -> AccessLogLayerBuilder,
    ) -> SpanCalls {
        let collector = Collector::default();
        let told = Arc::clone(&collector.0);
        let _guard = tracing::subscriber::set_default(collector);
        let builder = AccessLogLayer::builder().sink(RecentRecords::default());
        let layer = build(builder, Arc::clone(&told)).build();
        let app = layer
            .unwrap()
            .layer(service_fn(async |request: Request<()>| {
                tokio::task::yield_now().await;
                assert_ne!(request.uri().path(), "/panic");
                let record = RecordHandle::from_extensions(request.extensions()).unwrap();
                record.set_route("/things/{id}");
                let mut response = Response::new(Full::<Bytes>::from("hello"));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok::<_, Infallible>(response)
            }));
        let request = Request::get(path).header("traceparent", TRACEPARENT);
        let request = request.body(()).unwrap();
        // On a single-threaded runtime, the task runs under the collector too.
        let answered = tokio::spawn(async move {
            let response = app.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        });
        assert_eq!(answered.await.is_err(), path == "/panic");
        std::mem::take(&mut *told.lock().unwrap())
    }

    #[tokio::test]
    async fn no_request_has_a_span_unless_that_was_asked_for() {
        assert!(told(None, "/things/7").await.done.is_empty());
    }

    #[tokio::test]
    async fn each_request_has_one_span_around_its_work_and_its_record() {
        let told = told(Some(LogLevel::Info), "/things/7?token=s3cret").await;
        // The call, two polls of the handler, one of the body, and the record.
        let mut expected = vec!["new"];
        expected.extend(["enter", "exit"].repeat(5));
        expected.push("close");
        assert_eq!(told.done, expected);
        let field = |name: &str| told.fields[name].trim_matches('"').to_owned();
        assert_eq!(field("otel.name"), "GET /things/{id}");
        assert_eq!(field("url.query"), "token=REDACTED");
        assert_eq!(field("trace_id"), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(field("parent_id"), "b7ad6b7169203331");
        assert_eq!(field("trace_flags"), "01");
        assert_eq!(field("http.response.status_code"), "502");
        assert_eq!(field("error.type"), "502");
        assert_eq!(field("otel.status_code"), "ERROR");
        assert_eq!(field("portcullis.outcome"), "completed");
    }

    #[tokio::test]
    async fn the_hook_is_called_inside_of_the_span_and_once_more_at_the_end() {
        let depths = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&depths);
        let told = told_by("/things/7", move |builder, told| {
            builder.span(LogLevel::Info).trace_ids(move || {
                let done = told.lock().unwrap().done.clone();
                let count = |what| done.iter().filter(|done| **done == what).count();
                noted.lock().unwrap().push(count("enter") - count("exit"));
                TraceContext::new([0xaa; 16], [0xbb; 8], 1)
            })
        })
        .await;
        assert_eq!(*depths.lock().unwrap(), [1, 1]);
        assert_eq!(told.fields["span_id"], "\"bbbbbbbbbbbbbbbb\"");
        assert_eq!(told.fields["trace_id"], format!("\"{}\"", "aa".repeat(16)));
    }

    #[tokio::test]
    async fn span_contains_created_trace_ids() {
        let told = told_by("/things/7", |builder, _| {
            builder.span(LogLevel::Info).create_trace_ids()
        })
        .await;
        let field = |name: &str| told.fields[name].trim_matches('"').to_owned();
        assert_eq!(field("trace_id"), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(field("parent_id"), "b7ad6b7169203331");
        assert_eq!(field("span_id").len(), 16);
        assert_ne!(field("span_id"), field("parent_id"));
    }

    #[tokio::test]
    async fn a_panic_leaves_and_closes_the_span() {
        let told = told(Some(LogLevel::Info), "/panic").await;
        let count = |what| told.done.iter().filter(|done| **done == what).count();
        assert_eq!(count("enter"), count("exit"));
        assert_eq!(told.done.last(), Some(&"close"));
        assert_eq!(told.fields["portcullis.outcome"], "\"panicked\"");
    }

    #[tokio::test]
    async fn a_span_that_the_subscriber_does_not_want_is_none() {
        assert!(told(Some(LogLevel::Debug), "/").await.done.is_empty());
    }
}
