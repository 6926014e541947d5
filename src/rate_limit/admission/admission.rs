//! The admission of a request: from the choice of its policies to the call of the inner service.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use tower::Service;

use super::{
    charged::Deposit,
    charging::PolicyLookup,
    limit_check::LimitCheck,
    note::{Note, RejectedRequest},
    queue::Waiter,
    rejections,
};
use crate::{
    core::{
        http::rejection::{Dialect, Rejection},
        record::{RateLimitDecision, RateLimitOutcome},
        store_api::store_future::Pending,
    },
    rate_limit::{
        config::Config,
        decision::decision::Decisions,
        headers::Lines,
        partition::caller_list::Access,
        policy::tiers::{Chosen, PolicyList},
        request_head::RequestHead,
    },
};

/// An admission that waits.
///
/// ```text
/// (begin)  => Choosing | Deciding | Queued | end
/// Choosing => Deciding | Queued | end              the policies are found
/// Deciding => Deciding | Queued | end              the store has replied
/// Queued   => Called                                      the turn has come
/// Called   => end                                  the inner service is ready
/// ```
///
/// `Deciding` follows itself at most once: if the store fails, the local store decides. A reply
/// that is available at once is decided at once, without a state between.
pub(crate) enum PendingAdmission {
    /// Waits for the policies that a function looks up.
    Choosing(PolicyLookup),
    /// Waits for the reply of a store.
    Deciding(Pending<Decisions>, LimitCheck<'static>),
    /// Waits for its turn in a queue.
    Queued(Waiter, Note),
    /// Its turn has come. Waits for the inner service to be ready.
    Called(Deposit, Note),
}

/// The result of one step of an admission.
pub(crate) enum Progress {
    Wait(PendingAdmission),
    End(AdmissionEnd),
}

/// The end of an admission.
pub(crate) enum AdmissionEnd {
    /// Calls the inner service, and applies the note to its response.
    Admit(Note),
    /// Responds in place of the inner service.
    Reject(Box<RejectedRequest>),
}

/// Begins the admission of a request.
#[inline]
pub(crate) fn begin<B>(config: &Arc<Config>, request: &mut Request<B>) -> Progress {
    let head = RequestHead::of(request);
    match config.callers.access(&head) {
        Ok(Access::Limited) => {}
        Ok(Access::Exempt) => return Progress::exempt(request),
        Ok(Access::Denied) => {
            return Progress::reject_undecided(config, request, rejections::caller_denied());
        }
        Err(_) => {
            return Progress::reject_undecided(config, request, rejections::address_unknown());
        }
    }
    match &config.charging.options.policies_by {
        Some(look_up) => Progress::Wait(PendingAdmission::Choosing(look_up(&head))),
        None => check(config, request, config.charging.policies(&head)),
    }
}

impl PendingAdmission {
    /// Takes the next step once the event has come that the admission waits for.
    pub(crate) fn poll<S, B>(
        &mut self,
        cx: &mut Context<'_>,
        config: &Arc<Config>,
        request: &mut Request<B>,
        service: &mut S,
    ) -> Poll<Result<Progress, S::Error>>
    where
        S: Service<Request<B>>,
    {
        Poll::Ready(Ok(match self {
            Self::Choosing(lookup) => {
                let list = ready!(lookup.as_mut().poll(cx));
                check_chosen(config, request, list)
            }
            Self::Deciding(reply, check) => {
                let reply = ready!(reply.as_mut().poll(cx));
                check.decide(config, request, reply)
            }
            Self::Queued(waiter, note) => {
                let deposit = ready!(Pin::new(waiter).poll(cx));
                Progress::Wait(Self::Called(deposit, mem::take(note)))
            }
            Self::Called(deposit, note) => {
                ready!(service.poll_ready(cx))?;
                let mut note = mem::take(note);
                if let (Some(paid), true) = (deposit.keep(), config.charging.options.settles) {
                    note.settle(paid, request.extensions_mut());
                }
                Progress::admit(note)
            }
        }))
    }

    pub(crate) fn is_queued(&self) -> bool {
        match self {
            Self::Queued(..) => true,
            Self::Choosing(_) | Self::Deciding(..) | Self::Called(..) => false,
        }
    }
}

/// Checks a request for which a function has looked up policies.
fn check_chosen<B>(
    config: &Arc<Config>,
    request: &mut Request<B>,
    list: Option<PolicyList>,
) -> Progress {
    let set = match list {
        Some(list) => Chosen::Latest(list.0),
        None => config.charging.policies(&RequestHead::of(request)),
    };
    if set.delays() && config.queue.is_none() {
        return Progress::reject_undecided(config, request, rejections::runtime_missing());
    }
    check(config, request, set)
}

/// Checks a request whose policies are known.
#[inline]
fn check<B>(config: &Arc<Config>, request: &mut Request<B>, set: Chosen<'_>) -> Progress {
    if set.policies().is_empty() {
        return Progress::exempt(request);
    }
    let head = RequestHead::of(request);
    let partition = match config.charging.partition.key(&head) {
        Ok(Some(partition)) => partition,
        Ok(None) => return Progress::exempt(request),
        Err(_) => {
            return Progress::reject_undecided(config, request, rejections::address_unknown());
        }
    };
    let costs = config.charging.options.costs(&set, &head);
    LimitCheck::new(partition, set, costs).take(config, request)
}

impl Progress {
    pub(super) fn admit(note: Note) -> Self {
        Self::End(AdmissionEnd::Admit(note))
    }

    /// Admits a request that no policy applies to.
    fn exempt<B>(request: &Request<B>) -> Self {
        let skipped = || RateLimitOutcome::new(RateLimitDecision::Skipped, []);
        Self::admit(Note::admitted(request.extensions(), Lines::None, skipped))
    }

    pub(super) fn reject<B>(
        config: &Config,
        request: &Request<B>,
        rejection: Rejection,
        note: Note,
    ) -> Self {
        let responder = config.responses.responder.clone();
        let rejected = RejectedRequest::new(rejection, Dialect::of(request), responder, note);
        Self::End(AdmissionEnd::Reject(Box::new(rejected)))
    }

    /// Rejects a request that no store has decided.
    fn reject_undecided<B>(config: &Config, request: &Request<B>, rejection: Rejection) -> Self {
        Self::reject(config, request, rejection, Note::default())
    }
}
