//! The function that writes the body of a rejection, and its input.

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

/// Writes the body of a rejection.
///
/// The default writes `application/problem+json` (RFC 9457). A custom responder returns the content
/// type and the body. It cannot change the status, the challenge or `Retry-After`. If it panics,
/// the client receives `500` with the default body.
///
/// The function receives a [`RejectionContext`], which dereferences to the [`Rejection`]: the
/// status, the title and the kind of the problem, and the head of the rejected request.
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

/// The input of a [`Responder`]: a rejection, and the request that it rejects.
///
/// Dereferences to the [`Rejection`].
#[derive(Clone, Copy, Debug)]
pub struct RejectionContext<'a> {
    pub(super) rejection: &'a Rejection,
    pub(super) request: Option<RequestHead<'a>>,
    pub(super) rate_limit: Option<&'a RateLimitOutcome>,
}

impl Rejection {
    /// Returns the response for a client that expects this format.
    ///
    /// The responder's context has no request.
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

    /// Returns the head of the rejected request.
    ///
    /// It is present in all rejections of this crate's layers, and absent in those of
    /// [`Rejection::into_response`]. Headers are those that the client sent, credentials included.
    pub fn request(&self) -> Option<&RequestHead<'a>> {
        self.request.as_ref()
    }

    /// Returns the request id that the access log assigned, if the request passed one.
    pub fn request_id(&self) -> Option<RequestId> {
        RecordHandle::from_extensions(self.request?.extensions)?.request_id()
    }

    /// Returns the decisions of the rate-limit policies, if a rate limit rejected the request.
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
