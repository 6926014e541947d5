//! The layer, and what it can be told.

use std::{fmt, io::Write, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, request::Parts};
use tower_layer::Layer;

use super::{
    config::Config,
    emit::Emitter,
    json_lines::JsonLines,
    level::Level,
    observer::Observer,
    recent::RecentRecords,
    record::Record,
    redact::{SecretPath, Users},
    service::AccessLog,
    sink::Sink,
    stats::LogStats,
    trace_context::TraceContext,
    trust::Trust,
};
use crate::{
    audit::{Audit, Auditor},
    client_addr::ClientAddrResolver,
    error::ConfigError,
    runtime::Runtime,
    time::Clock,
};

/// Keeps exactly one record of each request, and hands it to its sinks when the request has ended.
///
/// It belongs outside of all layers whose answers are to be recorded, and is cheap to clone.
#[derive(Clone)]
pub struct AccessLogLayer {
    emitter: Arc<Emitter>,
}

impl AccessLogLayer {
    /// Creates a layer that hands its records to this sink, all else by default.
    pub fn new(sink: impl Sink) -> Self {
        Self::assemble(Config {
            sinks: vec![Arc::new(sink)],
            ..Config::default()
        })
    }

    /// Creates a layer that writes lines of JSON to stderr.
    pub fn stderr() -> Self {
        Self::new(JsonLines::stderr())
    }

    /// Creates a layer that writes lines of JSON to stdout.
    pub fn stdout() -> Self {
        Self::new(JsonLines::stdout())
    }

    /// Creates a layer that writes lines of JSON to this writer, on a thread of its own: no request
    /// waits for it.
    pub fn json_lines(writer: impl Write + Send + 'static) -> Self {
        Self::new(JsonLines::writer(writer))
    }

    /// Creates a layer, and what shows its records: for tests.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use http::{Request, Response};
    /// use portcullis::access_log::AccessLogLayer;
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (layer, log) = AccessLogLayer::test();
    /// let app = ServiceBuilder::new()
    ///     .layer(layer)
    ///     .service(service_fn(async |_: Request<String>| {
    ///         Ok::<_, Infallible>(Response::new(String::new()))
    ///     }));
    ///
    /// app.oneshot(Request::new(String::new())).await.unwrap();
    /// assert!(log.last().unwrap().contains(r#""http.response.status_code":200"#));
    /// # }
    /// ```
    pub fn test() -> (Self, RecentRecords) {
        let recent = RecentRecords::default();
        (Self::new(recent.clone()), recent)
    }

    /// Begins a layer that is told more.
    pub fn builder() -> AccessLogBuilder {
        AccessLogBuilder {
            config: Config::default(),
            secret_paths: Vec::new(),
            one_in: 1,
        }
    }

    /// Returns the counts of requests under way and of records.
    pub fn stats(&self) -> LogStats {
        self.emitter.config.stats.clone()
    }

    /// Returns what tells the layer's auditor.
    pub(crate) fn audit(&self) -> &Audit {
        &self.emitter.config.audit
    }

    fn assemble(config: Config) -> Self {
        Self {
            emitter: Arc::new(Emitter::new(config)),
        }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLog::new(inner, Arc::clone(&self.emitter))
    }
}

impl fmt::Debug for AccessLogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogLayer")
            .field("sinks", &self.emitter.config.sinks)
            .finish_non_exhaustive()
    }
}

/// Builds an [`AccessLogLayer`].
///
/// ```
/// use http::header::USER_AGENT;
/// use portcullis::access_log::{AccessLogLayer, JsonLines};
///
/// let layer = AccessLogLayer::builder()
///     .sink(JsonLines::stdout())
///     .skip(|head| head.uri.path() == "/healthz")
///     .request_headers([USER_AGENT])
///     .query_values(["page"])
///     .secret_path("/reset/{token}")
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[must_use]
pub struct AccessLogBuilder {
    pub(super) config: Config,
    secret_paths: Vec<String>,
    one_in: u32,
}

impl AccessLogBuilder {
    /// Adds a sink. Each takes every record; without one, records go to stderr as lines of JSON.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.config.sinks.push(Arc::new(sink));
        self
    }

    /// Adds who sees every request, whether or not its record is written: for counting.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.config.observers.push(Arc::new(observer));
        self
    }

    /// Sets who is told of each caller that authentication turned away, whether or not its record is
    /// written, and of each notice of this process that something is configured in a way that cannot
    /// be meant.
    ///
    /// It is called where the request ends: it must not block. A [`LogQueue`](super::LogQueue) is one,
    /// and so is [`JsonLines`](super::JsonLines). [`Gate::auditor`](crate::Gate::auditor) gives one to
    /// all layers.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.config.audit = Audit::to(auditor);
        self.config.audit.tell_notices();
        self
    }

    /// Also writes a [start record](Self::start_records) of each request that is still running after this
    /// time. Defaults to none.
    ///
    /// It has what the inner layers have decided by then. A response whose client does not read it, and a
    /// handler that blocks its thread, are not polled: their start record is late or missing. The time is
    /// told by [`runtime`](Self::runtime).
    pub fn start_records_after(mut self, running: Duration) -> Self {
        self.config.start_after = Some(running);
        self
    }

    /// Sets the runtime whose timer [`start_records_after`](Self::start_records_after) uses. Defaults to the
    /// Tokio runtime that serves the request.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.config.runtime = Some(Arc::new(runtime));
        self
    }

    /// Exempts requests that match the predicate: they have no record. Defaults to none.
    ///
    /// Given more than once, each predicate may exempt. One that panics exempts nothing.
    pub fn skip(mut self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.config.skip.push(Arc::new(skip));
        self
    }

    /// Also writes a start record of requests that match the predicate, before the inner service is
    /// called. Defaults to none.
    ///
    /// The record of a request is written when it has ended, so a process that is killed leaves none of
    /// the requests that were running. A start record remains. Its `event.name` is
    /// `http.server.request.start`, its `portcullis.outcome` is `running`, and it has the request id, the
    /// trace ids and the timestamp of the record that follows when the request ends, but a
    /// `log.record.uid` of its own. It is redacted by the same rules. What the response and the inner
    /// layers add is missing.
    ///
    /// The level function and [`min_level`](Self::min_level) apply. With
    /// [`sample_one_in`](Self::sample_one_in), the same digest of the request id selects both records: each
    /// start record is followed by the record of the end. Observers and auditors are not told, and
    /// [`LogStats::started`] counts start records. Given more than once, any predicate may match. One that
    /// panics matches nothing.
    ///
    /// ```
    /// use http::header::UPGRADE;
    /// use portcullis::access_log::AccessLogLayer;
    ///
    /// // All requests, or chosen ones such as upgrades. See also `start_records_of_streams` and
    /// // `start_records_after`.
    /// let all = AccessLogLayer::builder().start_records(|_| true).build()?;
    /// let upgrades = AccessLogLayer::builder()
    ///     .start_records(|head| head.headers.contains_key(UPGRADE))
    ///     .build()?;
    /// # let _ = (all, upgrades);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn start_records(
        mut self,
        matches: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.config.start.push(Arc::new(matches));
        self
    }

    /// Also writes a [start record](Self::start_records) of each stream, as soon as the head of its
    /// response is ready: an upgrade (`101`), a tunnel (`2xx` to `CONNECT`), and server-sent events
    /// (`text/event-stream`). Defaults to none.
    ///
    /// It has the status, the response fields that are written, and what the inner layers decided. A
    /// request that already has a start record has no second one.
    pub fn start_records_of_streams(mut self) -> Self {
        self.config.start_streams = true;
        self
    }

    /// Says how much a record matters. What it matters by default stands in [`Record::level`], and
    /// counts where this panics.
    ///
    /// By default the server's failures (5xx, a panic, a body that failed) are errors, a caller
    /// that authentication turned away is a warning, `OPTIONS` is for debugging, and all else,
    /// `429` and clients that left included, is information.
    pub fn level(mut self, level: impl Fn(&Record<'_>) -> Level + Send + Sync + 'static) -> Self {
        self.config.level = Some(Arc::new(level));
        self
    }

    /// Emits only records that matter at least this much. All by default.
    pub fn min_level(mut self, level: Level) -> Self {
        self.config.min_level = level;
        self
    }

    /// Marks requests that take this long as slow. None are by default.
    pub fn slow_after(mut self, slow: Duration) -> Self {
        self.config.slow_after = Some(slow);
        self
    }

    /// Keeps the records of one in so many requests that are like most. All by default.
    ///
    /// A request that failed, was dropped, denied or slow, or whose level is a warning or more, is
    /// always kept. Which of the others are is a digest of the request's name, the same in each
    /// process, and `portcullis.sample_rate` says for how many a record stands.
    pub fn sample_one_in(mut self, requests: u32) -> Self {
        self.one_in = requests;
        self
    }

    /// Folds denials that repeat one another within this time: the same caller or client, route
    /// and reason. None are by default.
    ///
    /// The first denial is recorded at once. The last of the others stands for all of them, with
    /// `portcullis.repeat_count`; it is recorded with the first request that ends after the window,
    /// or when the layer and all its services are gone.
    pub fn fold_denials(mut self, window: Duration) -> Self {
        self.config.fold_window = Some(window);
        self
    }

    /// Writes down these headers of requests. None by default, `User-Agent` included.
    ///
    /// A value that is marked as sensitive is not written even so.
    pub fn request_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.request_headers.extend(names);
        self
    }

    /// Writes down these headers of responses. None by default.
    pub fn response_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.response_headers.extend(names);
        self
    }

    /// Says that these headers bear credentials, as `Authorization` and `Cookie` do: building a
    /// layer that writes one down fails.
    pub fn secret_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.secret_headers.extend(names);
        self
    }

    /// Writes down the values of these parameters of the query, as they are spelled. None by
    /// default: their names are written, and `REDACTED` for each value.
    pub fn query_values<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names = names.into_iter().map(Into::into);
        self.config.redaction.query.extend(names);
        self
    }

    /// Hides segments of a path: of `/reset/{token}` and every path below it, the segment in braces is
    /// written as `REDACTED`. If several patterns match a path, all of them apply.
    ///
    /// The secrets of API keys are hidden without it, wherever they stand in a path, a query, a header or
    /// a field, percent-encoded or not.
    pub fn secret_path(mut self, pattern: impl Into<String>) -> Self {
        self.secret_paths.push(pattern.into());
        self
    }

    /// Writes down who owns the caller's key, as `user.id`. Nothing by default.
    pub fn user_id(mut self) -> Self {
        self.config.redaction.users = Users::Id;
        self
    }

    /// Writes down a digest of who owns the caller's key, as `user.hash`: HMAC-SHA-256 under this
    /// secret, its first 16 bytes. The same owner has the same digest as long as the secret is the
    /// same, and who has the log alone cannot guess owners.
    pub fn user_hash(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.redaction.users = Users::hashed(secret.as_ref());
        self
    }

    /// Writes down a part of the digest under which the cache looks for an answer: requests that may
    /// have the same answer have the same one.
    pub fn cache_key_hash(mut self) -> Self {
        self.config.redaction.cache_key = true;
        self
    }

    /// Sets how the client's address is found. The peer's by default.
    pub fn client_addr(mut self, resolver: ClientAddrResolver) -> Self {
        self.config.client_addr = resolver;
        self
    }

    /// Writes down only the network of the client's and the peer's address, /24 or /48.
    pub fn mask_client_addr(mut self) -> Self {
        self.config.mask_client_addr = true;
        self
    }

    /// Sets whose `x-request-id` is used as the id of the request. Nobody's by default.
    ///
    /// An id is 1 to 128 of `A-Z a-z 0-9 . _ -` and holds no API key; anything else is replaced by a
    /// generated id.
    pub fn trust_request_id(mut self, trust: Trust) -> Self {
        self.config.trust_request_id = trust;
        self
    }

    /// Sets the peers whose `traceparent` is trusted. Defaults to all peers.
    ///
    /// A trusted and valid `traceparent` gives the record `trace_id`, `trace_flags`, and the id of the
    /// caller's span as `parent_id`. A client may send the id of a trace that is not its own. An invalid
    /// `traceparent`, and one that is sent twice, is ignored.
    pub fn trust_traceparent(mut self, trust: Trust) -> Self {
        self.config.trust_traceparent = trust;
        self
    }

    /// Sets the function that returns the ids of the current span: the record then has the `span_id` and
    /// `trace_id` of the request's own span. Defaults to none, and the record has no `span_id`.
    ///
    /// It is called on the thread that serves the request, at most twice:
    ///
    /// - before the inner service is called, inside of the [`span`](#method.span) that this layer opens,
    ///   or else inside of the span of a layer outside of this one, such as tower-http's `TraceLayer`;
    /// - when the request has ended, if there was no span before. Inside of a span that this layer
    ///   opened, it is called again in any case, so that a remote parent that was set meanwhile counts.
    ///
    /// A layer that opens its span inside of this one is not seen: a service inside of that layer passes
    /// the ids to [`RequestLog::set_span`](super::RequestLog::set_span). A function that returns the caller's
    /// span, or panics, returns no ids. The extensions of the request hold the [`TraceContext`] that the
    /// first call returned.
    ///
    /// With `tracing-opentelemetry`:
    ///
    /// ```
    /// # mod tracing {
    /// #     pub struct Span;
    /// #     impl Span { pub fn current() -> Self { Self } }
    /// # }
    /// # mod opentelemetry { pub mod trace {
    /// #     pub struct Context;
    /// #     pub struct SpanRef;
    /// #     pub struct SpanContext;
    /// #     pub struct TraceId;
    /// #     pub struct SpanId;
    /// #     pub struct TraceFlags;
    /// #     pub trait TraceContextExt { fn span(&self) -> SpanRef; }
    /// #     impl TraceContextExt for Context { fn span(&self) -> SpanRef { SpanRef } }
    /// #     impl SpanRef { pub fn span_context(&self) -> &SpanContext { &SpanContext } }
    /// #     impl SpanContext {
    /// #         pub fn trace_id(&self) -> TraceId { TraceId }
    /// #         pub fn span_id(&self) -> SpanId { SpanId }
    /// #         pub fn trace_flags(&self) -> TraceFlags { TraceFlags }
    /// #     }
    /// #     impl TraceId { pub fn to_bytes(self) -> [u8; 16] { [1; 16] } }
    /// #     impl SpanId { pub fn to_bytes(self) -> [u8; 8] { [1; 8] } }
    /// #     impl TraceFlags { pub fn to_u8(self) -> u8 { 1 } }
    /// # } }
    /// # mod tracing_opentelemetry {
    /// #     pub trait OpenTelemetrySpanExt { fn context(&self) -> super::opentelemetry::trace::Context; }
    /// #     impl OpenTelemetrySpanExt for super::tracing::Span {
    /// #         fn context(&self) -> super::opentelemetry::trace::Context { super::opentelemetry::trace::Context }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), portcullis::ConfigError> {
    /// # use self::{opentelemetry, tracing, tracing_opentelemetry};
    /// use opentelemetry::trace::TraceContextExt;
    /// use portcullis::access_log::{AccessLogLayer, TraceContext};
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// fn current_span() -> Option<TraceContext> {
    ///     let context = tracing::Span::current().context();
    ///     let span = context.span();
    ///     let span = span.span_context();
    ///     // Ids that are all zero, as without a span, are `None`.
    ///     TraceContext::new(
    ///         span.trace_id().to_bytes(),
    ///         span.span_id().to_bytes(),
    ///         span.trace_flags().to_u8(),
    ///     )
    /// }
    ///
    /// // Inside of the layer that opens the span, or with `.span(Level::Info)` (feature `tracing`).
    /// let layer = AccessLogLayer::builder().trace_ids(current_span).build()?;
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace_ids(
        mut self,
        current_span: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.config.spans.current = Some(Arc::new(current_span));
        self
    }

    /// Creates ids for requests whose span is not known: a random `span_id`, in the trace of a
    /// [trusted](Self::trust_traceparent) `traceparent` or else in a new one. Defaults to off.
    ///
    /// The inner service continues the trace without further setup: the request carries the created ids as
    /// its `traceparent`, in place of the one that the caller sent, and its extensions hold them as
    /// [`TraceContext`], whose [`traceparent`](TraceContext::traceparent) belongs into outgoing requests.
    /// A new trace removes `tracestate`.
    ///
    /// The caller's flag "sampled" is kept. That of a new trace is set if the record is written, however
    /// the request ends: always, or for one in as many requests as
    /// [`sample_one_in`](Self::sample_one_in) says. With [`trace_ids`](Self::trace_ids), ids are created
    /// for requests for which that function returns `None` before the inner service is called.
    pub fn create_trace_ids(mut self) -> Self {
        self.config.spans.creates = true;
        self
    }

    /// Leaves `x-request-id` out of responses.
    pub fn without_response_header(mut self) -> Self {
        self.config.echo_request_id = false;
        self
    }

    /// Sets the clock that requests are timed and dated by. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// Returns an error if a header that bears credentials is to be written, if a secret path names no
    /// secret, if one in zero requests is to be kept, and if start records are to be timed without a
    /// runtime.
    pub fn build(mut self) -> Result<AccessLogLayer, ConfigError> {
        self.config.one_in = NonZeroU32::new(self.one_in).ok_or_else(|| {
            ConfigError::new("sample_one_in", 0, "one in zero requests is not a share")
                .fix("give 1 to keep all, or raise `min_level` to keep fewer")
        })?;
        self.check_timer()?;
        self.config.redaction.check()?;
        for pattern in &self.secret_paths {
            self.config
                .redaction
                .secret_paths
                .push(SecretPath::parse(pattern)?);
        }
        if self.config.sinks.is_empty() {
            self.config.sinks.push(Arc::new(JsonLines::stderr()));
        }
        Ok(AccessLogLayer::assemble(self.config))
    }
}

impl AccessLogBuilder {
    fn check_timer(&self) -> Result<(), ConfigError> {
        match (self.config.start_after, &self.config.runtime) {
            (Some(after), None) => Err(ConfigError::new(
                "start_records_after",
                format!("{after:?}"),
                "no runtime tells the time",
            )
            .fix("set a `runtime`, or enable the feature `tokio`")),
            (Some(_), Some(_)) | (None, _) => Ok(()),
        }
    }
}

impl fmt::Debug for AccessLogBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogBuilder")
            .field("sinks", &self.config.sinks)
            .finish_non_exhaustive()
    }
}
