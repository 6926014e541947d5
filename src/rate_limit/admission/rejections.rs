//! The rejections of a limiter.

use std::{borrow::Cow, sync::atomic::AtomicBool, time::Duration};

use http::StatusCode;

use crate::{
    core::{
        http::rejection::{Rejection, RejectionKind},
        notice,
    },
    rate_limit::{
        decision::decision::{Decision, Decisions},
        policy::{policy::Policy, policy_set::PolicySet},
    },
};

/// The `Retry-After` delay of a request that is rejected because the store failed.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reported at runtime, because the policies that a function chooses are unknown at build time.
const RUNTIME_MISSING: &str = "`policies_with` returned a policy with a queue, and the limiter \
    has no runtime: set `runtime`, or enable the feature `tokio`";

/// Returns the rejection of a request that the main store denies.
pub(super) fn quota_exceeded(
    set: &PolicySet,
    decisions: &Decisions,
    jitter: Duration,
) -> Rejection {
    if denying(set, decisions).any(|(_, decision)| decision.is_unsatisfiable()) {
        return exceeded(set, decisions)
            .detail("The cost of the request exceeds the capacity of the quota");
    }
    exceeded(set, decisions).retry_after(longest_wait(set, decisions).saturating_add(jitter))
}

/// Returns the rejection of a request that the local store denies.
///
/// The rejection always has a `Retry-After` delay. A request whose cost exceeds one instance's
/// share can be admitted once the main store is available again.
pub(super) fn local_quota_exceeded(
    set: &PolicySet,
    decisions: &Decisions,
    jitter: Duration,
) -> Rejection {
    let wait = longest_wait(set, decisions).max(STORE_RETRY_AFTER);
    exceeded(set, decisions).retry_after(wait.saturating_add(jitter))
}

fn exceeded(set: &PolicySet, decisions: &Decisions) -> Rejection {
    let reported = denying(set, decisions).filter(|(policy, _)| policy.is_reported());
    let mut names = reported.map(|(policy, _)| policy.name()).peekable();
    let rejection = Rejection::new(
        StatusCode::TOO_MANY_REQUESTS,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#quota-exceeded"),
        "Request cannot be satisfied as assigned quota has been exceeded",
    )
    .with_kind(RejectionKind::QuotaExceeded);
    match names.peek() {
        Some(_) => rejection.extension_member("violated-policies", names),
        None => rejection,
    }
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
    .with_kind(RejectionKind::StoreUnavailable)
    .retry_after(STORE_RETRY_AFTER)
}

/// Returns the rejection of a request that finds the queue full and whose turn would be after this
/// delay.
pub(crate) fn queue_full(delay: Duration) -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"),
        "Too many requests are waiting in the queue",
    )
    .with_kind(RejectionKind::QueueFull)
    .retry_after(delay)
}

pub(super) fn caller_denied() -> Rejection {
    Rejection::new(
        StatusCode::FORBIDDEN,
        "caller-denied",
        "This caller is denied access",
    )
    .with_kind(RejectionKind::CallerDenied)
}

/// Returns the rejection of a request for which `policies_with` chose a queue without a runtime.
pub(super) fn runtime_missing() -> Rejection {
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);
    notice::once(&IS_REPORTED, || RUNTIME_MISSING.to_owned());
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "rate-limit-misconfigured",
        "The server cannot queue requests",
    )
    .with_kind(RejectionKind::Internal)
}

pub(super) fn address_unknown() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "client-address-unknown",
        "The server cannot determine the client address",
    )
    .with_kind(RejectionKind::Internal)
}
