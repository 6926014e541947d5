//! What a limiter answers.

use std::{fmt, time::Duration};

use smallvec::SmallVec;

use crate::time::Timestamp;

/// What one policy says of one request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Zero where it admits, [`NEVER`] where it never will.
    retry_after_micros: u64,
    remaining: u64,
    reset_after_micros: u64,
    receipt: Receipt,
}

/// In place of the time until a request would be admitted.
const NEVER: u64 = u64::MAX;

enum Verdict {
    Admitted,
    Denied { retry_after_micros: u64 },
    Never,
}

/// Says which charge a refund is for, so that it never lands in a later window.
///
/// To a store it is one number: the moment from which the charge is forgotten anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(Timestamp);

impl Receipt {
    /// Creates the receipt of a charge that is forgotten from this moment on.
    pub const fn until(forgotten_at: Timestamp) -> Self {
        Self(forgotten_at)
    }

    /// Returns the moment from which the charge is forgotten.
    pub const fn forgotten_at(self) -> Timestamp {
        self.0
    }
}

impl Decision {
    /// Creates the decision of a policy that admits.
    ///
    /// What remains, and how long until the quota is whole again, are meant after the charge.
    pub fn admitted(remaining: u64, reset_after: Duration, receipt: Receipt) -> Self {
        Self::new(Verdict::Admitted, remaining, micros(reset_after), receipt)
    }

    /// Creates the decision of a policy that denies. `None` for a request that it never admits.
    pub fn denied(remaining: u64, reset_after: Duration, retry_after: Option<Duration>) -> Self {
        let verdict = match retry_after {
            Some(after) => Verdict::Denied {
                retry_after_micros: micros(after),
            },
            None => Verdict::Never,
        };
        Self::new(verdict, remaining, micros(reset_after), Receipt::default())
    }

    pub(super) fn admitted_micros(remaining: u64, reset_after: u64, receipt: Timestamp) -> Self {
        Self::new(Verdict::Admitted, remaining, reset_after, Receipt(receipt))
    }

    pub(super) fn denied_micros(remaining: u64, reset_after: u64, retry_after_micros: u64) -> Self {
        let verdict = Verdict::Denied { retry_after_micros };
        Self::new(verdict, remaining, reset_after, Receipt::default())
    }

    pub(super) fn never_micros(remaining: u64, reset_after: u64) -> Self {
        Self::new(Verdict::Never, remaining, reset_after, Receipt::default())
    }

    const fn new(verdict: Verdict, remaining: u64, reset_after: u64, receipt: Receipt) -> Self {
        let retry_after_micros = match verdict {
            Verdict::Admitted => 0,
            // Who is denied is so for a microsecond at least.
            Verdict::Denied {
                retry_after_micros: 0,
            } => 1,
            Verdict::Denied {
                retry_after_micros: NEVER,
            } => NEVER - 1,
            Verdict::Denied { retry_after_micros } => retry_after_micros,
            Verdict::Never => NEVER,
        };
        Self {
            retry_after_micros,
            remaining,
            reset_after_micros: reset_after,
            receipt,
        }
    }

    /// Returns whether the policy admits the request.
    pub fn is_admitted(&self) -> bool {
        self.retry_after_micros == 0
    }

    /// Returns how much is left, rounded down.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns how long until the quota is whole again, if nothing more is spent.
    pub fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after_micros)
    }

    /// Returns how long until the same request would be admitted, if nothing more is spent.
    ///
    /// `None` if it was admitted, and if it asks for more than the quota ever holds.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.retry_after_micros {
            0 | NEVER => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Returns whether the request asks for more than the quota ever holds.
    pub fn is_never(&self) -> bool {
        self.retry_after_micros == NEVER
    }

    /// Returns the receipt of the charge, if there was one.
    pub fn receipt(&self) -> Receipt {
        self.receipt
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("admitted", &self.is_admitted())
            .field("remaining", &self.remaining)
            .field("reset_after", &self.reset_after())
            .field("retry_after", &self.retry_after())
            .field("receipt", &self.receipt)
            .finish()
    }
}

/// What all policies say of one request: denied by one, charged to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decisions {
    admitted: bool,
    at: Timestamp,
    each: SmallVec<[Decision; 2]>,
}

impl Decisions {
    /// Creates the answer to a list of charges, in their order, and says when it was given by the
    /// store's clock.
    pub fn new(admitted: bool, at: Timestamp, each: impl IntoIterator<Item = Decision>) -> Self {
        Self {
            admitted,
            at,
            each: each.into_iter().collect(),
        }
    }

    /// Creates the answer to one charge.
    #[inline]
    pub(super) fn one(admitted: bool, at: Timestamp, decision: Decision) -> Self {
        let mut each = SmallVec::new();
        each.push(decision);
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
        &self.each
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
