//! The transitions of the future of a response.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::state::{HeldCall, ONE_END, ResponseState};
use crate::{
    cache::{
        exchange::{
            conclusion::Conclusion, exchange::Exchange, settling::PostFill, stand_in::StandIn,
        },
        fill::{body::CacheBody, relay::RelayReader},
        flight::single_flight::Wait,
        lookup::{
            refresh::refresh,
            step::{LookupEvent, LookupOutcome, LookupWait},
        },
        store::Lookup,
    },
    core::{
        error::{BoxError, StoreError},
        runtime::Task,
    },
};

/// The next state of a request, or its end.
pub(super) type Turned<S, SFut, E, ReqBody, ResBody> = ControlFlow<
    Result<Response<CacheBody<ResBody>>, E>,
    ResponseState<S, SFut, E, ReqBody, ResBody>,
>;

/// Takes the end of a call of the handler.
#[inline(always)]
pub(super) fn called<S, SFut, E, ReqBody, ResBody>(
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
        Some(stand_in) => Continue(ResponseState::standing_in(stand_in, Err(error))),
    }
}

/// Calls the handler again, unless it has failed.
pub(super) fn called_again<S, ReqBody, ResBody>(
    ready: Result<(), S::Error>,
    service: &mut S,
    request: &mut Option<Request<ReqBody>>,
    exchange: &mut Option<Exchange>,
) -> Turned<S, S::Future, S::Error, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    match ready {
        Err(error) => failed(error, exchange),
        Ok(()) => {
            let response = service.call(request.take().expect(ONE_END));
            Continue(ResponseState::Calling { response })
        }
    }
}

/// Takes the stored response that the handler's one may invalidate.
pub(super) fn looked_up<S, SFut, E, ReqBody, ResBody>(
    found: Result<Lookup, StoreError>,
    response: &mut Option<Response<ResBody>>,
    exchange: &mut Option<Exchange>,
    cx: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody>
where
    ReqBody: 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let own = exchange.take().expect(ONE_END);
    let response = response.take().expect(ONE_END);
    concluded(own.conclude_after(found, response, cx), exchange)
}

/// Sends the stale response, or the failure if the store no longer has it.
pub(super) fn stood_in<S, SFut, E, ReqBody, ResBody: Body>(
    found: Result<Lookup, StoreError>,
    stand_in: StandIn,
    failure: Result<Response<CacheBody<ResBody>>, E>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match stand_in.conclude(found) {
        None => Break(failure),
        Some(response) => Continue(ResponseState::made(response)),
    }
}

/// Goes on once a body is read into the store: the client is answered from there.
pub(super) fn has_read<S, SFut, E, ReqBody: 'static, ResBody: Body>(
    exchange: &mut Option<Exchange>,
    wait: Option<Wait>,
) -> ResponseState<S, SFut, E, ReqBody, ResBody> {
    let exchange = exchange.as_mut().expect(ONE_END);
    let config = &exchange.config;
    let deadline = config.sleep(config.wait_at_most);
    ResponseState::Waiting {
        waiting: LookupWait::Flight(wait.expect(ONE_END), deadline),
        held: HeldCall {
            ready: None,
            request: exchange.client_request(),
        },
    }
}

/// Goes on once the store has taken note of a response.
pub(super) fn settled<S, SFut, E, ReqBody, ResBody: Body>(
    keep: Option<Box<PostFill>>,
    response: Response<CacheBody<ResBody>>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match keep {
        None => Break(Ok(response)),
        Some(keep) => Continue(ResponseState::Keeping {
            fence: keep.ask(),
            rest: Some((keep, response)),
        }),
    }
}

/// The next state of a request after a wait, unless it waits further.
type Resumed<S, ReqBody, ResBody> = Option<
    ResponseState<
        S,
        <S as Service<Request<ReqBody>>>::Future,
        <S as Service<Request<ReqBody>>>::Error,
        ReqBody,
        ResBody,
    >,
>;

/// Goes on after a wait. Returns nothing if the request waits further.
pub(super) fn resumed<S, ReqBody, ResBody>(
    event: LookupEvent,
    waiting: &mut LookupWait,
    held: &mut HeldCall<S, ReqBody>,
    exchange: &mut Option<Exchange>,
    service: &mut Option<Box<S>>,
) -> Resumed<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let HeldCall { ready, request } = held;
    let asked = request.as_mut().expect(ONE_END);
    let waiter = exchange.as_mut().expect(ONE_END);
    let mut search = waiter
        .search()
        .expect("only a request that is looked up waits");
    match search.go_on(Some(event), asked) {
        LookupOutcome::Wait(further) => {
            *waiting = further;
            None
        }
        LookupOutcome::Answer(answer) => Some(ResponseState::answered(search.show(answer, asked))),
        LookupOutcome::Call => {
            waiter.prepare(asked);
            let request = request.take().expect(ONE_END);
            match ready.take() {
                Some(ready) => Some(ResponseState::Calling {
                    response: service.insert(Box::new(ready)).call(request),
                }),
                None => Some(ResponseState::readying(request)),
            }
        }
        LookupOutcome::ServeAndRefresh(stale, leased) => {
            let exchange = exchange.take().expect(ONE_END);
            let ready = ready
                .take()
                .or_else(|| service.take().map(|service| *service));
            let (service, request) = (ready.expect(ONE_END), request.take().expect(ONE_END));
            refresh(exchange, leased, service, request);
            Some(ResponseState::made(*stale))
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
        Conclusion::Send(response, Some(settling)) => Continue(ResponseState::Settling {
            settling,
            response: Some(response),
        }),
        Conclusion::Read(own, body, wait) => {
            let next = ResponseState::reading(&own.config, body, wait);
            *exchange = Some(own);
            Continue(next)
        }
        Conclusion::AskAgain(mut own) => {
            let request = own.ask_again();
            *exchange = Some(own);
            Continue(ResponseState::Readying { request })
        }
        Conclusion::LookUp(own, response, found) => {
            *exchange = Some(own);
            Continue(ResponseState::LookingUp {
                found,
                response: Some(response),
            })
        }
        Conclusion::StandIn(stand_in, response) => {
            Continue(ResponseState::standing_in(stand_in, Ok(response)))
        }
    }
}

/// Reads a body while it is being stored, or for as long as others would wait for it.
pub(super) fn read<B>(
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

/// Sends a response whose body another request stores.
pub(super) fn streamed<B: Body>(
    response: &mut Option<Box<Response<(RelayReader, Wait)>>>,
) -> Response<CacheBody<B>> {
    let response = response.take().expect(ONE_END);
    response.map(|(reader, wait)| CacheBody::streamed(reader, wait))
}
