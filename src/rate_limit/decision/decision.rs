//! The decisions of a limiter.

use std::{fmt, time::Duration};

use crate::core::time::Timestamp;

/// The decision of one policy on one request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    // Three words, because each request copies several decisions. The remaining quota is below
    // 2^53, so the upper bits can store the verdict.
    remaining_and_verdict: u64,
    reset_after_micros: u64,
    /// The time at which the charge expires for an admission, or the time to wait for a denial.
    detail_micros: u64,
}

/// The position of the verdict's bits in the first word.
const VERDICT_SHIFT: u32 = 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecisionKind {
    Admitted,
    Denied,
    Never,
}

/// A receipt that identifies a charge. A refund with this receipt applies only to that charge,
/// never to a later window.
///
/// A store can persist a receipt as one number: the time at which the charge expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(Timestamp);

impl Receipt {
    /// Creates the receipt for a charge that expires at this time.
    pub const fn new(expires_at: Timestamp) -> Self {
        Self(expires_at)
    }

    /// Returns the time at which the charge expires.
    pub const fn expires_at(self) -> Timestamp {
        self.0
    }
}

impl Decision {
    /// Creates the decision of a policy that admits a request.
    ///
    /// `remaining` is the quota after the charge. `reset_after` is the time until the full quota is
    /// available again.
    pub fn admitted(remaining: u64, reset_after: Duration, receipt: Receipt) -> Self {
        Self::admitted_micros(remaining, micros(reset_after), receipt.0)
    }

    /// Creates the decision of a policy that denies a request.
    ///
    /// `retry_after` is `None` if the policy can never admit the request.
    pub fn denied(remaining: u64, reset_after: Duration, retry_after: Option<Duration>) -> Self {
        let reset_after = micros(reset_after);
        match retry_after {
            Some(after) => Self::denied_micros(remaining, reset_after, micros(after)),
            None => Self::never_micros(remaining, reset_after),
        }
    }

    #[inline]
    pub(super) fn admitted_micros(remaining: u64, reset_after: u64, receipt: Timestamp) -> Self {
        Self::new(
            DecisionKind::Admitted,
            remaining,
            reset_after,
            receipt.as_micros(),
        )
    }

    #[inline]
    pub(super) fn denied_micros(remaining: u64, reset_after: u64, retry_after: u64) -> Self {
        Self::new(DecisionKind::Denied, remaining, reset_after, retry_after)
    }

    #[inline]
    pub(super) fn never_micros(remaining: u64, reset_after: u64) -> Self {
        Self::new(DecisionKind::Never, remaining, reset_after, 0)
    }

    #[inline]
    fn new(verdict: DecisionKind, remaining: u64, reset_after: u64, detail: u64) -> Self {
        let remaining = remaining.min((1 << VERDICT_SHIFT) - 1);
        Self {
            remaining_and_verdict: remaining | (verdict as u64) << VERDICT_SHIFT,
            reset_after_micros: reset_after,
            detail_micros: detail,
        }
    }

    #[inline]
    fn verdict(&self) -> DecisionKind {
        match self.remaining_and_verdict >> VERDICT_SHIFT {
            0 => DecisionKind::Admitted,
            1 => DecisionKind::Denied,
            _ => DecisionKind::Never,
        }
    }

    /// Returns `true` if the policy admits the request.
    #[inline]
    pub fn is_admitted(&self) -> bool {
        self.verdict() == DecisionKind::Admitted
    }

    /// Returns the remaining quota, rounded down.
    #[inline]
    pub fn remaining(&self) -> u64 {
        self.remaining_and_verdict & ((1 << VERDICT_SHIFT) - 1)
    }

    /// Returns the time until the full quota is available again if nothing more is charged.
    pub fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after_micros)
    }

    /// Returns [`reset_after`](Self::reset_after) in microseconds.
    pub(super) fn reset_after_micros(&self) -> u64 {
        self.reset_after_micros
    }

    /// Returns the time during which no more than the remaining quota is available, in seconds,
    /// rounded up.
    #[inline]
    pub(crate) fn effective_secs(&self) -> u64 {
        let micros = match self.verdict() {
            DecisionKind::Denied => self.detail_micros,
            DecisionKind::Admitted | DecisionKind::Never => self.reset_after_micros,
        };
        micros.div_ceil(1_000_000)
    }

    /// Returns the time until the same request would be admitted if nothing more is charged.
    ///
    /// Returns `None` if the request was admitted, or if its cost exceeds the capacity of the
    /// policy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.verdict() {
            DecisionKind::Denied => Some(Duration::from_micros(self.detail_micros)),
            DecisionKind::Admitted | DecisionKind::Never => None,
        }
    }

    /// Returns `true` if the cost of the request exceeds the capacity of the policy.
    pub fn is_unsatisfiable(&self) -> bool {
        self.verdict() == DecisionKind::Never
    }

    /// Returns the receipt of the charge, or the default receipt if nothing was charged.
    pub fn receipt(&self) -> Receipt {
        match self.verdict() {
            DecisionKind::Admitted => Receipt(Timestamp::from_micros(self.detail_micros)),
            DecisionKind::Denied | DecisionKind::Never => Receipt::default(),
        }
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("verdict", &self.verdict())
            .field("remaining", &self.remaining())
            .field("reset_after", &self.reset_after())
            .field("retry_after", &self.retry_after())
            .finish_non_exhaustive()
    }
}

/// The decisions of all policies that apply to one request. If one policy denies, none is charged.
#[derive(Clone)]
pub struct Decisions {
    admitted: bool,
    at: Timestamp,
    each: Each,
}

/// The decisions. Nearly all requests have a single decision. It is stored inline without spare
/// capacity, because the value is moved often.
#[derive(Clone)]
enum Each {
    One(Decision),
    Several(Box<[Decision]>),
}

impl Decisions {
    /// Creates a list of decisions in the order of the charges.
    ///
    /// `at` is the time of the decision according to the store's clock.
    pub fn new(admitted: bool, at: Timestamp, each: impl IntoIterator<Item = Decision>) -> Self {
        let mut each = each.into_iter().fuse();
        let each = match (each.next(), each.next()) {
            (Some(one), None) => Each::One(one),
            (first, second) => Each::Several(first.into_iter().chain(second).chain(each).collect()),
        };
        Self { admitted, at, each }
    }

    #[inline]
    pub(crate) fn one(admitted: bool, at: Timestamp, decision: Decision) -> Self {
        let each = Each::One(decision);
        Self { admitted, at, each }
    }

    /// Returns `true` if the request was admitted and charged.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Returns the time of the decision according to the store's clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns the decision of each policy, in the order of the charges.
    pub fn each(&self) -> &[Decision] {
        match &self.each {
            Each::One(one) => std::slice::from_ref(one),
            Each::Several(several) => several,
        }
    }
}

impl PartialEq for Decisions {
    fn eq(&self, other: &Self) -> bool {
        (self.admitted, self.at, self.each()) == (other.admitted, other.at, other.each())
    }
}

impl Eq for Decisions {}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decisions")
            .field("admitted", &self.admitted)
            .field("at", &self.at)
            .field("each", &self.each())
            .finish()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decision_returns_the_values_it_was_created_with() {
        let reset = Duration::from_secs(3);
        let paid = Receipt::new(Timestamp::from_secs(9));
        let admitted = Decision::admitted(1 << 53, reset, paid);
        assert_eq!((admitted.remaining(), admitted.receipt()), (1 << 53, paid));
        assert!(admitted.is_admitted() && admitted.retry_after().is_none());
        let wait = Some(Duration::from_secs(2));
        let denied = Decision::denied(7, reset, wait);
        assert_eq!((denied.retry_after(), denied.reset_after()), (wait, reset));
        assert_eq!(
            (denied.receipt(), denied.is_unsatisfiable()),
            (Receipt::default(), false)
        );
        let never = Decision::denied(u64::MAX, reset, None);
        assert!(never.is_unsatisfiable() && !never.is_admitted());
    }

    #[test]
    fn decisions_come_back_in_order() {
        for count in 0..10 {
            let each: Vec<_> = (0..count)
                .map(|left| Decision::admitted(left, Duration::ZERO, Receipt::default()))
                .collect();
            let decisions = Decisions::new(true, Timestamp::EPOCH, each.iter().copied());
            assert_eq!(decisions.each(), each);
        }
    }
}
