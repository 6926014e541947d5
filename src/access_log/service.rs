//! The access log service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    body::AccessLogBody, emit::emit::Emitter, future::ResponseFuture, record::guard::Guard,
};
use crate::core::service_accessors::service_accessors;

/// A service that writes one record per request; created by
/// [`AccessLogLayer`](super::AccessLogLayer).
#[derive(Clone)]
pub struct AccessLog<S> {
    inner: S,
    /// If `None`, requests and responses pass unrecorded.
    emitter: Option<Arc<Emitter>>,
}

service_accessors!(AccessLog<S>);

impl<S> AccessLog<S> {
    pub(super) fn new(inner: S, emitter: Option<Arc<Emitter>>) -> Self {
        Self { inner, emitter }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AccessLog<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<AccessLogBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let Some(emitter) = &self.emitter else {
            return ResponseFuture::new(self.inner.call(request), None);
        };
        let (wanted, mut request) = emitter.config.wanted(request);
        let mut guard = Guard::open(emitter, &mut request, wanted);
        guard.iter_mut().for_each(Guard::enter);
        let response = self.inner.call(request);
        guard.iter_mut().for_each(Guard::leave);
        ResponseFuture::new(response, guard)
    }
}

impl<S: fmt::Debug> fmt::Debug for AccessLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
