//! The leaky bucket, as a queue: what comes too fast waits for its turn, and what would wait too
//! long is denied.

use std::time::Duration;

use super::{state::State, token_bucket::TokenBucket};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::{MICROS_MAX, Quota, Span},
    },
};

/// A queue that lets requests go on at the quota's rate.
///
/// As many as the burst go on at once after a pause, one unless the quota names another; in any
/// time `t` at most the burst and `t` times the rate go on. A request stands in the queue for all
/// that it costs, and goes on once all of that has had its turn.
///
/// It is a token bucket that may owe what it will gain in the longest wait, and so the token
/// bucket's arithmetic decides: what is owed after the charge is waited for. The state is the
/// bucket's too, the moment at which the last in the queue has had its turn and the burst has come
/// back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeakyQueue {
    mirror: TokenBucket,
    /// What the burst takes to come back, rounded down: so far ahead of its turn nobody waits.
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
                "a queue has no two turns in a microsecond",
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
                "the queue would have more places than are counted exactly",
            )
            .fix("give a shorter wait")
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

    /// Returns how long a request that was admitted so waits for its turn: never too short a
    /// time, and at most a microsecond too long.
    pub(crate) fn delay(&self, said: &Decision) -> Duration {
        if !said.is_admitted() {
            return Duration::ZERO;
        }
        let owed = said
            .reset_after_micros()
            .saturating_sub(self.at_once_micros);
        // No longer than was promised: the exact wait is not, and is no whole microsecond less.
        Duration::from_micros(owed.min(self.max_wait_micros))
    }

    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.mirror.charge(state, now, amount)
    }

    /// Gives a place back, if nobody stands behind it: who does keeps the turn that was given.
    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        // Turns are a microsecond apart at least: an equal moment is the same charge's.
        if state.expires_at() != paid.expires_at() {
            return state;
        }
        self.mirror.refund(state, now, paid, amount)
    }
}

fn wait_micros(max_wait: Duration) -> Result<u64, ConfigError> {
    let error = |problem| ConfigError::new("max_wait", format_args!("{max_wait:?}"), problem);
    if max_wait.is_zero() {
        return Err(error("a queue in which nobody may wait is none")
            .fix("give the longest wait that a caller will bear, or use a leaky bucket"));
    }
    if !max_wait.subsec_nanos().is_multiple_of(1_000) {
        return Err(
            error("time is counted in whole microseconds").fix("give a wait of whole microseconds")
        );
    }
    u64::try_from(max_wait.as_micros())
        .ok()
        .filter(|micros| *micros <= MICROS_MAX)
        .ok_or_else(|| {
            error("the wait is longer than 71 years").fix("give a wait that a caller will bear")
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
    fn what_costs_more_than_the_queue_holds_is_never_admitted_and_never_charged() {
        let (decision, state) = queue(Quota::per_second(10), 100_000).decide(State::NONE, at(1), 3);
        assert!(decision.is_unsatisfiable() && !state.is_alive(at(1)));
    }

    #[test]
    fn a_place_is_given_back_only_if_nobody_stands_behind_it() {
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
        assert!(error(Quota::per_second(1), Duration::ZERO).contains("nobody may wait"));
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

    /// A queue in the plainest words: tokens that may be owed, times the window, so that nothing
    /// is rounded.
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

        /// Returns the wait times the limit, if it is not too long.
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
        fn it_delays_as_a_bucket_that_may_owe_tokens_does(
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
        fn no_time_lets_more_go_on_than_the_burst_and_the_rate_whoever_leaves_the_queue(
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
                    // What costs more than the burst has waited for the rest of its turns.
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
