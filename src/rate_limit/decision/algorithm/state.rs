//! The stored state of an algorithm, and the arithmetic that the algorithms share.

use crate::{core::time::Timestamp, rate_limit::policy::quota::EXACT_MAX};

/// What is remembered of one partition under one policy.
///
/// Three words. The first is the same for all algorithms: the moment from which this state equals
/// none at all, and may be forgotten. The other two are the algorithm's own.
///
/// ```
/// use portcullis::{Timestamp, store::backend::State};
///
/// let state = State::from_words([Timestamp::from_secs(60).as_micros(), 7, 0]);
/// assert!(state.is_alive(Timestamp::from_secs(59)));
/// assert!(!state.is_alive(Timestamp::from_secs(60)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) expires_at: Timestamp,
    pub(super) words: [u64; 2],
}

impl State {
    /// Nothing is remembered.
    pub const NONE: Self = Self::new(Timestamp::EPOCH, [0, 0]);

    pub(super) const fn new(expires_at: Timestamp, words: [u64; 2]) -> Self {
        Self { expires_at, words }
    }

    /// Takes a state from the words that a store kept.
    #[inline]
    pub const fn from_words([expires_at, one, two]: [u64; 3]) -> Self {
        Self::new(Timestamp::from_micros(expires_at), [one, two])
    }

    /// Returns the words for a store to keep.
    #[inline]
    pub const fn to_words(self) -> [u64; 3] {
        [self.expires_at.as_micros(), self.words[0], self.words[1]]
    }

    /// Returns the moment from which the state equals none.
    pub const fn expires_at(self) -> Timestamp {
        self.expires_at
    }

    /// Returns whether there is still something to remember.
    #[inline]
    pub fn is_alive(self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

/// The last moment that is counted to. A clock that shows a later one is taken to show this.
pub(super) const LATEST: Timestamp = Timestamp::from_micros(1 << 62);

/// So far back a clock may go, or one that is read in turn with a coarser one, and nothing is cut.
pub(super) const SLACK_MICROS: u64 = 1_000_000;

/// Returns what counts as used of a limit once this much more has been used: beyond twice the limit
/// nothing is counted, so that nobody is locked out for longer than two windows.
pub(super) fn owed(used: u64, amount: u64, limit: u64) -> u64 {
    let most = limit.saturating_mul(2).min(EXACT_MAX).max(used);
    used.saturating_add(amount).min(most)
}

/// Returns `a * b / c`, rounded up; `c` is not zero.
pub(super) fn mul_div_up(a: u64, b: u64, c: u64) -> u64 {
    let quotient = (u128::from(a) * u128::from(b)).div_ceil(u128::from(c));
    u64::try_from(quotient).unwrap_or(u64::MAX)
}
