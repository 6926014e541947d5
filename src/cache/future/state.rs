//! The states of the future of a response.

use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    cache::{
        config::Config,
        exchange::{
            settling::{PostFill, Settling},
            stand_in::StandIn,
        },
        fill::{body::CacheBody, relay::RelayReader},
        flight::single_flight::Wait,
        lookup::{served::ServedResponse, shown::Whole, step::LookupWait},
        store::Lookup,
    },
    core::{runtime::Task, store_api::store_future::StoreFuture},
};

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
    #[project = ResponseStateProj]
    pub(super) enum ResponseState<S, SFut, E, ReqBody, ResBody>
    where
        ResBody: Body,
    {
        Waiting { waiting: LookupWait, held: HeldCall<S, ReqBody> },
        Calling { #[pin] response: SFut },
        // The handler is called again.
        Readying { request: Option<Request<ReqBody>> },
        // The store is asked for what the response may invalidate.
        LookingUp { found: StoreFuture<Lookup>, response: Option<Response<ResBody>> },
        // The body is read into the store, from where the client is answered.
        Reading {
            body: Pin<Box<CacheBody<ResBody>>>,
            wait: Option<Wait>,
            until: Option<Task>,
        },
        // The origin failed: a stale response stands in, if the store still has it.
        StandingIn {
            found: StoreFuture<Lookup>,
            // The stale response, and the failure that is sent without it.
            rest: Option<(Box<StandIn>, Result<Response<CacheBody<ResBody>>, E>)>,
        },
        // The response waits until what it invalidates is gone.
        Settling { settling: Settling, response: Option<Response<CacheBody<ResBody>>> },
        // The response waits until it may be stored.
        Keeping {
            fence: StoreFuture<Lookup>,
            rest: Option<(Box<PostFill>, Response<CacheBody<ResBody>>)>,
        },
        Answered { response: Option<Response<Bytes>> },
        Whole { whole: Option<Whole> },
        // The body of another request's response, while that is being stored.
        Streamed { response: Option<Box<Response<(RelayReader, Wait)>>> },
    }
}

impl<S, SFut, E, ReqBody, ResBody: Body> ResponseState<S, SFut, E, ReqBody, ResBody> {
    #[inline(always)]
    pub(super) fn answered(shown: ServedResponse) -> Self {
        match shown {
            ServedResponse::Whole(whole) => Self::Whole { whole: Some(whole) },
            ServedResponse::Made(response) => Self::made(response),
            ServedResponse::Streamed(response) => Self::Streamed {
                response: Some(response),
            },
        }
    }

    pub(super) fn made(response: Response<Bytes>) -> Self {
        Self::Answered {
            response: Some(response),
        }
    }

    pub(super) fn readying(request: Request<ReqBody>) -> Self {
        Self::Readying {
            request: Some(request),
        }
    }

    pub(super) fn reading(config: &Config, body: CacheBody<ResBody>, wait: Wait) -> Self {
        Self::Reading {
            body: Box::pin(body),
            wait: Some(wait),
            until: config.sleep(config.wait_at_most),
        }
    }

    pub(super) fn standing_in(
        stand_in: StandIn,
        failure: Result<Response<CacheBody<ResBody>>, E>,
    ) -> Self {
        Self::StandingIn {
            found: stand_in.look_up(),
            rest: Some((Box::new(stand_in), failure)),
        }
    }
}

/// The call of the handler that a request waits with.
pub(super) struct HeldCall<S, ReqBody> {
    /// The service that was polled ready. Once it has been called, there is none.
    pub(super) ready: Option<S>,
    pub(super) request: Option<Request<ReqBody>>,
}

pub(super) const ONE_END: &str = "a future is polled until it is ready, and no further";
