//! The response future of the cache middleware.

use std::{
    fmt,
    future::Future,
    ops::ControlFlow::{Break, Continue},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    state::{HandlerCall, HeldCall, ResponseState, ResponseStateProj},
    transition::{
        called, called_again, has_read, kept, looked_up, resumed, serve_and_refresh, settled,
        stood_in,
    },
};
use crate::{
    cache::{
        exchange::exchange::Exchange,
        fill::body::CacheBody,
        lookup::{served::ServedResponse, step::LookupWait},
        store::Lease,
    },
    core::{error::BoxError, store_api::store_future::StoreFuture},
};

pin_project! {
    /// The response future of [`Cache`](crate::cache::Cache).
    ///
    /// This future is cancel-safe: dropping it at any time leaves no partial writes.
    pub struct ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
        ResBody: Body,
    {
        #[pin]
        state: ResponseState<S, S::Future, S::Error, ReqBody, ResBody>,
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    pub(crate) fn waiting(
        exchange: Exchange,
        waiting: LookupWait,
        ready: S,
        request: Request<ReqBody>,
    ) -> Self {
        let held = HeldCall::ready(exchange, ready, request);
        Self {
            state: ResponseState::waiting(waiting, held),
        }
    }

    /// `service` is present if the request may be repeated.
    #[inline(always)]
    pub(crate) fn calling(
        exchange: Exchange,
        response: S::Future,
        service: Option<Box<S>>,
    ) -> Self {
        Self {
            state: ResponseState::calling(response, HandlerCall { exchange, service }),
        }
    }

    /// Passes on the response from the inner service.
    #[inline(always)]
    pub(crate) fn passing(response: S::Future) -> Self {
        Self {
            state: ResponseState::Passing { response },
        }
    }

    #[inline(always)]
    pub(crate) fn served(served: ServedResponse) -> Self {
        Self {
            state: ResponseState::served(served),
        }
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    /// Serves a stale response, and refreshes it in the background.
    pub(crate) fn refreshing(
        exchange: Exchange,
        stale: Response<Bytes>,
        leased: Option<StoreFuture<Lease>>,
        ready: S,
        request: Request<ReqBody>,
    ) -> Self {
        let held = HeldCall::ready(exchange, ready, request);
        Self {
            state: serve_and_refresh(stale, leased, held),
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    type Output = Result<Response<CacheBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let turned = match this.state.as_mut().project() {
                ResponseStateProj::Passing { response } => {
                    let response = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(response.map(CacheBody::inner)));
                }
                ResponseStateProj::Waiting { waiting } => {
                    waiting.poll_then(cx, |event, held, _| Continue(resumed(event, held)))
                }
                ResponseStateProj::Calling { response } => response.poll_then(cx, called),
                ResponseStateProj::Readying { ready } => ready.poll_then(cx, called_again),
                ResponseStateProj::LookingUp { found } => found.poll_then(cx, looked_up),
                ResponseStateProj::Reading { read } => read.poll_then(cx, has_read),
                ResponseStateProj::StandingIn { found } => found.poll_then(cx, stood_in),
                ResponseStateProj::Settling { settled: write } => write.poll_then(cx, settled),
                ResponseStateProj::Keeping { fence } => fence.poll_then(cx, kept),
                ResponseStateProj::Whole { whole } => {
                    let whole = ready!(Pin::new(whole).poll(cx));
                    // Returned directly: a response is large, and this avoids a move.
                    return Poll::Ready(Ok(whole.into_response(CacheBody::stored)));
                }
                ResponseStateProj::Streamed { response } => {
                    let response = ready!(Pin::new(response).poll(cx));
                    let response = response.map(|(reader, wait)| CacheBody::streamed(reader, wait));
                    return Poll::Ready(Ok(response));
                }
                ResponseStateProj::Answered { response } => {
                    let response = ready!(Pin::new(response).poll(cx));
                    return Poll::Ready(Ok(response.map(CacheBody::stored)));
                }
            };
            match ready!(turned) {
                Continue(next) => this.state.set(next),
                Break(end) => return Poll::Ready(end),
            }
        }
    }
}

impl<S, ReqBody, ResBody> fmt::Debug for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
