//! The admission of a request, from policy selection to the call to the inner service.

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
    rejections,
    state::{LimitCheck, PendingAdmission, Progress},
};
use crate::rate_limit::{
    config::RateLimitConfig,
    partition::caller_list::Access,
    policy::{policy_set::PolicyList, policy_sets::Chosen},
    request_head::RequestHead,
};

/// Starts the admission of a request.
#[inline]
pub(crate) fn begin<B>(config: &Arc<RateLimitConfig>, request: &mut Request<B>) -> Progress {
    let head = RequestHead::from(&*request);
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
    match &config.charging.options.policies_with {
        Some(look_up) => Progress::Wait(PendingAdmission::Choosing(look_up(&head))),
        None => check(config, request, config.charging.policies(&head)),
    }
}

impl PendingAdmission {
    /// Takes the next step if the event that the current state waits for has occurred.
    pub(crate) fn poll<S, B>(
        &mut self,
        cx: &mut Context<'_>,
        config: &Arc<RateLimitConfig>,
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
                let options = &config.charging.options;
                if let (Some(paid), true) = (deposit.keep(), options.is_provisional()) {
                    note.hold(paid, options, request);
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

/// Checks a request once a function has selected its policies.
fn check_chosen<B>(
    config: &Arc<RateLimitConfig>,
    request: &mut Request<B>,
    list: Option<PolicyList>,
) -> Progress {
    let set = match list {
        Some(list) => Chosen::Latest(list.0),
        None => config.charging.policies(&RequestHead::from(&*request)),
    };
    if set.delays() && config.queue.is_none() {
        return Progress::reject_undecided(config, request, rejections::runtime_missing());
    }
    check(config, request, set)
}

/// Checks a request whose policies are known.
#[inline]
fn check<B>(config: &Arc<RateLimitConfig>, request: &mut Request<B>, set: Chosen<'_>) -> Progress {
    if set.policies().is_empty() {
        return Progress::exempt(request);
    }
    let head = RequestHead::from(&*request);
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
