//! The guard of a running request, which emits the record on drop at the latest.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::Context,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::CONTENT_TYPE,
};
use http_body::Body;

use super::{
    arrival::{Call, X_REQUEST_ID, arrival, content_length},
    record::{Arrival, Departure, GrpcStatus, RecordedHead, RequestOutcome},
    trace_context::TraceContext,
};
use crate::{
    access_log::{
        config::WantedRecords,
        emit::{
            emit::{Emitter, Ended},
            level::LogLevel,
            sample,
            stats::Active,
        },
        placement,
        sinks::{
            scope::Scope,
            span_source::{self, OwnSpan},
        },
    },
    core::{record::KeptRecord, runtime::Task, time::Timestamp},
};

/// The media type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The record of a request that is running.
///
/// The guard moves from the service to the future and then to the body. Each move copies it, so
/// fields that are written once are in the record's allocation. The caller that detects the end of
/// the request reports the outcome; otherwise, the drop is the end. `polling` is `true` while
/// application code runs: if it is `true` on drop, the drop is part of unwinding.
pub(crate) struct Guard {
    emitter: Arc<Emitter>,
    /// `None` once the record is emitted.
    record: Option<KeptRecord<Arrival>>,
    options: Option<Box<Options>>,
    scope: Option<Box<dyn Scope>>,
    response_bytes: u64,
    grpc_status: Option<GrpcStatus>,
    polling: bool,
    has_start_record: bool,
    _active: Active,
}

/// The state of rarely used options.
#[derive(Default)]
struct Options {
    span: OwnSpan,
    /// The timer of the start record of a long-running request. The mutex makes it `Sync`.
    start_timer: Option<Mutex<Task>>,
}

impl Guard {
    /// Starts the records of a request, or returns `None` if no sink would accept the records. Adds
    /// the record handle to the request's extensions.
    pub(crate) fn open<B>(
        emitter: &Arc<Emitter>,
        request: &mut Request<B>,
        wanted: WantedRecords,
    ) -> Option<Self> {
        if wanted == WantedRecords::Nothing || !emitter.is_wanted() {
            return None;
        }
        if emitter.placement.is_open() {
            placement::check(emitter, request.extensions_mut());
        }
        let config = &emitter.config;
        let record = KeptRecord::new(arrival(config, &Call::of(request)));
        emitter.on_request(&record.beside().method);
        let scope = emitter.scope(record.beside());
        request.extensions_mut().insert(record.handle());
        let mut guard = Self {
            record: Some(record),
            options: None,
            scope,
            response_bytes: 0,
            grpc_status: None,
            polling: false,
            has_start_record: false,
            _active: config.stats.enter(),
            emitter: Arc::clone(emitter),
        };
        if config.spans.is_used() {
            guard.find_span(request);
        }
        if let Some(timer) = config.start_timer() {
            guard.options().start_timer = Some(Mutex::new(timer));
        }
        if wanted == WantedRecords::StartAndEnd {
            guard.emit_start();
        }
        Some(guard)
    }

    /// Finds or creates the ids of the request's own span before the inner service is called. Adds
    /// them to the request's extensions, and created ids to its `traceparent`.
    fn find_span<B>(&mut self, request: &mut Request<B>) {
        let config = &self.emitter.config;
        let Some(record) = &self.record else { return };
        let arrival = record.beside();
        let caller = arrival.trace.as_ref();
        let current = self.in_scope(|| config.spans.current(caller, &config.stats));
        let sampled = || sample::keeps(arrival.request_id.as_str(), config.one_in);
        let span = match current {
            Some(ids) => OwnSpan::Reported(ids),
            None => config.spans.create(caller, sampled),
        };
        if let OwnSpan::Created(ids) = &span {
            span_source::propagate(request.headers_mut(), ids, caller);
        }
        if let Some(ids) = span.ids() {
            if let Some(scope) = &self.scope {
                scope.identify(&ids, caller);
            }
            request.extensions_mut().insert(ids);
        }
        self.options().span = span;
    }

    fn options(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    fn head(&self) -> Option<&RecordedHead> {
        self.record.as_ref()?.beside().head.get()
    }

    fn span(&self) -> OwnSpan {
        let options = self.options.as_deref();
        options.map_or(OwnSpan::Unknown, |options| options.span)
    }

    /// Reads the ids of the request's own span again once the request has ended. Inside the
    /// request's scope, the ids are final. Outside it, they are read only if no ids were found
    /// before.
    fn settle_span(&mut self) {
        let config = &self.emitter.config;
        if !config.spans.is_used() {
            return;
        }
        let asks = match self.span() {
            OwnSpan::Unknown => true,
            OwnSpan::Reported(_) => self.scope.is_some(),
            OwnSpan::Created(_) => false,
        };
        let caller = self
            .record
            .as_ref()
            .and_then(|record| record.beside().trace);
        if asks && let Some(ids) = config.spans.current(caller.as_ref(), &config.stats) {
            self.options().span = OwnSpan::Reported(ids);
        }
    }

    /// Returns the ids of the request's own span. Ids that were set inside take priority.
    fn own_span(&self) -> Option<Box<TraceContext>> {
        let record = self.record.as_ref();
        let inner = record.and_then(|record| record.beside().inner_span.get());
        inner.cloned().or_else(|| self.span().ids().map(Box::new))
    }

    /// Emits the start record.
    fn emit_start(&mut self) {
        let Some(record) = &self.record else { return };
        let departure = Departure {
            outcome: RequestOutcome::Running,
            span: self.own_span(),
            grpc_status: self.grpc_status,
            ..Departure::default()
        };
        let emit = |slots: &_| self.emitter.emit_start(record.beside(), &departure, slots);
        self.in_scope(|| record.handle().read(emit));
        self.has_start_record = true;
        if let Some(options) = &mut self.options {
            options.start_timer = None;
        }
    }

    /// Emits the start record if the request has been running for long enough.
    pub(crate) fn poll_start(&mut self, cx: &mut Context<'_>) {
        let options = self.options.as_mut();
        let Some(timer) = options.and_then(|options| options.start_timer.as_mut()) else {
            return;
        };
        let timer = timer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if timer.as_mut().poll(cx).is_ready() {
            self.emit_start();
        }
    }

    /// Runs a function that never panics inside the scope.
    fn in_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        if let Some(scope) = &self.scope {
            scope.enter();
        }
        let done = run();
        if let Some(scope) = &self.scope {
            scope.leave();
        }
        done
    }

    /// Marks the start of application code.
    pub(crate) fn enter(&mut self) {
        self.polling = true;
        if let Some(scope) = &self.scope {
            scope.enter();
        }
    }

    /// Marks the end of application code.
    pub(crate) fn leave(&mut self) {
        self.polling = false;
        if let Some(scope) = &self.scope {
            scope.leave();
        }
    }

    /// Records the response head. Returns `None` if the response ends with it.
    pub(crate) fn respond<B: Body>(mut self, response: &mut Response<B>) -> Option<Self> {
        let config = &self.emitter.config;
        let at = config.clock.now();
        let arrival = self.record.as_ref()?.beside();
        let headers = response.headers();
        // gRPC requires HTTP/2. A response without a body has its status in the head.
        if arrival.version >= Version::HTTP_2 {
            self.grpc_status = GrpcStatus::of(headers);
        }
        let is_stream = is_stream(&arrival.method, response);
        arrival.head.get_or_init(|| RecordedHead {
            status: response.status(),
            headers: config.redaction.response_headers(headers),
            at,
            is_stream,
            bytes_expected: bytes_expected(&arrival.method, response),
        });
        if config.echo_request_id {
            let name = arrival.request_id.header_value();
            response.headers_mut().insert(X_REQUEST_ID, name);
        }
        if response.body().is_end_stream() {
            self.close(RequestOutcome::Completed, at);
            return None;
        }
        if config.start_streams && is_stream && !self.has_start_record {
            self.emit_start();
        }
        Some(self)
    }

    /// Counts bytes that were handed to the server.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// Reads the gRPC status from the trailers.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        self.grpc_status = GrpcStatus::of(trailers).or(self.grpc_status);
    }

    /// Emits the record of an ended request.
    pub(crate) fn finish(mut self, outcome: RequestOutcome) {
        let at = self.emitter.config.clock.now();
        self.close(outcome, at);
    }

    /// Returns the outcome of a request that is dropped without a report.
    fn outcome_of_drop(&self) -> RequestOutcome {
        match self.head() {
            _ if self.polling => RequestOutcome::Panicked,
            None => RequestOutcome::Dropped,
            // A server stops polling once it has all expected bytes.
            Some(head) if head.bytes_expected == Some(self.response_bytes) => {
                RequestOutcome::Completed
            }
            Some(_) => RequestOutcome::BodyDropped,
        }
    }

    /// Emits the record with this outcome and end time.
    fn close(&mut self, outcome: RequestOutcome, at: Timestamp) {
        // A scope that unwinding left open stays open for the record.
        if let Some(scope) = self.scope.as_ref().filter(|_| !self.polling) {
            scope.enter();
        }
        self.settle_span();
        let span = self.own_span();
        if let Some(record) = self.record.take() {
            let departure = Departure {
                outcome,
                span,
                grpc_status: self.grpc_status,
                duration: at - record.beside().started,
                response_bytes: self.response_bytes,
            };
            let ended = Ended {
                level: LogLevel::Info,
                slots: record.take(),
                record,
                departure,
            };
            if let Some(scope) = &self.scope {
                self.emitter.end_scope(&**scope, &ended);
            }
            self.emitter.emit(ended, at);
        }
        if let Some(scope) = self.scope.take() {
            scope.leave();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.record.is_some() {
            let (outcome, at) = (self.outcome_of_drop(), self.emitter.config.clock.now());
            self.close(outcome, at);
        }
    }
}

/// Returns `true` if a response head starts a stream.
fn is_stream<B>(method: &Method, response: &Response<B>) -> bool {
    let status = response.status();
    let is_tunnel = method == Method::CONNECT && status.is_success();
    let event_stream = |value: &HeaderValue| {
        let media_type = value.as_bytes().split(|&byte| byte == b';').next();
        media_type.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM))
    };
    let content_type = response.headers().get(CONTENT_TYPE);
    status == StatusCode::SWITCHING_PROTOCOLS || is_tunnel || content_type.is_some_and(event_stream)
}

/// Returns the number of bytes that the server will poll from the body, if it is known.
fn bytes_expected<B: Body>(method: &Method, response: &Response<B>) -> Option<u64> {
    let status = response.status();
    let bodiless = *method == Method::HEAD
        || (*method == Method::CONNECT && status.is_success())
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Some(0);
    }
    let exact = response.body().size_hint().exact();
    exact.or_else(|| content_length(response.headers()))
}
