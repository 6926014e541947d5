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
    config::{Admission, ApiKeyConfig, Refused, SharedConfig},
};
use crate::core::http::body::ResponseBody;

pin_project! {
    /// The response future of [`ApiKey`](super::ApiKey).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        config: SharedConfig,
        // Next to the admission: a variant with one field is built in place.
        #[pin]
        state: AuthCallState<S, S::Future, B>,
        // Of a request that was let through, until its response.
        admission: Option<Admission>,
    }
}

pin_project! {
    #[project = StateProj]
    enum AuthCallState<S, SFut, B> {
        // Waiting => Waiting | Calling | Refused. Holds the request and the ready service during
        // the lookup.
        Waiting {
            question: AuthWait,
            ready: S,
            request: Option<Request<B>>,
        },
        // Calling => done
        Calling {
            #[pin]
            response: SFut,
        },
        // Refused => done
        Refused {
            refused: Option<Refused>,
        },
    }
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
        Self {
            config,
            state: AuthCallState::Waiting {
                question,
                ready,
                request: Some(request),
            },
            admission: None,
        }
    }

    #[inline]
    pub(super) fn calling(config: SharedConfig, admission: Admission, response: S::Future) -> Self {
        Self {
            config,
            state: AuthCallState::Calling { response },
            admission: Some(admission),
        }
    }

    pub(super) fn refused(config: SharedConfig, denied: Denied, request: &Request<B>) -> Self {
        let refused = config.refused(denied, request);
        Self {
            config,
            state: AuthCallState::Refused {
                refused: Some(refused),
            },
            admission: None,
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
                StateProj::Waiting {
                    question,
                    ready,
                    request,
                } => {
                    let reply = ready!(question.poll(cx));
                    let asked = request
                        .as_ref()
                        .expect("a waiting future holds its request");
                    match pipeline::go_on(this.config, asked, reply) {
                        AuthStep::Wait(next) => {
                            *question = next;
                            continue;
                        }
                        AuthStep::Decided(decision) => {
                            let request = request.take().expect("a request is decided once");
                            decided(this.config, decision, request, ready, this.admission)
                        }
                    }
                }
                StateProj::Calling { response } => {
                    let mut response = ready!(response.poll(cx))?.map(ResponseBody::new);
                    let admission = this.admission.take().expect("polled after it was ready");
                    this.config.mark(admission, &mut response);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Refused { refused } => {
                    let refused = refused.take().expect("polled after completion");
                    return Poll::Ready(Ok(refused.respond(this.config)));
                }
            };
            this.state.set(next);
        }
    }
}

/// Calls the inner service and sets the admission, or rejects the request.
fn decided<S, B>(
    config: &ApiKeyConfig,
    decision: Decision,
    mut request: Request<B>,
    ready: &mut S,
    admission: &mut Option<Admission>,
) -> AuthCallState<S, S::Future, B>
where
    S: Service<Request<B>>,
{
    *admission = Some(match decision {
        Decision::Admit(identity) => config.admit(&mut request, identity),
        Decision::AdmitAnonymous => config.admit_anonymous(&request),
        Decision::Refuse(denied) => {
            let refused = Some(config.refused(denied, &request));
            return AuthCallState::Refused { refused };
        }
    });
    AuthCallState::Calling {
        response: ready.call(request),
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
