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

/// A service that limits the rate of requests to the inner service. See the [module
/// documentation](super).
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    /// If this field is `None`, requests are not limited.
    config: Option<Arc<RateLimitConfig>>,
}

service_accessors!(RateLimit<S>);

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, config: Option<Arc<RateLimitConfig>>) -> Self {
        Self { inner, config }
    }
}

impl<S: Clone> RateLimit<S> {
    /// Handles a request that cannot take the fast path.
    #[inline(never)]
    fn call_at_length<B>(
        inner: &mut S,
        config: &Arc<RateLimitConfig>,
        mut request: Request<B>,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        if config.checks.placement.reads_identity() {
            placement::mark(config, request.extensions_mut());
        }
        match admission::begin(config, &mut request) {
            Progress::Wait(admission) => {
                // The ready service waits. The clone that replaces it is not ready.
                let clone = inner.clone();
                let service = mem::replace(inner, clone);
                let call = PendingCall::new(admission, service, request, config);
                ResponseFuture::pending(call)
            }
            Progress::End(AdmissionEnd::Admit(note)) => {
                ResponseFuture::noted(inner.call(request), note)
            }
            Progress::End(AdmissionEnd::Reject(rejected)) => ResponseFuture::rejected(rejected),
        }
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
        let Self { inner, config } = self;
        let Some(config) = config else {
            return ResponseFuture::plain(inner.call(request));
        };
        if config.checks.placement.is_open() {
            placement::check(config, request.extensions_mut());
        }
        match FastAdmission::decide(config, &RequestHead::from(&request)) {
            FastAdmission::Plain => ResponseFuture::plain(inner.call(request)),
            FastAdmission::Noted(note) => ResponseFuture::noted(inner.call(request), note),
            FastAdmission::NotTaken => Self::call_at_length(inner, config, request),
        }
    }
}
