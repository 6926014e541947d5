//! The sliding window: the count of the current window plus a share of the previous one.

use super::state::{State, add_capped};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::Quota,
    },
};

/// A counter for clock-aligned windows. The counter assumes that the requests of the previous
/// window were evenly spaced and that the first request was at the start of that window.
///
/// A window that ends now covers the current clock-aligned window and the last part of the previous
/// one. The usage in that part is estimated from the assumption. A request is admitted if its cost
/// fits in addition to the count of the current window and that estimate. A caller whose requests
/// are evenly spaced at the limit's rate is never denied. A caller that retries at `Retry-After` is
/// admitted exactly the limit in each clock-aligned window.
///
/// A clock-aligned window admits at most the limit. Any other interval of the same length admits at
/// most twice the limit. This maximum is reached only if all requests of the previous window
/// arrived at the end of that window.
///
/// The state contains the end of the next window, the count of the current window, and the count of
/// the previous window. Shares are compared as products, without rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    limit: u64,
    window_micros: u64,
}

/// The counts of a state at a given time, in microseconds.
#[derive(Clone, Copy)]
struct WindowCounts {
    /// The start of the window, which is later than the current time only if the clock moved back.
    start: u64,
    /// The remaining time of the window.
    left: u64,
    /// The time until the window starts, which is zero unless the clock moved back.
    until_start: u64,
    this: u64,
    last: u64,
}

impl SlidingWindow {
    pub(super) fn new(quota: &Quota) -> Result<Self, ConfigError> {
        Ok(Self {
            limit: quota.limit(),
            window_micros: quota.burstless_window_micros()?,
        })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn window_micros(&self) -> u64 {
        self.window_micros
    }

    pub(super) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        let counts = self.counts(state, now.as_micros());
        if cost > self.limit {
            let decision = Decision::never_micros(self.remaining(counts), self.reset_after(counts));
            return (decision, self.state(counts));
        }
        if self.fits(counts, cost) || cost == 0 {
            let charged = WindowCounts {
                this: counts.this + cost,
                ..counts
            };
            let decision = Decision::admitted_micros(
                self.remaining(charged),
                self.reset_after(charged),
                Timestamp::from_micros(counts.start + 2 * self.window_micros),
            );
            (decision, self.state(charged))
        } else {
            let decision = Decision::denied_micros(
                self.remaining(counts),
                self.reset_after(counts),
                self.retry_after(counts, cost),
            );
            (decision, self.state(counts))
        }
    }

    /// Refunds an amount to the receipt's window, as long as that window still counts.
    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        let mut counts = self.counts(state, now.as_micros());
        let until = paid.expires_at().as_micros();
        if until == counts.start + 2 * self.window_micros {
            counts.this = counts.this.saturating_sub(amount);
        } else if until == counts.start + self.window_micros {
            counts.last = counts.last.saturating_sub(amount);
        }
        self.state(counts)
    }

    /// Charges the current window for an amount that is already used.
    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        let mut counts = self.counts(state, now.as_micros());
        counts.this = add_capped(counts.this, amount, self.limit);
        self.state(counts)
    }

    /// Converts a state of another window at the time of a change. All usage at that time counts
    /// toward the window that contains the change.
    pub(super) fn converted(&self, previous: &Self, state: State, changed_at: u64) -> State {
        let used = previous.used(previous.counts(state, changed_at));
        self.state(WindowCounts {
            start: changed_at - changed_at % self.window_micros,
            left: 0,
            until_start: 0,
            this: used,
            last: 0,
        })
    }

    /// Returns a state with the greater usage of the two states in each window.
    pub(super) fn worse(&self, own: State, carried: State, now: Timestamp) -> State {
        if !own.is_alive(now) {
            return carried;
        }
        let mut counts = self.counts(own, now.as_micros());
        let other = self.counts(carried, now.as_micros());
        if counts.start == other.start {
            counts.this = counts.this.max(other.this);
            counts.last = counts.last.max(other.last);
        }
        self.state(counts)
    }

    fn counts(&self, state: State, now: u64) -> WindowCounts {
        let window = self.window_micros;
        let [this, last] = state.words;
        let aligned = now - now % window;
        let until = state.expires_at.as_micros();
        let (start, this, last) = if until <= now {
            (aligned, 0, 0)
        } else if until > now + 2 * window {
            // A window in the future was opened before the clock went back. The current time counts
            // as its start, which is at most the start of the next window.
            ((until - 2 * window).min(aligned + window), this, last)
        } else if until > now + window {
            (until.saturating_sub(2 * window), this, last)
        } else {
            (until.saturating_sub(window), 0, this)
        };
        let until_start = start.saturating_sub(now);
        WindowCounts {
            start,
            left: start + window - (now + until_start),
            until_start,
            this,
            last,
        }
    }

    fn fits(&self, counts: WindowCounts, cost: u64) -> bool {
        let used = counts.this.saturating_add(cost);
        used.saturating_add(self.in_sight(counts)) <= self.limit
    }

    fn remaining(&self, counts: WindowCounts) -> u64 {
        self.limit.saturating_sub(self.used(counts))
    }

    fn used(&self, counts: WindowCounts) -> u64 {
        counts.this.saturating_add(self.in_sight(counts))
    }

    /// Returns the number of requests in the previous window that are less than one window old.
    fn in_sight(&self, counts: WindowCounts) -> u64 {
        // The requests are evenly spaced from the start: one expires at the end of each interval.
        let intervals = share(counts.last, counts.left).div_ceil(u128::from(self.window_micros));
        u64::try_from(intervals)
            .unwrap_or(u64::MAX)
            .saturating_sub(1)
    }

    /// Returns the remaining time of the current window at which at most `in_sight` of the previous
    /// window's `last` requests still count.
    fn may_be_left(&self, last: u64, in_sight: u64) -> u64 {
        let part = share(in_sight.saturating_add(1), self.window_micros) / u128::from(last.max(1));
        u64::try_from(part).map_or(self.window_micros, |part| part.min(self.window_micros))
    }

    /// Returns the time until a cost fits, for a cost that is within the limit but does not fit
    /// now.
    fn retry_after(&self, counts: WindowCounts, cost: u64) -> u64 {
        let (window, free) = (self.window_micros, self.limit - cost);
        let to_the_end = counts.until_start + counts.left;
        match free.checked_sub(counts.this) {
            Some(free) => to_the_end - self.may_be_left(counts.last, free).min(counts.left),
            None => to_the_end + window - self.may_be_left(counts.this, free),
        }
    }

    fn reset_after(&self, counts: WindowCounts) -> u64 {
        let to_the_end = counts.until_start + counts.left;
        match counts.this {
            0 if self.in_sight(counts) == 0 => 0,
            0 => to_the_end - self.may_be_left(counts.last, 0).min(counts.left),
            this => to_the_end + self.window_micros - self.may_be_left(this, 0),
        }
    }

    fn state(&self, counts: WindowCounts) -> State {
        let WindowCounts {
            start, this, last, ..
        } = counts;
        let state = |until, words| State::new(Timestamp::from_micros(until), words);
        match (this, last) {
            (0, 0) => State::NONE,
            // The same as the state of the previous window: it expires one window earlier.
            (0, _) => state(start + self.window_micros, [last, 0]),
            (_, _) => state(start + 2 * self.window_micros, [this, last]),
        }
    }
}

/// Returns a share as the product of a count and a number of microseconds.
fn share(count: u64, micros: u64) -> u128 {
    u128::from(count) * u128::from(micros)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const WINDOW: u64 = 1_000_000;

    fn window(limit: u64) -> SlidingWindow {
        SlidingWindow::new(&Quota::new(limit, Duration::from_micros(WINDOW))).unwrap()
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn previous_window_counts_as_if_its_requests_were_evenly_spaced() {
        let window = window(10);
        let (_, state) = window.decide(State::NONE, at(999_999), 10);
        let left = |now| window.decide(state, at(now), 0).0.remaining();
        assert_eq!((left(999_999), left(1_000_000)), (0, 1));
        assert_eq!((left(1_099_999), left(1_100_000)), (1, 2));
        assert_eq!((left(1_500_000), left(1_900_000)), (6, 10));
    }

    #[test]
    fn a_limit_of_one_admits_one_in_each_window() {
        let window = window(1);
        let (first, state) = window.decide(State::NONE, at(0), 1);
        assert!(first.is_admitted());
        let (denied, _) = window.decide(state, at(0), 1);
        assert_eq!(denied.retry_after(), Some(Duration::from_micros(WINDOW)));
        assert!(window.decide(state, at(WINDOW), 1).0.is_admitted());
    }

    #[test]
    fn worst_window_admits_twice_the_limit() {
        for limit in [1, 2, 7, 100] {
            let window = window(limit);
            let (_, mut state) = window.decide(State::NONE, at(WINDOW - 1), limit);
            let mut admitted = limit;
            for now in WINDOW..2 * WINDOW - 1 {
                let (decision, next) = window.decide(state, at(now), 1);
                admitted += u64::from(decision.is_admitted());
                state = next;
            }
            assert_eq!(admitted, 2 * limit);
        }
    }

    #[test]
    fn a_cost_above_the_limit_is_never_admitted_and_never_charged() {
        let (decision, state) = window(2).decide(State::NONE, at(1), 3);
        assert!(decision.is_unsatisfiable());
        assert_eq!(state, State::NONE);
    }

    #[test]
    fn a_costly_request_that_does_not_fit_is_not_charged() {
        let window = window(10);
        let (_, state) = window.decide(State::NONE, at(0), 8);
        let (denied, after) = window.decide(state, at(1), 3);
        assert_eq!((denied.is_admitted(), denied.remaining()), (false, 2));
        assert_eq!(after, state);
    }

    #[test]
    fn a_refund_reaches_the_window_that_was_charged_also_from_the_next_and_none_later() {
        let window = window(10);
        let left = |state, now| window.decide(state, at(now), 0).0.remaining();
        let (paid, state) = window.decide(State::NONE, at(0), 10);
        let paid = paid.receipt();
        assert_eq!(left(window.refund(state, at(1), paid, 4), 1), 4);
        assert_eq!(left(window.refund(state, at(WINDOW), paid, 4), WINDOW), 5);
        let (_, later) = window.decide(state, at(2 * WINDOW), 10);
        let refunded = window.refund(later, at(2 * WINDOW), paid, 4);
        assert_eq!(left(refunded, 2 * WINDOW), 0);
    }

    #[test]
    fn a_clock_that_goes_back_locks_out_for_no_longer_than_three_windows() {
        let window = window(1);
        let (_, state) = window.decide(State::NONE, at(900 * WINDOW), 1);
        let (denied, _) = window.decide(state, at(5), 1);
        assert!(denied.retry_after().unwrap() <= Duration::from_micros(3 * WINDOW));
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0_u64..400_000, 0_u64..4), 1..120)
    }

    #[test]
    fn a_state_that_ends_before_its_window_could_have_begun_makes_nothing_panic() {
        let state = State::from_words([5, 1, 1]);
        assert!(window(9).decide(state, at(1), 1).0.is_admitted());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_decides_as_evenly_spaced_requests_do(limit in 1_u64..12, steps in steps()) {
            let window = window(limit);
            let (mut now, mut state) = (0, State::NONE);
            let mut counts = BTreeMap::<u64, u64>::new();
            for (pause, cost) in steps {
                now += pause;
                let number = now / WINDOW;
                let of = |number: Option<u64>| {
                    number.and_then(|number| counts.get(&number)).copied().unwrap_or(0)
                };
                let (this, last) = (of(Some(number)), of(number.checked_sub(1)));
                // The nth request of the previous window arrived n/last of a window after its
                // start.
                let came = |nth: &u64| nth * WINDOW > (now % WINDOW) * last;
                let used = this + (0..last).filter(came).count() as u64;
                let fits = cost == 0 || used + cost <= limit;
                let (decision, next) = window.decide(state, at(now), cost);
                prop_assert_eq!(decision.is_admitted(), fits);
                let used = used + if fits { cost } else { 0 };
                prop_assert_eq!(decision.remaining(), limit.saturating_sub(used));
                if fits {
                    *counts.entry(number).or_default() += cost;
                }
                state = next;
            }
            prop_assert!(counts.values().all(|count| *count <= limit));
        }

        #[test]
        fn any_stretch_of_a_window_admits_at_most_twice_the_limit(
            limit in 1_u64..12,
            steps in steps(),
        ) {
            let window = window(limit);
            let (mut now, mut state, mut log) = (0, State::NONE, Vec::new());
            for (pause, cost) in steps {
                now += pause;
                let (decision, next) = window.decide(state, at(now), cost);
                if decision.is_admitted() {
                    log.push((now, cost));
                }
                state = next;
            }
            for (from, (began, _)) in log.iter().enumerate() {
                let within = log[from..].iter().take_while(|(then, _)| then - began < WINDOW);
                let sum: u64 = within.map(|(_, cost)| cost).sum();
                prop_assert!(sum <= 2 * limit);
            }
        }

        #[test]
        fn retry_after_is_exact(limit in 1_u64..12, steps in steps(), cost in 1_u64..14) {
            let window = window(limit);
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                state = window.decide(state, at(now), cost).1;
            }
            let (decision, _) = window.decide(state, at(now), cost);
            prop_assert_eq!(decision.is_unsatisfiable(), cost > limit);
            if let Some(wait) = decision.retry_after() {
                let wait = wait.as_micros() as u64;
                prop_assert!(!window.decide(state, at(now + wait - 1), cost).0.is_admitted());
                prop_assert!(!window.decide(state, at(now + wait / 2), cost).0.is_admitted());
                prop_assert!(window.decide(state, at(now + wait), cost).0.is_admitted());
            }
        }

        #[test]
        fn the_window_is_whole_when_reset_after_has_passed_and_not_before(
            limit in 1_u64..12,
            steps in steps(),
        ) {
            let window = window(limit);
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                state = window.decide(state, at(now), cost).1;
            }
            let left = |now| window.decide(state, at(now), 0).0.remaining();
            let reset = window.decide(state, at(now), 0).0.reset_after().as_micros() as u64;
            prop_assert_eq!(left(now + reset), limit);
            prop_assert!(reset == 0 || left(now + reset - 1) < limit);
        }

        #[test]
        fn evenly_spaced_caller_below_the_limit_is_never_denied(
            limit in 1_u64..40,
            start in 0_u64..3 * WINDOW,
            extra in 0_u64..100_000,
        ) {
            let (window, mut state) = (window(limit), State::NONE);
            let interval = WINDOW.div_ceil(limit) + extra;
            for nth in 0..200 {
                let (decision, next) = window.decide(state, at(start + nth * interval), 1);
                prop_assert!(decision.is_admitted(), "request {}", nth);
                state = next;
            }
        }

        #[test]
        fn caller_that_retries_in_time_is_admitted_exactly_the_limit_in_each_window(
            limit in 1_u64..40,
            start in 0_u64..3 * WINDOW,
        ) {
            let (window, mut state, mut now) = (window(limit), State::NONE, start);
            let mut counts = BTreeMap::<u64, u64>::new();
            while now / WINDOW < start / WINDOW + 6 {
                let (decision, next) = window.decide(state, at(now), 1);
                state = next;
                match decision.retry_after() {
                    Some(wait) => now += wait.as_micros() as u64,
                    None => *counts.entry(now / WINDOW).or_default() += 1,
                }
            }
            prop_assert!(counts.values().all(|count| *count == limit), "{:?}", counts);
        }

        #[test]
        fn no_clock_makes_it_panic_or_admit_more_than_the_limit_at_once(
            limit in 1_u64..12,
            clock in vec(0_u64..1 << 53, 1..60),
        ) {
            let window = window(limit);
            let mut state = State::NONE;
            for now in clock {
                let mut admitted = 0;
                for _ in 0..2 * limit {
                    let (decision, next) = window.decide(state, at(now), 1);
                    admitted += u64::from(decision.is_admitted());
                    state = next;
                }
                prop_assert!(admitted <= limit);
            }
        }

        #[test]
        fn no_words_that_a_store_may_have_kept_make_it_panic(
            words in any::<[u64; 3]>(),
            limit in 1_u64..1 << 53,
            window in 1_u64..1 << 51,
            now in 0_u64..1 << 62,
            cost in any::<u64>(),
        ) {
            let quota = Quota::new(limit, Duration::from_micros(window));
            let window = SlidingWindow::new(&quota).unwrap();
            let state = State::from_words([words[0] >> 1, words[1], words[2]]);
            let (decision, _) = window.decide(state, at(now), cost);
            prop_assert!(decision.remaining() <= limit);
        }
    }
}
