//! The outcome of a limiter in a request's record.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    outcome::{PolicyOutcome, RateLimitDecision, RateLimitOutcome},
    record::RecordHandle,
};

/// The position of a limiter's outcome in a request's record.
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
    /// Adds the outcome of a rate limiter and returns its position. The limiter uses the position
    /// to read the outcome again.
    // Inlined, so that the outcome is built near its final location.
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
    /// Creates the outcome of a limiter that has a single policy.
    #[inline]
    pub(crate) fn single(decision: RateLimitDecision, policy: PolicyOutcome) -> Self {
        let mut policies = SmallVec::new();
        policies.push(policy);
        Self {
            decision,
            policies,
            delayed: Duration::ZERO,
        }
    }

    /// Returns a clone. A single policy, the common case, is cloned without a loop.
    fn duplicate(&self) -> Self {
        match &self.policies[..] {
            [policy] => Self {
                delayed: self.delayed,
                ..Self::single(self.decision, policy.clone())
            },
            _ => self.clone(),
        }
    }
}
