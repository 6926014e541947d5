//! The future of an answer: from the store, or from the handler.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    body::CacheBody,
    collapse::{Landing, Wait},
    exchange::{Exchange, Keep, Settling},
    lease::PAUSE_MAX,
    search::{Answer, Search, Shown, Step},
    shown::Whole,
    store::{Lease, Lookup},
};
use crate::{
    error::StoreError,
    runtime::Task,
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
    // Waiting => Waiting | Calling | Answered | Whole
    // Calling => Settling | Answered | done
    // Settling => Keeping | done
    // Keeping => done
    // Answered => done
    // Whole => done
    #[project = StateProj]
    enum State<S, SFut, ReqBody, ResBody> {
        // The request and the ready service wait beside what is waited for.
        Waiting { waiting: Waiting, ready: Option<S>, request: Option<Request<ReqBody>> },
        Calling { #[pin] response: SFut },
        // The answer waits until what it made untrue is gone.
        Settling { settling: Settling, response: Option<Response<CacheBody<ResBody>>> },
        // The answer waits until it may be kept.
        Keeping {
            fence: StoreFuture<Lookup>,
            keep: Option<Box<Keep>>,
            response: Option<Response<CacheBody<ResBody>>>,
        },
        Answered { response: Option<Response<Bytes>> },
        Whole { whole: Option<Whole> },
    }
}

/// What a request waits for before the handler is called.
pub(super) enum Waiting {
    /// What the store says.
    Store(Pending<Lookup>),
    /// Another request's answer, for so long.
    Flight(Wait, Option<Task>),
    /// The lease of the answer.
    Lease(Pending<Lease>),
    /// Another process's answer.
    Pause(Task),
}

/// What has come that was waited for.
pub(super) enum Come {
    Lookup(Result<Lookup, StoreError>),
    /// Nothing, if the wait was too long.
    Landing(Option<Landing>),
    Lease(Result<Lease, StoreError>),
    Paused,
}

/// What comes after all that could be had at once.
pub(super) enum Next {
    Call,
    Answer(Answer),
    /// The handler is called for the next answer: at once, or if the store gives the lease of it.
    AnswerAndRefresh(Answer, Option<StoreFuture<Lease>>),
    Wait(Waiting),
}

/// Goes on with what has come, or with the first question where nothing has yet.
#[inline]
pub(super) fn go_on<ReqBody>(
    search: &mut Search<'_>,
    mut come: Option<Come>,
    request: &mut Request<ReqBody>,
) -> Next {
    loop {
        let step = match come.take() {
            None => Step::Ask,
            Some(Come::Lookup(answer)) => search.learn(answer, request),
            Some(Come::Landing(landing)) => search.landed(landing),
            Some(Come::Lease(answer)) => search.leased(answer),
            Some(Come::Paused) => search.look_again(),
        };
        match step {
            Step::Ask => match search.ask(request).map(StoreFuture::into_ready) {
                None => return Next::Call,
                Some(Ok(answer)) => come = Some(Come::Lookup(answer)),
                Some(Err(pending)) => return Next::Wait(Waiting::Store(pending)),
            },
            Step::Lease(answer) => match answer.into_ready() {
                Ok(answer) => come = Some(Come::Lease(answer)),
                Err(pending) => return Next::Wait(Waiting::Lease(pending)),
            },
            Step::Pause(pause) => return Next::Wait(Waiting::Pause(pause)),
            Step::Call => return Next::Call,
            Step::Answer(answer) => return Next::Answer(answer),
            Step::AnswerAndRefresh(answer, leased) => {
                return Next::AnswerAndRefresh(answer, leased);
            }
            Step::Wait(wait, at_most) => {
                let deadline = search.config.sleep(at_most);
                return Next::Wait(Waiting::Flight(wait, deadline));
            }
        }
    }
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Come> {
        match self {
            Self::Store(lookup) => lookup.as_mut().poll(cx).map(Come::Lookup),
            Self::Lease(lease) => lease.as_mut().poll(cx).map(Come::Lease),
            Self::Pause(pause) => pause.as_mut().poll(cx).map(|()| Come::Paused),
            Self::Flight(wait, deadline) => {
                if let Poll::Ready(landing) = Pin::new(wait).poll(cx) {
                    return Poll::Ready(Come::Landing(Some(landing)));
                }
                match deadline {
                    Some(deadline) => deadline.as_mut().poll(cx).map(|()| Come::Landing(None)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

/// Calls the handler beside the request, for the next answer.
pub(super) fn refresh<SFut, ResBody, E>(exchange: Exchange, response: SFut)
where
    SFut: Future<Output = Result<Response<ResBody>, E>> + Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    let config = Arc::clone(&exchange.config);
    let response = async { response.await.ok() };
    config.spawn(Box::pin(refreshed(exchange, response)));
}

/// The same, if the store gives the lease of the answer, and has none that is fresh by then.
pub(super) fn refresh_by_lease<S, ReqBody, ResBody>(
    mut exchange: Exchange,
    leased: StoreFuture<Lease>,
    mut ready: S,
    mut request: Request<ReqBody>,
) where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    let config = Arc::clone(&exchange.config);
    config.spawn(Box::pin(async move {
        let leased = leased.await;
        if let Ok(Lease::Busy(_)) = leased {
            // Another process makes it. For a while nobody here asks again.
            if let Some(pause) = exchange.config.sleep(PAUSE_MAX) {
                pause.await;
            }
            return;
        }
        let mut come = Come::Lease(leased);
        while let Some(mut search) = exchange.search() {
            match go_on(&mut search, Some(come), &mut request) {
                Next::Call => break,
                Next::Wait(mut waiting) => come = poll_fn(|cx| waiting.poll(cx)).await,
                Next::Answer(_) | Next::AnswerAndRefresh(..) => return,
            }
        }
        exchange.prepare(&mut request);
        let response = ready.call(request);
        refreshed(exchange, async { response.await.ok() }).await;
    }));
}

async fn refreshed<ResBody>(
    exchange: Exchange,
    response: impl Future<Output = Option<Response<ResBody>>>,
) where
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    let Some(response) = response.await else {
        // It stays stale, and is tried again by whoever comes next.
        return;
    };
    let (response, settling) = exchange.conclude(response);
    // What is being stored is stored as it is read.
    let mut body = pin!(response.into_body());
    while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
    if let Some(settling) = settling {
        let _ = settling.settled.await;
    }
}

impl<S, SFut, ReqBody, ResBody> State<S, SFut, ReqBody, ResBody> {
    #[inline(always)]
    fn answered(shown: Shown) -> Self {
        match shown {
            Shown::Whole(whole) => Self::Whole { whole: Some(whole) },
            Shown::Made(response) => Self::Answered {
                response: Some(response),
            },
        }
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
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
        }
    }

    pub(super) fn calling(exchange: Exchange, response: S::Future) -> Self {
        Self {
            state: State::Calling { response },
            exchange: Some(exchange),
        }
    }

    #[inline(always)]
    pub(super) fn answered(shown: Shown) -> Self {
        Self {
            state: State::answered(shown),
            exchange: None,
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    type Output = Result<Response<CacheBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Waiting {
                    waiting,
                    ready,
                    request,
                } => {
                    let come = ready!(waiting.poll(cx));
                    let exchange = this.exchange.as_mut().expect(ONE_END);
                    let asked = request.as_mut().expect(ONE_END);
                    let mut search = exchange.search().expect("only who asks the store waits");
                    match go_on(&mut search, Some(come), asked) {
                        Next::Wait(further) => {
                            *waiting = further;
                            continue;
                        }
                        Next::Call => {
                            exchange.prepare(asked);
                            let ready = ready.as_mut().expect(ONE_END);
                            let response = ready.call(request.take().expect(ONE_END));
                            State::Calling { response }
                        }
                        Next::Answer(answer) => State::answered(search.show(answer, asked)),
                        Next::AnswerAndRefresh(answer, leased) => {
                            let shown = search.show(answer, asked);
                            let mut exchange = this.exchange.take().expect(ONE_END);
                            let mut ready = ready.take().expect(ONE_END);
                            let mut request = request.take().expect(ONE_END);
                            match leased {
                                None => {
                                    exchange.prepare(&mut request);
                                    refresh(exchange, ready.call(request));
                                }
                                Some(leased) => {
                                    refresh_by_lease(exchange, leased, ready, request);
                                }
                            }
                            State::answered(shown)
                        }
                    }
                }
                StateProj::Calling { response } => {
                    let response = ready!(response.poll(cx));
                    let exchange = this.exchange.take().expect(ONE_END);
                    match response {
                        Ok(response) => match exchange.conclude(response) {
                            (response, None) => return Poll::Ready(Ok(response)),
                            (response, Some(settling)) => State::Settling {
                                settling,
                                response: Some(response),
                            },
                        },
                        Err(error) => match exchange.rescue() {
                            None => return Poll::Ready(Err(error)),
                            Some(response) => State::Answered {
                                response: Some(response),
                            },
                        },
                    }
                }
                StateProj::Settling { settling, response } => {
                    // A store that failed keeps what it has until that is stale.
                    let _ = ready!(Pin::new(&mut settling.settled).poll(cx));
                    let response = response.take();
                    match settling.keep.take() {
                        None => return Poll::Ready(Ok(response.expect(ONE_END))),
                        Some(keep) => State::Keeping {
                            fence: keep.ask(),
                            keep: Some(keep),
                            response,
                        },
                    }
                }
                StateProj::Keeping {
                    fence,
                    keep,
                    response,
                } => {
                    let fence = ready!(Pin::new(fence).poll(cx));
                    let (keep, response) = (keep.take().expect(ONE_END), response.take());
                    return Poll::Ready(Ok(keep.conclude(fence, response.expect(ONE_END))));
                }
                StateProj::Whole { whole } => {
                    let whole = whole.take().expect(ONE_END);
                    return Poll::Ready(Ok(whole.into_response(CacheBody::stored)));
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
