//! The response, once the store has answered and the inner service has.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    config::{Answer, Config, Ruling, too_many_wait},
    decision::Decisions,
    headers::Lines,
    paid::{Costs, Deposit},
    policy_set::PolicySet,
    request_head::RequestHead,
    waiting::Waiter,
};
use crate::{
    body::ResponseBody,
    error::{StoreError, StoreErrorKind},
    record::{RateLimitDecision, RateLimitOutcome, RecordHandle},
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
        // Deciding => Waiting | Calling | Rejected. The request and the ready service wait with the question.
        Deciding { deciding: Option<Box<Deciding<S, B>>> },
        // Waiting => Calling. For its turn, and then for the inner service to be ready.
        Waiting { waiting: Option<Box<Waiting<S, B>>> },
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
    // Of a request that may have to wait for its turn.
    pub(super) costs: Option<Costs>,
}

/// A request that waits for its turn.
struct Waiting<S, B> {
    stage: Stage,
    // A clone that holds nothing meanwhile: it is made ready once the turn has come.
    next: S,
    request: Request<B>,
    note: Note,
}

enum Stage {
    InLine(Waiter),
    Called(Deposit),
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
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
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
                StateProj::Waiting { waiting } => {
                    let in_line = waiting.as_mut().expect("polled after it was ready");
                    ready!(in_line.poll_turn(cx))?;
                    let turn = waiting.take().expect("its turn has just come");
                    turn.go_on()
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
    S: Service<Request<B>> + Clone,
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
        if let Some(costs) = &mut self.costs {
            *costs = self.config.costs(&local, &head);
        }
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
            costs,
            ..
        } = self;
        let answer = match (&answer, failed) {
            (Ok(decisions), None) => Answer::Store(decisions),
            (Ok(decisions), Some(kind)) => Answer::Local(decisions, kind),
            (Err(error), failed) => Answer::Failed(failed.unwrap_or_else(|| error.kind())),
        };
        match config.rule(answer, &partition, &set) {
            Ruling::Admit(lines) => {
                let turn = costs.and_then(|costs| config.turn(answer, partition, &set, &costs));
                if let Some((line, paid, delay)) = turn {
                    let outcome = config.outcome(answer, &set);
                    let Some(waiter) = line.join(paid, delay) else {
                        return crowded(&config, &request, outcome, delay);
                    };
                    let outcome = || RateLimitOutcome {
                        delayed: delay,
                        ..outcome
                    };
                    return State::Waiting {
                        waiting: Some(Box::new(Waiting {
                            note: Note::write(&request, lines, outcome),
                            stage: Stage::InLine(waiter),
                            // What was polled ready may hold a permit: none is held in the line.
                            next: self.ready.clone(),
                            request,
                        })),
                    };
                }
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

/// Turns a request away that would have to wait among too many.
fn crowded<S, F, B>(
    config: &Config,
    request: &Request<B>,
    outcome: RateLimitOutcome,
    delay: Duration,
) -> State<S, F, B> {
    let outcome = RateLimitOutcome {
        decision: RateLimitDecision::Denied,
        ..outcome
    };
    let note = Note::deny(request, Lines::None, outcome);
    let dialect = Dialect::of(request);
    State::rejected(too_many_wait(delay), dialect, &config.responder, note)
}

impl<S, B> Waiting<S, B>
where
    S: Service<Request<B>>,
{
    /// Waits for the turn, and then for the inner service to be ready.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if let Stage::InLine(waiter) = &mut self.stage {
            let deposit = ready!(Pin::new(waiter).poll(cx));
            self.stage = Stage::Called(deposit);
        }
        self.next.poll_ready(cx)
    }

    fn go_on(mut self) -> State<S, S::Future, B> {
        if let Stage::Called(deposit) = &mut self.stage {
            deposit.keep();
        }
        State::Calling {
            response: self.next.call(self.request),
            note: self.note,
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
