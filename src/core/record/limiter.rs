//! The outcome of a limiter in the record of a request.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    outcome::{PolicyOutcome, RateLimitDecision, RateLimitOutcome},
    record::RecordHandle,
};

/// The place of a limiter's outcome in the record of a request.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRateLimit {
    record: RecordHandle,
    index: usize,
}

impl RecordedRateLimit {
    /// Returns the outcome, unless the record has been emitted.
    pub(crate) fn outcome(&self) -> Option<RateLimitOutcome> {
        self.record
            .read(|slots| Some(slots.rate_limits.get(self.index)?.duplicate()))
    }
}

impl RecordHandle {
    /// Adds the decision of a limiter, and returns its place, by which the limiter finds it again.
    // Inlined, so that the outcome is built near its place.
    #[inline(always)]
    pub(crate) fn enter_rate_limit(
        &self,
        outcome: impl FnOnce() -> RateLimitOutcome,
    ) -> RecordedRateLimit {
        let entered = &mut self.lock().rate_limits;
        let index = entered.len();
        entered.push(outcome());
        RecordedRateLimit {
            record: self.clone(),
            index,
        }
    }
}

impl RateLimitOutcome {
    /// Creates the outcome of a limiter with one policy.
    #[inline]
    pub(crate) fn of_one(decision: RateLimitDecision, policy: PolicyOutcome) -> Self {
        let mut policies = SmallVec::new();
        policies.push(policy);
        Self {
            decision,
            policies,
            delayed: Duration::ZERO,
        }
    }

    /// Returns a clone: without a loop where there is one policy, as in most limiters.
    fn duplicate(&self) -> Self {
        match &self.policies[..] {
            [policy] => Self {
                delayed: self.delayed,
                ..Self::of_one(self.decision, policy.clone())
            },
            _ => self.clone(),
        }
    }
}
