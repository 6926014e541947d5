//! The layer, and what it can be told.

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
    net::client_addr::ClientAddrResolver,
    time::Clock,
};

/// Keeps exactly one record of each request, and hands it to its sinks when the request has ended.
///
/// It belongs outside of all layers whose answers are to be recorded, and is cheap to clone.
#[derive(Clone)]
pub struct AccessLogLayer {
    pub(super) emitter: Arc<Emitter>,
}

impl AccessLogLayer {
    /// Creates a layer that hands its records to this sink, all else by default.
    pub fn new(sink: impl Sink) -> Self {
        Self::assemble(AccessLogConfig {
            sinks: vec![Arc::new(sink)],
            ..AccessLogConfig::default()
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
    pub fn builder() -> AccessLogLayerBuilder {
        AccessLogLayerBuilder {
            config: AccessLogConfig::default(),
            secret_paths: Vec::new(),
            one_in: 1,
        }
    }

    /// Returns the counts of requests under way and of records.
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

impl AccessLogLayerBuilder {
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
    /// It is called where the request ends: it must not block. A [`LogQueue`](super::sinks::LogQueue) is one,
    /// and so is [`JsonLines`](super::sinks::JsonLines). [`Gate::auditor`](crate::Gate::auditor) gives one to
    /// all layers.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.config.audit = Audit::to(auditor);
        self.config.audit.tell_notices();
        self
    }

    /// Exempts requests that match the predicate: they have no record. Defaults to none.
    ///
    /// Given more than once, each predicate may exempt. One that panics exempts nothing.
    pub fn skip(mut self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.config.skip.push(Arc::new(skip));
        self
    }

    /// Says how much a record matters. What it matters by default stands in [`Record::level`], and
    /// counts where this panics.
    ///
    /// By default the server's failures (5xx, a panic, a body that failed) are errors, a caller
    /// that authentication turned away is a warning, `OPTIONS` is for debugging, and all else,
    /// `429` and clients that left included, is information.
    pub fn level(
        mut self,
        level: impl Fn(&Record<'_>) -> LogLevel + Send + Sync + 'static,
    ) -> Self {
        self.config.level = Some(Arc::new(level));
        self
    }

    /// Emits only records that matter at least this much. All by default.
    pub fn min_level(mut self, level: LogLevel) -> Self {
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
    pub fn aggregate_denials(mut self, window: Duration) -> Self {
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
    pub fn redact_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.config.redaction.redact_headers.extend(names);
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
    pub fn redact_path(mut self, pattern: impl Into<String>) -> Self {
        self.secret_paths.push(pattern.into());
        self
    }

    /// Writes down who owns the caller's key, as `user.id`. Nothing by default.
    pub fn include_user_id(mut self) -> Self {
        self.config.redaction.users = Users::Id;
        self
    }

    /// Writes down a digest of who owns the caller's key, as `user.hash`: HMAC-SHA-256 under this
    /// secret, its first 16 bytes. The same owner has the same digest as long as the secret is the
    /// same, and who has the log alone cannot guess owners.
    pub fn include_user_hash(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.redaction.users = Users::hashed(secret.as_ref());
        self
    }

    /// Writes down a part of the digest under which the cache looks for an answer: requests that may
    /// have the same answer have the same one.
    pub fn include_cache_key_hash(mut self) -> Self {
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

    /// Leaves `x-request-id` out of responses.
    pub fn without_request_id_header(mut self) -> Self {
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
