//! The service: asks the store, and calls the handler where the store has nothing.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    body::CacheBody,
    config::Config,
    exchange::Exchange,
    future::{Next, ResponseFuture, go_on, refresh, refresh_by_lease},
};

/// Middleware that answers from a store what has been answered before. Made by
/// [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct Cache<S> {
    pub(super) inner: S,
    pub(super) config: Arc<Config>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Cache<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Body + Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<CacheBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let mut exchange = Exchange::begin(&self.config, &mut request);
        match go_on(&mut exchange, None, &mut request) {
            // A store in memory answers at once: the readied service is called where it stands.
            Next::Call => ResponseFuture::calling(exchange, self.inner.call(request)),
            Next::Answer(response) => ResponseFuture::answered(response),
            Next::AnswerAndRefresh(response, None) => {
                refresh(exchange, self.inner.call(request));
                ResponseFuture::answered(response)
            }
            Next::AnswerAndRefresh(response, Some(leased)) => {
                refresh_by_lease(exchange, leased, self.take_ready(), request);
                ResponseFuture::answered(response)
            }
            Next::Wait(waiting) => {
                ResponseFuture::waiting(exchange, waiting, self.take_ready(), request)
            }
        }
    }
}

impl<S: Clone> Cache<S> {
    /// Takes the service that was polled ready; the clone left behind was not.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}
