//! The responder, which writes the body of a rejection, and the context that a responder receives.

use std::{
    fmt,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};

use super::{
    body::ResponseBody,
    rejection::{Dialect, Rejection},
    request_head::RequestHead,
    request_id::RequestId,
};
use crate::core::record::{RateLimitOutcome, RecordHandle};

/// A function that writes the body of a rejection.
///
/// The default responder writes `application/problem+json` (RFC 9457). A custom responder returns
/// the content type and the body, and cannot change the status, the challenge or `Retry-After`. If
/// a custom responder panics, the client receives `500` with the default body.
///
/// The function receives a [`RejectionContext`], which dereferences to the [`Rejection`]. The
/// context provides the status, the title and the kind of the rejection, as well as the head of the
/// rejected request.
///
/// ```
/// use http::{HeaderValue, header::ACCEPT};
/// use portcullis::{RejectionKind, Responder};
///
/// let responder = Responder::new(|rejection| {
///     let wants_html = rejection.request().is_some_and(|request| {
///         let accept = request.headers.get(ACCEPT);
///         accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"))
///     });
///     match (wants_html, rejection.kind()) {
///         (true, RejectionKind::QuotaExceeded) => (
///             HeaderValue::from_static("text/html"),
///             "<h1>Too many requests</h1>".into(),
///         ),
///         _ => (
///             HeaderValue::from_static("text/plain"),
///             rejection.title().to_owned().into(),
///         ),
///     }
/// });
/// # let _ = responder;
/// ```
#[derive(Clone, Default)]
pub struct Responder {
    pub(super) body: Option<Arc<WriteBody>>,
}

type WriteBody = dyn Fn(&RejectionContext<'_>) -> (HeaderValue, Bytes) + Send + Sync;

impl Responder {
    /// Creates a responder from a function that returns the content type and the body.
    pub fn new(
        body: impl Fn(&RejectionContext<'_>) -> (HeaderValue, Bytes) + Send + Sync + 'static,
    ) -> Self {
        Self {
            body: Some(Arc::new(body)),
        }
    }

    /// Returns the content type and the body, or `None` if the custom function panics.
    fn body(&self, context: &RejectionContext<'_>) -> Option<(HeaderValue, Bytes)> {
        match &self.body {
            Some(body) => catch_unwind(AssertUnwindSafe(|| body(context))).ok(),
            None => Some((
                HeaderValue::from_static("application/problem+json"),
                context.problem_json(),
            )),
        }
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

/// The input of a [`Responder`]: a rejection and the request that was rejected.
///
/// The context dereferences to the [`Rejection`].
#[derive(Clone, Copy, Debug)]
pub struct RejectionContext<'a> {
    pub(super) rejection: &'a Rejection,
    pub(super) request: Option<RequestHead<'a>>,
    pub(super) rate_limit: Option<&'a RateLimitOutcome>,
}

impl Rejection {
    /// Converts the rejection into a response for a client that expects this format.
    ///
    /// The responder's context does not contain a request.
    pub fn into_response<B>(
        self,
        dialect: Dialect,
        responder: &Responder,
    ) -> Response<ResponseBody<B>> {
        RejectionContext::new(&self, None).respond(dialect, responder)
    }
}

impl<'a> RejectionContext<'a> {
    fn new(rejection: &'a Rejection, request: Option<RequestHead<'a>>) -> Self {
        Self {
            rejection,
            request,
            rate_limit: None,
        }
    }

    /// Returns the head of the rejected request, if it is available.
    ///
    /// The head is available for all rejections by this crate's layers, but not for rejections that
    /// [`Rejection::into_response`] converts. The headers are the headers that the client sent,
    /// including credentials.
    pub fn request(&self) -> Option<&RequestHead<'a>> {
        self.request.as_ref()
    }

    /// Returns the request id, if the request passed through an access log.
    pub fn request_id(&self) -> Option<RequestId> {
        RecordHandle::from_extensions(self.request?.extensions)?.request_id()
    }

    /// Returns the outcome of the rate limiter, if a rate limiter rejected the request.
    pub fn rate_limit(&self) -> Option<&'a RateLimitOutcome> {
        self.rate_limit
    }
}

impl Deref for RejectionContext<'_> {
    type Target = Rejection;

    fn deref(&self) -> &Rejection {
        self.rejection
    }
}

impl RejectionContext<'_> {
    pub(super) fn respond<B>(
        &self,
        dialect: Dialect,
        responder: &Responder,
    ) -> Response<ResponseBody<B>> {
        let written = match dialect {
            Dialect::Grpc => Some((HeaderValue::from_static("application/grpc"), Bytes::new())),
            Dialect::Http => responder.body(self),
            // The head of the response to HEAD is that of GET without the body.
            Dialect::HttpHead => responder
                .body(self)
                .map(|(content_type, _)| (content_type, Bytes::new())),
        };
        match written {
            Some((content_type, body)) => self.rejection.assemble(dialect, content_type, body),
            None => responder_panicked().into_response(dialect, &Responder::default()),
        }
    }
}

/// Returns the rejection that replaces one whose responder panicked.
fn responder_panicked() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The response could not be written",
    )
}
