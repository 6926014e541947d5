//! What a limiter answers.

use std::{fmt, time::Duration};

use crate::core::time::Timestamp;

/// What one policy says of one request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    // Three words, because each request moves some of these: what remains is below 2^53, and so
    // leaves room for the verdict.
    remaining_and_verdict: u64,
    reset_after_micros: u64,
    /// Of a charge, the moment from which it is forgotten; of a denial, how long to wait.
    detail_micros: u64,
}

/// The bits of the word in which the verdict stands.
const VERDICT_SHIFT: u32 = 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecisionKind {
    Admitted,
    Denied,
    Never,
}

/// Says which charge a refund is for, so that it never lands in a later window.
///
/// To a store it is one number: the moment from which the charge is forgotten anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(Timestamp);

impl Receipt {
    /// Creates the receipt of a charge that is forgotten from this moment on.
    pub const fn new(expires_at: Timestamp) -> Self {
        Self(expires_at)
    }

    /// Returns the moment from which the charge is forgotten.
    pub const fn expires_at(self) -> Timestamp {
        self.0
    }
}

impl Decision {
    /// Creates the decision of a policy that admits.
    ///
    /// What remains, and how long until the quota is whole again, are meant after the charge.
    pub fn admitted(remaining: u64, reset_after: Duration, receipt: Receipt) -> Self {
        Self::admitted_micros(remaining, micros(reset_after), receipt.0)
    }

    /// Creates the decision of a policy that denies. `None` for a request that it never admits.
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

    /// Returns whether the policy admits the request.
    #[inline]
    pub fn is_admitted(&self) -> bool {
        self.verdict() == DecisionKind::Admitted
    }

    /// Returns how much is left, rounded down.
    #[inline]
    pub fn remaining(&self) -> u64 {
        self.remaining_and_verdict & ((1 << VERDICT_SHIFT) - 1)
    }

    /// Returns how long until the quota is whole again, if nothing more is spent.
    pub fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after_micros)
    }

    /// The same, in microseconds.
    pub(super) fn reset_after_micros(&self) -> u64 {
        self.reset_after_micros
    }

    /// Returns for how many seconds no more than what remains can be spent, rounded up.
    #[inline]
    pub(crate) fn effective_secs(&self) -> u64 {
        let micros = match self.verdict() {
            DecisionKind::Denied => self.detail_micros,
            DecisionKind::Admitted | DecisionKind::Never => self.reset_after_micros,
        };
        micros.div_ceil(1_000_000)
    }

    /// Returns how long until the same request would be admitted, if nothing more is spent.
    ///
    /// `None` if it was admitted, and if it asks for more than the quota ever holds.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.verdict() {
            DecisionKind::Denied => Some(Duration::from_micros(self.detail_micros)),
            DecisionKind::Admitted | DecisionKind::Never => None,
        }
    }

    /// Returns whether the request asks for more than the quota ever holds.
    pub fn is_unsatisfiable(&self) -> bool {
        self.verdict() == DecisionKind::Never
    }

    /// Returns the receipt of the charge; that of nothing, if there was none.
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

/// What all policies say of one request: denied by one, charged to none.
#[derive(Clone)]
pub struct Decisions {
    admitted: bool,
    at: Timestamp,
    each: Each,
}

/// One for itself, and no room for more: nearly all requests are told one, and it is moved often.
#[derive(Clone)]
enum Each {
    One(Decision),
    Several(Box<[Decision]>),
}

impl Decisions {
    /// Creates the answer to a list of charges, in their order, and says when it was given by the
    /// store's clock.
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

    /// Returns whether the request is admitted, and so charged.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Returns when it was decided, by the store's clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns what each policy says, in the order of the charges.
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
    fn a_decision_says_what_it_was_made_of() {
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
