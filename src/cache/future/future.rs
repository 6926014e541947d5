//! The future of a response: from the store, or from the handler.

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
    state::{HeldCall, ONE_END, ResponseState, ResponseStateProj},
    transition::{
        called, called_again, has_read, looked_up, read, resumed, settled, stood_in, streamed,
    },
};
use crate::{
    cache::{
        exchange::exchange::Exchange,
        fill::body::CacheBody,
        lookup::{served::ServedResponse, step::LookupWait},
    },
    core::error::BoxError,
};

pin_project! {
    /// The response to one request. Dropped at any moment, it leaves nothing half done.
    pub struct ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
        ResBody: Body,
    {
        #[pin]
        state: ResponseState<S, S::Future, S::Error, ReqBody, ResBody>,
        exchange: Option<Exchange>,
        // Present once the handler is called, if it may have to be called again.
        service: Option<Box<S>>,
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
        Self {
            state: ResponseState::Waiting {
                waiting,
                held: HeldCall {
                    ready: Some(ready),
                    request: Some(request),
                },
            },
            exchange: Some(exchange),
            service: None,
        }
    }

    pub(crate) fn calling(
        exchange: Exchange,
        response: S::Future,
        service: Option<Box<S>>,
    ) -> Self {
        Self {
            state: ResponseState::Calling { response },
            exchange: Some(exchange),
            service,
        }
    }

    #[inline(always)]
    pub(crate) fn answered(shown: ServedResponse) -> Self {
        Self {
            state: ResponseState::answered(shown),
            exchange: None,
            service: None,
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
                ResponseStateProj::Waiting { waiting, held } => {
                    let event = ready!(waiting.poll(cx));
                    match resumed(event, waiting, held, this.exchange, this.service) {
                        None => continue,
                        Some(next) => Continue(next),
                    }
                }
                ResponseStateProj::Calling { response } => {
                    called(ready!(response.poll(cx)), this.exchange, cx)
                }
                ResponseStateProj::Readying { request } => {
                    let service = this.service.as_mut().expect(ONE_END);
                    let ready = ready!(service.poll_ready(cx));
                    called_again(ready, &mut **service, request, this.exchange)
                }
                ResponseStateProj::LookingUp { found, response } => {
                    let found = ready!(Pin::new(found).poll(cx));
                    looked_up(found, response, this.exchange, cx)
                }
                ResponseStateProj::Reading { body, wait, until } => {
                    ready!(read(body.as_mut(), until, cx));
                    Continue(has_read(this.exchange, wait.take()))
                }
                ResponseStateProj::StandingIn { found, rest } => {
                    let found = ready!(Pin::new(found).poll(cx));
                    let (stand_in, failure) = rest.take().expect(ONE_END);
                    stood_in(found, *stand_in, failure)
                }
                ResponseStateProj::Settling { settling, response } => {
                    // A store that failed keeps what it has until that is stale.
                    let _ = ready!(Pin::new(&mut settling.settled).poll(cx));
                    settled(settling.keep.take(), response.take().expect(ONE_END))
                }
                ResponseStateProj::Keeping { fence, rest } => {
                    let fence = ready!(Pin::new(fence).poll(cx));
                    let (keep, response) = rest.take().expect(ONE_END);
                    Break(Ok(keep.conclude(fence, response, cx)))
                }
                ResponseStateProj::Whole { whole } => {
                    let whole = whole.take().expect(ONE_END);
                    // Returned at once: a response is large, and is not moved where nothing follows.
                    return Poll::Ready(Ok(whole.into_response(CacheBody::stored)));
                }
                ResponseStateProj::Streamed { response } => Break(Ok(streamed(response))),
                ResponseStateProj::Answered { response } => {
                    let response = response.take().expect(ONE_END);
                    Break(Ok(response.map(CacheBody::stored)))
                }
            };
            match turned {
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
