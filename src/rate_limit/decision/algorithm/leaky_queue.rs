//! The leaky bucket as a queue: requests above the rate wait for their turn and are denied if the
//! wait would be too long.

use std::time::Duration;

use super::{state::State, token_bucket::TokenBucket};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::{MICROS_MAX, Quota, Span},
    },
};

/// A queue that releases requests at the quota's rate.
///
/// After an idle period, requests up to the burst (by default one) are released immediately. In any
/// time `t`, at most the burst plus `t` times the rate is released. A request with a cost of `n`
/// takes `n` turns and is released after its last turn.
///
/// The queue is a token bucket that can be overdrawn by the number of tokens that it gains during
/// the longest wait. It therefore uses the token bucket's arithmetic: a request waits until its
/// deficit after the charge is refilled. The state is the bucket's state: the time at which the
/// last request in the queue is released and the burst is available again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeakyQueue {
    mirror: TokenBucket,
    /// The refill time of the burst, rounded down. A request with a smaller deficit does not wait.
    at_once_micros: u64,
    max_wait_micros: u64,
}

impl LeakyQueue {
    pub(super) fn new(quota: &Quota, max_wait: Duration) -> Result<Self, ConfigError> {
        let max_wait_micros = wait_micros(max_wait)?;
        let burst = quota.own_burst().unwrap_or(1);
        let pace = quota.burst(burst).pace()?;
        if pace.interval.micros == 0 {
            return Err(ConfigError::new(
                "quota",
                quota,
                "the rate of a queue is at most one request per microsecond",
            )
            .fix("use a token bucket"));
        }
        let at_once = pace.times(burst);
        let max_wait = Span {
            micros: max_wait_micros,
            parts: 0,
        };
        let brim = pace.add(at_once, max_wait);
        let places = pace.gained_in(brim);
        let pace = quota.burst(places).pace().map_err(|_| {
            ConfigError::new(
                "max_wait",
                format_args!("{max_wait_micros}us"),
                "the queue would hold more requests than can be counted exactly",
            )
            .fix("set a shorter wait")
        })?;
        Ok(Self {
            mirror: TokenBucket::up_to(pace, brim),
            at_once_micros: at_once.micros,
            max_wait_micros,
        })
    }

    pub(super) fn mirror(&self) -> &TokenBucket {
        &self.mirror
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_micros(self.max_wait_micros)
    }

    #[inline]
    pub(super) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        self.mirror.decide(state, now, cost)
    }

    /// Returns the time that an admitted request waits for its turn, rounded up by at most one
    /// microsecond.
    pub(crate) fn delay(&self, decision: &Decision) -> Duration {
        if !decision.is_admitted() {
            return Duration::ZERO;
        }
        let delay = decision
            .reset_after_micros()
            .saturating_sub(self.at_once_micros);
        // The exact wait is at most the maximum, so the limit only removes the rounding.
        Duration::from_micros(delay.min(self.max_wait_micros))
    }

    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.mirror.charge(state, now, amount)
    }

    /// Refunds a turn if no request has a later turn. Otherwise, later requests retain their turns.
    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        // Turns are at least one microsecond apart, so equal times belong to the same charge.
        if state.expires_at() != paid.expires_at() {
            return state;
        }
        self.mirror.refund(state, now, paid, amount)
    }
}

fn wait_micros(max_wait: Duration) -> Result<u64, ConfigError> {
    let error = |problem| ConfigError::new("max_wait", format_args!("{max_wait:?}"), problem);
    if max_wait.is_zero() {
        return Err(
            error("the longest wait of a queue must be at least 1 microsecond")
                .fix("set the longest wait that clients accept, or use a leaky bucket"),
        );
    }
    if !max_wait.subsec_nanos().is_multiple_of(1_000) {
        return Err(
            error("the wait must be in whole microseconds").fix("round it to whole microseconds")
        );
    }
    u64::try_from(max_wait.as_micros())
        .ok()
        .filter(|micros| *micros <= MICROS_MAX)
        .ok_or_else(|| {
            error("the wait must be at most 71 years")
                .fix("set the longest wait that clients accept")
        })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn queue(quota: Quota, max_wait: u64) -> LeakyQueue {
        LeakyQueue::new(&quota, Duration::from_micros(max_wait)).unwrap()
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn delay(queue: &LeakyQueue, state: &mut State, now: u64) -> Option<u64> {
        let (decision, next) = queue.decide(*state, at(now), 1);
        *state = next;
        let delay = queue.delay(&decision).as_micros() as u64;
        decision.is_admitted().then_some(delay)
    }

    #[test]
    fn requests_go_on_one_by_one_and_the_one_too_many_is_denied() {
        let queue = queue(Quota::per_second(10), 250_000);
        let mut state = State::NONE;
        let delays = [(); 4].map(|()| delay(&queue, &mut state, 0));
        assert_eq!(delays, [Some(0), Some(100_000), Some(200_000), None]);
        assert_eq!(delay(&queue, &mut state, 49_999), None);
        assert_eq!(delay(&queue, &mut state, 50_000), Some(250_000));
        assert_eq!(delay(&queue, &mut state, 60_000_000), Some(0));
    }

    #[test]
    fn a_burst_that_the_quota_names_goes_on_at_once() {
        let queue = queue(Quota::per_second(10).burst(3), 100_000);
        let mut state = State::NONE;
        let delays = [(); 5].map(|()| delay(&queue, &mut state, 0));
        assert_eq!(delays, [Some(0), Some(0), Some(0), Some(100_000), None]);
        assert_eq!(queue.mirror().capacity(), 4);
    }

    #[test]
    fn turns_that_are_no_whole_microseconds_apart_are_neither_early_nor_lost() {
        let queue = queue(Quota::per_second(3), 3_000_000);
        let mut state = State::NONE;
        for turn in 0..10 {
            let exact = (turn * 1_000_000_u64).div_ceil(3);
            let delay = delay(&queue, &mut state, 0).unwrap();
            assert!((exact..=exact + 1).contains(&delay), "{delay} for {exact}");
        }
        assert_eq!(delay(&queue, &mut state, 0), None);
    }

    #[test]
    fn rejects_cost_above_queue_capacity_without_charging() {
        let (decision, state) = queue(Quota::per_second(10), 100_000).decide(State::NONE, at(1), 3);
        assert!(decision.is_unsatisfiable() && !state.is_alive(at(1)));
    }

    #[test]
    fn refunds_only_the_last_position_in_the_queue() {
        let queue = queue(Quota::per_second(10), 1_000_000);
        let (mut state, mut receipts) = (State::NONE, Vec::new());
        for _ in 0..3 {
            let (decision, next) = queue.decide(state, at(0), 1);
            receipts.push(decision.receipt());
            state = next;
        }
        assert_eq!(queue.refund(state, at(1), receipts[1], 1), state);
        let mut shorter = queue.refund(state, at(1), receipts[2], 1);
        assert_eq!(delay(&queue, &mut shorter.clone(), 1), Some(199_999));
        shorter = queue.refund(shorter, at(1), receipts[1], 1);
        assert_eq!(delay(&queue, &mut shorter, 1), Some(99_999));
    }

    #[test]
    fn a_queue_that_makes_no_sense_is_refused_by_name() {
        let error = |quota, wait| LeakyQueue::new(&quota, wait).unwrap_err().to_string();
        let second = Duration::from_secs(1);
        assert!(error(Quota::per_second(1), Duration::ZERO).contains("at least 1 microsecond"));
        assert!(error(Quota::per_second(1), Duration::from_secs(u64::MAX)).contains("71 years"));
        let nanos = Duration::from_nanos(1_500);
        assert!(error(Quota::per_second(1), nanos).contains("whole microseconds"));
        assert!(error(Quota::per_second(0), second).contains("limit of zero"));
        assert!(error(Quota::per_second(2_000_000), second).contains("token bucket"));
        let long = Duration::from_micros(MICROS_MAX);
        assert!(error(Quota::per_second(999_983), long).contains("shorter wait"));
    }

    fn quota() -> impl Strategy<Value = Quota> {
        (1_u64..40, 40_u64..3_000_000, 1_u64..6, any::<bool>()).prop_map(
            |(limit, window, burst, named)| {
                let quota = Quota::new(limit, Duration::from_micros(window));
                if named { quota.burst(burst) } else { quota }
            },
        )
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0_u64..200_000, 0_u64..4), 1..80)
    }

    /// A reference model of the queue. Its token count can be negative and is multiplied by the
    /// window to avoid rounding.
    struct Model {
        limit: i128,
        window: i128,
        burst: i128,
        max_wait: i128,
        tokens: i128,
        at: u64,
    }

    impl Model {
        fn new(quota: Quota, max_wait: u64) -> Self {
            let window = quota.window().as_micros() as i128;
            let burst = i128::from(quota.own_burst().unwrap_or(1)) * window;
            Self {
                limit: i128::from(quota.limit()),
                window,
                burst,
                max_wait: i128::from(max_wait),
                tokens: burst,
                at: 0,
            }
        }

        /// Returns the wait multiplied by the limit, if the wait is not too long.
        fn take(&mut self, now: u64, cost: u64) -> Option<i128> {
            let gained = i128::from(now - self.at) * self.limit;
            self.tokens = self.burst.min(self.tokens + gained);
            self.at = now;
            let after = self.tokens - i128::from(cost) * self.window;
            let wait = (-after).max(0);
            let admitted = wait <= self.max_wait * self.limit;
            if admitted {
                self.tokens = after;
            }
            admitted.then_some(wait)
        }

        fn remaining(&self) -> u64 {
            ((self.tokens + self.max_wait * self.limit) / self.window) as u64
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn delays_match_the_exact_model(
            quota in quota(),
            max_wait in 1_u64..2_000_000,
            steps in steps(),
        ) {
            let (queue, mut model) = (queue(quota, max_wait), Model::new(quota, max_wait));
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                let (decision, next) = queue.decide(state, at(now), cost);
                state = next;
                let exact = model.take(now, cost);
                prop_assert_eq!(decision.is_admitted(), exact.is_some());
                prop_assert_eq!(decision.remaining(), model.remaining());
                if let Some(exact) = exact.filter(|_| cost > 0) {
                    let delay = queue.delay(&decision).as_micros() as i128;
                    prop_assert!(delay <= i128::from(max_wait));
                    prop_assert!(delay * model.limit >= exact, "{} is too early", delay);
                    prop_assert!((delay - 2) * model.limit < exact, "{} is too late", delay);
                }
            }
        }

        #[test]
        fn departures_never_exceed_burst_and_rate_after_cancellations(
            quota in quota(),
            max_wait in 1_u64..2_000_000,
            steps in vec((0_u64..200_000, 1_u64..4, any::<prop::sample::Index>(), 0_u8..3), 1..60),
        ) {
            let queue = queue(quota, max_wait);
            let (mut now, mut state) = (0, State::NONE);
            let mut waiting: Vec<(u64, u64, Receipt)> = Vec::new();
            let mut gone: Vec<(u64, u64)> = Vec::new();
            for (pause, cost, which, leaves) in steps {
                now += pause;
                waiting.retain(|(turn, cost, _)| {
                    let waits = *turn > now;
                    if !waits {
                        gone.push((*turn, *cost));
                    }
                    waits
                });
                if leaves == 0 && !waiting.is_empty() {
                    let (_, cost, paid) = waiting.remove(which.index(waiting.len()));
                    state = queue.refund(state, at(now), paid, cost);
                }
                let (decision, next) = queue.decide(state, at(now), cost);
                state = next;
                if decision.is_admitted() {
                    let turn = now + queue.delay(&decision).as_micros() as u64;
                    waiting.push((turn, cost, decision.receipt()));
                }
            }
            gone.extend(waiting.iter().map(|(turn, cost, _)| (*turn, *cost)));
            gone.sort_unstable();
            let window = quota.window().as_micros();
            let burst = u128::from(quota.own_burst().unwrap_or(1));
            for (from, (began, first)) in gone.iter().enumerate() {
                let mut sum = 0;
                for (then, cost) in &gone[from..] {
                    sum += u128::from(*cost);
                    // Turns are rounded up to whole microseconds.
                    let gained = u128::from(then - began + 2) * u128::from(quota.limit());
                    // A request that costs more than the burst waited for the rest of its turns.
                    let bound = burst.max(u128::from(*first)) * window + gained;
                    prop_assert!(sum * window <= bound, "{} in {}", sum, then - began);
                }
            }
        }

        #[test]
        fn retry_after_and_remaining_are_exact(
            quota in quota(),
            max_wait in 1_u64..2_000_000,
            steps in steps(),
            cost in 1_u64..12,
        ) {
            let queue = queue(quota, max_wait);
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                state = queue.decide(state, at(now), cost).1;
            }
            let (decision, _) = queue.decide(state, at(now), cost);
            prop_assert_eq!(decision.is_unsatisfiable(), cost > queue.mirror().capacity());
            if let Some(wait) = decision.retry_after() {
                let wait = wait.as_micros() as u64;
                prop_assert!(!queue.decide(state, at(now + wait - 1), cost).0.is_admitted());
                prop_assert!(queue.decide(state, at(now + wait), cost).0.is_admitted());
            }
            let left = queue.decide(state, at(now), 0).0.remaining();
            prop_assert!(left <= queue.mirror().capacity());
            prop_assert!(queue.decide(state, at(now), left).0.is_admitted());
            prop_assert!(!queue.decide(state, at(now), left + 1).0.is_admitted());
        }

        #[test]
        fn no_clock_makes_it_panic_or_wait_longer_than_it_may(
            quota in quota(),
            max_wait in 1_u64..2_000_000,
            clock in vec(0_u64..1 << 53, 1..60),
        ) {
            let queue = queue(quota, max_wait);
            let mut state = State::NONE;
            for now in clock {
                for _ in 0..=queue.mirror().capacity().min(20) {
                    let delay = delay(&queue, &mut state, now);
                    prop_assert!(delay.is_none_or(|delay| delay <= max_wait));
                }
            }
        }
    }
}
