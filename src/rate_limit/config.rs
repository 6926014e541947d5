//! Everything that the layer was told, and what it follows from it for a request.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;
use smallvec::SmallVec;

use super::{
    charge::Charge,
    decision::{Decision, Decisions},
    headers::{Lines, RateLimitFields},
    partition::{Partition, Place},
    policy::Policy,
    policy_set::{PolicySet, PolicySets},
    request_head::RequestHead,
    store::RateLimitStore,
};
use crate::{
    error::StoreError,
    identity::Identity,
    record::{PolicyOutcome, RateLimitDecision, RateLimitOutcome},
    rejection::{Rejection, Responder},
    store_future::StoreFuture,
    store_key::{KeySpace, StoreKey},
};

/// What a limiter does with a request when its store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnStoreError {
    /// Turns it away with `503`.
    #[default]
    Deny,
    /// Lets it pass, unlimited.
    Allow,
}

#[derive(Debug)]
pub(super) struct Config {
    pub(super) store: Arc<dyn RateLimitStore>,
    pub(super) space: KeySpace,
    pub(super) partition: Partition,
    pub(super) sets: PolicySets,
    pub(super) fields: RateLimitFields,
    pub(super) on_store_error: OnStoreError,
    pub(super) responder: Responder,
}

/// What a request is asked for.
pub(super) enum Plan<'a> {
    /// No policy applies to it.
    Skip,
    /// It is in this partition, and has to pass these policies.
    Ask(StoreKey, &'a Arc<PolicySet>),
    /// It cannot be counted.
    Reject(Rejection),
}

/// What came of it.
pub(super) enum Ruling {
    /// The request goes on; these lines go into its response.
    Admit(Lines),
    /// The request ends here.
    Reject(Rejection, Lines),
}

impl Config {
    pub(super) fn plan(&self, head: &RequestHead<'_>) -> Plan<'_> {
        let set = self.sets.of_tier(self.tier(head));
        if set.policies().is_empty() {
            return Plan::Skip;
        }
        match self.partition.place(&self.space, head) {
            Ok(Place::In(partition)) => Plan::Ask(partition, set),
            Ok(Place::Outside) => Plan::Skip,
            Err(_missing) => Plan::Reject(address_unknown()),
        }
    }

    fn tier<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        if !self.sets.by_tier() {
            return None;
        }
        head.extensions.get().and_then(Identity::tier)
    }

    pub(super) fn take(&self, partition: &StoreKey, set: &PolicySet) -> StoreFuture<Decisions> {
        let charge = |policy| Charge::new(policy, 1);
        match set.policies() {
            [one] => self.store.take(partition, &[charge(one)]),
            several => {
                let charges: SmallVec<[Charge<'_>; 4]> = several.iter().map(charge).collect();
                self.store.take(partition, &charges)
            }
        }
    }

    /// Returns what follows from the store's answer.
    pub(super) fn rule(&self, answer: &Result<Decisions, StoreError>, set: &PolicySet) -> Ruling {
        match (answer, self.on_store_error) {
            (Ok(decisions), _) => {
                let lines = Lines::new(self.fields, set.policies(), set.policy_field(), decisions);
                if decisions.is_admitted() {
                    Ruling::Admit(lines)
                } else {
                    Ruling::Reject(quota_exceeded(set, decisions), lines)
                }
            }
            (Err(_), OnStoreError::Allow) => Ruling::Admit(Lines::None),
            (Err(_), OnStoreError::Deny) => Ruling::Reject(store_failed(), Lines::None),
        }
    }

    /// Returns what the record is told of the store's answer.
    pub(super) fn outcome(
        &self,
        answer: &Result<Decisions, StoreError>,
        set: &PolicySet,
    ) -> RateLimitOutcome {
        match answer {
            Ok(decisions) => {
                let said = set.policies().iter().zip(decisions.each());
                let decision = if decisions.is_admitted() {
                    RateLimitDecision::Allowed
                } else {
                    RateLimitDecision::Denied
                };
                RateLimitOutcome::new(decision, said.map(policy_outcome))
            }
            Err(error) => {
                let kind = error.kind();
                let decision = match self.on_store_error {
                    OnStoreError::Allow => RateLimitDecision::FailedOpen(kind),
                    OnStoreError::Deny => RateLimitDecision::FailedClosed(kind),
                };
                RateLimitOutcome::new(decision, [])
            }
        }
    }
}

pub(super) fn skipped() -> RateLimitOutcome {
    RateLimitOutcome::new(RateLimitDecision::Skipped, [])
}

fn policy_outcome((policy, said): (&Policy, &Decision)) -> PolicyOutcome {
    let name = Arc::clone(policy.shared_name());
    let (limit, left, reset) = (policy.capacity(), said.remaining(), said.reset_after());
    if said.is_admitted() {
        PolicyOutcome::allowed(name, limit, left, reset)
    } else {
        PolicyOutcome::denied(name, limit, left, said.retry_after(), reset)
    }
}

fn quota_exceeded(set: &PolicySet, decisions: &Decisions) -> Rejection {
    let said = || set.policies().iter().zip(decisions.each());
    let denying = || said().filter(|(_, decision)| !decision.is_admitted());
    let rejection = Rejection::new(
        StatusCode::TOO_MANY_REQUESTS,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#quota-exceeded"),
        "Request cannot be satisfied as assigned quota has been exceeded",
    )
    .member(
        "violated-policies",
        denying().map(|(policy, _)| policy.name()),
    );
    if denying().any(|(_, decision)| decision.is_never()) {
        return rejection.detail("The request costs more than the quota ever holds");
    }
    let longest = denying()
        .filter_map(|(_, decision)| decision.retry_after())
        .max();
    rejection.retry_after(longest.unwrap_or_default())
}

fn store_failed() -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "rate-limit-unavailable",
        "Rate limits cannot be checked at the moment",
    )
    .retry_after(Duration::from_secs(1))
}

fn address_unknown() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "client-address-unknown",
        "The server does not know who is connected",
    )
}
