//! The API-key service.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{
    authenticate::pipeline::{self, AuthStep, Decision},
    config::SharedConfig,
    future::ResponseFuture,
    placement,
};
use crate::core::{http::body::ResponseBody, service_accessors::service_accessors};

/// A service that authenticates each request before it calls the inner service.
#[derive(Clone)]
pub struct ApiKey<S> {
    inner: S,
    /// If `None`, requests pass unauthenticated.
    config: Option<SharedConfig>,
}

service_accessors!(ApiKey<S>);

impl<S> ApiKey<S> {
    pub(super) fn new(inner: S, config: Option<SharedConfig>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ApiKey<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Some(config) = &self.config else {
            return ResponseFuture::passing(self.inner.call(request));
        };
        if config.placement.is_open() {
            placement::check(config, request.extensions_mut());
        }
        let admission = match pipeline::begin(config, &request) {
            AuthStep::Decided(Decision::Admit(identity)) => config.admit(&mut request, identity),
            AuthStep::Decided(Decision::AdmitAnonymous) => config.admit_anonymous(&request),
            AuthStep::Decided(Decision::Refuse(denied)) => {
                return ResponseFuture::refused(config.clone(), denied, &request);
            }
            // The future calls the service that was polled ready. The clone that replaces it was
            // not.
            AuthStep::Wait(question) => {
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                return ResponseFuture::waiting(config.clone(), question, ready, request);
            }
        };
        // An in-memory store replies immediately, so the ready service is called in place.
        ResponseFuture::calling(config.clone(), admission, self.inner.call(request))
    }
}

impl<S: fmt::Debug> fmt::Debug for ApiKey<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
