//! The record of one request, as level functions, observers and sinks see it.

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

/// The record of one request.
///
/// All returned values are redacted and safe to log. Query values, secret path segments and headers
/// are omitted unless the layer is configured to record them.
pub struct Record<'a> {
    pub(crate) arrival: &'a Arrival,
    pub(crate) departure: &'a Departure,
    pub(crate) slots: &'a RecordData,
    pub(crate) redaction: &'a Redaction,
    pub(crate) level: LogLevel,
    pub(crate) is_slow: bool,
    pub(crate) sample_rate: u32,
    pub(crate) repeat_count: u64,
    /// The id of a start record; `None` for the record of the end.
    pub(crate) start_uid: Option<&'a RequestId>,
}

/// The facts of a request's arrival and, later, its response head. The facts are not redacted, so
/// they never leave `access_log`.
pub(crate) struct Arrival {
    pub(crate) at: Timestamp,
    /// The arrival time on the monotonic clock.
    pub(super) started: Timestamp,
    pub(crate) request_id: RequestId,
    /// The id of the record, if the request id came from the client.
    pub(crate) uid: Option<RequestId>,
    /// The trace context that the caller sent.
    pub(crate) trace: Option<TraceContext>,
    /// The request's own span, if an inner layer or the handler set it. Boxed because few requests
    /// have one.
    pub(super) inner_span: OnceLock<Box<TraceContext>>,
    pub(crate) client: Option<Client>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// The `Host` header, if the URI has no authority.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) version: Version,
    pub(crate) headers: Headers,
    pub(super) bytes_declared: Option<u64>,
    pub(crate) route: Option<String>,
    /// The response head, once it is ready.
    pub(super) head: OnceLock<RecordedHead>,
}

/// A response head.
pub(super) struct RecordedHead {
    pub(super) status: StatusCode,
    pub(super) headers: Headers,
    pub(super) at: Timestamp,
    pub(super) is_stream: bool,
    /// The body length, if it is known before the body is read.
    pub(super) bytes_expected: Option<u64>,
}

impl Beside for Arrival {
    fn request_id(&self) -> Option<&RequestId> {
        Some(&self.request_id)
    }
}

impl Arrival {
    /// Returns the client address, or its network if addresses are masked.
    pub(crate) fn client_shown(&self) -> Option<IpAddr> {
        let client = self.client.as_ref()?;
        Some(client.shown(client.addr))
    }
}

/// The addresses of the client and the peer.
pub(crate) struct Client {
    pub(crate) addr: IpAddr,
    pub(crate) peer: SocketAddr,
    pub(super) masked: bool,
}

/// The facts of a request's end.
#[derive(Default)]
pub(crate) struct Departure {
    pub(crate) outcome: RequestOutcome,
    /// The request's own span. Boxed because few requests have one.
    pub(crate) span: Option<Box<TraceContext>>,
    pub(crate) grpc_status: Option<GrpcStatus>,
    pub(crate) duration: Duration,
    pub(crate) response_bytes: u64,
}

impl Record<'_> {
    /// Returns the wall-clock time at which the request arrived.
    pub fn arrived_at(&self) -> Timestamp {
        self.arrival.at
    }

    /// Returns the level of the record. In a level function, returns the default level.
    pub fn level(&self) -> LogLevel {
        self.level
    }

    /// Returns the request id.
    pub fn request_id(&self) -> &RequestId {
        &self.arrival.request_id
    }

    /// Returns the id of this record. The record id equals the request id unless the client sent
    /// the request id, because a client can send the same id repeatedly. If a record is stored
    /// twice, both copies have the same id. A start record has its own id.
    pub fn record_id(&self) -> &RequestId {
        let own = self.start_uid.or(self.arrival.uid.as_ref());
        own.unwrap_or(&self.arrival.request_id)
    }

    /// Returns `true` for a [start
    /// record](crate::access_log::AccessLogLayerBuilder::start_records). The request of a start
    /// record is still running, and another record follows when the request ends.
    pub fn is_start(&self) -> bool {
        self.start_uid.is_some()
    }

    /// Returns the trace context of the caller's `traceparent`, if it is valid and
    /// [trusted](crate::access_log::AccessLogLayerBuilder::trust_traceparent).
    pub fn trace(&self) -> Option<&TraceContext> {
        self.arrival.trace.as_ref()
    }

    /// Returns the context of the span that represents this request. Returns `None` unless the span
    /// was [set](crate::access_log::RequestLog::set_span), [reported by
    /// tracing](crate::access_log::AccessLogLayerBuilder::trace_ids) or
    /// [created](crate::access_log::AccessLogLayerBuilder::create_trace_ids).
    pub fn span(&self) -> Option<&TraceContext> {
        self.departure.span.as_deref()
    }

    /// Returns the trace id of the request's own span or, if there is none, of the caller's span.
    pub fn trace_id(&self) -> Option<&str> {
        self.span().or(self.trace()).map(TraceContext::trace_id)
    }

    /// Returns the id of the request's own span. Never returns the id of the caller's span.
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

    /// Returns the trace flags of the request's own span or, if there is none, of the caller's
    /// span.
    pub fn trace_flags(&self) -> Option<&str> {
        self.span().or(self.trace()).map(TraceContext::flags)
    }

    /// Returns the client's address, or the network of the address if addresses are masked.
    pub fn client_addr(&self) -> Option<IpAddr> {
        self.arrival.client_shown()
    }

    /// Returns the address of the connection's peer, or the network of the address if addresses are
    /// masked.
    pub fn peer_addr(&self) -> Option<IpAddr> {
        let shown = |client: &Client| client.shown(client.peer.ip().to_canonical());
        self.arrival.client.as_ref().map(shown)
    }

    /// Returns the port of the connection's peer, unless addresses are masked.
    pub fn peer_port(&self) -> Option<u16> {
        let client = self.arrival.client.as_ref()?;
        (!client.masked).then(|| client.peer.port())
    }

    /// Returns `true` if addresses are masked.
    pub fn is_client_masked(&self) -> bool {
        self.arrival
            .client
            .as_ref()
            .is_some_and(|client| client.masked)
    }

    /// Returns the request method.
    pub fn method(&self) -> &Method {
        &self.arrival.method
    }

    /// Returns the HTTP version of the request.
    pub fn version(&self) -> Version {
        self.arrival.version
    }

    /// Returns the scheme of the request URI. HTTP/1 requests usually have none.
    pub fn scheme(&self) -> Option<&str> {
        self.arrival.uri.scheme_str()
    }

    /// Returns the host and port to which the request is addressed, if they are well formed. The
    /// client controls these values.
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

    /// Returns the path with secret segments redacted. The returned path has at most 1 024 bytes
    /// plus a truncation mark.
    pub fn path(&self) -> Cow<'_, str> {
        self.redaction.path(self.arrival.uri.path())
    }

    /// Returns the query. All parameter values are redacted, except those that
    /// [`query_values`](crate::access_log::AccessLogLayerBuilder::query_values) allows. Long
    /// queries are truncated.
    pub fn query(&self) -> Option<String> {
        let mut shown = String::new();
        self.with_query(|piece| shown.push_str(piece))
            .then_some(shown)
    }

    /// Passes the redacted query to `show` in pieces. Returns `false` if there is no query.
    pub(crate) fn with_query(&self, show: impl FnMut(&str)) -> bool {
        match self.arrival.uri.query() {
            Some(query) => {
                self.redaction.query(query, show);
                true
            }
            None => false,
        }
    }

    /// Returns the route that the request matched, in the router's notation. Never returns the
    /// path.
    pub fn route(&self) -> Option<&str> {
        self.slots.route().or(self.arrival.route.as_deref())
    }

    /// Returns the recorded request headers with their redacted values.
    pub fn request_headers(&self) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
        self.texts(&self.arrival.headers)
    }

    /// Returns the recorded response headers with their redacted values.
    pub fn response_headers(&self) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
        self.texts(self.head().map_or(&[], |head| &head.headers))
    }

    fn texts<'r>(
        &'r self,
        headers: &'r [(HeaderName, HeaderValue)],
    ) -> impl Iterator<Item = (&'r HeaderName, Cow<'r, str>)> {
        headers
            .iter()
            .map(|(name, value)| (name, self.redaction.header_text(name, value)))
    }

    /// Returns the response status, or `None` if there was no response head.
    pub fn status(&self) -> Option<StatusCode> {
        self.head().map(|head| head.status)
    }

    fn head(&self) -> Option<&RecordedHead> {
        self.arrival.head.get()
    }

    /// Returns the name of the gRPC status, if the response head or the trailers contain one.
    pub fn grpc_status(&self) -> Option<&'static str> {
        self.departure.grpc_status.map(GrpcStatus::as_str)
    }

    /// Returns the outcome of the request.
    pub fn outcome(&self) -> RequestOutcome {
        self.departure.outcome
    }

    /// Returns the error type, which has a bounded set of values. Returns `None` if there was no
    /// server error and the response was complete.
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

    /// Returns the time from the arrival of the request to the end of the response body.
    pub fn duration(&self) -> Duration {
        self.departure.duration
    }

    /// Returns the time from the arrival of the request until the response head was ready, or
    /// `None` if there was no response head.
    pub fn time_to_head(&self) -> Option<Duration> {
        self.head().map(|head| head.at - self.arrival.started)
    }

    /// Returns `true` if the response is a stream: an upgrade (`101`), a tunnel (`2xx` to
    /// `CONNECT`), or server-sent events (`text/event-stream`).
    pub fn is_stream(&self) -> bool {
        self.head().is_some_and(|head| head.is_stream)
    }

    /// Returns `true` if the request took at least
    /// [`slow_after`](crate::access_log::AccessLogLayerBuilder::slow_after).
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Returns the number of requests that this record represents. The number is 1 unless records
    /// are [sampled](crate::access_log::AccessLogLayerBuilder::sample_one_in) and this record is
    /// routine.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Returns the number of repeated denials that this record represents. The number is 1 unless
    /// denials are [aggregated](crate::access_log::AccessLogLayerBuilder::aggregate_denials).
    pub fn repeat_count(&self) -> u64 {
        self.repeat_count
    }

    /// Returns the number of request body bytes that were read, if they are counted.
    pub fn request_bytes(&self) -> Option<u64> {
        self.slots.request_bytes()
    }

    /// Returns the declared length of the request body (`Content-Length`).
    pub fn request_bytes_declared(&self) -> Option<u64> {
        self.arrival.bytes_declared
    }

    /// Returns the number of response body bytes that were handed to the server.
    pub fn response_bytes(&self) -> u64 {
        self.departure.response_bytes
    }

    /// Returns the data that inner layers and the handler have added.
    pub fn data(&self) -> &RecordData {
        self.slots
    }

    /// Returns `true` if authentication or a rate limiter rejected the request.
    pub fn is_denied(&self) -> bool {
        let mut limits = self.slots.rate_limits().iter();
        limits.any(|limit| weight(limit.decision) >= REJECTED)
            || matches!(self.slots.auth(), Some(AuthOutcome::Denied { .. }))
    }

    /// Returns the most significant decision of all rate limiters, and the policy that made the
    /// decision.
    ///
    /// A rejection is more significant than other decisions. Among decisions of equal significance,
    /// the policy with the smallest remaining share of its quota is returned.
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

    /// Returns the total time for which rate limiters delayed the request.
    pub fn rate_limit_delay(&self) -> Duration {
        self.slots
            .rate_limits()
            .iter()
            .map(|outcome| outcome.delayed)
            .sum()
    }

    /// Returns the owner of the caller's key in the configured form. Returns `None` by default.
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

    /// Returns a part of the cache key digest as hexadecimal digits, if
    /// [`include_cache_key_hash`](crate::access_log::AccessLogLayerBuilder::include_cache_key_hash)
    /// is set.
    pub fn cache_key_hash(&self) -> Option<String> {
        let hash = self.slots.cache()?.key_hash?;
        self.redaction.cache_key.then(|| redact::hex(&hash))
    }

    /// Returns the cache outcome, if the request reached the cache.
    pub fn cache(&self) -> Option<&CacheOutcome> {
        self.slots.cache()
    }

    /// Returns the total time for which the request waited for stores, or `None` if it did not
    /// wait.
    pub fn store_duration(&self) -> Option<Duration> {
        let waits = self.slots.store_calls().iter();
        waits
            .filter_map(|call| call.duration)
            .reduce(|all, one| all + one)
    }

    /// Returns the number of store calls that failed during the request.
    pub fn store_errors(&self) -> usize {
        let calls = self.slots.store_calls().iter();
        calls.filter(|call| call.error.is_some()).count()
    }

    /// Returns the level of the record without a level function.
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

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// The request is in progress. Only start records have this outcome.
    Running,
    /// The whole response was handed to the server.
    Completed,
    /// The request was dropped before the response head was ready. Either the client disconnected,
    /// or an outer layer, such as a timeout, dropped the request.
    #[default]
    Dropped,
    /// The response was dropped before its body ended.
    BodyDropped,
    /// The response body returned an error.
    BodyError,
    /// The handler or the response body panicked.
    Panicked,
    /// The inner service returned an error instead of a response.
    Failed,
}

impl RequestOutcome {
    /// Returns the name of the outcome in the record.
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

/// The owner of the caller's key in its recorded form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum User<'a> {
    /// The owner's id.
    Id(&'a str),
    /// A keyed digest of the owner's id.
    Hash(String),
}

impl User<'_> {
    /// Returns the owner's id, if it is recorded.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            Self::Hash(_) => None,
        }
    }

    /// Returns the owner's digest, if it is recorded.
    pub fn hash(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Hash(hash) => Some(hash),
        }
    }
}

/// A gRPC status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcStatus(u8);

impl GrpcStatus {
    const UNKNOWN: u8 = 2;

    /// Indexed by code.
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

    /// Parses the status from headers or trailers. An invalid or unassigned code is `UNKNOWN`.
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

    /// Returns `true` if OpenTelemetry classifies the status as a server error.
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

/// The minimum weight of a decision that rejects the request.
const REJECTED: u8 = 4;

/// Returns the rank of a decision among several. Rejections rank highest.
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

/// Returns the policy of this outcome with the smallest remaining share, unless the previous policy
/// has a smaller one.
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

/// Returns the remaining share of a quota in millionths.
fn share(policy: &PolicyOutcome) -> u64 {
    const WHOLE: u64 = 1_000_000;

    let limit = policy.limit.max(1);
    // A 128-bit division takes several times as long.
    match policy.remaining.checked_mul(WHOLE) {
        Some(scaled) => scaled / limit,
        None => {
            let share = u128::from(policy.remaining) * u128::from(WHOLE) / u128::from(limit);
            u64::try_from(share).unwrap_or(u64::MAX)
        }
    }
}
