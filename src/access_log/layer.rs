//! The access log layer and its builder.

use std::{fmt, io::Write, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, request::Parts};
use tower_layer::Layer;

use super::{
    config::AccessLogConfig,
    emit::{emit::Emitter, level::LogLevel, observer::Observer, stats::LogStats},
    record::{
        record::Record,
        redact::{SecretPath, Users},
        trust::Trust,
    },
    service::AccessLog,
    sinks::{json_lines::JsonLines, recent::RecentRecords, sink::Sink},
};
use crate::core::{
    audit::{Audit, Auditor},
    error::ConfigError,
    inherited::Inherited,
    inherited_clock::LayerClock,
    not_built::not_built,
    time::Clock,
};

/// Writes exactly one record per request to its sinks when the request ends.
///
/// Apply this layer outside all layers whose responses are recorded. The layer is cheap to clone.
#[derive(Clone)]
pub struct AccessLogLayer {
    pub(super) emitter: Arc<Emitter>,
}

impl AccessLogLayer {
    /// Creates a layer that writes to this sink, with default options.
    pub fn new(sink: impl Sink) -> Self {
        Self::assemble(AccessLogConfig {
            sinks: vec![Arc::new(sink)],
            ..AccessLogConfig::default()
        })
    }

    /// Creates a layer that writes JSON lines to stderr.
    pub fn stderr() -> Self {
        Self::new(JsonLines::stderr())
    }

    /// Creates a layer that writes JSON lines to stdout.
    pub fn stdout() -> Self {
        Self::new(JsonLines::stdout())
    }

    /// Creates a layer that writes JSON lines to this writer on a dedicated thread. Requests do not
    /// wait for the writer.
    pub fn json_lines(writer: impl Write + Send + 'static) -> Self {
        Self::new(JsonLines::writer(writer))
    }

    /// Creates a layer that retains its latest records, and a handle that returns them, for tests.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
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
        let layer = Self::assemble(AccessLogConfig {
            sinks: vec![Arc::new(recent.clone())],
            report_missing_addr: false,
            ..AccessLogConfig::default()
        });
        (layer, recent)
    }

    /// Creates a builder with default options.
    pub fn builder() -> AccessLogLayerBuilder {
        AccessLogLayerBuilder {
            config: AccessLogConfig::default(),
            secret_paths: Vec::new(),
            one_in: 1,
        }
    }

    /// Returns the counters of active requests and of records.
    pub fn stats(&self) -> LogStats {
        self.emitter.config.stats.clone()
    }

    fn assemble(config: AccessLogConfig) -> Self {
        Self {
            emitter: Arc::new(Emitter::new(config)),
        }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLog::new(inner, Some(Arc::clone(&self.emitter)))
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
/// use portcullis::access_log::{AccessLogLayer, sinks::JsonLines};
///
/// let layer = AccessLogLayer::builder()
///     .sink(JsonLines::stdout())
///     .skip(|head| head.uri.path() == "/healthz")
///     .request_headers([USER_AGENT])
///     .query_values(["page"])
///     .redact_path("/reset/{token}")
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[must_use]
pub struct AccessLogLayerBuilder {
    pub(super) config: AccessLogConfig,
    secret_paths: Vec<String>,
    one_in: u32,
}

not_built!(AccessLogLayerBuilder);

impl AccessLogLayerBuilder {
    /// Adds a sink, which receives every record. By default, if no sink is added, records are
    /// written to stderr as JSON lines.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.config.sinks.push(Arc::new(sink));
        self
    }

    /// Adds an observer, which receives every request, including requests whose record is not
    /// written. Defaults to none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.config.observers.push(Arc::new(observer));
        self
    }

    /// Sets the auditor. Defaults to none. The auditor receives each request that authentication
    /// rejects, even if its record is not written, and each configuration warning in this process.
    ///
    /// The auditor is called on the thread that serves the request and must not block.
    /// [`LogQueue`](super::sinks::LogQueue) and [`JsonLines`](super::sinks::JsonLines) are
    /// auditors. [`Gate::auditor`](crate::Gate::auditor) sets one auditor for all layers.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.config.audit = Audit::to(auditor);
        self.config.audit.forward_notices();
        self
    }

    /// Exempts requests that match the predicate. Exempt requests have no record. Defaults to none.
    ///
    /// Repeated calls add predicates. A request is exempt if any predicate matches. A predicate
    /// that panics matches nothing.
    pub fn skip(mut self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.config.skip.push(Arc::new(skip));
        self
    }

    /// Sets the function that determines the level of a record. In this function, [`Record::level`]
    /// returns the default level. If the function panics, the default level is used.
    ///
    /// By default, server failures (5xx, a panic, a failed body) have level `Error`, requests that
    /// authentication rejects have level `Warn`, and `OPTIONS` requests have level `Debug`. All
    /// other requests, including those with `429` and those from disconnected clients, have level
    /// `Info`.
    pub fn level(
        mut self,
        level: impl Fn(&Record<'_>) -> LogLevel + Send + Sync + 'static,
    ) -> Self {
        self.config.level = Some(Arc::new(level));
        self
    }

    /// Sets the minimum level of emitted records. Defaults to [`LogLevel::Debug`], at which all
    /// records are emitted.
    pub fn min_level(mut self, level: LogLevel) -> Self {
        self.config.min_level = level;
        self
    }

    /// Marks requests that take at least this long as slow. By default, no request is marked.
    pub fn slow_after(mut self, slow: Duration) -> Self {
        self.config.slow_after = Some(slow);
        self
    }

    /// Emits the record of one in `requests` routine requests. Defaults to 1, which emits all
    /// records. [`build`](Self::build) returns an error for 0.
    ///
    /// The records of requests that failed or were dropped, rejected or slow are always emitted, as
    /// are records of level `Warn` or higher. A digest of the request id selects the others, with
    /// the same result in every process. `portcullis.sample_rate` is the number of requests that a
    /// record represents.
    pub fn sample_one_in(mut self, requests: u32) -> Self {
        self.one_in = requests;
        self
    }

    /// Combines repeated denials within this window into one record. This option is off by default.
    /// Two denials are combined if they have the same caller or client, route and reason.
    ///
    /// The first denial is recorded immediately. The last of the later denials represents all of
    /// them, and `portcullis.repeat_count` is their number. It is recorded when the next request
    /// ends after the window, or when the layer and all of its services are dropped.
    pub fn aggregate_denials(mut self, window: Duration) -> Self {
        self.config.fold_window = Some(window);
        self
    }

    /// Adds request headers to the record. By default, no headers are recorded, not even
    /// `User-Agent`.
    ///
    /// A value that is marked as sensitive is recorded as `REDACTED`. [`build`](Self::build)
    /// returns an error for a header that contains credentials, such as `Authorization`, `Cookie`,
    /// `X-API-Key` and `Sec-WebSocket-Protocol`.
    pub fn request_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.request_headers.extend(names);
        self
    }

    /// Adds response headers to the record. Defaults to none. The rules of
    /// [`request_headers`](Self::request_headers) apply.
    pub fn response_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.response_headers.extend(names);
        self
    }

    /// Marks headers as credentials, like `Authorization` and `Cookie`. [`build`](Self::build)
    /// returns an error if a record would contain one of them. By default, only a fixed list of
    /// common credential headers is marked. This call extends the list.
    pub fn redact_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.redact_headers.extend(names);
        self
    }

    /// Records the values of these query parameters. Names are case-sensitive and must match the
    /// spelling in the query. By default, only the names of parameters are recorded, with
    /// `REDACTED` as each value.
    pub fn query_values<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names = names.into_iter().map(Into::into);
        self.config.redaction.query.extend(names);
        self
    }

    /// Redacts path segments. For `/reset/{token}`, the segment in braces is recorded as `REDACTED`
    /// in this path and all paths below it. Defaults to none. If several patterns match a path, all
    /// of them apply. [`build`](Self::build) returns an error for a pattern that redacts nothing.
    ///
    /// The secrets of API keys are always redacted in paths, queries, headers and fields, even if
    /// they are percent-encoded.
    pub fn redact_path(mut self, pattern: impl Into<String>) -> Self {
        self.secret_paths.push(pattern.into());
        self
    }

    /// Records the owner of the caller's key as `user.id`. This option is off by default.
    pub fn include_user_id(mut self) -> Self {
        self.config.redaction.users = Users::Id;
        self
    }

    /// Records a keyed digest of the owner of the caller's key as `user.hash`. This option is off
    /// by default. The digest consists of the first 16 bytes of an HMAC-SHA-256 that is keyed with
    /// `secret`. The same owner and secret always have the same digest, and owners cannot be
    /// guessed from the log alone.
    pub fn include_user_hash(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.redaction.users = Users::hashed(secret.as_ref());
        self
    }

    /// Records part of the digest that the cache uses as its key. Requests that can share a cached
    /// response have the same value. This option is off by default.
    pub fn include_cache_key_hash(mut self) -> Self {
        self.config.redaction.cache_key = true;
        self
    }

    /// Sets the peers whose `x-request-id` header is used as the request id. Defaults to no peers.
    ///
    /// A valid id consists of 1 to 128 characters from `A-Z a-z 0-9 . _ -` and contains no API key.
    /// Any other value is replaced by a generated id.
    pub fn trust_request_id(mut self, trust: Trust) -> Self {
        self.config.trust_request_id = trust;
        self
    }

    /// Sets the peers whose `traceparent` header is trusted. Defaults to all peers.
    ///
    /// A trusted and valid `traceparent` sets `trace_id`, `trace_flags`, and the caller's span as
    /// `parent_id`. If clients are trusted, a client can send the trace id of another client. An
    /// invalid or repeated `traceparent` is ignored.
    pub fn trust_traceparent(mut self, trust: Trust) -> Self {
        self.config.trust_traceparent = trust;
        self
    }

    /// Omits the `x-request-id` header from responses. By default, each response has it.
    pub fn without_request_id_header(mut self) -> Self {
        self.config.echo_request_id = false;
        self
    }

    /// Sets the clock that measures durations and sets timestamps. Defaults to the clock of
    /// [`Gate::clock`](crate::Gate::clock), or to the system clock if there is none.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Inherited::set(LayerClock::new(clock));
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] in these cases:
    ///
    /// - a recorded header contains credentials;
    /// - a pattern of [`redact_path`](Self::redact_path) redacts nothing;
    /// - [`sample_one_in`](Self::sample_one_in) is 0;
    /// - [`start_records_after`](Self::start_records_after) has no runtime.
    pub fn build(mut self) -> Result<AccessLogLayer, ConfigError> {
        self.config.one_in = NonZeroU32::new(self.one_in).ok_or_else(|| {
            ConfigError::new("sample_one_in", 0, "it must be at least 1")
                .fix("set 1 to emit all records, or raise `min_level` to emit fewer")
        })?;
        self.config.check_start_timer()?;
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

impl fmt::Debug for AccessLogLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogLayerBuilder")
            .field("sinks", &self.config.sinks)
            .finish_non_exhaustive()
    }
}
