//! Responses of a layer that rejects a request: the status, the challenge, and an RFC 9457 body.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use super::body::ResponseBody;
use crate::core::json;

/// A response that a layer returns instead of calling the handler.
///
/// The response has the rejection's status and headers, `Cache-Control: no-store`, and an
/// `application/problem+json` body (RFC 9457). A [`Responder`](crate::Responder) can replace the
/// body, but not the status or the headers.
///
/// A gRPC request over HTTP/2 receives a `200` response that has a `grpc-status` header field and
/// no body.
#[derive(Clone, Debug)]
pub struct Rejection {
    status: StatusCode,
    problem_type: Cow<'static, str>,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    headers: HeaderMap,
    members: Vec<(&'static str, Vec<String>)>,
    pub(super) kind: RejectionKind,
}

impl Rejection {
    /// Creates a rejection.
    ///
    /// `problem_type` is either a URI or a bare word. A bare word becomes
    /// `urn:problem-type:portcullis:WORD`.
    pub fn new(
        status: StatusCode,
        problem_type: impl Into<Cow<'static, str>>,
        title: &'static str,
    ) -> Self {
        Self {
            status,
            problem_type: problem_type.into(),
            title,
            detail: None,
            headers: HeaderMap::new(),
            members: Vec::new(),
            kind: RejectionKind::default(),
        }
    }

    /// Sets the description of this occurrence of the problem. The description must not contain a
    /// secret, because it is sent to the caller.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Appends a header line. Existing lines with the same name remain.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets `Retry-After` in whole seconds, rounded up to at least 1 (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.headers
            .insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        self
    }

    /// Adds a member to the JSON body. The member's value is a list of strings.
    #[must_use]
    pub fn extension_member<I>(mut self, name: &'static str, values: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.members
            .push((name, values.into_iter().map(Into::into).collect()));
        self
    }

    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the problem type as a URI, as it appears in the body.
    pub fn problem_type(&self) -> Cow<'_, str> {
        if self.problem_type.contains(':') {
            Cow::Borrowed(&self.problem_type)
        } else {
            Cow::Owned(format!("urn:problem-type:portcullis:{}", self.problem_type))
        }
    }

    /// Returns the title of the problem type.
    pub fn title(&self) -> &str {
        self.title
    }

    /// Returns the headers of the response.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the body as JSON in the format of RFC 9457.
    pub fn problem_json(&self) -> Bytes {
        let mut out = Vec::with_capacity(160);
        out.push(b'{');
        json::push_name(&mut out, "type");
        json::push_string(&mut out, &self.problem_type());
        json::push_name(&mut out, "title");
        json::push_string(&mut out, self.title);
        json::push_name(&mut out, "status");
        out.extend_from_slice(self.status.as_str().as_bytes());
        if let Some(detail) = &self.detail {
            json::push_name(&mut out, "detail");
            json::push_string(&mut out, detail);
        }
        for (name, values) in &self.members {
            json::push_name(&mut out, name);
            out.push(b'[');
            for value in values {
                json::push_comma(&mut out);
                json::push_string(&mut out, value);
            }
            out.push(b']');
        }
        out.push(b'}');
        out.into()
    }

    /// Returns the kind of problem, which is the machine-readable counterpart of
    /// [`problem_type`](Self::problem_type).
    ///
    /// A rejection that was created by [`Rejection::new`] has the kind [`RejectionKind::Other`].
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    pub(super) fn assemble<B>(
        &self,
        dialect: Dialect,
        content_type: HeaderValue,
        body: Bytes,
    ) -> Response<ResponseBody<B>> {
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_TYPE, content_type);
        if let Dialect::Grpc = dialect {
            headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(self.status)));
            headers.insert(
                GRPC_MESSAGE,
                HeaderValue::from_static(grpc_safe(self.title)),
            );
            *response.status_mut() = StatusCode::OK;
        }
        response.extensions_mut().insert(Meant(self.status));
        response
    }
}

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The kind of problem that a [`Rejection`] reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// `401`: the request has no credential.
    MissingCredential,
    /// `401`: the credential is malformed, unknown, expired, revoked or disabled.
    InvalidCredential,
    /// `400`: the request has more than one credential.
    AmbiguousCredential,
    /// `403`, or `404` if forbidden resources are hidden: the key lacks a required scope.
    InsufficientScope,
    /// `403`, or `404` if forbidden resources are hidden: the key's constraints exclude the
    /// request.
    RestrictedKey,
    /// `429`: the client sent too many invalid credentials.
    TooManyAuthFailures,
    /// `429`: the quota of a policy is exceeded.
    QuotaExceeded,
    /// `429` or `403`: the partition is banned by a [`Penalty`](crate::rate_limit::Penalty).
    Banned,
    /// `403`: the request matches the deny list of a rate limit.
    CallerDenied,
    /// `503`: too many requests are already waiting in queues.
    QueueFull,
    /// `503`: the layer's store is unavailable.
    StoreUnavailable,
    /// `500`: the layer is misconfigured, or the layer's verifier failed.
    Internal,
    /// Any problem that is not reported by one of this crate's layers.
    #[default]
    Other,
}

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The status of a rejection, stored in the extensions of its response. For gRPC, the response
/// itself has a different status.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "rate-limit"),
    allow(dead_code, reason = "the limiter's settlement alone reads it")
)]
pub(super) struct Meant(pub(super) StatusCode);

/// The format of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// HTTP with a response body.
    Http,
    /// HTTP without a response body, for `HEAD` requests.
    HttpHead,
    /// A gRPC status in the header.
    Grpc,
}

/// Returns `Grpc` if the content type is a gRPC content type and the version is HTTP/2.
impl<B> From<&Request<B>> for Dialect {
    fn from(request: &Request<B>) -> Self {
        let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(is_grpc);
        if is_grpc && request.version() == Version::HTTP_2 {
            Self::Grpc
        } else if request.method() == Method::HEAD {
            Self::HttpHead
        } else {
            Self::Http
        }
    }
}

/// Returns `true` if a content type is `application/grpc`, with an optional suffix or parameters.
fn is_grpc(content_type: &HeaderValue) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let split = content_type.as_bytes().split_at_checked(GRPC.len());
    split.is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Returns a duration in whole seconds, rounded up to at least 1.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(up).max(1)
}

/// Returns the gRPC status that corresponds to an HTTP status (the gRPC HTTP/2 mapping).
fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        429 => 8,
        503 => 14,
        504 => 4,
        _ => 13,
    }
}

/// Returns the title if it is a valid header value. All of this crate's titles are valid, but a
/// custom title may not be.
fn grpc_safe(title: &'static str) -> &'static str {
    let plain = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'%';
    if title.bytes().all(plain) { title } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::http::responder::Responder;

    fn limited() -> Rejection {
        Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "quota-exceeded",
            "Too many requests",
        )
        .retry_after(Duration::from_millis(1_001))
        .extension_member("violated-policies", ["day\"ly"])
    }

    fn response(dialect: Dialect) -> Response<ResponseBody<()>> {
        limited().into_response(dialect, &Responder::default())
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_nanos(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn the_body_is_problem_json_that_a_parser_reads() {
        let body: serde_json::Value = serde_json::from_slice(&limited().problem_json()).unwrap();
        assert_eq!(body["type"], "urn:problem-type:portcullis:quota-exceeded");
        assert_eq!(body["status"], 429);
        assert_eq!(body["violated-policies"][0], "day\"ly");
    }

    #[test]
    fn a_rejection_is_never_stored_and_keeps_its_headers() {
        let response = response(Dialect::Http);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_responder_restyles_the_body_and_nothing_else() {
        let responder = Responder::new(|_| (HeaderValue::from_static("text/plain"), "no".into()));
        let response = limited().into_response::<()>(Dialect::Http, &responder);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
    }

    /// Threat X1: custom code may panic.
    #[test]
    fn a_responder_that_panics_is_answered_for_by_500() {
        let responder = Responder::new(|_| panic!("as it was asked"));
        for dialect in [Dialect::Http, Dialect::HttpHead] {
            let response = limited().into_response::<()>(dialect, &responder);
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        }
        // It does not affect gRPC responses.
        let response = limited().into_response::<()>(Dialect::Grpc, &responder);
        assert_eq!(response.headers()["grpc-status"], "8");
    }

    #[test]
    fn grpc_callers_get_a_status_in_the_head() {
        let response = response(Dialect::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["grpc-message"], "Too many requests");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
