//! The ruling on a request: the decisions of a store, or the configured handling of its failure.

use std::{sync::Arc, time::Duration};

use http::Extensions;

use super::rejections;
use crate::{
    core::{
        audit::{Audit, AuditEvent},
        error::StoreError,
        http::rejection::Rejection,
        identity::Identity,
        record::{PolicyOutcome, RateLimitDecision, RateLimitOutcome},
    },
    rate_limit::{
        decision::decision::{Decision, Decisions},
        failover::stores::DecidingStore,
        headers::{LimitLines, RateLimitFields},
        policy::{policy::Policy, policy_set::PolicySet},
    },
};

/// The ruling on a request.
pub(in crate::rate_limit) struct Ruling<'a> {
    decision: RateLimitDecision,
    set: &'a PolicySet,
    /// `None` if neither store decided.
    decisions: Option<&'a Decisions>,
}

impl<'a> Ruling<'a> {
    /// Creates the ruling from the reply of a store. `admit_undecided` returns `true` if a request
    /// that no store has decided is admitted.
    #[inline]
    pub(crate) fn new(
        reply: &'a Result<Decisions, StoreError>,
        store: &DecidingStore,
        set: &'a PolicySet,
        admit_undecided: impl FnOnce() -> bool,
    ) -> Self {
        let failed = |failure| match admit_undecided() {
            true => RateLimitDecision::FailedOpen(failure),
            false => RateLimitDecision::FailedClosed(failure),
        };
        let (decision, decisions) = match (reply, store) {
            (Ok(decisions), DecidingStore::Main) => return Self::from_decisions(decisions, set),
            (Ok(decisions), DecidingStore::Local(_, failure)) => {
                let decision = match decisions.is_admitted() {
                    true => RateLimitDecision::LocallyAllowed,
                    false => RateLimitDecision::LocallyDenied,
                };
                (decision(*failure), Some(decisions))
            }
            (Err(error), DecidingStore::Main) => (failed(error.kind()), None),
            (Err(_), DecidingStore::Local(_, failure)) => (failed(*failure), None),
        };
        Self {
            decision,
            set,
            decisions,
        }
    }

    /// Creates the ruling from the main store's decisions.
    #[inline]
    pub(in crate::rate_limit) fn from_decisions(
        decisions: &'a Decisions,
        set: &'a PolicySet,
    ) -> Self {
        let decision = match decisions.is_admitted() {
            true => RateLimitDecision::Allowed,
            false => RateLimitDecision::Denied,
        };
        Self {
            decision,
            set,
            decisions: Some(decisions),
        }
    }

    pub(crate) fn decision(&self) -> RateLimitDecision {
        self.decision
    }

    /// Returns the decisions if the request was charged.
    #[inline]
    pub(in crate::rate_limit) fn charged(&self) -> Option<&'a Decisions> {
        self.decisions.filter(|decisions| decisions.is_admitted())
    }

    /// Returns the decision on the ban. In the main store's reply, the ban decision follows the
    /// decisions of the policies.
    pub(super) fn ban_decision(&self) -> Option<&'a Decision> {
        match self.decision {
            RateLimitDecision::Allowed | RateLimitDecision::Denied => {
                self.decisions?.each().get(self.set.policies().len())
            }
            RateLimitDecision::Skipped
            | RateLimitDecision::LocallyAllowed(_)
            | RateLimitDecision::LocallyDenied(_)
            | RateLimitDecision::FailedOpen(_)
            | RateLimitDecision::FailedClosed(_) => None,
        }
    }

    /// Returns the time that an admitted request with these costs waits for its turn.
    #[inline]
    pub(in crate::rate_limit) fn delay(&self, costs: &[u64]) -> Duration {
        match self.charged() {
            Some(decisions) if self.set.delays() => self.set.delay(costs, decisions),
            Some(_) | None => Duration::ZERO,
        }
    }

    /// Returns the header field lines of the response.
    #[inline]
    pub(crate) fn lines(&self, fields: RateLimitFields) -> LimitLines {
        let Some(decisions) = self.decisions else {
            return LimitLines::None;
        };
        let (policies, texts) = (self.set.policies(), self.set.texts());
        LimitLines::new(fields, policies, texts, decisions.at(), decisions.each())
    }

    /// Returns the rejection of a request that is not admitted.
    #[inline]
    pub(crate) fn rejection(&self, jitter: impl FnOnce() -> Duration) -> Option<Rejection> {
        match (self.decision, self.decisions) {
            (RateLimitDecision::Denied, Some(decisions)) => {
                Some(rejections::quota_exceeded(self.set, decisions, jitter()))
            }
            (RateLimitDecision::LocallyDenied(_), Some(decisions)) => {
                let exceeded = rejections::local_quota_exceeded(self.set, decisions, jitter());
                Some(exceeded)
            }
            (RateLimitDecision::FailedClosed(_), _) => Some(rejections::store_failed()),
            (
                RateLimitDecision::Allowed
                | RateLimitDecision::Denied
                | RateLimitDecision::Skipped
                | RateLimitDecision::LocallyAllowed(_)
                | RateLimitDecision::LocallyDenied(_)
                | RateLimitDecision::FailedOpen(_),
                _,
            ) => None,
        }
    }

    /// Returns the outcome for the record of a request that is delayed by this duration.
    pub(in crate::rate_limit) fn outcome(&self, delayed: Duration) -> RateLimitOutcome {
        let each = self.decisions.map_or(&[][..], Decisions::each);
        let policies = self.set.policies().iter().zip(each);
        let policies = policies.map(|(policy, decision)| policy_outcome(policy, decision));
        RateLimitOutcome {
            delayed,
            ..RateLimitOutcome::new(self.decision, policies)
        }
    }

    /// Returns the outcome of a request that additional policies deny after the store admitted the
    /// request.
    pub(super) fn denied_outcome(
        &self,
        more: impl IntoIterator<Item = PolicyOutcome>,
    ) -> RateLimitOutcome {
        let mut outcome = self.outcome(Duration::ZERO);
        outcome.decision = RateLimitDecision::Denied;
        outcome.policies.extend(more);
        outcome
    }

    /// Reports the denials of policies in shadow mode to the auditor.
    #[inline]
    pub(super) fn audit_shadow_denials(&self, audit: &Audit, extensions: &Extensions) {
        if let Some(decisions) = self.decisions
            && self.set.watches()
            && audit.has_auditor()
        {
            audit_denials(self.set, decisions, audit, extensions);
        }
    }
}

fn audit_denials(set: &PolicySet, decisions: &Decisions, audit: &Audit, extensions: &Extensions) {
    let each = set.policies().iter().zip(decisions.each());
    let denials = each.filter(|(policy, decision)| policy.is_shadow() && !decision.is_admitted());
    for (policy, _) in denials {
        let caller: Option<&Identity> = extensions.get();
        audit.emit(|| AuditEvent::LimitExceededInShadow {
            policy: Arc::clone(policy.shared_name()),
            key_id: caller.map(|caller| caller.key_id().into()),
        });
    }
}

/// Returns the outcome of one policy.
pub(super) fn policy_outcome(policy: &Policy, decision: &Decision) -> PolicyOutcome {
    let name = Arc::clone(policy.shared_name());
    let (limit, remaining) = (policy.capacity(), decision.remaining());
    let reset_after = decision.reset_after();
    match decision.is_admitted() {
        true => PolicyOutcome::allowed(name, limit, remaining, reset_after),
        false => {
            let retry_after = decision.retry_after();
            PolicyOutcome::denied(name, limit, remaining, retry_after, reset_after)
        }
    }
}
