//! The service that checks API keys.

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
use crate::core::http::body::ResponseBody;

/// Checks the key of each request before the inner service sees it.
#[derive(Clone)]
pub struct ApiKey<S> {
    inner: S,
    config: SharedConfig,
}

impl<S> ApiKey<S> {
    pub(super) fn new(inner: S, config: SharedConfig) -> Self {
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
        if self.config.placement.is_open() {
            placement::check(&self.config, request.extensions_mut());
        }
        let step = pipeline::begin(&self.config, &request);
        let config = &self.config;
        match step {
            // A store in memory answers at once: the readied service is called where it stands.
            AuthStep::Decided(Decision::Admit(identity)) => {
                let admission = config.admit(&mut request, identity);
                ResponseFuture::calling(config.clone(), admission, self.inner.call(request))
            }
            AuthStep::Decided(Decision::AdmitAnonymous) => {
                let admission = config.admit_anonymous(&request);
                ResponseFuture::calling(config.clone(), admission, self.inner.call(request))
            }
            AuthStep::Decided(Decision::Refuse(denied)) => {
                ResponseFuture::refused(config.clone(), denied, &request)
            }
            // The future calls the service that was polled ready; the clone left behind was not.
            AuthStep::Wait(question) => {
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                ResponseFuture::waiting(self.config.clone(), question, ready, request)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for ApiKey<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
