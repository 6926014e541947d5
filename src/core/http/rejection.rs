//! How a layer turns a request away: the status, the challenge, and a body by RFC 9457.

use std::{
    borrow::Cow,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use super::body::ResponseBody;
use crate::core::json;

/// Why a layer answers in the handler's place.
///
/// It becomes a response with this status, `Cache-Control: no-store`, the headers that the case
/// demands, and a body of `application/problem+json` (RFC 9457). A [`Responder`] may write another
/// body; status and headers stay.
///
/// A gRPC request over HTTP/2 receives what gRPC demands: `200` with `grpc-status` in the head and no
/// body.
#[derive(Clone, Debug)]
pub struct Rejection {
    status: StatusCode,
    problem_type: Cow<'static, str>,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    headers: HeaderMap,
    members: Vec<(&'static str, Vec<String>)>,
}

impl Rejection {
    /// Creates a rejection.
    ///
    /// `problem_type` is a URI, or a bare word that becomes `urn:problem-type:portcullis:WORD`.
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
        }
    }

    /// Adds what went wrong in this case. The caller reads it: it holds no secret.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a header line beside those of the same name.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Says when to come back: whole seconds, rounded up, at least 1 (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.headers
            .insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        self
    }

    /// Adds a member to the body: a list of strings.
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

    /// Returns the status that the caller will see.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the problem's type, as the body names it.
    pub fn problem_type(&self) -> Cow<'_, str> {
        if self.problem_type.contains(':') {
            Cow::Borrowed(&self.problem_type)
        } else {
            Cow::Owned(format!("urn:problem-type:portcullis:{}", self.problem_type))
        }
    }

    /// Returns the problem's title: the same for each case of its type.
    pub fn title(&self) -> &str {
        self.title
    }

    /// Returns the headers that the case demands.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the body by RFC 9457, as JSON.
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

    /// Returns the response for a caller of this dialect.
    pub fn into_response<B>(
        self,
        dialect: Dialect,
        responder: &Responder,
    ) -> Response<ResponseBody<B>> {
        let written = match dialect {
            Dialect::Grpc => Some((HeaderValue::from_static("application/grpc"), Bytes::new())),
            Dialect::Http => responder.body(&self),
            // The head of an answer to HEAD is that of GET; only the body is left out.
            Dialect::HttpHead => responder
                .body(&self)
                .map(|(content_type, _)| (content_type, Bytes::new())),
        };
        let Some((content_type, bytes)) = written else {
            return unwritten().into_response(dialect, &Responder::default());
        };
        let mut response = Response::new(ResponseBody::full(bytes));
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
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The status that a rejection means, in the extensions of its response: that of the response differs
/// if the request is gRPC.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "rate-limit"),
    allow(dead_code, reason = "the limiter's settlement alone reads it")
)]
pub(super) struct Meant(pub(super) StatusCode);

/// How the caller wants to be turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// With a body.
    Http,
    /// Without a body: the request was a HEAD.
    HttpHead,
    /// With a gRPC status in the head.
    Grpc,
}

/// A request is a gRPC request if its content type is that of gRPC and its version is HTTP/2.
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

/// Writes the body of a rejection.
///
/// The default writes `application/problem+json`. One of the user's own may write another body,
/// but status, challenge and `Retry-After` are set before it is asked and cannot be dropped. One
/// that panics is answered for by `500`, with the default's body.
///
/// ```
/// use http::HeaderValue;
/// use portcullis::Responder;
///
/// let plain = Responder::new(|rejection| {
///     (HeaderValue::from_static("text/plain"), rejection.title().to_owned().into())
/// });
/// # let _ = plain;
/// ```
#[derive(Clone)]
pub struct Responder {
    body: Option<Arc<WriteBody>>,
}

type WriteBody = dyn Fn(&Rejection) -> (HeaderValue, Bytes) + Send + Sync;

impl Responder {
    /// Creates a responder that returns the content type and the body of each rejection.
    pub fn new(body: impl Fn(&Rejection) -> (HeaderValue, Bytes) + Send + Sync + 'static) -> Self {
        Self {
            body: Some(Arc::new(body)),
        }
    }

    /// Returns the content type and the body, unless the user's function panics.
    fn body(&self, rejection: &Rejection) -> Option<(HeaderValue, Bytes)> {
        match &self.body {
            Some(body) => catch_unwind(AssertUnwindSafe(|| body(rejection))).ok(),
            None => Some((
                HeaderValue::from_static("application/problem+json"),
                rejection.problem_json(),
            )),
        }
    }
}

impl Default for Responder {
    /// Writes `application/problem+json`.
    fn default() -> Self {
        Self { body: None }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.body {
            Some(_) => "Responder(custom)",
            None => "Responder(problem+json)",
        })
    }
}

/// What is answered where a responder has panicked.
fn unwritten() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The answer could not be written",
    )
}

/// Returns whether a content type is `application/grpc`, perhaps with a suffix or parameters.
fn is_grpc(content_type: &HeaderValue) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let split = content_type.as_bytes().split_at_checked(GRPC.len());
    split.is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Returns a duration in whole seconds, rounded up, at least 1.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(up).max(1)
}

/// Returns the status of gRPC for one of HTTP (the gRPC HTTP/2 mapping).
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

/// Titles are plain ASCII literals of this crate; a user's that is not is left out.
fn grpc_safe(title: &'static str) -> &'static str {
    let plain = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'%';
    if title.bytes().all(plain) { title } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Threat X1: the user's code may panic.
    #[test]
    fn a_responder_that_panics_is_answered_for_by_500() {
        let responder = Responder::new(|_| panic!("as it was asked"));
        for dialect in [Dialect::Http, Dialect::HttpHead] {
            let response = limited().into_response::<()>(dialect, &responder);
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        }
        // It has no say in what a gRPC caller is told.
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
