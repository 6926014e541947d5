//! The response future of the API-key service.

pub use super::authenticate::require_scopes::RequireScopesFuture;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    authenticate::{
        pipeline::{self, AuthStep, AuthWait, Decision},
        rejection::Denied,
    },
    config::{Admission, Refused, SharedConfig},
};
use crate::core::http::body::ResponseBody;

pin_project! {
    /// The response future of [`ApiKey`](super::ApiKey).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        // Next to the admitted request: a variant with one field is built in place.
        #[pin]
        state: AuthCallState<S, S::Future, B>,
        // The admitted request, until its response. Absent if requests pass unauthenticated.
        admitted: Option<AdmittedCall>,
    }
}

pin_project! {
    #[project = StateProj]
    enum AuthCallState<S, SFut, B> {
        // Waiting => Waiting | Calling | Refused.
        Waiting {
            question: AuthWait,
            held: Option<WaitingCall<S, B>>,
        },
        // Calling => done
        Calling {
            #[pin]
            response: SFut,
        },
        // Refused => done
        Refused {
            refused: Option<RefusedCall>,
        },
    }
}

/// A request and the service that is ready for it, during the lookup.
struct WaitingCall<S, B> {
    config: SharedConfig,
    ready: S,
    request: Request<B>,
}

/// An admitted request.
struct AdmittedCall {
    config: SharedConfig,
    admission: Admission,
}

/// A rejected request.
struct RefusedCall {
    config: SharedConfig,
    refused: Refused,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn waiting(
        config: SharedConfig,
        question: AuthWait,
        ready: S,
        request: Request<B>,
    ) -> Self {
        let held = Some(WaitingCall {
            config,
            ready,
            request,
        });
        Self {
            state: AuthCallState::Waiting { question, held },
            admitted: None,
        }
    }

    #[inline]
    pub(super) fn calling(config: SharedConfig, admission: Admission, response: S::Future) -> Self {
        Self {
            state: AuthCallState::Calling { response },
            admitted: Some(AdmittedCall { config, admission }),
        }
    }

    /// Creates a future that passes on the inner service's response.
    #[inline]
    pub(super) fn passing(response: S::Future) -> Self {
        Self {
            state: AuthCallState::Calling { response },
            admitted: None,
        }
    }

    pub(super) fn refused(config: SharedConfig, denied: Denied, request: &Request<B>) -> Self {
        Self {
            state: AuthCallState::refused(config, denied, request),
            admitted: None,
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Waiting { question, held } => {
                    let reply = ready!(question.poll(cx));
                    let call = held.as_ref().expect(IS_HELD);
                    match pipeline::go_on(&call.config, &call.request, reply) {
                        AuthStep::Wait(next) => {
                            *question = next;
                            continue;
                        }
                        AuthStep::Decided(decision) => {
                            let call = held.take().expect(IS_HELD);
                            call.decided(decision, this.admitted)
                        }
                    }
                }
                StateProj::Calling { response } => {
                    let mut response = ready!(response.poll(cx))?.map(ResponseBody::new);
                    if let Some(AdmittedCall { config, admission }) = this.admitted.take() {
                        config.mark(admission, &mut response);
                    }
                    return Poll::Ready(Ok(response));
                }
                StateProj::Refused { refused } => {
                    let refused = refused.take().expect("polled after completion");
                    return Poll::Ready(Ok(refused.refused.respond(&refused.config)));
                }
            };
            this.state.set(next);
        }
    }
}

const IS_HELD: &str = "a waiting future holds its request";

impl<S, B> WaitingCall<S, B>
where
    S: Service<Request<B>>,
{
    /// Calls the inner service and sets the admitted request, or rejects the request.
    fn decided(
        mut self,
        decision: Decision,
        admitted: &mut Option<AdmittedCall>,
    ) -> AuthCallState<S, S::Future, B> {
        let config = self.config;
        let admission = match decision {
            Decision::Admit(identity) => config.admit(&mut self.request, identity),
            Decision::AdmitAnonymous => config.admit_anonymous(&self.request),
            Decision::Refuse(denied) => {
                return AuthCallState::refused(config, denied, &self.request);
            }
        };
        *admitted = Some(AdmittedCall { config, admission });
        AuthCallState::Calling {
            response: self.ready.call(self.request),
        }
    }
}

impl<S, SFut, B> AuthCallState<S, SFut, B> {
    fn refused(config: SharedConfig, denied: Denied, request: &Request<B>) -> Self {
        let refused = config.refused(denied, request);
        Self::Refused {
            refused: Some(RefusedCall { config, refused }),
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            AuthCallState::Waiting { .. } => "ResponseFuture(waiting)",
            AuthCallState::Calling { .. } => "ResponseFuture(calling)",
            AuthCallState::Refused { .. } => "ResponseFuture(refused)",
        })
    }
}
