//! The response future.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    admission::{
        note::{Note, RejectedRequest},
        state::{AdmissionEnd, PendingAdmission, Progress},
    },
    config::RateLimitConfig,
};
use crate::core::http::body::ResponseBody;

pin_project! {
    /// The response future of [`RateLimit`](super::RateLimit).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        // Separate from the note: a variant with a single field is constructed in place.
        #[pin]
        state: CallState<S, S::Future, B>,
        // Present for an admitted request if work remains after the response.
        note: Option<Note>,
    }
}

pin_project! {
    /// The state of one call.
    ///
    /// ```text
    /// Before => Called | completed
    /// Called => completed
    /// ```
    #[project = CallStateProj]
    enum CallState<S, F, B> {
        Before { before: BeforeCall<S, B> },
        Called { #[pin] response: F },
    }
}

/// A call that has not yet reached the inner service.
#[derive(Default)]
enum BeforeCall<S, B> {
    Pending(Box<PendingCall<S, B>>),
    Rejected(Box<RejectedRequest>),
    #[default]
    Completed,
}

/// A request with a pending admission.
pub(super) struct PendingCall<S, B> {
    admission: PendingAdmission,
    service: S,
    request: Request<B>,
    config: Arc<RateLimitConfig>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn pending(call: PendingCall<S, B>) -> Self {
        let before = BeforeCall::Pending(Box::new(call));
        Self {
            state: CallState::Before { before },
            note: None,
        }
    }

    #[inline]
    pub(super) fn plain(response: S::Future) -> Self {
        Self {
            state: CallState::Called { response },
            note: None,
        }
    }

    #[inline]
    pub(super) fn noted(response: S::Future, note: Note) -> Self {
        Self {
            state: CallState::Called { response },
            note: Some(note),
        }
    }

    pub(super) fn rejected(rejected: Box<RejectedRequest>) -> Self {
        let before = BeforeCall::Rejected(rejected);
        Self {
            state: CallState::Before { before },
            note: None,
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            match state.as_mut().project() {
                CallStateProj::Called { response } => {
                    let mut response = ready!(response.poll(cx))?.map(ResponseBody::new);
                    if let Some(note) = this.note {
                        note.apply(&mut response);
                    }
                    return Poll::Ready(Ok(response));
                }
                CallStateProj::Before { .. } => {
                    let rejected = ready!(state.as_mut().poll_before(this.note, cx))?;
                    if let Some(rejected) = rejected {
                        return Poll::Ready(Ok(rejected.into_response()));
                    }
                }
            }
        }
    }
}

impl<S, B> CallState<S, S::Future, B>
where
    S: Service<Request<B>> + Clone,
{
    /// Continues the admission. If the request is admitted, calls the inner service and sets the
    /// note. Otherwise, returns the rejection.
    // Kept out of the stack frame of `poll`, because nearly all requests skip it.
    #[inline(never)]
    fn poll_before(
        mut self: Pin<&mut Self>,
        note: &mut Option<Note>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Box<RejectedRequest>>, S::Error>> {
        let CallStateProj::Before { before } = self.as_mut().project() else {
            return Poll::Ready(Ok(None));
        };
        let mut call = match mem::take(before) {
            BeforeCall::Pending(call) => call,
            BeforeCall::Rejected(rejected) => return Poll::Ready(Ok(Some(rejected))),
            BeforeCall::Completed => panic!("`ResponseFuture` polled after completion"),
        };
        let Poll::Ready(end) = call.poll(cx)? else {
            *before = BeforeCall::Pending(call);
            return Poll::Pending;
        };
        Poll::Ready(Ok(match end {
            AdmissionEnd::Reject(rejected) => Some(rejected),
            AdmissionEnd::Admit(admitted) => {
                *note = Some(admitted);
                let response = call.service.call(call.request);
                self.set(CallState::Called { response });
                None
            }
        }))
    }
}

impl<S: Clone, B> PendingCall<S, B> {
    /// Creates the future for a call to a ready service.
    pub(super) fn new(
        admission: PendingAdmission,
        service: S,
        request: Request<B>,
        config: &Arc<RateLimitConfig>,
    ) -> Self {
        Self {
            service: match admission.is_queued() {
                true => unready(&service),
                false => service,
            },
            admission,
            request,
            config: Arc::clone(config),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AdmissionEnd, S::Error>>
    where
        S: Service<Request<B>>,
    {
        loop {
            let (config, request, service) = (&self.config, &mut self.request, &mut self.service);
            match ready!(self.admission.poll(cx, config, request, service))? {
                Progress::Wait(next) => self.wait(next),
                Progress::End(end) => return Poll::Ready(Ok(end)),
            }
        }
    }

    fn wait(&mut self, next: PendingAdmission) {
        if next.is_queued() {
            self.service = unready(&self.service);
        }
        self.admission = next;
    }
}

/// Returns a clone of the service that is not ready. A ready service can hold a permit, and a
/// queued request must not hold one.
fn unready<S: Clone>(ready: &S) -> S {
    ready.clone()
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
