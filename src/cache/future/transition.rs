//! The transitions of the response future.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    task::Context,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    carry::Carry,
    reading::Reading,
    state::{HandlerCall, HeldCall, HeldService, OriginFailure, ResponseState},
};
use crate::{
    cache::{
        exchange::{
            conclusion::Conclusion,
            exchange::Exchange,
            settling::{PostFill, Settling},
            stand_in::StandIn,
        },
        fill::body::CacheBody,
        flight::single_flight::Wait,
        lookup::{
            refresh::refresh,
            step::{LookupEvent, LookupOutcome, LookupWait},
        },
        store::{Lease, Lookup},
    },
    core::{
        error::{BoxError, StoreError},
        store_api::store_future::StoreFuture,
    },
};

/// The next state of a request, or its result.
pub(super) type Turned<S, SFut, E, ReqBody, ResBody> = ControlFlow<
    Result<Response<CacheBody<ResBody>>, E>,
    ResponseState<S, SFut, E, ReqBody, ResBody>,
>;

/// The next state of a request to a service.
type NextState<S, ReqBody, ResBody> = ResponseState<
    S,
    <S as Service<Request<ReqBody>>>::Future,
    <S as Service<Request<ReqBody>>>::Error,
    ReqBody,
    ResBody,
>;

/// Continues after a wait.
pub(super) fn resumed<S, ReqBody, ResBody>(
    event: LookupEvent,
    mut held: HeldCall<S, ReqBody>,
) -> NextState<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let Some(mut search) = held.exchange.search() else {
        return call_held(held);
    };
    match search.go_on(Some(event), &mut held.request) {
        LookupOutcome::Response(response) => {
            ResponseState::served(search.show(response, &held.request))
        }
        LookupOutcome::Wait(waiting) => ResponseState::waiting(waiting, held),
        LookupOutcome::Call => call_held(held),
        LookupOutcome::ServeAndRefresh(stale, leased) => serve_and_refresh(*stale, leased, held),
    }
}

/// Calls the handler for a request that has waited.
fn call_held<S, ReqBody, ResBody>(held: HeldCall<S, ReqBody>) -> NextState<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: 'static,
    ResBody: Body,
{
    let HeldCall {
        mut exchange,
        service,
        mut request,
    } = held;
    exchange.prepare(&mut request);
    match service {
        HeldService::Ready(service) => {
            let mut service = Box::new(service);
            let response = service.call(request);
            let service = Some(service);
            ResponseState::calling(response, HandlerCall { exchange, service })
        }
        HeldService::Called(service) => ResponseState::readying(service, exchange, request),
    }
}

/// Sends a stale response, and refreshes it in the background.
pub(super) fn serve_and_refresh<S, ReqBody, ResBody>(
    stale: Response<Bytes>,
    leased: Option<StoreFuture<Lease>>,
    held: HeldCall<S, ReqBody>,
) -> NextState<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let service = held.service.into_inner();
    refresh(held.exchange, leased, service, held.request);
    ResponseState::made(stale)
}

/// Handles the result of a handler call.
#[inline(always)]
pub(super) fn called<S, SFut, E, ReqBody, ResBody>(
    response: Result<Response<ResBody>, E>,
    call: HandlerCall<S>,
    cx: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody>
where
    ReqBody: 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    match response {
        Ok(response) => concluded(call.exchange.conclude(response, cx), call.service),
        Err(error) => failed(error, call.exchange),
    }
}

/// Handles an error of the handler. A stale response may be served instead.
fn failed<S, SFut, E, ReqBody, ResBody: Body>(
    error: E,
    exchange: Exchange,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match exchange.rescue() {
        None => Break(Err(error)),
        Some(stand_in) => Continue(ResponseState::standing_in(stand_in, Err(error))),
    }
}

/// Calls the handler again, unless it has failed.
pub(super) fn called_again<S, ReqBody, ResBody>(
    ready: Result<(Box<S>, Request<ReqBody>), S::Error>,
    exchange: Exchange,
    _: &mut Context<'_>,
) -> Turned<S, S::Future, S::Error, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    match ready {
        Err(error) => failed(error, exchange),
        Ok((mut service, request)) => {
            let response = service.call(request);
            let service = Some(service);
            let call = HandlerCall { exchange, service };
            Continue(ResponseState::calling(response, call))
        }
    }
}

/// Handles the lookup of the stored response that the handler's response may invalidate.
pub(super) fn looked_up<S, SFut, E, ReqBody, ResBody>(
    found: Result<Lookup, StoreError>,
    (call, response): (HandlerCall<S>, Response<ResBody>),
    cx: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody>
where
    ReqBody: 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let conclusion = call.exchange.conclude_after(found, response, cx);
    concluded(conclusion, call.service)
}

/// Returns the stale response, or the failure if it is no longer stored.
pub(super) fn stood_in<S, SFut, E, ReqBody, ResBody: Body>(
    found: Result<Lookup, StoreError>,
    (stand_in, failure): (Box<StandIn>, OriginFailure<ResBody, E>),
    _: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match stand_in.conclude(found) {
        None => Break(failure),
        Some(response) => Continue(ResponseState::made(response)),
    }
}

/// Continues after a body is read into the store: the client is served from there.
pub(super) fn has_read<S, SFut, E, ReqBody: 'static, ResBody: Body>(
    (): (),
    (exchange, service, wait): (Exchange, Box<S>, Wait),
    _: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    let config = &exchange.config;
    let deadline = config.sleep(config.max_wait);
    let held = HeldCall {
        request: exchange.client_request().expect(IS_KEPT),
        service: HeldService::Called(service),
        exchange,
    };
    let waiting = LookupWait::Flight(wait, deadline);
    Continue(ResponseState::waiting(waiting, held))
}

/// Continues after the writes to the store. If the writes fail, the store retains its entries until
/// the entries are stale.
pub(super) fn settled<S, SFut, E, ReqBody, ResBody: Body>(
    _: Result<(), StoreError>,
    (keep, response): (Option<Box<PostFill>>, Response<CacheBody<ResBody>>),
    _: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match keep {
        None => Break(Ok(response)),
        Some(keep) => Continue(ResponseState::Keeping {
            fence: Carry::new(keep.ask(), (keep, response)),
        }),
    }
}

/// Returns a response, and stores it if the store's reply allows it.
pub(super) fn kept<S, SFut, E, ReqBody, ResBody>(
    fence: Result<Lookup, StoreError>,
    (keep, response): (Box<PostFill>, Response<CacheBody<ResBody>>),
    cx: &mut Context<'_>,
) -> Turned<S, SFut, E, ReqBody, ResBody>
where
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    Break(Ok(keep.conclude(fence, response, cx)))
}

/// Returns the next state after a conclusion.
#[inline(always)]
fn concluded<S, SFut, E, ReqBody: 'static, ResBody: Body>(
    conclusion: Conclusion<ResBody>,
    service: Option<Box<S>>,
) -> Turned<S, SFut, E, ReqBody, ResBody> {
    match conclusion {
        Conclusion::Send(response, None) => Break(Ok(response)),
        Conclusion::Send(response, Some(Settling { settled, keep })) => {
            let settled = Carry::new(settled, (keep, response));
            Continue(ResponseState::Settling { settled })
        }
        Conclusion::Read(exchange, body, wait) => {
            let reading = Reading::new(&exchange.config, body);
            let service = service.expect(IS_KEPT);
            Continue(ResponseState::Reading {
                read: Carry::new(reading, (exchange, service, wait)),
            })
        }
        Conclusion::AskAgain(mut exchange) => {
            let request = exchange.ask_again().expect(IS_KEPT);
            let service = service.expect(IS_KEPT);
            Continue(ResponseState::readying(service, exchange, request))
        }
        Conclusion::LookUp(exchange, response, found) => {
            let call = HandlerCall { exchange, service };
            Continue(ResponseState::LookingUp {
                found: Carry::new(found, (call, response)),
            })
        }
        Conclusion::StandIn(stand_in, response) => {
            Continue(ResponseState::standing_in(stand_in, Ok(response)))
        }
    }
}

/// See [`Exchange::may_ask_again`]: otherwise no conclusion repeats the request.
const IS_KEPT: &str = "a repeatable request is retained together with its service";
