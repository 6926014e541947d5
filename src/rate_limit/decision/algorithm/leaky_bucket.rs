//! The leaky bucket as a meter: each request adds its cost and is denied if the cost does not fit.

use super::{state::State, token_bucket::TokenBucket};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::Quota,
    },
};

/// A bucket that leaks at the quota's rate.
///
/// A leaky bucket mirrors a token bucket: its level is the number of missing tokens. Both make the
/// same decisions, so this type uses the token bucket's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeakyBucket {
    mirror: TokenBucket,
}

impl LeakyBucket {
    pub(super) fn new(quota: &Quota) -> Result<Self, ConfigError> {
        TokenBucket::new(quota).map(|mirror| Self { mirror })
    }

    pub(super) fn mirror(&self) -> &TokenBucket {
        &self.mirror
    }

    #[inline(always)]
    pub(super) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        self.mirror.decide(state, now, cost)
    }

    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.mirror.charge(state, now, amount)
    }

    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        self.mirror.refund(state, now, paid, amount)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_decides_as_a_bucket_that_is_filled_and_leaks_does(
            (limit, window, burst) in (1_u64..40, 1_u64..3_000_000, 1_u64..20),
            steps in vec((0_u64..400_000, 0_u64..4), 1..120),
        ) {
            let quota = Quota::new(limit, Duration::from_micros(window)).burst(burst);
            let bucket = LeakyBucket::new(&quota).unwrap();
            // The level times the window, so that nothing is rounded.
            let (mut now, mut state, mut level) = (0, State::NONE, 0_u64);
            for (pause, cost) in steps {
                now += pause;
                level = level.saturating_sub(pause * limit);
                let fits = level + cost * window <= burst * window;
                if fits {
                    level += cost * window;
                }
                let (decision, next) = bucket.decide(state, Timestamp::from_micros(now), cost);
                prop_assert_eq!(decision.is_admitted(), fits);
                prop_assert_eq!(decision.remaining(), (burst * window - level) / window);
                state = next;
            }
        }
    }
}
