//! The response, once the store has answered and the inner service has.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Extensions, Request, Response, Version};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    config::{Answer, Config, Plan, Policies, Ruling, skipped, too_many_wait},
    decision::Decisions,
    headers::Lines,
    paid::{Costs, Deposit},
    policy_set::{PolicyList, PolicySet},
    request_head::RequestHead,
    settlement::Bill,
    waiting::Waiter,
};
use crate::{
    body::ResponseBody,
    error::{StoreError, StoreErrorKind},
    record::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rejection::{Dialect, Rejection, Responder, meant_status},
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
        // Choosing => Deciding | Calling | Rejected. The request waits for its policies.
        Choosing { choosing: Option<Box<Choosing<S, B>>> },
        // Deciding => Waiting | Calling | Rejected. The request and the ready service wait with the question.
        Deciding { deciding: Option<Box<Deciding<S, B>>> },
        // Waiting => Calling. For its turn, and then for the inner service to be ready.
        Waiting { waiting: Option<Box<Waiting<S, B>>> },
        // Plain => done. Nothing is told, and nothing is left to do: what nearly all requests are.
        Plain { #[pin] response: F },
        // Calling => done
        Calling { #[pin] response: F, note: Note },
        // Rejected => done
        Rejected { rejected: Option<Box<Rejected>> },
    }
}

/// A request that waits to be told its policies.
struct Choosing<S, B> {
    policies: Policies,
    ready: S,
    request: Request<B>,
    config: Arc<Config>,
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
    settles: bool,
    suspect: Option<Suspect>,
}

enum Stage {
    InLine(Waiter),
    Called(Deposit),
}

/// What the response is told, and what is left to do once it is there.
#[derive(Debug, Default)]
pub(super) struct Note {
    lines: Lines,
    after: Option<Box<After>>,
}

#[derive(Debug, Default)]
struct After {
    outcome: Option<RateLimitOutcome>,
    // Settled when it is dropped.
    bill: Option<Bill>,
    suspect: Option<Suspect>,
}

/// The partition to count a denial of if the response is that of a failed authentication.
struct Suspect {
    config: Arc<Config>,
    partition: StoreKey,
    subject: Arc<str>,
    version: Version,
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
    #[inline]
    pub(super) fn write(
        extensions: &Extensions,
        lines: Lines,
        outcome: impl FnOnce() -> RateLimitOutcome,
    ) -> Self {
        let Some(record) = RecordHandle::of(extensions) else {
            return Self { lines, after: None };
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
        let after = outcome.map(|outcome| {
            Box::new(After {
                outcome: Some(outcome),
                ..After::default()
            })
        });
        Self { lines, after }
    }

    /// Adds what the response is told in any case.
    fn telling(mut self, outcome: Option<RateLimitOutcome>) -> Self {
        if let Some(outcome) = outcome {
            self.after
                .get_or_insert_default()
                .outcome
                .get_or_insert(outcome);
        }
        self
    }

    /// Adds what is left to do once the response is there.
    fn follow_up(&mut self, bill: Option<Bill>, suspect: Option<Suspect>) {
        if bill.is_some() || suspect.is_some() {
            let after = self.after.get_or_insert_default();
            (after.bill, after.suspect) = (bill, suspect);
        }
    }

    /// Tells the response, and does what is left to do.
    #[inline]
    fn finish<B>(&mut self, mut response: Response<B>) -> Response<ResponseBody<B>> {
        mem::take(&mut self.lines).write_to(&mut response);
        match self.after.take() {
            None => response.map(ResponseBody::inner),
            Some(after) => after.finish(response),
        }
    }
}

impl After {
    #[inline(never)]
    fn finish<B>(self, mut response: Response<B>) -> Response<ResponseBody<B>> {
        if let Some(outcome) = self.outcome {
            // Of several limiters the innermost has the word: it is the one that came furthest.
            response.extensions_mut().get_or_insert_with(|| outcome);
        }
        if let Some(suspect) = self.suspect {
            suspect.judge(&response);
        }
        match self.bill {
            None => response.map(ResponseBody::inner),
            Some(bill) => response.map(|body| ResponseBody::guarded(body, bill)),
        }
    }
}

impl Suspect {
    fn judge<B>(self, response: &Response<B>) {
        let status = meant_status(response, self.version);
        let bans = self.config.bans.as_ref();
        if bans.is_some_and(|bans| bans.count(status)) {
            self.config.count_denial(self.partition, self.subject);
        }
    }
}

impl fmt::Debug for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Suspect")
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

    pub(super) fn choosing(
        policies: Policies,
        ready: S,
        request: Request<B>,
        config: &Arc<Config>,
    ) -> Self {
        let choosing = Choosing {
            policies,
            ready,
            request,
            config: Arc::clone(config),
        };
        Self {
            state: State::Choosing {
                choosing: Some(Box::new(choosing)),
            },
        }
    }

    #[inline]
    pub(super) fn plain(response: S::Future) -> Self {
        Self {
            state: State::Plain { response },
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
            match state.as_mut().project() {
                StateProj::Plain { response } => {
                    let response = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProj::Calling { response, note } => {
                    let response = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(note.finish(response)));
                }
                StateProj::Choosing { .. }
                | StateProj::Deciding { .. }
                | StateProj::Waiting { .. }
                | StateProj::Rejected { .. } => {
                    if let Some(rejected) = ready!(state.as_mut().poll_step(cx))? {
                        return Poll::Ready(Ok(rejected.into_response()));
                    }
                }
            }
        }
    }
}

impl<S, B, ResBody> State<S, S::Future, B>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
{
    /// Goes on to the next state, or comes to an end before the inner service was called.
    // Not in the frame of what nearly all requests do.
    #[inline(never)]
    fn poll_step(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Box<Rejected>>, S::Error>> {
        let next = match self.as_mut().project() {
            StateProj::Choosing { choosing } => {
                let waiting = choosing.as_mut().expect("polled after it was ready");
                let list = ready!(waiting.policies.as_mut().poll(cx));
                let chosen = choosing.take().expect("it has just been answered");
                chosen.go_on(list)
            }
            StateProj::Deciding { deciding } => {
                let waiting = deciding.as_mut().expect("polled after it was ready");
                let answer = ready!(Pin::new(&mut waiting.take).poll(cx));
                if let Err(error) = &answer
                    && waiting.ask_locally(error.kind())
                {
                    return Poll::Ready(Ok(None));
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
            StateProj::Rejected { rejected } => {
                let rejected = rejected.take().expect("polled after it was ready");
                return Poll::Ready(Ok(Some(rejected)));
            }
            StateProj::Plain { .. } | StateProj::Calling { .. } => return Poll::Ready(Ok(None)),
        };
        self.set(next);
        Poll::Ready(Ok(None))
    }
}

impl<S, B> Choosing<S, B>
where
    S: Service<Request<B>>,
{
    fn go_on(self, list: Option<PolicyList>) -> State<S, S::Future, B> {
        let Self {
            request,
            config,
            mut ready,
            ..
        } = self;
        let head = RequestHead::of(&request);
        let (partition, set) = match config.plan_chosen(list, &head) {
            Plan::Ask(partition, set) => (partition, set.into_owned()),
            Plan::Reject(rejection) => {
                let dialect = Dialect::of(&request);
                return State::rejected(*rejection, dialect, &config.responder, Note::default());
            }
            // What has been chosen is not chosen once more.
            Plan::Skip | Plan::Choose(_) => {
                let note = Note::write(request.extensions(), Lines::None, skipped);
                return State::Calling {
                    response: ready.call(request),
                    note,
                };
            }
        };
        let costs = config.costs(&set, &head);
        let take = config.take_costs(&partition, &set, &costs, &head);
        State::Deciding {
            deciding: Some(Box::new(Deciding {
                take,
                failed: None,
                ready,
                request,
                config,
                partition,
                set,
                costs: Some(costs),
            })),
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
        if self.failed.is_some() {
            return false;
        }
        let Some(local) = self.config.local_of(&self.set) else {
            return false;
        };
        let head = RequestHead::of(&self.request);
        let Some(take) = self.config.take_locally(&self.partition, &local, &head) else {
            return false;
        };
        if let Some(costs) = &mut self.costs {
            *costs = self.config.costs(&local, &head);
        }
        (self.take, self.set, self.failed) = (take, local, Some(failed));
        true
    }

    fn go_on(mut self, answer: Result<Decisions, StoreError>) -> State<S, S::Future, B> {
        let Self {
            mut request,
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
        let head = RequestHead::of(&request);
        config.follow_up(answer, &partition, &set, &head);
        let costs = costs.unwrap_or_default();
        if let Some((rejection, ban)) = config.ban(answer, &set) {
            if answer.is_admitted() {
                // Denied by the ban, charged to none.
                drop(
                    config
                        .paid(answer, partition, &set, &costs)
                        .map(Deposit::new),
                );
            }
            let mut outcome = config.outcome(answer, &set);
            outcome.decision = RateLimitDecision::Denied;
            outcome.policies.push(ban);
            let note = Note::deny(&request, Lines::None, outcome);
            let dialect = Dialect::of(&request);
            return State::rejected(rejection, dialect, &config.responder, note);
        }
        let lines = match config.rule(answer, &partition, &set) {
            Ruling::Admit(lines) => lines,
            Ruling::Reject(rejection, lines) => {
                if let Answer::Store(_) = answer
                    && config.bans.is_some()
                {
                    let subject = config.partition.subject(&partition, &head);
                    config.count_denial(partition, subject);
                }
                let note = Note::deny(&request, lines, config.outcome(answer, &set));
                let dialect = Dialect::of(&request);
                return State::rejected(*rejection, dialect, &config.responder, note);
            }
        };
        let judged = config.bans.as_ref().filter(|bans| bans.counts_auth());
        let suspect = judged.map(|_| Suspect {
            subject: config.partition.subject(&partition, &head),
            config: Arc::clone(&config),
            partition,
            version: request.version(),
        });
        let turn = config.turn(answer, partition, &set, &costs);
        let delayed = turn.as_ref().map_or(Duration::ZERO, |(_, _, delay)| *delay);
        let outcome = || RateLimitOutcome {
            delayed,
            ..config.outcome(answer, &set)
        };
        let told = config.tells_handlers.then(outcome);
        if let Some(outcome) = &told {
            request.extensions_mut().insert(outcome.clone());
        }
        let Some((line, paid, delay)) = turn else {
            let mut note = Note::write(request.extensions(), lines, outcome).telling(told);
            let paid = config
                .settles
                .then(|| config.paid(answer, partition, &set, &costs));
            let bill = paid
                .flatten()
                .map(|paid| Bill::open(paid, request.extensions_mut()));
            note.follow_up(bill, suspect);
            return State::Calling {
                response: self.ready.call(request),
                note,
            };
        };
        let Some(waiter) = line.join(paid, delay) else {
            return crowded(&config, &request, outcome(), delay);
        };
        State::Waiting {
            waiting: Some(Box::new(Waiting {
                note: Note::write(request.extensions(), lines, outcome).telling(told),
                stage: Stage::InLine(waiter),
                // What was polled ready may hold a permit: none is held in the line.
                next: self.ready.clone(),
                request,
                settles: config.settles,
                suspect,
            })),
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
        delayed: Duration::ZERO,
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
            let paid = deposit.keep().filter(|_| self.settles);
            let bill = paid.map(|paid| Bill::open(paid, self.request.extensions_mut()));
            self.note.follow_up(bill, self.suspect.take());
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
        self.note.lines.write_to(&mut response);
        if let Some(outcome) = self.note.after.and_then(|after| after.outcome) {
            response.extensions_mut().get_or_insert_with(|| outcome);
        }
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
