//! The states of the response future.

use std::future::{Ready, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{carry::Carry, reading::Reading, readying::Readying};
use crate::{
    cache::{
        exchange::{exchange::Exchange, settling::PostFill, stand_in::StandIn},
        fill::{body::CacheBody, relay::RelayReader},
        flight::single_flight::Wait,
        lookup::{served::ServedResponse, shown::Whole, step::LookupWait},
        store::Lookup,
    },
    core::store_api::store_future::StoreFuture,
};

/// A response or an error from the origin that a stale response may replace.
pub(super) type OriginFailure<ResBody, E> = Result<Response<CacheBody<ResBody>>, E>;

pin_project! {
    // Waiting  => Waiting | Calling | Readying | Answered | Whole | Streamed
    // Calling  => Settling | Reading | Readying | LookingUp | StandingIn | done
    // LookingUp => as Calling
    // Readying => Calling | StandingIn | done
    // Reading  => Waiting
    // StandingIn => Answered | done
    // Settling => Keeping | done
    // Keeping  => done
    // Answered, Whole, Streamed, Passing => done
    #[project = ResponseStateProj]
    pub(super) enum ResponseState<S, SFut, E, ReqBody, ResBody>
    where
        ResBody: Body,
    {
        Waiting { #[pin] waiting: Carry<LookupWait, HeldCall<S, ReqBody>> },
        Calling { #[pin] response: Carry<SFut, HandlerCall<S>> },
        // The handler is called again.
        Readying { #[pin] ready: Carry<Readying<S, ReqBody>, Exchange> },
        // The stored response that this one may invalidate is looked up.
        LookingUp { #[pin] found: Carry<StoreFuture<Lookup>, (HandlerCall<S>, Response<ResBody>)> },
        // The body is read into the store, from which the client is then served.
        Reading { #[pin] read: Carry<Reading<ResBody>, (Exchange, Box<S>, Wait)> },
        // The origin failed. The stale response is served if it is still stored, and the failure
        // otherwise.
        StandingIn {
            #[pin]
            found: Carry<StoreFuture<Lookup>, (Box<StandIn>, OriginFailure<ResBody, E>)>,
        },
        // The response waits until the entries that it invalidates are removed.
        Settling {
            #[pin]
            settled: Carry<StoreFuture<()>, (Option<Box<PostFill>>, Response<CacheBody<ResBody>>)>,
        },
        // The response waits for the fence under which it is stored.
        Keeping {
            #[pin]
            fence: Carry<StoreFuture<Lookup>, (Box<PostFill>, Response<CacheBody<ResBody>>)>,
        },
        // The service has no configuration.
        Passing { #[pin] response: SFut },
        Answered { response: Ready<Response<Bytes>> },
        Whole { whole: Ready<Whole> },
        // The body of another request's response that is being stored.
        Streamed { response: Ready<Box<Response<(RelayReader, Wait)>>> },
    }
}

impl<S, SFut, E, ReqBody, ResBody: Body> ResponseState<S, SFut, E, ReqBody, ResBody> {
    #[inline(always)]
    pub(super) fn served(served: ServedResponse) -> Self {
        match served {
            ServedResponse::Whole(whole) => Self::Whole {
                whole: ready(whole),
            },
            ServedResponse::Made(response) => Self::made(response),
            ServedResponse::Streamed(response) => Self::Streamed {
                response: ready(response),
            },
        }
    }

    #[inline(always)]
    pub(super) fn made(response: Response<Bytes>) -> Self {
        Self::Answered {
            response: ready(response),
        }
    }

    pub(super) fn waiting(waiting: LookupWait, held: HeldCall<S, ReqBody>) -> Self {
        Self::Waiting {
            waiting: Carry::new(waiting, held),
        }
    }

    #[inline(always)]
    pub(super) fn calling(response: SFut, call: HandlerCall<S>) -> Self {
        Self::Calling {
            response: Carry::new(response, call),
        }
    }

    pub(super) fn readying(service: Box<S>, exchange: Exchange, request: Request<ReqBody>) -> Self {
        Self::Readying {
            ready: Carry::new(Readying::new(service, request), exchange),
        }
    }

    pub(super) fn standing_in(stand_in: StandIn, failure: OriginFailure<ResBody, E>) -> Self {
        Self::StandingIn {
            found: Carry::new(stand_in.look_up(), (Box::new(stand_in), failure)),
        }
    }
}

/// A call to the handler that has not been made yet.
pub(super) struct HeldCall<S, ReqBody> {
    pub(super) exchange: Exchange,
    pub(super) service: HeldService<S>,
    pub(super) request: Request<ReqBody>,
}

/// The service for a call that has not been made yet.
pub(super) enum HeldService<S> {
    /// It is ready.
    Ready(S),
    /// It has been called, and must be polled ready again.
    Called(Box<S>),
}

/// A call to the handler.
pub(super) struct HandlerCall<S> {
    pub(super) exchange: Exchange,
    /// Present if the request may be repeated.
    pub(super) service: Option<Box<S>>,
}

impl<S, ReqBody> HeldCall<S, ReqBody> {
    /// Creates a call to a service that is ready.
    pub(super) fn ready(exchange: Exchange, service: S, request: Request<ReqBody>) -> Self {
        Self {
            exchange,
            service: HeldService::Ready(service),
            request,
        }
    }
}

impl<S> HeldService<S> {
    pub(super) fn into_inner(self) -> S {
        match self {
            Self::Ready(service) => service,
            Self::Called(service) => *service,
        }
    }
}
