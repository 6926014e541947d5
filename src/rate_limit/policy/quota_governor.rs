//! Conversion from `governor` quotas.

use std::time::Duration;

use super::quota::Quota;

/// Converts a `governor` quota to its burst and a rate of one request per replenish interval.
impl From<governor::Quota> for Quota {
    fn from(quota: governor::Quota) -> Self {
        // One per n nanoseconds is a thousand per n microseconds.
        let nanos = u64::try_from(quota.replenish_interval().as_nanos()).unwrap_or(u64::MAX);
        let (limit, micros) = match nanos {
            nanos if nanos.is_multiple_of(1_000) => (1, nanos / 1_000),
            nanos => (1_000, nanos),
        };
        Self::new(limit, Duration::from_micros(micros)).burst(quota.burst_size().get().into())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::{RateLimiter, clock::FakeRelativeClock};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        core::time::Timestamp,
        rate_limit::{decision::algorithm::State, policy::policy::Policy},
    };

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn a_quota_of_governors_keeps_its_rate_and_its_burst() {
        let ten = governor::Quota::per_second(number(10)).allow_burst(number(3));
        assert_eq!(
            Quota::from(ten),
            Quota::new(1, Duration::from_millis(100)).burst(3)
        );
        let three = Quota::from(governor::Quota::per_second(number(3)));
        assert_eq!(
            three,
            Quota::new(1_000, Duration::from_micros(333_333_333)).burst(3)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn our_bucket_decides_as_governor_does(
            (interval, burst) in (1_u64..2_000_000, 1_u32..20),
            steps in vec((0_u64..4_000_000, 1_u32..4), 1..100),
        ) {
            let quota = governor::Quota::with_period(Duration::from_micros(interval)).unwrap();
            let quota = quota.allow_burst(number(burst));
            let clock = FakeRelativeClock::default();
            let theirs = RateLimiter::direct_with_clock(quota, clock.clone());
            let ours = Policy::token_bucket("ours", quota).unwrap();
            let (mut now, mut state) = (Timestamp::from_secs(1), State::NONE);
            for (pause, cost) in steps {
                clock.advance(Duration::from_micros(pause));
                now = now + Duration::from_micros(pause);
                let (decision, next) = ours.decide(state, now, cost.into());
                state = next;
                match theirs.check_n(number(cost)) {
                    Ok(expected) => prop_assert_eq!(decision.is_admitted(), expected.is_ok()),
                    Err(_) => prop_assert!(decision.is_unsatisfiable()),
                }
            }
        }
    }
}
