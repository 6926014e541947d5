//! The service: forwards admitted requests to the inner service, and rejects the others.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{
    admission::{
        admission,
        fast_path::FastAdmission,
        state::{AdmissionEnd, Progress},
    },
    config::RateLimitConfig,
    future::{PendingCall, ResponseFuture},
    placement,
    request_head::RequestHead,
};
use crate::core::{http::body::ResponseBody, service_accessors::service_accessors};

/// A service that limits the rate of requests to the inner service. See the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    config: Arc<RateLimitConfig>,
}

service_accessors!(RateLimit<S>);

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, config: Arc<RateLimitConfig>) -> Self {
        Self { inner, config }
    }
}

impl<S: Clone> RateLimit<S> {
    /// Handles a request that cannot take the fast path.
    #[inline(never)]
    fn call_at_length<B>(&mut self, mut request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        if self.config.checks.placement.reads_identity() {
            placement::mark(&self.config, request.extensions_mut());
        }
        match admission::begin(&self.config, &mut request) {
            Progress::Wait(admission) => {
                let service = self.take_ready();
                let call = PendingCall::new(admission, service, request, &self.config);
                ResponseFuture::pending(call)
            }
            Progress::End(AdmissionEnd::Admit(note)) => {
                ResponseFuture::noted(self.inner.call(request), note)
            }
            Progress::End(AdmissionEnd::Reject(rejected)) => ResponseFuture::rejected(rejected),
        }
    }

    /// Takes the ready service, and replaces it with a clone that is not ready.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if self.config.checks.placement.is_open() {
            placement::check(&self.config, request.extensions_mut());
        }
        match FastAdmission::decide(&self.config, &RequestHead::from(&request)) {
            FastAdmission::Plain => ResponseFuture::plain(self.inner.call(request)),
            FastAdmission::Noted(note) => ResponseFuture::noted(self.inner.call(request), note),
            FastAdmission::NotTaken => self.call_at_length(request),
        }
    }
}
