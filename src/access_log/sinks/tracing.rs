//! Records as `tracing` events.

use std::sync::atomic::AtomicBool;

use super::{json::words, sink::Sink};
use crate::{
    access_log::{
        emit::level::LogLevel,
        record::{
            record::{Record, User},
            schema::{EVENT_NAME, START_EVENT_NAME},
        },
    },
    core::{error::ConfigError, notice},
};

/// The target of the events: `portcullis::access`.
const TARGET: &str = "portcullis::access";

/// Emits each record as one `tracing` event with target `portcullis::access`, without a span.
///
/// The name of the event's metadata equals `event.name`: `http.server.request`, or
/// `http.server.request.start` for a start record. OpenTelemetry bridges export this name as the
/// event name.
///
/// Fields have OpenTelemetry names and native types. Absent fields are omitted. The subscriber is
/// responsible for escaping. The JSON format of tracing-subscriber escapes values, but some
/// versions of its text format do not escape line feeds. The fields of a `tracing` event are fixed,
/// so the handler's custom fields are combined as JSON in `portcullis.fields`.
///
/// Without a subscriber, all records are dropped. A notice on stderr reports this once per process.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::TracingSink};
///
/// let layer = AccessLogLayer::new(TracingSink);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

/// Emits an event with a constant name and level, as `tracing` requires.
macro_rules! emit {
    ($name:expr, $level:expr, $record:expr, $query:expr, $own:expr) => {{
        let record = $record;
        let rate_limit = record.rate_limit();
        let policy = rate_limit.and_then(|(_, policy)| policy);
        let auth = record.data().auth();
        let user = record.user();
        ::tracing::event!(
            name: $name,
            target: TARGET,
            $level,
            "event.name" = $name,
            "portcullis.request.id" = record.request_id().as_str(),
            "trace_id" = record.trace_id(),
            "span_id" = record.span_id(),
            "parent_id" = record.parent_id(),
            "trace_flags" = record.trace_flags(),
            "http.request.method" = words::method(record.method()),
            "url.path" = &*record.path(),
            "url.query" = $query,
            "http.route" = record.route(),
            "server.address" = record.server().map(|(host, _)| host),
            "network.protocol.version" = words::version(record.version()),
            "client.address" = record.client_addr().map(::tracing::field::display),
            "http.response.status_code" = record.status().map(|status| status.as_u16()),
            "rpc.response.status_code" = record.grpc_status(),
            "portcullis.outcome" = record.outcome().as_str(),
            "error.type" = record.error_type(),
            "http.server.request.duration" = at_end(record, || record.duration().as_secs_f64()),
            "portcullis.response.ttfb" = record.time_to_head().map(|time| time.as_secs_f64()),
            "http.request.body.size" = record.request_bytes(),
            "http.response.body.size" = at_end(record, || record.response_bytes()),
            "portcullis.auth.outcome" = auth.map(|auth| auth.as_str()),
            "portcullis.auth.reason" = words::auth_reason(auth),
            "portcullis.auth.key_id" = words::auth_key_id(auth),
            "user.id" = user.as_ref().and_then(User::id),
            "user.hash" = user.as_ref().and_then(User::hash),
            "portcullis.rate_limit.outcome" = rate_limit.map(|(decision, _)| decision.as_str()),
            "portcullis.rate_limit.policy" = policy.map(|policy| &*policy.policy),
            "portcullis.rate_limit.remaining" = policy.map(|policy| policy.remaining),
            "portcullis.cache.outcome" = record.cache().map(|cache| cache.source.as_str()),
            "portcullis.rate_limit.delay" = delay(record),
            "portcullis.store.duration" = record.store_duration().map(|time| time.as_secs_f64()),
            "portcullis.fields" = $own,
        );
    }};
}

/// Emits an event at the level of the record.
macro_rules! emit_at_level {
    ($name:expr, $record:expr, $query:expr, $own:expr) => {
        match $record.level() {
            LogLevel::Debug => emit!($name, ::tracing::Level::DEBUG, $record, $query, $own),
            LogLevel::Info => emit!($name, ::tracing::Level::INFO, $record, $query, $own),
            LogLevel::Warn => emit!($name, ::tracing::Level::WARN, $record, $query, $own),
            LogLevel::Error => emit!($name, ::tracing::Level::ERROR, $record, $query, $own),
        }
    };
}

/// Returns a value that is known once the request has ended.
fn at_end<T>(record: &Record<'_>, value: impl FnOnce() -> T) -> Option<T> {
    (!record.is_start()).then(value)
}

/// Returns the time that limiters delayed the request, if any.
fn delay(record: &Record<'_>) -> Option<f64> {
    let delay = record.rate_limit_delay();
    (!delay.is_zero()).then_some(delay.as_secs_f64())
}

impl Sink for TracingSink {
    fn write(&self, record: &Record<'_>) {
        let query = record.query();
        let query = query.as_deref();
        let own = record.fields_json();
        let own = own.as_deref();
        match record.is_start() {
            true => emit_at_level!(START_EVENT_NAME, record, query, own),
            false => emit_at_level!(EVENT_NAME, record, query, own),
        }
    }

    fn is_enabled(&self, level: LogLevel) -> bool {
        let is_enabled = is_enabled(level);
        if !is_enabled {
            report_missing_subscriber();
        }
        is_enabled
    }
}

fn is_enabled(level: LogLevel) -> bool {
    match level {
        LogLevel::Debug => ::tracing::enabled!(target: TARGET, ::tracing::Level::DEBUG),
        LogLevel::Info => ::tracing::enabled!(target: TARGET, ::tracing::Level::INFO),
        LogLevel::Warn => ::tracing::enabled!(target: TARGET, ::tracing::Level::WARN),
        LogLevel::Error => ::tracing::enabled!(target: TARGET, ::tracing::Level::ERROR),
    }
}

/// Reports once that no subscriber receives the events, so no request is recorded.
#[cold]
fn report_missing_subscriber() {
    static REPORTED: AtomicBool = AtomicBool::new(false);

    if notice::lacks_subscriber() {
        notice::misconfigured(&REPORTED, || {
            let problem = "no `tracing` subscriber is installed, so no request is recorded";
            ConfigError::new("sink", "TracingSink", problem).fix(
                "install a subscriber before the first request, such as \
                 `tracing_subscriber::fmt().init()`, or write to `JsonLines`",
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fmt,
        sync::{Arc, Mutex},
    };

    use http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};
    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use super::*;
    use crate::{
        access_log::{AccessLogLayer, record::TraceContext},
        core::{http::body::ResponseBody, record::RecordHandle},
    };

    /// The key of the name of an event's metadata among its fields.
    const METADATA_NAME: &str = "metadata.name";

    /// Collects the fields of all events at or above a level.
    #[derive(Clone)]
    struct Collector {
        max: tracing::Level,
        events: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
    }

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= self.max && metadata.target() == TARGET
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            panic!("no span on the path of a request")
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields::default();
            let name = event.metadata().name().to_owned();
            fields.0.insert(METADATA_NAME.to_owned(), name);
            event.record(&mut fields);
            self.events.lock().unwrap().push(fields.0);
        }
    }

    #[derive(Default)]
    struct Fields(BTreeMap<String, String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }

    async fn events_at(max: tracing::Level) -> Vec<BTreeMap<String, String>> {
        let layer = AccessLogLayer::new(TracingSink);
        events_of(layer, max, "Bearer s3cret").await
    }

    async fn events_of(
        layer: AccessLogLayer,
        max: tracing::Level,
        traceparent: &'static str,
    ) -> Vec<BTreeMap<String, String>> {
        let collector = Collector {
            max,
            events: Arc::default(),
        };
        let events = Arc::clone(&collector.events);
        let _guard = tracing::subscriber::set_default(collector);
        let app = layer.layer(service_fn(async |request: Request<()>| {
            let record = RecordHandle::from_extensions(request.extensions()).unwrap();
            record.set_field("order.id", 42_i64);
            Ok::<_, std::convert::Infallible>(Response::new(ResponseBody::<String>::empty()))
        }));
        let mut request = Request::get("/things?token=s3cret&s3cret")
            .body(())
            .unwrap();
        for name in [
            "authorization",
            "cookie",
            "user-agent",
            "x-request-id",
            "traceparent",
        ] {
            let value = "Bearer s3cret".parse().unwrap();
            request.headers_mut().insert(name, value);
        }
        let traceparent = http::HeaderValue::from_static(traceparent);
        request.headers_mut().insert("traceparent", traceparent);
        app.oneshot(request).await.unwrap();
        let events = events.lock().unwrap();
        events.clone()
    }

    #[tokio::test]
    async fn a_record_is_one_event_with_the_names_of_opentelemetry() {
        let events = events_at(tracing::Level::INFO).await;
        assert_eq!(events.len(), 1);
        let event = &events[0];
        assert_eq!(event["http.request.method"], "\"GET\"");
        assert_eq!(event["url.query"], "\"token=REDACTED&REDACTED\"");
        assert_eq!(event["http.response.status_code"], "200");
        assert_eq!(event["portcullis.outcome"], "\"completed\"");
        assert_eq!(event["portcullis.fields"], "\"{\\\"order.id\\\":42}\"");
        assert!(
            !event.contains_key("error.type"),
            "an absent field is left out"
        );
    }

    #[tokio::test]
    async fn no_secret_of_a_request_is_in_its_event() {
        for event in events_at(tracing::Level::TRACE).await {
            assert!(!format!("{event:?}").contains("s3cret"), "{event:?}");
        }
    }

    #[tokio::test]
    async fn the_callers_span_is_the_parent_and_a_start_record_is_an_event_of_its_own() {
        const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let own = TraceContext::new([0xaa; 16], [0xbb; 8], 1);
        let builder = AccessLogLayer::builder()
            .sink(TracingSink)
            .start_records(|_| true);
        let plain = AccessLogLayer::new(TracingSink);
        let event = &events_of(plain, tracing::Level::INFO, TRACEPARENT).await[0];
        assert_eq!(event["parent_id"], "\"b7ad6b7169203331\"");
        assert_eq!(event["trace_flags"], "\"00\"");
        assert!(!event.contains_key("span_id"));
        let layer = builder.trace_ids(move || own).build().unwrap();
        let events = events_of(layer, tracing::Level::INFO, TRACEPARENT).await;
        let names: Vec<_> = events.iter().map(|event| &*event["event.name"]).collect();
        assert_eq!(
            names,
            ["\"http.server.request.start\"", "\"http.server.request\""]
        );
        let names: Vec<_> = events.iter().map(|event| &*event[METADATA_NAME]).collect();
        assert_eq!(names, ["http.server.request.start", "http.server.request"]);
        assert!(!events[0].contains_key("http.server.request.duration"));
        for event in events {
            assert_eq!(event["span_id"], "\"bbbbbbbbbbbbbbbb\"");
            assert!(!event.contains_key("parent_id"), "it is in another trace");
        }
    }

    #[tokio::test]
    async fn a_level_that_the_subscriber_does_not_want_costs_no_event() {
        assert!(events_at(tracing::Level::WARN).await.is_empty());
    }
}
