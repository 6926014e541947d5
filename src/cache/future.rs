//! The future of an answer: from the store, or from the handler.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    body::CacheBody,
    exchange::{Exchange, Step},
    store::Lookup,
};
use crate::{
    error::StoreError,
    store_future::{Pending, StoreFuture},
};

pin_project! {
    /// The answer to one request. Dropped at any moment, it leaves nothing half done.
    pub struct ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, S::Future, ReqBody, ResBody>,
        exchange: Option<Exchange>,
    }
}

pin_project! {
    // Looking => Looking | Calling | Answered
    // Calling => Settling | done
    // Settling => done
    // Answered => done
    #[project = StateProj]
    enum State<S, SFut, ReqBody, ResBody> {
        // The request and the ready service wait beside the question.
        Looking { lookup: Pending<Lookup>, ready: S, request: Option<Request<ReqBody>> },
        Calling { #[pin] response: SFut },
        // The answer waits until what it made untrue is gone.
        Settling { settled: StoreFuture<()>, response: Option<Response<CacheBody<ResBody>>> },
        Answered { response: Option<Response<Bytes>> },
    }
}

/// What comes after all that the store could say at once.
pub(super) enum Next {
    Call,
    Answer(Response<Bytes>),
    Wait(Pending<Lookup>),
}

/// Goes on with a store's answer, or with the first question where there is none yet.
pub(super) fn go_on<ReqBody>(
    exchange: &mut Exchange,
    mut answer: Option<Result<Lookup, StoreError>>,
    request: &Request<ReqBody>,
) -> Next {
    loop {
        if let Some(answer) = answer.take() {
            match exchange.learn(answer, request) {
                Step::Ask => {}
                Step::Call => return Next::Call,
                Step::Answer(response) => return Next::Answer(response),
            }
        }
        match exchange.ask(request).map(StoreFuture::into_ready) {
            None => return Next::Call,
            Some(Ok(ready)) => answer = Some(ready),
            Some(Err(pending)) => return Next::Wait(pending),
        }
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn looking(
        exchange: Exchange,
        lookup: Pending<Lookup>,
        ready: S,
        request: Request<ReqBody>,
    ) -> Self {
        let request = Some(request);
        Self {
            state: State::Looking {
                lookup,
                ready,
                request,
            },
            exchange: Some(exchange),
        }
    }

    pub(super) fn calling(exchange: Exchange, response: S::Future) -> Self {
        Self {
            state: State::Calling { response },
            exchange: Some(exchange),
        }
    }

    pub(super) fn answered(exchange: Exchange, response: Response<Bytes>) -> Self {
        let response = Some(response);
        Self {
            state: State::Answered { response },
            exchange: Some(exchange),
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Output = Result<Response<CacheBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Looking {
                    lookup,
                    ready,
                    request,
                } => {
                    let answer = ready!(lookup.as_mut().poll(cx));
                    let exchange = this.exchange.as_mut().expect(ONE_END);
                    let asking = request.as_ref().expect(ONE_END);
                    match go_on(exchange, Some(answer), asking) {
                        Next::Wait(pending) => {
                            *lookup = pending;
                            continue;
                        }
                        Next::Call => State::Calling {
                            response: ready.call(request.take().expect(ONE_END)),
                        },
                        Next::Answer(response) => State::Answered {
                            response: Some(response),
                        },
                    }
                }
                StateProj::Calling { response } => {
                    let response = ready!(response.poll(cx))?;
                    let exchange = this.exchange.take().expect(ONE_END);
                    match exchange.conclude(response) {
                        (response, None) => return Poll::Ready(Ok(response)),
                        (response, Some(settled)) => State::Settling {
                            settled,
                            response: Some(response),
                        },
                    }
                }
                StateProj::Settling { settled, response } => {
                    // A store that failed keeps what it has until that is stale.
                    let _ = ready!(Pin::new(settled).poll(cx));
                    return Poll::Ready(Ok(response.take().expect(ONE_END)));
                }
                StateProj::Answered { response } => {
                    let response = response.take().expect(ONE_END);
                    return Poll::Ready(Ok(response.map(CacheBody::stored)));
                }
            };
            this.state.set(next);
        }
    }
}

const ONE_END: &str = "a future is polled until it is ready, and no further";

impl<S, ReqBody, ResBody> fmt::Debug for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
