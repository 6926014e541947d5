//! The future of a response: from the store, or from the handler.

use std::{
    fmt,
    future::Future,
    ops::ControlFlow::{self, Break, Continue},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    config::Config,
    fill::{
        body::CacheBody,
        exchange::{Conclusion, Exchange, Keep, Settling, StandIn},
        relay::RelayReader,
    },
    lookup::{
        lookup::{Come, Next, Waiting, go_on},
        refresh::refresh,
        search::Shown,
        shown::Whole,
        single_flight::Wait,
    },
    store::Lookup,
};
use crate::core::{error::BoxError, runtime::Task, store_api::store_future::StoreFuture};

pin_project! {
    /// The response to one request. Dropped at any moment, it leaves nothing half done.
    pub struct ResponseFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
        ResBody: Body,
    {
        #[pin]
        state: State<S, S::Future, S::Error, ReqBody, ResBody>,
        exchange: Option<Exchange>,
        // Present once the handler is called, if it may have to be called again.
        service: Option<Box<S>>,
    }
}

pin_project! {
    // Waiting  => Waiting | Calling | Answered | Whole
    // Calling  => Settling | Reading | Readying | LookingUp | StandingIn | Answered | done
    // LookingUp => as Calling
    // Readying => Calling | done
    // Reading  => Waiting
    // StandingIn => done
    // Settling => Keeping | done
    // Keeping  => done
    // Answered, Whole, Streamed => done
    #[project = StateProj]
    enum State<S, SFut, E, ReqBody, ResBody>
    where
        ResBody: Body,
    {
        // The request and the ready service are kept until the handler is called.
        Waiting { waiting: Waiting, ready: Option<S>, request: Option<Request<ReqBody>> },
        Calling { #[pin] response: SFut },
        // The handler is called again.
        Readying { request: Option<Request<ReqBody>> },
        // The store is asked for what the response may invalidate.
        LookingUp { found: StoreFuture<Lookup>, response: Option<Response<ResBody>> },
        // The body is read into the store, from where the client is answered.
        Reading {
            body: Pin<Box<CacheBody<ResBody>>>,
            wait: Option<Wait>,
            deadline: Option<Task>,
        },
        // The origin failed: a stale response stands in, if the store still has it.
        StandingIn {
            stand_in: Option<Box<StandIn>>,
            found: StoreFuture<Lookup>,
            failure: Option<Result<Response<CacheBody<ResBody>>, E>>,
        },
        // The response waits until what it invalidates is gone.
        Settling { settling: Settling, response: Option<Response<CacheBody<ResBody>>> },
        // The response waits until it may be stored.
        Keeping {
            fence: StoreFuture<Lookup>,
            keep: Option<Box<Keep>>,
            response: Option<Response<CacheBody<ResBody>>>,
        },
        Answered { response: Option<Response<Bytes>> },
        Whole { whole: Option<Whole> },
        // The body of another request's response, while that is being stored.
        Streamed { response: Option<Box<Response<(RelayReader, Wait)>>> },
    }
}

impl<S, SFut, E, ReqBody, ResBody: Body> State<S, SFut, E, ReqBody, ResBody> {
    #[inline(always)]
    fn answered(shown: Shown) -> Self {
        match shown {
            Shown::Whole(whole) => Self::Whole { whole: Some(whole) },
            Shown::Made(response) => Self::made(response),
            Shown::Streamed(response) => Self::Streamed {
                response: Some(response),
            },
        }
    }

    fn made(response: Response<Bytes>) -> Self {
        Self::Answered {
            response: Some(response),
        }
    }

    fn readying(request: Request<ReqBody>) -> Self {
        Self::Readying {
            request: Some(request),
        }
    }

    fn reading(config: &Config, body: CacheBody<ResBody>, wait: Wait) -> Self {
        Self::Reading {
            body: Box::pin(body),
            wait: Some(wait),
            deadline: config.sleep(config.wait_at_most),
        }
    }

    fn standing_in(stand_in: StandIn, failure: Result<Response<CacheBody<ResBody>>, E>) -> Self {
        Self::StandingIn {
            found: stand_in.look_up(),
            stand_in: Some(Box::new(stand_in)),
            failure: Some(failure),
        }
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    pub(super) fn waiting(
        exchange: Exchange,
        waiting: Waiting,
        ready: S,
        request: Request<ReqBody>,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting,
                ready: Some(ready),
                request: Some(request),
            },
            exchange: Some(exchange),
            service: None,
        }
    }

    pub(super) fn calling(
        exchange: Exchange,
        response: S::Future,
        service: Option<Box<S>>,
    ) -> Self {
        Self {
            state: State::Calling { response },
            exchange: Some(exchange),
            service,
        }
    }

    #[inline(always)]
    pub(super) fn answered(shown: Shown) -> Self {
        Self {
            state: State::answered(shown),
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
                StateProj::Waiting {
                    waiting,
                    ready,
                    request,
                } => {
                    let come = ready!(waiting.poll(cx));
                    match resumed(come, this.exchange, this.service, ready, request) {
                        Resumed::Wait(further) => {
                            *waiting = further;
                            continue;
                        }
                        Resumed::Call(response) => Continue(State::Calling { response }),
                        Resumed::CallAgain(request) => Continue(State::readying(request)),
                        Resumed::Answer(shown) => Continue(State::answered(shown)),
                    }
                }
                StateProj::Calling { response } => {
                    let response = ready!(response.poll(cx));
                    called(response, this.exchange, cx)
                }
                StateProj::Readying { request } => {
                    let service = this.service.as_mut().expect(ONE_END);
                    match ready!(service.poll_ready(cx)) {
                        Err(error) => failed(error, this.exchange),
                        Ok(()) => {
                            let response = service.call(request.take().expect(ONE_END));
                            Continue(State::Calling { response })
                        }
                    }
                }
                StateProj::LookingUp { found, response } => {
                    let found = ready!(Pin::new(found).poll(cx));
                    let own = this.exchange.take().expect(ONE_END);
                    let response = response.take().expect(ONE_END);
                    concluded(own.conclude_after(found, response, cx), this.exchange)
                }
                StateProj::Reading {
                    body,
                    wait,
                    deadline,
                } => {
                    ready!(read(body.as_mut(), deadline, cx));
                    Continue(has_read(this.exchange, wait.take()))
                }
                StateProj::StandingIn {
                    stand_in,
                    found,
                    failure,
                } => {
                    let found = ready!(Pin::new(found).poll(cx));
                    let stand_in = stand_in.take().expect(ONE_END);
                    match stand_in.conclude(found) {
                        None => Break(failure.take().expect(ONE_END)),
                        Some(response) => Continue(State::made(response)),
                    }
                }
                StateProj::Settling { settling, response } => {
                    // A store that failed keeps what it has until that is stale.
                    let _ = ready!(Pin::new(&mut settling.settled).poll(cx));
                    settled(settling.keep.take(), response.take())
                }
                StateProj::Keeping {
                    fence,
                    keep,
                    response,
                } => {
                    let fence = ready!(Pin::new(fence).poll(cx));
                    let (keep, response) = (keep.take().expect(ONE_END), response.take());
                    Break(Ok(keep.conclude(fence, response.expect(ONE_END), cx)))
                }
                StateProj::Whole { whole } => {
                    let whole = whole.take().expect(ONE_END);
                    // Returned at once: a response is large, and is not moved where nothing follows.
                    return Poll::Ready(Ok(whole.into_response(CacheBody::stored)));
                }
                StateProj::Streamed { response } => {
                    let response = response.take().expect(ONE_END);
                    Break(Ok(
                        response.map(|(reader, wait)| CacheBody::streamed(reader, wait))
                    ))
                }
                StateProj::Answered { response } => {
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

/// The next state of a request, or its end.
type Turned<S, SFut, E, ReqBody, ResBody> =
    ControlFlow<Result<Response<CacheBody<ResBody>>, E>, State<S, SFut, E, ReqBody, ResBody>>;

/// Takes the end of a call of the handler.
#[inline(always)]
fn called<S, SFut, E, ReqBody, ResBody>(
    response: Result<Response<ResBody>, E>,
    exchange: &mut Option<Exchange>,
    cx: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody>
where
    ReqBody: 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    match response {
        Ok(response) => {
            let own = exchange.take().expect(ONE_END);
            concluded(own.conclude(response, cx), exchange)
        }
        Err(error) => failed(error, exchange),
    }
}

/// Takes an error of the handler: a stale response may stand in.
fn failed<S, SFut, E, ReqBody, ResBody: Body>(
    error: E,
    exchange: &mut Option<Exchange>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match exchange.take().expect(ONE_END).rescue() {
        None => Break(Err(error)),
        Some(stand_in) => Continue(State::standing_in(stand_in, Err(error))),
    }
}

/// Goes on once a body is read into the store: the client is answered from there.
fn has_read<S, SFut, E, ReqBody: 'static, ResBody: Body>(
    exchange: &mut Option<Exchange>,
    wait: Option<Wait>,
) -> State<S, SFut, E, ReqBody, ResBody> {
    let exchange = exchange.as_mut().expect(ONE_END);
    let config = &exchange.config;
    let deadline = config.sleep(config.wait_at_most);
    State::Waiting {
        waiting: Waiting::Flight(wait.expect(ONE_END), deadline),
        ready: None,
        request: exchange.client_request(),
    }
}

/// Goes on once the store has taken note of a response.
fn settled<S, SFut, E, ReqBody, ResBody: Body>(
    keep: Option<Box<Keep>>,
    response: Option<Response<CacheBody<ResBody>>>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match keep {
        None => Break(Ok(response.expect(ONE_END))),
        Some(keep) => Continue(State::Keeping {
            fence: keep.ask(),
            keep: Some(keep),
            response,
        }),
    }
}

/// The next step of a request after a wait.
enum Resumed<F, ReqBody> {
    Wait(Waiting),
    Call(F),
    /// The service is polled ready once more.
    CallAgain(Request<ReqBody>),
    Answer(Shown),
}

fn resumed<S, ReqBody, ResBody>(
    come: Come,
    exchange: &mut Option<Exchange>,
    service: &mut Option<Box<S>>,
    ready: &mut Option<S>,
    request: &mut Option<Request<ReqBody>>,
) -> Resumed<S::Future, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let asked = request.as_mut().expect(ONE_END);
    let waiter = exchange.as_mut().expect(ONE_END);
    let mut search = waiter
        .search()
        .expect("only a request that is looked up waits");
    match go_on(&mut search, Some(come), asked) {
        Next::Wait(further) => Resumed::Wait(further),
        Next::Answer(answer) => Resumed::Answer(search.show(answer, asked)),
        Next::Call => {
            waiter.prepare(asked);
            let request = request.take().expect(ONE_END);
            match ready.take() {
                Some(ready) => Resumed::Call(service.insert(Box::new(ready)).call(request)),
                None => Resumed::CallAgain(request),
            }
        }
        Next::AnswerAndRefresh(answer, leased) => {
            let shown = search.show(answer, asked);
            let exchange = exchange.take().expect(ONE_END);
            let ready = ready
                .take()
                .or_else(|| service.take().map(|service| *service));
            let (service, request) = (ready.expect(ONE_END), request.take().expect(ONE_END));
            refresh(exchange, leased, service, request);
            Resumed::Answer(shown)
        }
    }
}

/// Returns what follows from a conclusion.
#[inline(always)]
fn concluded<S, SFut, E, ReqBody: 'static, ResBody: Body>(
    conclusion: Conclusion<ResBody>,
    exchange: &mut Option<Exchange>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match conclusion {
        Conclusion::Send(response, None) => Break(Ok(response)),
        Conclusion::Send(response, Some(settling)) => Continue(State::Settling {
            settling,
            response: Some(response),
        }),
        Conclusion::Read(own, body, wait) => {
            let next = State::reading(&own.config, body, wait);
            *exchange = Some(own);
            Continue(next)
        }
        Conclusion::AskAgain(mut own) => {
            let request = own.ask_again();
            *exchange = Some(own);
            Continue(State::Readying { request })
        }
        Conclusion::LookUp(own, response, found) => {
            *exchange = Some(own);
            Continue(State::LookingUp {
                found,
                response: Some(response),
            })
        }
        Conclusion::StandIn(stand_in, response) => {
            Continue(State::standing_in(stand_in, Ok(response)))
        }
    }
}

/// Reads a body while it is being stored, or for as long as others would wait for it.
fn read<B>(
    mut body: Pin<&mut CacheBody<B>>,
    deadline: &mut Option<Task>,
    cx: &mut Context<'_>,
) -> Poll<()>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    while body.is_filling() {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            Poll::Pending => {
                return match deadline {
                    Some(deadline) => deadline.as_mut().poll(cx),
                    None => Poll::Pending,
                };
            }
        }
    }
    Poll::Ready(())
}

const ONE_END: &str = "a future is polled until it is ready, and no further";

impl<S, ReqBody, ResBody> fmt::Debug for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
    ResBody: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
