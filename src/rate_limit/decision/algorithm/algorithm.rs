//! Dispatch to the algorithms: pure functions of the state, the time and the cost.

use super::{
    fixed_window::{Alignment, FixedWindow},
    leaky_bucket::LeakyBucket,
    leaky_queue::LeakyQueue,
    sliding_log::{Log, SlidingLog},
    sliding_window::SlidingWindow,
    state::{LATEST, State},
    token_bucket::TokenBucket,
};

use std::{num::NonZeroU32, time::Duration};

use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::{params::PolicyParams, quota::Quota},
    },
};

/// An algorithm with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    FixedWindow(FixedWindow),
    SlidingWindow(SlidingWindow),
    /// A sliding log, or a sliding window in a store that supports only states.
    SlidingLog(SlidingLog, SlidingWindow),
    TokenBucket(TokenBucket),
    LeakyBucket(LeakyBucket),
    LeakyQueue(LeakyQueue),
}

impl Algorithm {
    pub(crate) fn fixed_window(quota: &Quota, alignment: Alignment) -> Result<Self, ConfigError> {
        FixedWindow::new(quota, alignment).map(Self::FixedWindow)
    }

    pub(crate) fn sliding_window(quota: &Quota) -> Result<Self, ConfigError> {
        SlidingWindow::new(quota).map(Self::SlidingWindow)
    }

    pub(crate) fn sliding_log(quota: &Quota) -> Result<Self, ConfigError> {
        let log = SlidingLog::new(quota)?;
        Ok(Self::SlidingLog(log, SlidingWindow::new(quota)?))
    }

    pub(crate) fn token_bucket(quota: &Quota) -> Result<Self, ConfigError> {
        TokenBucket::new(quota).map(Self::TokenBucket)
    }

    pub(crate) fn leaky_bucket(quota: &Quota) -> Result<Self, ConfigError> {
        LeakyBucket::new(quota).map(Self::LeakyBucket)
    }

    pub(crate) fn leaky_queue(quota: &Quota, max_wait: Duration) -> Result<Self, ConfigError> {
        LeakyQueue::new(quota, max_wait).map(Self::LeakyQueue)
    }

    /// Divides this algorithm's quota by a number of instances. Returns one instance's quota and
    /// the algorithm with that quota.
    pub(crate) fn divided(
        &self,
        quota: &Quota,
        share: NonZeroU32,
    ) -> Result<(Quota, Self), ConfigError> {
        let part = match self {
            Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::SlidingLog(..) => {
                quota.windows_part(share)
            }
            Self::TokenBucket(_) | Self::LeakyBucket(_) => quota.buckets_part(share),
            Self::LeakyQueue(_) => {
                let burst = quota.own_burst().unwrap_or(1);
                quota.burst(burst).buckets_part(share)
            }
        };
        let same = match self {
            Self::FixedWindow(window) => Self::fixed_window(&part, window.alignment()),
            Self::SlidingWindow(_) => Self::sliding_window(&part),
            Self::SlidingLog(..) => Self::sliding_log(&part),
            Self::TokenBucket(_) => Self::token_bucket(&part),
            Self::LeakyBucket(_) => Self::leaky_bucket(&part),
            Self::LeakyQueue(queue) => Self::leaky_queue(&part, queue.max_wait()),
        };
        Ok((part, same?))
    }

    /// Decides one request. Returns the decision and the next state.
    ///
    /// A denied request leaves the state unchanged, with one exception: if the clock moved back by
    /// more than a second, the state is truncated to its maximum duration.
    // Inlined, so that the result stays in registers.
    #[inline(always)]
    pub(crate) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        let now = now.min(LATEST);
        match self {
            Self::FixedWindow(window) => window.decide(state, now, cost),
            Self::SlidingWindow(window) | Self::SlidingLog(_, window) => {
                window.decide(state, now, cost)
            }
            Self::TokenBucket(bucket) => bucket.decide(state, now, cost),
            Self::LeakyBucket(bucket) => bucket.decide(state, now, cost),
            Self::LeakyQueue(queue) => queue.decide(state, now, cost),
        }
    }

    /// Decides like [`decide`](Self::decide) if a token bucket admits the request in the common
    /// case. Returns `None` in all other cases and for other algorithms.
    #[inline(always)]
    #[cfg_attr(not(feature = "memory"), allow(dead_code))]
    pub(crate) fn admit_whole(
        &self,
        state: State,
        now: Timestamp,
        cost: u64,
    ) -> Option<(Decision, State)> {
        match self {
            Self::TokenBucket(bucket) => bucket.admit_whole(state, now.min(LATEST), cost),
            Self::FixedWindow(_)
            | Self::SlidingWindow(_)
            | Self::SlidingLog(..)
            | Self::LeakyBucket(_)
            | Self::LeakyQueue(_) => None,
        }
    }

    /// Refunds part of the charge that this receipt identifies.
    pub(crate) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        let now = now.min(LATEST);
        match self {
            Self::FixedWindow(window) => window.refund(state, now, paid, amount),
            Self::SlidingWindow(window) | Self::SlidingLog(_, window) => {
                window.refund(state, now, paid, amount)
            }
            Self::TokenBucket(bucket) => bucket.refund(state, now, paid, amount),
            Self::LeakyBucket(bucket) => bucket.refund(state, now, paid, amount),
            Self::LeakyQueue(queue) => queue.refund(state, now, paid, amount),
        }
    }

    /// Charges an amount that is already used, even beyond the remaining quota.
    pub(crate) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        let now = now.min(LATEST);
        match self {
            Self::FixedWindow(window) => window.charge(state, now, amount),
            Self::SlidingWindow(window) | Self::SlidingLog(_, window) => {
                window.charge(state, now, amount)
            }
            Self::TokenBucket(bucket) => bucket.charge(state, now, amount),
            Self::LeakyBucket(bucket) => bucket.charge(state, now, amount),
            Self::LeakyQueue(queue) => queue.charge(state, now, amount),
        }
    }

    /// Returns the state after a change of the quota. The usage under the previous quota at the
    /// time of the change counts under the new quota.
    ///
    /// Usage is not carried over between different kinds of algorithm.
    pub(crate) fn carry(
        &self,
        own: State,
        previous: &Self,
        state: State,
        changed_at: Timestamp,
        now: Timestamp,
    ) -> State {
        let (now, changed_at) = (now.min(LATEST), changed_at.min(LATEST));
        let micros = changed_at.as_micros();
        match (self, previous) {
            (Self::FixedWindow(window), Self::FixedWindow(previous)) => {
                window.worse(own, window.converted(previous, state, micros), now)
            }
            (
                Self::SlidingWindow(window) | Self::SlidingLog(_, window),
                Self::SlidingWindow(previous) | Self::SlidingLog(_, previous),
            ) => window.worse(own, window.converted(previous, state, micros), now),
            (Self::TokenBucket(_) | Self::LeakyBucket(_) | Self::LeakyQueue(_), _) => {
                match (self.bucket(), previous.bucket()) {
                    (Some(bucket), Some(previous)) => {
                        bucket.worse(own, bucket.converted(previous, state, changed_at), now)
                    }
                    (_, None) | (None, _) => own,
                }
            }
            (Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::SlidingLog(..), _) => own,
        }
    }

    /// Carries over usage from one log to another, like [`carry`](Self::carry).
    pub(crate) fn carry_log(
        &self,
        own: &mut Log,
        previous: &Self,
        log: &mut Log,
        changed_at: Timestamp,
        now: Timestamp,
    ) {
        let (now, changed_at) = (now.min(LATEST), changed_at.min(LATEST));
        if let (Some(exact), Some(previous)) = (self.log(), previous.log()) {
            let used = previous.used_at(log, changed_at.as_micros());
            exact.carry(own, used, changed_at.as_micros(), now);
        }
    }

    fn bucket(&self) -> Option<&TokenBucket> {
        match self {
            Self::TokenBucket(bucket) => Some(bucket),
            Self::LeakyBucket(bucket) => Some(bucket.mirror()),
            Self::LeakyQueue(queue) => Some(queue.mirror()),
            Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::SlidingLog(..) => None,
        }
    }

    /// Returns the maximum remaining quota.
    pub(crate) fn capacity(&self) -> u64 {
        match self {
            Self::FixedWindow(window) => window.limit(),
            Self::SlidingWindow(window) | Self::SlidingLog(_, window) => window.limit(),
            Self::TokenBucket(bucket) => bucket.capacity(),
            Self::LeakyBucket(bucket) => bucket.mirror().capacity(),
            Self::LeakyQueue(queue) => queue.mirror().capacity(),
        }
    }

    /// Returns the maximum number of requests of cost 1 that are admitted in any interval of one
    /// window length.
    pub(crate) fn max_per_window(&self, quota: &Quota) -> u64 {
        // The gain in the window without its last microsecond, plus `more` microseconds.
        let gained = |more: u128| {
            let window = quota.window().as_micros();
            let gained = (window - 1 + more) * u128::from(quota.limit()) / window;
            u64::try_from(gained).unwrap_or(u64::MAX)
        };
        match self {
            Self::FixedWindow(window) => match window.alignment() {
                Alignment::Clock | Alignment::FirstRequest => window.limit().saturating_mul(2),
                // An interval as long as the longest window can contain a whole shorter one.
                Alignment::Month | Alignment::Year => window.limit().saturating_mul(3),
            },
            Self::SlidingWindow(window) => window.limit().saturating_mul(2),
            Self::SlidingLog(log, _) => log.limit(),
            Self::TokenBucket(_) | Self::LeakyBucket(_) => {
                quota.burst_size().saturating_add(gained(0))
            }
            // Turns are rounded to whole microseconds.
            Self::LeakyQueue(_) => quota.own_burst().unwrap_or(1).saturating_add(gained(2)),
        }
    }

    /// Returns the time in which an exhausted quota becomes fully available again, in microseconds,
    /// rounded up.
    pub(crate) fn horizon_micros(&self) -> u64 {
        match self {
            Self::FixedWindow(window) => window.window_micros(),
            Self::SlidingWindow(window) | Self::SlidingLog(_, window) => window.window_micros(),
            Self::TokenBucket(bucket) => bucket.refill_micros(),
            Self::LeakyBucket(bucket) => bucket.mirror().refill_micros(),
            Self::LeakyQueue(queue) => queue.mirror().refill_micros(),
        }
    }

    /// Returns the letter that distinguishes the states of different algorithms.
    pub(crate) fn letter(&self) -> char {
        match self {
            Self::FixedWindow(window) => match window.alignment() {
                Alignment::Clock => 'w',
                Alignment::FirstRequest => 'a',
                Alignment::Month => 'm',
                Alignment::Year => 'y',
            },
            Self::SlidingWindow(_) => 's',
            Self::SlidingLog(..) => 'g',
            Self::TokenBucket(_) => 'b',
            Self::LeakyBucket(_) => 'l',
            Self::LeakyQueue(_) => 'q',
        }
    }

    /// Returns `true` for buckets. Other algorithms have windows.
    pub(crate) fn is_bucket(&self) -> bool {
        match self {
            Self::TokenBucket(_) | Self::LeakyBucket(_) | Self::LeakyQueue(_) => true,
            Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::SlidingLog(..) => false,
        }
    }

    /// Returns the leaky queue if the algorithm is one.
    #[inline]
    pub(crate) fn queue(&self) -> Option<&LeakyQueue> {
        match self {
            Self::LeakyQueue(queue) => Some(queue),
            Self::FixedWindow(_)
            | Self::SlidingWindow(_)
            | Self::SlidingLog(..)
            | Self::TokenBucket(_)
            | Self::LeakyBucket(_) => None,
        }
    }

    /// Returns the parameters for implementations outside this crate.
    pub(crate) fn terms(&self) -> PolicyParams {
        let window = |limit, window| [limit, window, 0, 0, 0, 0];
        let numbers = match self {
            Self::FixedWindow(fixed) => window(fixed.limit(), fixed.window_micros()),
            Self::SlidingWindow(sliding) | Self::SlidingLog(_, sliding) => {
                window(sliding.limit(), sliding.window_micros())
            }
            Self::TokenBucket(bucket) => bucket.numbers(),
            Self::LeakyBucket(bucket) => bucket.mirror().numbers(),
            Self::LeakyQueue(queue) => queue.mirror().numbers(),
        };
        PolicyParams::new(self.letter(), numbers)
    }

    /// Returns the sliding log if the algorithm is one.
    #[inline]
    pub(crate) fn log(&self) -> Option<&SlidingLog> {
        match self {
            Self::SlidingLog(log, _) => Some(log),
            Self::FixedWindow(_)
            | Self::SlidingWindow(_)
            | Self::TokenBucket(_)
            | Self::LeakyBucket(_)
            | Self::LeakyQueue(_) => None,
        }
    }

    /// Decides like [`decide`](Self::decide), but with a log. Returns `None` if the algorithm does
    /// not use a log.
    pub(crate) fn decide_log(&self, log: &mut Log, now: Timestamp, cost: u64) -> Option<Decision> {
        self.log()
            .map(|exact| exact.decide(log, now.min(LATEST), cost))
    }

    /// Charges an amount to a log, like [`charge`](Self::charge).
    pub(crate) fn charge_log(&self, log: &mut Log, now: Timestamp, amount: u64) {
        if let Some(exact) = self.log() {
            exact.charge(log, now.min(LATEST), amount);
        }
    }

    /// Records an admitted request in a log.
    pub(crate) fn record(&self, log: &mut Log, now: Timestamp, cost: u64) {
        if let Some(exact) = self.log() {
            exact.record(log, now.min(LATEST), cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::{super::state::SLACK_MICROS, *};

    /// An operation on a state.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Take(u64),
        Charge(u64),
        Refund(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0_u64..6).prop_map(Event::Take),
            1 => (0_u64..60).prop_map(Event::Charge),
            1 => (0_u64..6).prop_map(Event::Refund),
        ]
    }

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        (0..7, 1_u64..20, 100_u64..2_000_000).prop_map(|(which, limit, window)| {
            let quota = Quota::new(limit, Duration::from_micros(window));
            let algorithm = match which {
                0 => Algorithm::fixed_window(&quota, Alignment::FirstRequest),
                1 => Algorithm::fixed_window(&quota, Alignment::Clock),
                2 => Algorithm::sliding_window(&quota),
                3 => Algorithm::token_bucket(&quota.burst(1 + limit / 2)),
                4 => Algorithm::leaky_bucket(&quota),
                5 => Algorithm::leaky_queue(&quota, Duration::from_micros(3 * window)),
                _ => Algorithm::sliding_log(&quota),
            };
            algorithm.unwrap()
        })
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn any_quota() -> impl Strategy<Value = Quota> {
        let limit = prop_oneof![1_u64..20, 1_u64..5_000];
        (limit, 1_u64..100_000)
            .prop_map(|(limit, window)| Quota::new(limit, Duration::from_micros(window * 1_000)))
    }

    fn algorithm_of(which: u8, quota: Quota) -> Algorithm {
        match which {
            0 => Algorithm::fixed_window(&quota, Alignment::FirstRequest),
            1 => Algorithm::fixed_window(&quota, Alignment::Clock),
            2 => Algorithm::sliding_window(&quota),
            3 => Algorithm::token_bucket(&quota),
            4 => Algorithm::sliding_log(&quota),
            _ => Algorithm::leaky_bucket(&quota.burst(1 + quota.limit() / 2)),
        }
        .unwrap()
    }

    /// Carries over to another algorithm and returns the remaining quota under that algorithm.
    fn carried(memory: &mut Memory, new: Algorithm, now: u64) -> u64 {
        let old = memory.algorithm;
        if new.log().is_some() {
            let mut log = Log::default();
            new.carry_log(&mut log, &old, &mut memory.log, at(now), at(now));
            memory.log = log;
        }
        memory.state = new.carry(State::NONE, &old, memory.state, at(now), at(now));
        memory.algorithm = new;
        memory.clone().take(now, 0).remaining()
    }

    /// A log if the algorithm uses one, otherwise a state.
    #[derive(Clone, Debug)]
    struct Memory {
        algorithm: Algorithm,
        state: State,
        log: Log,
        paid: Receipt,
    }

    impl Memory {
        fn new(algorithm: Algorithm) -> Self {
            Self {
                algorithm,
                state: State::NONE,
                log: Log::default(),
                paid: Receipt::default(),
            }
        }

        fn take(&mut self, now: u64, cost: u64) -> Decision {
            if let Some(decision) = self.algorithm.decide_log(&mut self.log, at(now), cost) {
                if decision.is_admitted() {
                    self.algorithm.record(&mut self.log, at(now), cost);
                }
                return decision;
            }
            let (decision, state) = self.algorithm.decide(self.state, at(now), cost);
            self.state = state;
            decision
        }

        fn befall(&mut self, now: u64, event: Event) {
            match event {
                Event::Take(cost) => {
                    let decision = self.take(now, cost);
                    if decision.is_admitted() {
                        self.paid = decision.receipt();
                    }
                }
                Event::Charge(amount) => match self.algorithm.log() {
                    Some(exact) => exact.charge(&mut self.log, at(now), amount),
                    None => self.state = self.algorithm.charge(self.state, at(now), amount),
                },
                Event::Refund(amount) => match self.algorithm.log() {
                    Some(exact) => exact.refund(&mut self.log, self.paid, amount),
                    None => {
                        self.state = self
                            .algorithm
                            .refund(self.state, at(now), self.paid, amount);
                    }
                },
            }
        }

        fn admits(&self, now: u64, cost: u64) -> bool {
            self.clone().take(now, cost).is_admitted()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn remaining_and_retry_after_are_exact_after_charges_and_refunds(
            algorithm in algorithm(),
            events in vec((0_u64..400_000, event()), 1..30),
            cost in 1_u64..30,
        ) {
            let mut memory = Memory::new(algorithm);
            let (mut now, capacity) = (10_000_000, algorithm.capacity());
            for (pause, event) in events {
                now += pause;
                memory.befall(now, event);
            }
            let look = memory.take(now, 0);
            prop_assert!(look.is_admitted());
            let left = look.remaining();
            prop_assert!(left <= capacity);
            prop_assert!(memory.admits(now, left));
            prop_assert!(!memory.admits(now, left + 1));

            let decision = memory.clone().take(now, cost);
            prop_assert_eq!(decision.is_unsatisfiable(), cost > capacity);
            if let Some(wait) = decision.retry_after() {
                let wait = wait.as_micros() as u64;
                prop_assert!(!memory.admits(now + wait - 1, cost));
                prop_assert!(memory.admits(now + wait, cost));
                // A caller is denied for at most two full refills.
                prop_assert!(wait <= 2 * algorithm.horizon_micros() + 1);
            }
            let reset = look.reset_after().as_micros() as u64;
            prop_assert!(memory.admits(now + reset, capacity));
        }

        #[test]
        fn clock_jumps_never_panic_and_bound_reset_after(
            algorithm in algorithm(),
            events in vec((0_u64..1 << 52, event()), 1..30),
        ) {
            let mut memory = Memory::new(algorithm);
            for (now, event) in events {
                memory.befall(now, event);
                let reset = memory.take(now, 0).reset_after().as_micros() as u64;
                // After a clock goes back, a sliding window starts at the next boundary at latest.
                let longest = 3 * algorithm.horizon_micros() + SLACK_MICROS + 1;
                prop_assert!(reset <= longest, "{} of {}", reset, longest);
            }
        }

        #[test]
        fn any_span_of_one_window_stays_within_the_bound(
            which in 0_u8..7,
            quota in (1_u64..12, 200_u64..3_000, prop::option::of(1_u64..20)),
            steps in vec((0_u64..600, any::<bool>()), 1..300),
        ) {
            let (limit, window, burst) = quota;
            let plain = Quota::new(limit, Duration::from_micros(window));
            let quota = burst.map_or(plain, |burst| plain.burst(burst));
            let (algorithm, quota) = match which {
                3 => (Algorithm::token_bucket(&quota), quota),
                5 => (Algorithm::leaky_bucket(&quota), quota),
                6 => (Algorithm::leaky_queue(&quota, Duration::from_micros(2 * window)), quota),
                which => (Ok(algorithm_of(which, plain)), plain),
            };
            let algorithm = algorithm.unwrap();
            let (mut memory, mut now) = (Memory::new(algorithm), 10_000_000);
            let mut admitted = Vec::new();
            for (pause, waits) in steps {
                now += if waits { pause } else { 0 };
                let decision = memory.take(now, 1);
                if decision.is_admitted() {
                    let delay = algorithm.queue().map(|queue| queue.delay(&decision));
                    admitted.push(now + delay.unwrap_or_default().as_micros() as u64);
                }
            }
            admitted.sort_unstable();
            let most = algorithm.max_per_window(&quota);
            for (from, began) in admitted.iter().enumerate() {
                let within = admitted[from..].iter().take_while(|at| *at - began < window);
                prop_assert!(within.count() as u64 <= most);
            }
        }

        #[test]
        fn change_of_quota_keeps_counts_of_windows_and_shares_of_buckets(
            which in 0_u8..6,
            [from, to] in [any_quota(), any_quota()],
            share in 0_u64..=10,
            start in 10_000_000_u64..20_000_000,
        ) {
            let (old, new) = (algorithm_of(which, from), algorithm_of(which, to));
            let mut memory = Memory::new(old);
            let (capacity, then) = (old.capacity(), new.capacity());
            memory.take(start, capacity * share / 10);
            let left = memory.clone().take(start, 0).remaining();
            let changed = carried(&mut memory, new, start);
            if old.is_bucket() {
                // Exact to within one, plus the gain of a queue by the rounding of its turns.
                let (exact, slack) = (u128::from(left) * u128::from(then), u128::from(capacity));
                let (carried, then) = (u128::from(changed) * slack, u128::from(then));
                prop_assert!(carried <= exact + slack + then, "{} of {}", changed, then);
                prop_assert!(carried + 2 * slack + then >= exact, "{} of {}", changed, then);
            } else {
                prop_assert_eq!(changed, then.saturating_sub(capacity - left));
            }
            if share == 10 {
                let spent = if old.is_bucket() { 0 } else { then.saturating_sub(capacity) };
                prop_assert_eq!(changed, spent);
            }
        }

        #[test]
        fn carrying_over_again_or_later_changes_no_state_that_was_carried(
            which in 0_u8..6,
            [from, to] in [any_quota(), any_quota()],
            cost in 0_u64..20,
            pauses in vec((0_u64..2_000_000, 0_u64..4), 1..20),
        ) {
            let (old, new) = (algorithm_of(which, from), algorithm_of(which, to));
            let mut memory = Memory::new(old);
            memory.take(10_000_000, cost);
            let before = memory.clone();
            carried(&mut memory, new, 10_000_000);
            let mut now = 10_000_000;
            for (pause, cost) in pauses {
                now += pause;
                let state = memory.state;
                let again = new.carry(state, &old, before.state, at(10_000_000), at(now));
                let look = |state| new.decide(state, at(now), 0).0;
                prop_assert_eq!(look(again), look(state));
                memory.take(now, cost);
            }
        }

        #[test]
        fn a_quota_of_which_nothing_is_used_has_no_state(
            which in 0_u8..6,
            quotas in [any_quota(), any_quota()],
            costs in vec(1_u64..4, 0..6),
            back in 1_u64..3_000_000,
        ) {
            let [algorithm, other] = quotas.map(|quota| algorithm_of(which, quota));
            let mut memory = Memory::new(algorithm);
            for cost in costs {
                memory.take(10_000_000, cost);
            }
            let over = memory.state.expires_at().max(at(10_000_000));
            for algorithm in [algorithm, other] {
                let (_, looked) = algorithm.decide(memory.state, over, 0);
                prop_assert_eq!(looked, State::NONE);
                let earlier = at(over.as_micros() - back);
                let (full, _) = algorithm.decide(looked, earlier, 0);
                prop_assert_eq!(full.remaining(), algorithm.capacity());
                prop_assert_eq!(full.reset_after(), Duration::ZERO);
            }
        }

        #[test]
        fn charge_counts_like_an_admitted_take(
            algorithm in algorithm(),
            costs in vec((0_u64..400_000, 0_u64..4), 1..30),
        ) {
            let (mut taken, mut charged) = (Memory::new(algorithm), Memory::new(algorithm));
            let mut now = 10_000_000;
            for (pause, cost) in costs {
                now += pause;
                if taken.take(now, cost).is_admitted() {
                    charged.befall(now, Event::Charge(cost));
                }
                let left = |memory: &Memory| memory.clone().take(now, 0);
                prop_assert_eq!(left(&taken), left(&charged));
            }
        }
    }
}
