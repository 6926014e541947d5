//! Field values that all sinks share.

use http::{Method, Version};

use crate::{
    access_log::record::{
        record::Record,
        schema::{EVENT_NAME, START_EVENT_NAME},
    },
    core::record::{AuthOutcome, CacheSource, RateLimitDecision},
};

/// The OpenTelemetry value for an unknown method.
pub(super) const OTHER_METHOD: &str = "_OTHER";

/// Returns the event name of a record.
pub(crate) fn event_name(record: &Record<'_>) -> &'static str {
    match record.is_start() {
        true => START_EVENT_NAME,
        false => EVENT_NAME,
    }
}

/// Returns the case number of an authentication outcome.
pub(super) fn auth_case(auth: &AuthOutcome) -> usize {
    match auth {
        AuthOutcome::Allowed(_) => 0,
        AuthOutcome::Anonymous => 1,
        AuthOutcome::Denied { .. } => 2,
        AuthOutcome::StoreFailed(_) => 3,
    }
}

/// Returns the case number of a decision.
pub(super) fn decision_case(decision: RateLimitDecision) -> usize {
    match decision {
        RateLimitDecision::Allowed => 0,
        RateLimitDecision::Denied => 1,
        RateLimitDecision::Skipped => 2,
        RateLimitDecision::LocallyAllowed(_) => 3,
        RateLimitDecision::LocallyDenied(_) => 4,
        RateLimitDecision::FailedOpen(_) => 5,
        RateLimitDecision::FailedClosed(_) => 6,
    }
}

/// Returns the case number of a response source.
pub(super) fn source_case(source: CacheSource) -> usize {
    match source {
        CacheSource::Hit => 0,
        CacheSource::Stale => 1,
        CacheSource::Revalidated => 2,
        CacheSource::Miss => 3,
        CacheSource::Bypass => 4,
        CacheSource::StoreFailed(_) => 5,
    }
}

/// Returns the reason for which authentication denied the request.
pub(crate) fn auth_reason(auth: Option<&AuthOutcome>) -> Option<&'static str> {
    match auth? {
        AuthOutcome::Denied { reason, .. } => Some(reason.as_str()),
        AuthOutcome::Allowed(_) | AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_) => None,
    }
}

/// Returns the public id of the presented key.
pub(crate) fn auth_key_id(auth: Option<&AuthOutcome>) -> Option<&str> {
    match auth? {
        AuthOutcome::Allowed(identity) => Some(identity.key_id()),
        AuthOutcome::Denied { key_id, .. } => key_id.as_deref(),
        AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_) => None,
    }
}

/// Returns a method of RFC 9110 or RFC 5789 unchanged, and `_OTHER` for all others.
pub(crate) fn method(method: &Method) -> &str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if known.contains(method) {
        method.as_str()
    } else {
        OTHER_METHOD
    }
}

/// Returns a version in OpenTelemetry format: `1.1`, `2`, `3`.
pub(crate) fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}
