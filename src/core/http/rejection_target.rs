//! The target of a rejection: the request that receives it.

use http::{Extensions, HeaderMap, Method, Request, Response, Uri, Version};
use std::fmt;

use super::{
    body::ResponseBody,
    rejection::{Dialect, Rejection, RejectionKind},
    request_head::RequestHead,
    responder::{RejectionContext, Responder},
};
use crate::core::record::RateLimitOutcome;

impl Rejection {
    pub(crate) fn with_kind(mut self, kind: RejectionKind) -> Self {
        self.kind = kind;
        self
    }
}

/// The response format and the responder of one rejected request.
pub(crate) struct RejectionTarget {
    dialect: Dialect,
    responder: Responder,
    // For a custom responder alone: the default does not read it.
    head: Option<Box<OwnedHead>>,
}

struct OwnedHead {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

impl RejectionTarget {
    pub(crate) fn new<B>(request: &Request<B>, responder: &Responder) -> Self {
        let head = responder.body.as_ref().map(|_| {
            Box::new(OwnedHead {
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                headers: request.headers().clone(),
                extensions: request.extensions().clone(),
            })
        });
        Self {
            dialect: Dialect::from(request),
            responder: responder.clone(),
            head,
        }
    }

    /// Returns `true` if the responder is custom and therefore reads more than the rejection.
    #[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
    pub(crate) fn is_custom(&self) -> bool {
        self.head.is_some()
    }

    /// Returns the response to the request.
    pub(crate) fn respond<B>(
        &self,
        rejection: &Rejection,
        rate_limit: Option<&RateLimitOutcome>,
    ) -> Response<ResponseBody<B>> {
        let context = RejectionContext {
            rejection,
            request: self.head.as_deref().map(OwnedHead::as_head),
            rate_limit,
        };
        context.respond(self.dialect, &self.responder)
    }
}

impl OwnedHead {
    fn as_head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            headers: &self.headers,
            extensions: &self.extensions,
        }
    }
}

impl fmt::Debug for RejectionTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionTarget")
            .field("dialect", &self.dialect)
            .field("responder", &self.responder)
            .finish_non_exhaustive()
    }
}
