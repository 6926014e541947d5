//! Metrics of requests and decisions, through the `metrics` facade.

use std::{fmt, time::Duration};

use http::Method;
use metrics::{Label, Unit, counter, gauge, histogram};

use super::json::words;
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, observer::Observer},
        record::record::Record,
    },
    core::{
        audit::AuditEvent,
        error::StoreErrorKind,
        record::{RateLimitDecision, StoreCall},
    },
};

const DURATION: &str = "http.server.request.duration";
const TIME_TO_HEAD: &str = "portcullis.response.time_to_head";
const STREAM_DURATION: &str = "portcullis.stream.duration";
const ACTIVE: &str = "http.server.active_requests";
const REQUEST_BYTES: &str = "http.server.request.body.size";
const RESPONSE_BYTES: &str = "http.server.response.body.size";
const AUTH: &str = "portcullis.auth.decisions";
const RATE_LIMIT: &str = "portcullis.rate_limit.decisions";
const CACHE: &str = "portcullis.cache.requests";
const CACHE_WAITED: &str = "portcullis.cache.waited";
const REFRESH_FAILURES: &str = "portcullis.cache.refresh_failures";
const STORE_ERRORS: &str = "portcullis.store.errors";
const STORE_DURATION: &str = "portcullis.store.duration";
const LOST: &str = "portcullis.log.lost";
const AUDIT_LOST: &str = "portcullis.audit.lost";

/// The route label of requests that matched no route.
const UNMATCHED: &str = "<unmatched>";

/// Counts requests and the decisions of the layers, through the `metrics` facade.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `http.server.request.duration` | histogram, seconds | method, route, status, `error.type` |
/// | `portcullis.response.time_to_head` | histogram, seconds, if there was a response | method, route, status |
/// | `portcullis.stream.duration` | histogram, seconds, of [separate streams](Self::separate_streams) | method, route, status, `error.type` |
/// | `http.server.active_requests` | gauge | method |
/// | `http.server.request.body.size` | histogram, bytes, if counted | method, route |
/// | `http.server.response.body.size` | histogram, bytes | method, route |
/// | `portcullis.auth.decisions` | counter | `outcome`, `reason` |
/// | `portcullis.rate_limit.decisions` | counter | `outcome`, `policy` |
/// | `portcullis.cache.requests` | counter | `outcome`, `reason` |
/// | `portcullis.cache.waited` | histogram, seconds, for collapsed requests | `outcome` |
/// | `portcullis.cache.refresh_failures` | counter, of a [`LogQueue`](crate::access_log::sinks::LogQueue) that is the cache's auditor | `cause` |
/// | `portcullis.store.duration` | histogram, seconds, for calls that did not complete immediately | `layer` |
/// | `portcullis.store.errors` | counter | `layer`, `kind` |
/// | `portcullis.log.lost` | counter | `reason` |
/// | `portcullis.audit.lost` | counter | |
///
/// The labels of the first six metrics have OpenTelemetry names: `http.request.method`,
/// `http.route` and `http.response.status_code`. All labels have a bounded number of values: an
/// unknown method is `_OTHER`, and an unmatched route is `<unmatched>`. No key, address or path is
/// a label. A dropped request has no status, and its `error.type` is `dropped`.
///
/// Every request is counted, even if its record is not written. Exempt requests are not counted.
///
/// To count the store calls of a [`LogQueue`](crate::access_log::sinks::LogQueue), also add the
/// metrics to the queue with [`observer`](crate::access_log::sinks::LogQueueBuilder::observer). The
/// `layer` labels of these calls are `access_log` and `audit`.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::Metrics};
///
/// let layer = AccessLogLayer::builder().observer(Metrics::new()).build()?;
/// # let _ = layer;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    streams_after: Option<Duration>,
}

impl Metrics {
    /// Creates the observer and describes the metrics to the installed recorder.
    pub fn new() -> Self {
        describe();
        Self::default()
    }

    /// Records the duration of streams in `portcullis.stream.duration` instead of
    /// `http.server.request.duration`, so that streams do not distort request latency.
    ///
    /// A response is a stream if [`Record::is_stream`] is `true` or if the response body ends at
    /// least this long after the response head. By default, streams are not separated, and every
    /// duration is recorded in `http.server.request.duration`.
    #[must_use]
    pub fn separate_streams(mut self, after: Duration) -> Self {
        self.streams_after = Some(after);
        self
    }

    /// Returns the name of the histogram for the duration of this request.
    fn duration_name(&self, record: &Record<'_>) -> &'static str {
        let body_time = record
            .time_to_head()
            .map(|head| record.duration().saturating_sub(head));
        let is_separate = |after| record.is_stream() || body_time.is_some_and(|time| time >= after);
        match self.streams_after.is_some_and(is_separate) {
            true => STREAM_DURATION,
            false => DURATION,
        }
    }
}

impl Observer for Metrics {
    fn on_request(&self, method: &Method) {
        gauge!(ACTIVE, vec![method_label(method)]).increment(1.0);
    }

    fn on_record(&self, record: &Record<'_>) {
        gauge!(ACTIVE, vec![method_label(record.method())]).decrement(1.0);
        count_request(record, self.duration_name(record));
        count_decisions(record);
        count_store_calls(record);
    }

    fn on_store_call(&self, call: &StoreCall) {
        count_store_call(call);
    }

    fn on_audit(&self, event: &AuditEvent) {
        if let AuditEvent::CacheRefreshFailed { cause } = event {
            counter!(REFRESH_FAILURES, "cause" => cause.to_string()).increment(1);
        }
    }

    fn on_drop(&self, records: &DropCounts, audit_events: u64) {
        for (reason, lost) in records.each() {
            counter!(LOST, "reason" => reason).absolute(lost);
        }
        counter!(AUDIT_LOST).absolute(audit_events);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};

    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Time to the end of the response body"
    );
    describe_histogram!(
        TIME_TO_HEAD,
        Unit::Seconds,
        "Time from a request's arrival to the head of its response"
    );
    describe_histogram!(
        STREAM_DURATION,
        Unit::Seconds,
        "Time to the end of a separate stream"
    );
    describe_gauge!(ACTIVE, Unit::Count, "Requests in progress");
    describe_histogram!(
        REQUEST_BYTES,
        Unit::Bytes,
        "Bytes of request bodies that were read"
    );
    describe_histogram!(
        RESPONSE_BYTES,
        Unit::Bytes,
        "Bytes of response bodies that were sent"
    );
    describe_counter!(AUTH, Unit::Count, "Authentication decisions");
    describe_counter!(RATE_LIMIT, Unit::Count, "Rate limit decisions, by policy");
    describe_counter!(CACHE, Unit::Count, "Cache lookups, by outcome");
    describe_histogram!(
        CACHE_WAITED,
        Unit::Seconds,
        "Time that collapsed requests waited for another request"
    );
    describe_counter!(
        REFRESH_FAILURES,
        Unit::Count,
        "Failed refreshes of stale cached responses"
    );
    describe_counter!(STORE_ERRORS, Unit::Count, "Failed store calls");
    describe_histogram!(
        STORE_DURATION,
        Unit::Seconds,
        "Time that requests waited for a store"
    );
    describe_counter!(LOST, Unit::Count, "Log records that were lost");
    describe_counter!(AUDIT_LOST, Unit::Count, "Audit events that were lost");
}

fn count_request(record: &Record<'_>, duration_name: &'static str) {
    let route = record.route().unwrap_or(UNMATCHED).to_owned();
    let labels = vec![
        method_label(record.method()),
        Label::new("http.route", route),
    ];
    let mut outcome = labels.clone();
    if let Some(status) = record.status() {
        let status = status.as_str().to_owned();
        outcome.push(Label::new("http.response.status_code", status));
    }
    if let Some(time) = record.time_to_head() {
        histogram!(TIME_TO_HEAD, outcome.clone()).record(time);
    }
    if let Some(error) = record.error_type() {
        outcome.push(Label::new("error.type", error.to_owned()));
    }
    histogram!(duration_name, outcome).record(record.duration());
    if let Some(bytes) = record.request_bytes() {
        histogram!(REQUEST_BYTES, labels.clone()).record(bytes as f64);
    }
    histogram!(RESPONSE_BYTES, labels).record(record.response_bytes() as f64);
}

fn count_decisions(record: &Record<'_>) {
    if let Some(auth) = record.data().auth() {
        let reason = words::auth_reason(Some(auth)).unwrap_or("none");
        counter!(AUTH, "outcome" => auth.as_str(), "reason" => reason).increment(1);
    }
    for limiter in record.data().rate_limits() {
        for policy in &limiter.policies {
            let outcome = match limiter.decision {
                decision if !policy.denied => decision,
                // A policy in shadow mode denies where the limiter admits.
                RateLimitDecision::LocallyAllowed(kind)
                | RateLimitDecision::LocallyDenied(kind) => RateLimitDecision::LocallyDenied(kind),
                RateLimitDecision::Allowed
                | RateLimitDecision::Denied
                | RateLimitDecision::Skipped
                | RateLimitDecision::FailedOpen(_)
                | RateLimitDecision::FailedClosed(_) => RateLimitDecision::Denied,
            };
            let outcome = outcome.as_str();
            let name = policy.policy.to_string();
            counter!(RATE_LIMIT, "outcome" => outcome, "policy" => name).increment(1);
        }
    }
    if let Some(cache) = record.cache() {
        let reason = cache.detail.unwrap_or("none");
        counter!(CACHE, "outcome" => cache.source.as_str(), "reason" => reason).increment(1);
        if let Some(waited) = cache.waited {
            histogram!(CACHE_WAITED, "outcome" => cache.source.as_str()).record(waited);
        }
    }
}

fn count_store_calls(record: &Record<'_>) {
    record
        .data()
        .store_calls()
        .iter()
        .for_each(count_store_call);
}

fn count_store_call(call: &StoreCall) {
    if let Some(duration) = call.duration {
        histogram!(STORE_DURATION, "layer" => call.layer).record(duration);
    }
    if let Some(kind) = call.error {
        counter!(STORE_ERRORS, "layer" => call.layer, "kind" => kind_word(kind)).increment(1);
    }
}

fn kind_word(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Unavailable => "unavailable",
        StoreErrorKind::Timeout => "timeout",
        StoreErrorKind::Conflict => "conflict",
        StoreErrorKind::NotFound => "not_found",
        StoreErrorKind::Corrupt => "corrupt",
        StoreErrorKind::Full => "full",
        StoreErrorKind::Misconfigured => "misconfigured",
    }
}

fn method_label(method: &Method) -> Label {
    Label::new("http.request.method", words::method(method).to_owned())
}
