//! The service that checks API keys.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{
    config::SharedConfig,
    extract::{self, Presented},
    future::ResponseFuture,
    record::StoredKey,
    refusal::Denied,
};
use crate::{body::ResponseBody, record::AuthDenial, store_future::Pending};

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

/// What is to become of a request.
enum Step {
    /// The caller is known.
    Admit(StoredKey),
    /// The caller presented nothing, and need not.
    AdmitAnonymous,
    /// The caller is turned away.
    Refuse(Denied),
    /// The store has been asked, and answers later.
    Wait(Pending<Option<StoredKey>>),
}

impl<S> ApiKey<S> {
    fn look_at<B>(&self, request: &Request<B>) -> Step {
        let config = &*self.config;
        let presented = match extract::extract(&config.sources, request) {
            Presented::Nothing if config.optional => return Step::AdmitAnonymous,
            Presented::Nothing => return Step::Refuse(Denied::new(AuthDenial::Missing, None)),
            Presented::Ambiguous => {
                return Step::Refuse(Denied::new(AuthDenial::Ambiguous, None));
            }
            Presented::Key(presented) => presented,
        };
        let Ok(key) = config.ring.shared.format.parse(presented) else {
            return Step::Refuse(Denied::new(AuthDenial::Malformed, None));
        };
        match config.ring.shared.store.find(key.id).into_ready() {
            Ok(answer) => match config.judge(&key, answer) {
                Ok(key) => Step::Admit(key),
                Err(denied) => Step::Refuse(denied),
            },
            Err(pending) => Step::Wait(pending),
        }
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
        let step = self.look_at(&request);
        let config = &self.config;
        match step {
            // A store in memory answers at once: the readied service is called where it stands.
            Step::Admit(key) => {
                let admission = config.admit(&mut request, &key);
                ResponseFuture::calling(config.clone(), admission, self.inner.call(request))
            }
            Step::AdmitAnonymous => {
                let admission = config.admit_anonymous(&request);
                ResponseFuture::calling(config.clone(), admission, self.inner.call(request))
            }
            Step::Refuse(denied) => ResponseFuture::refused(config.clone(), denied, &request),
            // The future calls the service that was polled ready; the clone left behind was not.
            Step::Wait(pending) => {
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                ResponseFuture::finding(self.config.clone(), pending, ready, request)
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
