//! The response, once the store has answered and the inner service has.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    config::{Answer, Config, Ruling},
    decision::Decisions,
    headers::Lines,
    policy_set::PolicySet,
    request_head::RequestHead,
};
use crate::{
    body::ResponseBody,
    error::{StoreError, StoreErrorKind},
    record::{RateLimitOutcome, RecordHandle},
    rejection::{Dialect, Rejection, Responder},
    store_future::StoreFuture,
    store_key::StoreKey,
};

pin_project! {
    /// The response of [`RateLimit`](super::RateLimit).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, B> {
        // Deciding => Calling | Rejected. The request and the ready service wait with the question.
        Deciding { deciding: Option<Box<Deciding<S, B>>> },
        // Calling => done
        Calling { #[pin] response: F, note: Note },
        // Rejected => done
        Rejected { rejected: Option<Box<Rejected>> },
    }
}

/// A request that waits for the store, or for the local one after it.
pub(super) struct Deciding<S, B> {
    pub(super) take: StoreFuture<Decisions>,
    // How the store failed, once the local one is asked.
    pub(super) failed: Option<StoreErrorKind>,
    pub(super) ready: S,
    pub(super) request: Request<B>,
    pub(super) config: Arc<Config>,
    pub(super) partition: StoreKey,
    pub(super) set: Arc<PolicySet>,
}

/// What the response is told.
#[derive(Debug, Default)]
pub(super) struct Note {
    lines: Lines,
    outcome: Option<Box<RateLimitOutcome>>,
}

/// A request that is turned away.
struct Rejected {
    rejection: Rejection,
    dialect: Dialect,
    responder: Responder,
    note: Note,
}

impl Note {
    /// Writes the outcome into the request's record, if one is kept, and notes what the response
    /// is told.
    pub(super) fn write<B>(
        request: &Request<B>,
        lines: Lines,
        outcome: impl FnOnce() -> RateLimitOutcome,
    ) -> Self {
        let Some(record) = RecordHandle::of(request.extensions()) else {
            return Self::new(lines, None);
        };
        let outcome = outcome();
        record.push_rate_limit(outcome.clone());
        Self::new(lines, Some(outcome))
    }

    /// The same for a request that is turned away: the response is told in any case.
    pub(super) fn deny<B>(request: &Request<B>, lines: Lines, outcome: RateLimitOutcome) -> Self {
        if let Some(record) = RecordHandle::of(request.extensions()) {
            record.push_rate_limit(outcome.clone());
        }
        Self::new(lines, Some(outcome))
    }

    fn new(lines: Lines, outcome: Option<RateLimitOutcome>) -> Self {
        Self {
            lines,
            outcome: outcome.map(Box::new),
        }
    }

    fn tell<B>(self, response: &mut Response<B>) {
        self.lines.append_to(response.headers_mut());
        if let Some(outcome) = self.outcome {
            // Of several limiters the innermost has the word: it is the one that came furthest.
            response.extensions_mut().get_or_insert_with(|| *outcome);
        }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn deciding(deciding: Deciding<S, B>) -> Self {
        Self {
            state: State::Deciding {
                deciding: Some(Box::new(deciding)),
            },
        }
    }

    pub(super) fn calling(response: S::Future, note: Note) -> Self {
        Self {
            state: State::Calling { response, note },
        }
    }

    pub(super) fn rejected(
        rejection: Rejection,
        dialect: Dialect,
        responder: &Responder,
        note: Note,
    ) -> Self {
        Self {
            state: State::rejected(rejection, dialect, responder, note),
        }
    }
}

impl<S, F, B> State<S, F, B> {
    fn rejected(rejection: Rejection, dialect: Dialect, responder: &Responder, note: Note) -> Self {
        Self::Rejected {
            rejected: Some(Box::new(Rejected {
                rejection,
                dialect,
                responder: responder.clone(),
                note,
            })),
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Deciding { deciding } => {
                    let waiting = deciding.as_mut().expect("polled after it was ready");
                    let answer = ready!(Pin::new(&mut waiting.take).poll(cx));
                    if let Err(error) = &answer
                        && waiting.ask_locally(error.kind())
                    {
                        continue;
                    }
                    let decided = deciding.take().expect("it has just answered");
                    decided.go_on(answer)
                }
                StateProj::Calling { response, note } => {
                    let mut response = ready!(response.poll(cx))?;
                    std::mem::take(note).tell(&mut response);
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProj::Rejected { rejected } => {
                    let rejected = rejected.take().expect("polled after it was ready");
                    return Poll::Ready(Ok(rejected.into_response()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, B> Deciding<S, B>
where
    S: Service<Request<B>>,
{
    /// Puts the question to the local store, and returns whether there is one that was not asked
    /// yet.
    fn ask_locally(&mut self, failed: StoreErrorKind) -> bool {
        // The local set has no further one behind it.
        let Some(local) = self.set.local() else {
            return false;
        };
        let head = RequestHead::of(&self.request);
        let Some(take) = self.config.take_locally(&self.partition, local, &head) else {
            return false;
        };
        let local = Arc::clone(local);
        (self.take, self.set, self.failed) = (take, local, Some(failed));
        true
    }

    fn go_on(mut self, answer: Result<Decisions, StoreError>) -> State<S, S::Future, B> {
        let Self {
            request,
            config,
            partition,
            set,
            failed,
            ..
        } = self;
        let answer = match (&answer, failed) {
            (Ok(decisions), None) => Answer::Store(decisions),
            (Ok(decisions), Some(kind)) => Answer::Local(decisions, kind),
            (Err(error), failed) => Answer::Failed(failed.unwrap_or_else(|| error.kind())),
        };
        match config.rule(answer, &partition, &set) {
            Ruling::Admit(lines) => {
                let note = Note::write(&request, lines, || config.outcome(answer, &set));
                State::Calling {
                    response: self.ready.call(request),
                    note,
                }
            }
            Ruling::Reject(rejection, lines) => {
                let note = Note::deny(&request, lines, config.outcome(answer, &set));
                State::rejected(*rejection, Dialect::of(&request), &config.responder, note)
            }
        }
    }
}

impl Rejected {
    fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let mut response = self.rejection.into_response(self.dialect, &self.responder);
        self.note.tell(&mut response);
        response
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
