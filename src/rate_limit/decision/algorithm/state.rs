//! The stored state of an algorithm, and the arithmetic that the algorithms share.

use crate::{core::time::Timestamp, rate_limit::policy::quota::EXACT_MAX};

/// The usage of one partition under one policy, as three words.
///
/// The first word has the same meaning for all algorithms: it is the time at which the state
/// expires and a store can remove the state. The meaning of the other two words depends on the
/// algorithm.
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
    /// The state of an unused quota.
    pub const NONE: Self = Self::new(Timestamp::EPOCH, [0, 0]);

    pub(super) const fn new(expires_at: Timestamp, words: [u64; 2]) -> Self {
        Self { expires_at, words }
    }

    /// Creates a state from stored words.
    #[inline]
    pub const fn from_words([expires_at, one, two]: [u64; 3]) -> Self {
        Self::new(Timestamp::from_micros(expires_at), [one, two])
    }

    /// Returns the words to store.
    #[inline]
    pub const fn to_words(self) -> [u64; 3] {
        [self.expires_at.as_micros(), self.words[0], self.words[1]]
    }

    /// Returns the time after which the state is equivalent to [`NONE`](Self::NONE).
    pub const fn expires_at(self) -> Timestamp {
        self.expires_at
    }

    /// Returns `true` if the state has not expired.
    #[inline]
    pub fn is_alive(self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

/// The latest time that calculations use. Later clock readings are clamped to it.
pub(super) const LATEST: Timestamp = Timestamp::from_micros(1 << 62);

/// The tolerance for a clock that moves back or alternates with a coarser clock. A step back within
/// this tolerance truncates no state.
pub(super) const SLACK_MICROS: u64 = 1_000_000;

/// Returns the usage after adding an amount. The result is capped at twice the limit, so that a
/// caller is denied for at most two windows.
pub(super) fn add_capped(used: u64, amount: u64, limit: u64) -> u64 {
    let most = limit.saturating_mul(2).min(EXACT_MAX).max(used);
    used.saturating_add(amount).min(most)
}

/// Returns `a * b / c`, rounded up. `c` must not be zero.
pub(super) fn mul_div_up(a: u64, b: u64, c: u64) -> u64 {
    let quotient = (u128::from(a) * u128::from(b)).div_ceil(u128::from(c));
    u64::try_from(quotient).unwrap_or(u64::MAX)
}
