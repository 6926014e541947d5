//! The rejections of a limiter.

use std::{borrow::Cow, sync::atomic::AtomicBool, time::Duration};

use http::StatusCode;

use crate::{
    core::{http::rejection::Rejection, notice},
    rate_limit::{
        decision::decision::{Decision, Decisions},
        policy::{policy::Policy, policy_set::PolicySet},
    },
};

/// The time after which a request may be repeated that a failure of the store has rejected.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reported once, because a list that a function chooses is not known when the limiter is built.
const RUNTIME_MISSING: &str = "a function chose a rate limit with a queue, and there is nothing \
    to wait by: give the limiter a `runtime`, or turn on the feature `tokio`";

/// Returns the rejection of a request that the limiter's own store denies.
pub(super) fn quota_exceeded(
    set: &PolicySet,
    decisions: &Decisions,
    jitter: Duration,
) -> Rejection {
    if denying(set, decisions).any(|(_, decision)| decision.is_unsatisfiable()) {
        return exceeded(set, decisions).detail("The request costs more than the quota ever holds");
    }
    exceeded(set, decisions).retry_after(longest_wait(set, decisions).saturating_add(jitter))
}

/// Returns the rejection of a request that the local store denies.
///
/// A request that costs more than the share of an instance is admitted once the store is available
/// again, so there is always a time to retry.
pub(super) fn local_quota_exceeded(
    set: &PolicySet,
    decisions: &Decisions,
    jitter: Duration,
) -> Rejection {
    let wait = longest_wait(set, decisions).max(STORE_RETRY_AFTER);
    exceeded(set, decisions).retry_after(wait.saturating_add(jitter))
}

fn exceeded(set: &PolicySet, decisions: &Decisions) -> Rejection {
    Rejection::new(
        StatusCode::TOO_MANY_REQUESTS,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#quota-exceeded"),
        "Request cannot be satisfied as assigned quota has been exceeded",
    )
    .extension_member(
        "violated-policies",
        denying(set, decisions).map(|(policy, _)| policy.name()),
    )
}

fn longest_wait(set: &PolicySet, decisions: &Decisions) -> Duration {
    denying(set, decisions)
        .filter_map(|(_, decision)| decision.retry_after())
        .max()
        .unwrap_or_default()
}

fn denying<'a>(
    set: &'a PolicySet,
    decisions: &'a Decisions,
) -> impl Iterator<Item = (&'a Policy, &'a Decision)> {
    let each = set.policies().iter().zip(decisions.each());
    each.filter(|(policy, decision)| !policy.is_shadow() && !decision.is_admitted())
}

pub(crate) fn store_failed() -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "rate-limit-unavailable",
        "Rate limits cannot be checked at the moment",
    )
    .retry_after(STORE_RETRY_AFTER)
}

/// Returns the rejection of a request that would have to wait this long among too many others.
pub(crate) fn queue_full(delay: Duration) -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"),
        "Too many requests wait for their turn",
    )
    .retry_after(delay)
}

pub(super) fn caller_denied() -> Rejection {
    Rejection::new(
        StatusCode::FORBIDDEN,
        "caller-denied",
        "This caller is not let in",
    )
}

/// Returns the rejection of a request for which a function chose a queue, and nothing can wait.
pub(super) fn runtime_missing() -> Rejection {
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);
    notice::once(&IS_REPORTED, || RUNTIME_MISSING.to_owned());
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "rate-limit-misconfigured",
        "The server cannot let requests wait for their turn",
    )
}

pub(super) fn address_unknown() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "client-address-unknown",
        "The server does not know who is connected",
    )
}
