//! The record of one request, as a level function, a sampler and a sink see it.

use std::{
    borrow::Cow,
    cmp::Ordering,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::{
    redact::{self, Headers, Redaction, Users},
    trace_context::TraceContext,
};
use crate::{
    access_log::emit::level::LogLevel,
    core::{
        http::request_id::RequestId,
        net::ip_network::IpNetwork,
        record::{
            AuthOutcome, Beside, CacheOutcome, PolicyOutcome, RateLimitDecision, RateLimitOutcome,
            RecordData,
        },
        time::Timestamp,
    },
};

/// The record of one request, complete and redacted.
///
/// What it returns may be written down: values of the query, secret segments of the path and
/// headers that nobody asked for are gone already.
pub struct Record<'a> {
    pub(crate) arrival: &'a Arrival,
    pub(crate) departure: &'a Departure,
    pub(crate) slots: &'a RecordData,
    pub(crate) redaction: &'a Redaction,
    pub(crate) level: LogLevel,
    pub(crate) is_slow: bool,
    pub(crate) sample_rate: u32,
    pub(crate) repeat_count: u64,
    /// The id of a start record; none in the record of the end.
    pub(crate) start_uid: Option<&'a RequestId>,
}

/// The facts of a request that the record keeps: those of its arrival, and later the head of its
/// response. Not redacted: it does not leave the slice.
pub(crate) struct Arrival {
    pub(crate) at: Timestamp,
    /// The time of the arrival by the monotonic clock.
    pub(super) started: Timestamp,
    pub(crate) request_id: RequestId,
    /// The record's own name, where the request has brought its.
    pub(crate) uid: Option<RequestId>,
    /// The context that the caller sent.
    pub(crate) trace: Option<TraceContext>,
    /// The request's own span, as a layer inside or the handler set it. Boxed, as few requests have one.
    pub(super) inner_span: OnceLock<Box<TraceContext>>,
    pub(crate) client: Option<Client>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// What `Host` says, where the URI does not.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) version: Version,
    pub(crate) headers: Headers,
    pub(super) bytes_declared: Option<u64>,
    pub(crate) route: Option<String>,
    /// The head of the response, once there is one.
    pub(super) head: OnceLock<ResponseHead>,
}

/// The head of a response.
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: Headers,
    pub(super) at: Timestamp,
    pub(super) is_stream: bool,
    /// The length of the body, where that is known before the body is read.
    pub(super) bytes_expected: Option<u64>,
}

impl Beside for Arrival {
    fn request_id(&self) -> Option<&RequestId> {
        Some(&self.request_id)
    }
}

impl Arrival {
    /// Returns the client's address, or its network where addresses are masked.
    pub(crate) fn client_shown(&self) -> Option<IpAddr> {
        let client = self.client.as_ref()?;
        Some(client.shown(client.addr))
    }
}

/// Who called, by address.
pub(crate) struct Client {
    pub(crate) addr: IpAddr,
    pub(crate) peer: SocketAddr,
    pub(super) masked: bool,
}

/// How the request ended.
#[derive(Default)]
pub(crate) struct Departure {
    pub(crate) outcome: RequestOutcome,
    /// The request's own span. Boxed, as few requests have one.
    pub(crate) span: Option<Box<TraceContext>>,
    pub(crate) grpc_status: Option<GrpcStatus>,
    pub(crate) duration: Duration,
    pub(crate) response_bytes: u64,
}

impl Record<'_> {
    /// Returns the calendar's time at which the request arrived.
    pub fn arrived_at(&self) -> Timestamp {
        self.arrival.at
    }

    /// Returns how much the record matters. Inside of a level function: what it matters by default.
    pub fn level(&self) -> LogLevel {
        self.level
    }

    /// Returns the request's name.
    pub fn request_id(&self) -> &RequestId {
        &self.arrival.request_id
    }

    /// Returns the id of this record: the request id, unless that one came from the caller, who may send
    /// a request twice. A record that is stored twice has the same id both times; a start record has an id
    /// of its own.
    pub fn record_id(&self) -> &RequestId {
        let own = self.start_uid.or(self.arrival.uid.as_ref());
        own.unwrap_or(&self.arrival.request_id)
    }

    /// Returns whether this is a [start record](crate::access_log::AccessLogLayerBuilder::start_records): the request is
    /// still running, and its record follows when it ends.
    pub fn is_start(&self) -> bool {
        self.start_uid.is_some()
    }

    /// Returns the trace context that the caller sent in `traceparent`, if it is valid and
    /// [trusted](crate::access_log::AccessLogLayerBuilder::trust_traceparent).
    pub fn trace(&self) -> Option<&TraceContext> {
        self.arrival.trace.as_ref()
    }

    /// Returns the context of the request's own span, if [it is set](crate::access_log::RequestLog::set_span),
    /// [tracing reports it](crate::access_log::AccessLogLayerBuilder::trace_ids) or
    /// [it is created](crate::access_log::AccessLogLayerBuilder::create_trace_ids).
    pub fn span(&self) -> Option<&TraceContext> {
        self.departure.span.as_deref()
    }

    /// Returns the id of the trace: that of the request's own span, or else the caller's.
    pub fn trace_id(&self) -> Option<&str> {
        self.span().or(self.trace()).map(TraceContext::trace_id)
    }

    /// Returns the id of the request's own span; never that of the caller's span.
    pub fn span_id(&self) -> Option<&str> {
        self.span().map(TraceContext::span_id)
    }

    /// Returns the id of the caller's span, unless the request's own span is in another trace.
    pub fn parent_id(&self) -> Option<&str> {
        self.parent().map(TraceContext::span_id)
    }

    /// Returns the context of the caller's span, unless the request's own span is in another trace.
    pub(crate) fn parent(&self) -> Option<&TraceContext> {
        let own = self.span();
        let same_trace = |caller: &&TraceContext| own.is_none_or(|own| own.is_same_trace(caller));
        self.trace().filter(same_trace)
    }

    /// Returns the trace flags: those of the request's own span, or else the caller's.
    pub fn trace_flags(&self) -> Option<&str> {
        self.span().or(self.trace()).map(TraceContext::flags)
    }

    /// Returns the client's address, or its network where addresses are masked.
    pub fn client_addr(&self) -> Option<IpAddr> {
        self.arrival.client_shown()
    }

    /// Returns the address at the other end of the connection, or its network where addresses are
    /// masked.
    pub fn peer_addr(&self) -> Option<IpAddr> {
        let shown = |client: &Client| client.shown(client.peer.ip().to_canonical());
        self.arrival.client.as_ref().map(shown)
    }

    /// Returns the port at the other end of the connection, unless addresses are masked.
    pub fn peer_port(&self) -> Option<u16> {
        let client = self.arrival.client.as_ref()?;
        (!client.masked).then(|| client.peer.port())
    }

    /// Returns whether addresses are masked.
    pub fn is_client_masked(&self) -> bool {
        self.arrival
            .client
            .as_ref()
            .is_some_and(|client| client.masked)
    }

    /// Returns the request's method.
    pub fn method(&self) -> &Method {
        &self.arrival.method
    }

    /// Returns the version of HTTP by which the request came.
    pub fn version(&self) -> Version {
        self.arrival.version
    }

    /// Returns the scheme, where the request says it: over HTTP/1 it does not.
    pub fn scheme(&self) -> Option<&str> {
        self.arrival.uri.scheme_str()
    }

    /// Returns the host that the request asks for, and the port, if it is well formed. A client may
    /// write there what it likes.
    pub fn server(&self) -> Option<(&str, Option<u16>)> {
        match (self.arrival.uri.authority(), &self.arrival.host) {
            (Some(authority), _) => {
                let host = redact::host_and_port(authority.host())?.0;
                Some((host, authority.port_u16()))
            }
            (None, Some(host)) => redact::host_and_port(host.to_str().ok()?),
            (None, None) => None,
        }
    }

    /// Returns the path without its secret segments, of bounded length.
    pub fn path(&self) -> Cow<'_, str> {
        self.redaction.path(self.arrival.uri.path())
    }

    /// Returns the query without its values, but for those that are allowed, of bounded length.
    pub fn query(&self) -> Option<String> {
        let mut shown = String::new();
        self.with_query(|piece| shown.push_str(piece))
            .then_some(shown)
    }

    /// Shows the query piece by piece, and returns whether there is one.
    pub(crate) fn with_query(&self, show: impl FnMut(&str)) -> bool {
        match self.arrival.uri.query() {
            Some(query) => {
                self.redaction.query(query, show);
                true
            }
            None => false,
        }
    }

    /// Returns the route that the request matched, as the router spells it; never the path itself.
    pub fn route(&self) -> Option<&str> {
        self.slots.route().or(self.arrival.route.as_deref())
    }

    /// Returns the headers of the request that are written down, with their text.
    pub fn request_headers(&self) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
        texts(&self.arrival.headers)
    }

    /// Returns the headers of the response that are written down, with their text.
    pub fn response_headers(&self) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
        texts(self.head().map_or(&[], |head| &head.headers))
    }

    /// Returns the status, if a head was made.
    pub fn status(&self) -> Option<StatusCode> {
        self.head().map(|head| head.status)
    }

    fn head(&self) -> Option<&ResponseHead> {
        self.arrival.head.get()
    }

    /// Returns the status of gRPC by its name, if the response or its trailers had one.
    pub fn grpc_status(&self) -> Option<&'static str> {
        self.departure.grpc_status.map(GrpcStatus::as_str)
    }

    /// Returns how the request ended.
    pub fn outcome(&self) -> RequestOutcome {
        self.departure.outcome
    }

    /// Returns what went wrong, in one of a bounded set of words; nothing if nothing did.
    pub fn error_type(&self) -> Option<&str> {
        match (self.departure.outcome, self.head().map(|head| &head.status)) {
            (RequestOutcome::Completed, Some(status)) if status.is_server_error() => {
                Some(status.as_str())
            }
            (RequestOutcome::Completed, _) => {
                let failed = self.departure.grpc_status;
                failed
                    .filter(|status| status.is_server_error())
                    .map(GrpcStatus::as_str)
            }
            (RequestOutcome::Running, _) => None,
            (RequestOutcome::Dropped, _) => Some("dropped"),
            (RequestOutcome::BodyDropped, _) => Some("body_dropped"),
            (RequestOutcome::BodyError, _) => Some("body_error"),
            (RequestOutcome::Panicked, _) => Some("panic"),
            (RequestOutcome::Failed, _) => Some("service_error"),
        }
    }

    /// Returns the time from the request's arrival to the end of the response's body.
    pub fn duration(&self) -> Duration {
        self.departure.duration
    }

    /// Returns the time from the request's arrival to the response's head, if there was one.
    pub fn time_to_head(&self) -> Option<Duration> {
        self.head().map(|head| head.at - self.arrival.started)
    }

    /// Returns whether the head of the response begins a stream: an upgrade (`101`), a tunnel (`2xx` to
    /// `CONNECT`), or server-sent events (`text/event-stream`).
    pub fn is_stream(&self) -> bool {
        self.head().is_some_and(|head| head.is_stream)
    }

    /// Returns whether the request took as long as what counts as slow.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Returns for how many requests this record stands because the others are not kept: 1 unless
    /// records are sampled and this one is like most.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Returns for how many denials in a row this record stands: 1 unless denials are folded.
    pub fn repeat_count(&self) -> u64 {
        self.repeat_count
    }

    /// Returns how many bytes of the request's body were read, if that is known.
    pub fn request_bytes(&self) -> Option<u64> {
        self.slots.request_bytes()
    }

    /// Returns how many bytes the request's body has by its own account, `Content-Length`.
    pub fn request_bytes_declared(&self) -> Option<u64> {
        self.arrival.bytes_declared
    }

    /// Returns how many bytes of the response's body were handed to the server.
    pub fn response_bytes(&self) -> u64 {
        self.departure.response_bytes
    }

    /// Returns what the layers inside and the handler have written.
    pub fn data(&self) -> &RecordData {
        self.slots
    }

    /// Returns whether the API keys or a rate limiter rejected the request.
    pub fn is_denied(&self) -> bool {
        let mut limits = self.slots.rate_limits().iter();
        limits.any(|limit| weight(limit.decision) >= REJECTED)
            || matches!(self.slots.auth(), Some(AuthOutcome::Denied { .. }))
    }

    /// Returns the decision that counted among those of all limiters, and the policy behind it.
    ///
    /// Who denied counted. Where nobody did, the policy with the smallest share left speaks.
    pub fn rate_limit(&self) -> Option<(RateLimitDecision, Option<&PolicyOutcome>)> {
        let (first, others) = self.slots.rate_limits().split_first()?;
        let mut decision = first.decision;
        let mut counted = scarcest(None, first);
        for outcome in others {
            match weight(outcome.decision).cmp(&weight(decision)) {
                Ordering::Less => continue,
                Ordering::Equal => counted = scarcest(counted, outcome),
                Ordering::Greater => counted = scarcest(None, outcome),
            }
            decision = outcome.decision;
        }
        Some((decision, counted))
    }

    /// Returns how long limiters made the request wait for its turn.
    pub fn rate_limit_delay(&self) -> Duration {
        self.slots
            .rate_limits()
            .iter()
            .map(|outcome| outcome.delayed)
            .sum()
    }

    /// Returns who owns the caller's key, as the log was told to write it down; nothing by default.
    pub fn user(&self) -> Option<User<'_>> {
        let AuthOutcome::Allowed(identity) = self.slots.auth()? else {
            return None;
        };
        match &self.redaction.users {
            Users::Nothing => None,
            Users::Id => identity.owner().map(User::Id),
            Users::Hash(keyed) => {
                let hash = |owner| User::Hash(redact::user_hash(keyed, owner));
                identity.owner().map(hash)
            }
        }
    }

    /// Returns a part of the cache's key as hexadecimal digits, if the log was told to write it
    /// down.
    pub fn cache_key_hash(&self) -> Option<String> {
        let hash = self.slots.cache()?.key_hash?;
        self.redaction.cache_key.then(|| redact::hex(&hash))
    }

    /// Returns what the cache did, if the request came as far.
    pub fn cache(&self) -> Option<&CacheOutcome> {
        self.slots.cache()
    }

    /// Returns how long the request waited for stores, if it did.
    pub fn store_duration(&self) -> Option<Duration> {
        let waits = self.slots.store_calls().iter();
        waits
            .filter_map(|call| call.duration)
            .reduce(|all, one| all + one)
    }

    /// Returns how many of the request's questions a store did not answer.
    pub fn store_errors(&self) -> usize {
        let calls = self.slots.store_calls().iter();
        calls.filter(|call| call.error.is_some()).count()
    }

    /// Returns how much the record matters, unless the user says otherwise.
    pub(crate) fn default_level(&self) -> LogLevel {
        match self.departure.outcome {
            RequestOutcome::Panicked | RequestOutcome::BodyError | RequestOutcome::Failed => {
                LogLevel::Error
            }
            RequestOutcome::Completed | RequestOutcome::BodyDropped if self.is_server_error() => {
                LogLevel::Error
            }
            RequestOutcome::Running
            | RequestOutcome::Completed
            | RequestOutcome::Dropped
            | RequestOutcome::BodyDropped => self.level_of_client(),
        }
    }

    pub(crate) fn is_server_error(&self) -> bool {
        let grpc_status = self.departure.grpc_status;
        self.status().is_some_and(|status| status.is_server_error())
            || grpc_status.is_some_and(GrpcStatus::is_server_error)
    }

    fn level_of_client(&self) -> LogLevel {
        if matches!(self.slots.auth(), Some(AuthOutcome::Denied { .. })) {
            LogLevel::Warn
        } else if self.arrival.method == Method::OPTIONS {
            LogLevel::Debug
        } else {
            LogLevel::Info
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("request_id", self.request_id())
            .field("method", self.method())
            .field("status", &self.status())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// The request is still running: in a start record alone.
    Running,
    /// The whole response was handed to the server.
    Completed,
    /// The request was dropped before a head was made: the client left, or something outside of
    /// the access log, such as a timeout, gave up.
    #[default]
    Dropped,
    /// The response was dropped before its body had ended.
    BodyDropped,
    /// The response's body failed.
    BodyError,
    /// The handler, or the response's body, panicked.
    Panicked,
    /// The inner service returned an error instead of a response.
    Failed,
}

impl RequestOutcome {
    /// Returns the outcome's name in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Dropped => "dropped",
            Self::BodyDropped => "body_dropped",
            Self::BodyError => "body_error",
            Self::Panicked => "panicked",
            Self::Failed => "failed",
        }
    }
}

/// Who owns the caller's key, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum User<'a> {
    /// The owner's id.
    Id(&'a str),
    /// A keyed digest of it.
    Hash(String),
}

impl User<'_> {
    /// Returns the owner's id, if that is what is written down.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            Self::Hash(_) => None,
        }
    }

    /// Returns the owner's digest, if that is what is written down.
    pub fn hash(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Hash(hash) => Some(hash),
        }
    }
}

/// A status of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcStatus(u8);

impl GrpcStatus {
    const UNKNOWN: u8 = 2;

    /// By their numbers.
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// Reads the status from headers or trailers. One that is none of gRPC's is unknown.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

        let number = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
        let number = number(fields.get(GRPC_STATUS)?).unwrap_or(Self::UNKNOWN);
        let known = usize::from(number) < Self::NAMES.len();
        Some(Self(if known { number } else { Self::UNKNOWN }))
    }

    fn as_str(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// Returns whether the server failed, as OpenTelemetry has it.
    fn is_server_error(self) -> bool {
        matches!(self.0, 2 | 4 | 12..=15)
    }
}

impl Client {
    fn shown(&self, addr: IpAddr) -> IpAddr {
        match addr {
            _ if !self.masked => addr,
            IpAddr::V4(_) => IpNetwork::around(addr, 24).address(),
            IpAddr::V6(_) => IpNetwork::around(addr, 48).address(),
        }
    }
}

fn texts(
    headers: &[(HeaderName, HeaderValue)],
) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
    headers
        .iter()
        .map(|(name, value)| (name, redact::header_text(value)))
}

/// The least weight of a decision that rejects the request.
const REJECTED: u8 = 4;

/// Returns the weight of a decision among several: that of one that rejects the request is highest.
fn weight(decision: RateLimitDecision) -> u8 {
    match decision {
        RateLimitDecision::Skipped => 0,
        RateLimitDecision::Allowed => 1,
        RateLimitDecision::LocallyAllowed(_) => 2,
        RateLimitDecision::FailedOpen(_) => 3,
        RateLimitDecision::FailedClosed(_) => 4,
        RateLimitDecision::Denied | RateLimitDecision::LocallyDenied(_) => 5,
    }
}

/// Returns the policy of this outcome with the smallest share left, unless the one before has less.
fn scarcest<'a>(
    before: Option<&'a PolicyOutcome>,
    outcome: &'a RateLimitOutcome,
) -> Option<&'a PolicyOutcome> {
    let mut policies = outcome.policies.iter();
    let first = before.or_else(|| policies.next())?;
    let scarcer = |least: &'a PolicyOutcome, policy: &'a PolicyOutcome| {
        let is_scarcer = (!policy.denied, share(policy)) < (!least.denied, share(least));
        if is_scarcer { policy } else { least }
    };
    Some(policies.fold(first, scarcer))
}

/// Returns the share of a quota that is left, in millionths.
fn share(policy: &PolicyOutcome) -> u64 {
    const WHOLE: u64 = 1_000_000;

    let limit = policy.limit.max(1);
    // A division of 128 bits takes several times as long.
    match policy.remaining.checked_mul(WHOLE) {
        Some(scaled) => scaled / limit,
        None => {
            let share = u128::from(policy.remaining) * u128::from(WHOLE) / u128::from(limit);
            u64::try_from(share).unwrap_or(u64::MAX)
        }
    }
}
