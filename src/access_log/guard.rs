//! The record in the making: it is emitted when this is dropped, however that comes about.

use std::{net::SocketAddr, sync::Arc};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use http_body::Body;

use super::{
    config::Config,
    emit::{Emitter, Ended},
    level::Level,
    placement,
    record::{Arrival, Client, Departure, GrpcStatus, Outcome},
    redact::{self, Headers},
    request_id,
    scope::Scope,
    stats::Active,
    trace_context::TraceContext,
    trust::Trust,
};
use crate::{client_addr, framework, record::KeptRecord, request_id::RequestId, time::Timestamp};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The media type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The record in the making.
///
/// It goes from the service into the future, and from there into the body. Whoever finds the
/// request's end says which it is; if nobody does before the drop, the drop itself is the end.
/// While code of the user's runs, `polling` is set: a drop that finds it set comes from unwinding.
pub(super) struct Guard {
    emitter: Arc<Emitter>,
    record: Option<KeptRecord<Arrival>>,
    started: Timestamp,
    polling: bool,
    head: Option<Head>,
    grpc_status: Option<GrpcStatus>,
    response_bytes: u64,
    end: Option<End>,
    scope: Option<Box<dyn Scope>>,
    _active: Active,
}

/// What the response's head said.
struct Head {
    status: StatusCode,
    headers: Headers,
    at: Timestamp,
    is_stream: bool,
    /// How long the body is, where that is known before it comes.
    bytes_expected: Option<u64>,
}

struct End {
    outcome: Outcome,
    at: Timestamp,
}

impl Guard {
    /// Begins the record of a request, unless no sink would take it; the request's extensions then
    /// hold the record's handle.
    pub(super) fn open<B>(emitter: &Arc<Emitter>, request: &mut Request<B>) -> Option<Self> {
        if !emitter.is_wanted() {
            return None;
        }
        if emitter.placement.is_open() {
            placement::check(emitter, request.extensions_mut());
        }
        let config = &emitter.config;
        let started = config.clock.now();
        let arrival = arrival(config, &Call::of(request));
        emitter.arrived(&arrival.method);
        let scope = emitter.scope(&arrival);
        let record = KeptRecord::new(arrival);
        request.extensions_mut().insert(record.handle());
        Some(Self {
            record: Some(record),
            started,
            polling: false,
            head: None,
            grpc_status: None,
            response_bytes: 0,
            end: None,
            scope,
            _active: config.stats.enter(),
            emitter: Arc::clone(emitter),
        })
    }

    /// Says that code of the user's begins to run.
    pub(super) fn enter(&mut self) {
        self.polling = true;
        if let Some(scope) = &self.scope {
            scope.enter();
        }
    }

    /// Says that code of the user's has returned.
    pub(super) fn leave(&mut self) {
        self.polling = false;
        if let Some(scope) = &self.scope {
            scope.leave();
        }
    }

    /// Notes the response's head; returns nothing if the response ends with it.
    pub(super) fn head<B: Body>(mut self, response: &mut Response<B>) -> Option<Self> {
        let at = self.emitter.config.clock.now();
        let headers = response.headers();
        let arrival = self.record.as_ref()?.beside();
        // gRPC needs HTTP/2; a response without a body has its status in the head.
        if arrival.version >= Version::HTTP_2 {
            self.grpc_status = GrpcStatus::of(headers);
        }
        self.head = Some(Head {
            status: response.status(),
            headers: self.emitter.config.redaction.response_headers(headers),
            at,
            is_stream: is_stream(&arrival.method, response),
            bytes_expected: bytes_expected(&arrival.method, response),
        });
        if self.emitter.config.echo_request_id {
            let name = arrival.request_id.header_value();
            response.headers_mut().insert(X_REQUEST_ID, name);
        }
        if response.body().is_end_stream() {
            self.end = Some(End {
                outcome: Outcome::Completed,
                at,
            });
            return None;
        }
        Some(self)
    }

    /// Notes bytes that were handed to the server.
    pub(super) fn count(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// Notes the trailers.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        self.grpc_status = GrpcStatus::of(trailers).or(self.grpc_status);
    }

    /// Ends the record.
    pub(super) fn finish(mut self, outcome: Outcome) {
        let at = self.emitter.config.clock.now();
        self.end = Some(End { outcome, at });
    }

    /// Returns what a drop means that nobody announced.
    fn outcome_of_drop(&self) -> Outcome {
        match &self.head {
            _ if self.polling => Outcome::Panicked,
            None => Outcome::Dropped,
            // A server asks no further once it has all the bytes that it waits for.
            Some(head) if head.bytes_expected == Some(self.response_bytes) => Outcome::Completed,
            Some(_) => Outcome::BodyDropped,
        }
    }

    /// Returns how the request ended, and when.
    fn departure(&mut self) -> (Departure, Timestamp) {
        let end = self.end.take().unwrap_or_else(|| End {
            outcome: self.outcome_of_drop(),
            at: self.emitter.config.clock.now(),
        });
        let head = self.head.take();
        let departure = Departure {
            outcome: end.outcome,
            status: head.as_ref().map(|head| head.status),
            grpc_status: self.grpc_status,
            is_stream: head.as_ref().is_some_and(|head| head.is_stream),
            time_to_head: head.as_ref().map(|head| head.at - self.started),
            headers: head.map(|head| head.headers).unwrap_or_default(),
            duration: end.at - self.started,
            response_bytes: self.response_bytes,
        };
        (departure, end.at)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing takes the record away but this.
        let Some(record) = self.record.take() else {
            return;
        };
        let (departure, at) = self.departure();
        let ended = Ended {
            level: Level::Info,
            slots: record.take(),
            record,
            departure,
        };
        let Some(scope) = self.scope.take() else {
            return self.emitter.emit(ended, at);
        };
        // One that unwinding has left open stays open for the record.
        if !self.polling {
            scope.enter();
        }
        self.emitter.end_scope(&*scope, &ended);
        self.emitter.emit(ended, at);
        scope.leave();
    }
}

/// Returns whether the head of a response begins a stream.
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

/// The head of a request, whatever its body.
struct Call<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    peer: Option<SocketAddr>,
}

impl<'a> Call<'a> {
    fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
            peer: client_addr::peer_addr(request.extensions()).copied(),
        }
    }

    fn is_from(&self, trust: &Trust) -> bool {
        trust.believes(self.peer.map(|peer| peer.ip()))
    }
}

fn arrival(config: &Config, call: &Call<'_>) -> Arrival {
    let at = config.clock.wall();
    let inbound = inbound(config, call);
    Arrival {
        at,
        uid: inbound.as_ref().map(|_| request_id::generate(at)),
        request_id: inbound.unwrap_or_else(|| request_id::generate(at)),
        host: host(call),
        trace: trace(config, call),
        client: client(config, call),
        method: call.method.clone(),
        uri: call.uri.clone(),
        version: call.version,
        headers: config.redaction.request_headers(call.headers),
        bytes_declared: content_length(call.headers),
        route: framework::matched_path(call.extensions).map(str::to_owned),
    }
}

/// Returns the request id that the caller sent, if it is trusted and holds no API key.
fn inbound(config: &Config, call: &Call<'_>) -> Option<RequestId> {
    if !call.is_from(&config.trust_request_id) {
        return None;
    }
    let sent = RequestId::accept(call.headers.get(X_REQUEST_ID)?)?;
    (!redact::holds_key(sent.as_str())).then_some(sent)
}

fn host(call: &Call<'_>) -> Option<HeaderValue> {
    match call.uri.authority() {
        Some(_) => None,
        None => call.headers.get(HOST).cloned(),
    }
}

fn trace(config: &Config, call: &Call<'_>) -> Option<TraceContext> {
    let sent = call.headers.get(TRACEPARENT)?;
    let believed = call.is_from(&config.trust_traceparent);
    believed.then(|| TraceContext::parse(sent)).flatten()
}

fn client(config: &Config, call: &Call<'_>) -> Option<Client> {
    let peer = call.peer?;
    let addr = config
        .client_addr
        .resolve(call.extensions, call.headers)
        .ok()?;
    Some(Client {
        addr: addr.ip(),
        peer,
        masked: config.mask_client_addr,
    })
}

/// Returns how many bytes the server will ask a body for, where that is known.
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

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten()
}
