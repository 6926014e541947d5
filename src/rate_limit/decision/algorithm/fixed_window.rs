//! The fixed window: a count that restarts at zero when the window ends.

use super::state::{SLACK_MICROS, State, add_capped, mul_div_up};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::Quota,
    },
};

/// The point at which windows start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Windows start at whole multiples of their length, so the windows of all partitions end at
    /// the same time.
    Clock,
    /// A window starts with the first request after the previous window.
    FirstRequest,
    /// A window starts with each calendar month, at midnight UTC.
    Month,
    /// A window starts with each calendar year, at midnight UTC.
    Year,
}

/// A counter for consecutive windows.
///
/// Each window admits at most the limit. Around the boundary between two windows, up to twice the
/// limit can be admitted within a short time.
///
/// The state contains the end of the window and the usage in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    limit: u64,
    window_micros: u64,
    alignment: Alignment,
}

impl FixedWindow {
    pub(super) fn new(quota: &Quota, alignment: Alignment) -> Result<Self, ConfigError> {
        Ok(Self {
            limit: quota.limit(),
            window_micros: quota.burstless_window_micros()?,
            alignment,
        })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn window_micros(&self) -> u64 {
        self.window_micros
    }

    pub(super) fn alignment(&self) -> Alignment {
        self.alignment
    }

    #[inline(always)]
    pub(super) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        let (end, used) = self.open(state, now);
        let kept = self.state(end, used);
        let reset_after = end - now.as_micros();
        let left = self.limit.saturating_sub(used);
        if cost <= left {
            let charged = self.state(end, used + cost);
            let reset_after = if used + cost > 0 { reset_after } else { 0 };
            let receipt = Timestamp::from_micros(end);
            let decision = Decision::admitted_micros(left - cost, reset_after, receipt);
            (decision, charged)
        } else if cost <= self.limit {
            let decision = Decision::denied_micros(left, reset_after, reset_after);
            (decision, kept)
        } else {
            let reset_after = if used > 0 { reset_after } else { 0 };
            (Decision::never_micros(left, reset_after), kept)
        }
    }

    /// Refunds an amount to the receipt's window, but never to a later window.
    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        if !state.is_alive(now) || state.expires_at != paid.expires_at() {
            return state;
        }
        self.state(
            state.expires_at.as_micros(),
            state.words[0].saturating_sub(amount),
        )
    }

    /// Charges the current window for an amount that is already used.
    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        let (end, used) = self.open(state, now);
        self.state(end, add_capped(used, amount, self.limit))
    }

    /// Converts a state of another window at the time of a change.
    ///
    /// The count is unchanged. A window that started with a request retains its remaining share of
    /// time. A clock-aligned window becomes the window that contains the change.
    pub(super) fn converted(&self, previous: &Self, state: State, changed_at: u64) -> State {
        if !state.is_alive(Timestamp::from_micros(changed_at)) {
            return State::NONE;
        }
        let end = match self.alignment {
            Alignment::FirstRequest => {
                let left = state.expires_at.as_micros() - changed_at;
                let left = left.min(previous.window_micros);
                changed_at + mul_div_up(left, self.window_micros, previous.window_micros)
            }
            Alignment::Clock | Alignment::Month | Alignment::Year => {
                self.end_of_window_at(changed_at)
            }
        };
        self.state(end, state.words[0])
    }

    /// Returns the state with the greater usage. A live window retains its end.
    pub(super) fn worse(&self, own: State, carried: State, now: Timestamp) -> State {
        if !carried.is_alive(now) {
            return own;
        }
        if !own.is_alive(now) {
            return carried;
        }
        let used = own.words[0].max(carried.words[0]);
        self.state(own.expires_at.as_micros(), used)
    }

    /// Returns the end and the usage of the current window.
    #[inline]
    fn open(&self, state: State, now: Timestamp) -> (u64, u64) {
        if state.is_alive(now) {
            // A window that ends later than a new one would was opened before the clock went back.
            // It retains its count; its end is moved nearer if the step exceeds the tolerance.
            let (end, latest) = (
                state.expires_at.as_micros(),
                now.as_micros() + self.window_micros,
            );
            let end = if end > latest + SLACK_MICROS {
                latest
            } else {
                end
            };
            (end, state.words[0])
        } else {
            (self.end_of_window_at(now.as_micros()), 0)
        }
    }

    #[inline]
    fn end_of_window_at(&self, now: u64) -> u64 {
        match self.alignment {
            Alignment::Clock => now - now % self.window_micros + self.window_micros,
            Alignment::FirstRequest => now + self.window_micros,
            Alignment::Month => next_month(now / MICROS_PER_DAY) * MICROS_PER_DAY,
            Alignment::Year => next_year(now / MICROS_PER_DAY) * MICROS_PER_DAY,
        }
    }

    /// Returns the state of a window. A window without usage is represented by the empty state.
    #[inline]
    fn state(&self, end: u64, used: u64) -> State {
        if used > 0 {
            State::new(Timestamp::from_micros(end), [used, 0])
        } else {
            State::NONE
        }
    }
}

const MICROS_PER_DAY: u64 = 24 * 60 * 60 * 1_000_000;

/// Returns the first day of the following year. Days are counted since the epoch.
fn next_year(day: u64) -> u64 {
    // Days from January 1, 1600, the start of a cycle of 400 years, to the epoch.
    const EPOCH: u64 = 135_140;
    const DAYS_PER_CYCLE: u64 = 146_097;
    let since_1600 = day + EPOCH;
    // At most one year off.
    let guess = since_1600 * 400 / DAYS_PER_CYCLE + 1;
    let next = match first_day(guess) > since_1600 {
        true => guess,
        false => guess + 1,
    };
    let next = match first_day(next - 1) > since_1600 {
        true => next - 1,
        false => next,
    };
    first_day(next) - EPOCH
}

/// Returns the first day of a year. Days and years are counted since 1600.
fn first_day(year: u64) -> u64 {
    365 * year + year.div_ceil(4) - year.div_ceil(100) + year.div_ceil(400)
}

/// Returns the first day of the following month. Days are counted since the epoch.
///
/// Based on Howard Hinnant's `civil_from_days` and its inverse. Years start in March, so that the
/// leap day is the last day of a year and all 400-year eras are identical.
fn next_month(day: u64) -> u64 {
    // Days from March 1 of year 0 to the epoch.
    const EPOCH: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let (era, of_era) = ((day + EPOCH) / DAYS_PER_ERA, (day + EPOCH) % DAYS_PER_ERA);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153 + 1;
    // Month 12 is February: the next month is March of the following year.
    let (year, month) = (year + month / 12, month % 12);
    let first = (153 * month + 2) / 5;
    era * DAYS_PER_ERA + 365 * year + year / 4 - year / 100 + year / 400 + first - EPOCH
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const WINDOW: u64 = 10_000_000;

    fn window(limit: u64, alignment: Alignment) -> FixedWindow {
        FixedWindow::new(&Quota::new(limit, Duration::from_micros(WINDOW)), alignment).unwrap()
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn an_anchored_window_begins_with_its_first_request() {
        let window = window(2, Alignment::FirstRequest);
        let (first, state) = window.decide(State::NONE, at(7_000_000), 1);
        assert_eq!((first.remaining(), state.expires_at()), (1, at(17_000_000)));
        let (_, state) = window.decide(state, at(16_999_999), 1);
        let (denied, _) = window.decide(state, at(16_999_999), 1);
        assert_eq!(denied.retry_after(), Some(Duration::from_micros(1)));
        let (fresh, state) = window.decide(state, at(17_000_000), 1);
        assert!(fresh.is_admitted());
        assert_eq!(state.expires_at(), at(27_000_000));
    }

    #[test]
    fn an_aligned_window_ends_with_the_clocks() {
        let (_, state) = window(2, Alignment::Clock).decide(State::NONE, at(7_000_000), 1);
        assert_eq!(state.expires_at(), at(WINDOW));
    }

    #[test]
    fn a_month_ends_when_the_next_begins() {
        let month = window(2, Alignment::Month);
        for (now, end) in [
            // date -u -d .. +%s
            ("1970-01-01", 0, 2_678_400),
            ("1999-12-31", 946_598_400, 946_684_800),
            ("2000-02-29", 951_782_400, 951_868_800),
            ("2023-02-01", 1_675_209_600, 1_677_628_800),
            ("2024-02-01", 1_706_745_600, 1_709_251_200),
            ("2026-11-22", 1_795_305_600, 1_796_083_200),
            ("2026-12-31", 1_798_675_200, 1_798_761_600),
            ("2100-02-28", 4_107_456_000, 4_107_542_400),
            ("2100-12-01", 4_131_302_400, 4_133_980_800),
        ]
        .map(|(_, now, end)| (now, end))
        {
            let (_, state) = month.decide(State::NONE, Timestamp::from_secs(now), 1);
            assert_eq!(state.expires_at(), Timestamp::from_secs(end), "{now}");
        }
    }

    #[test]
    fn year_ends_at_the_first_of_january() {
        let year = window(2, Alignment::Year);
        for (now, end) in [
            // date -u -d .. +%s
            (0, 31_536_000),
            (946_684_799, 946_684_800),
            (946_684_800, 978_307_200),
            (978_307_199, 978_307_200),
            (1_795_305_600, 1_798_761_600),
            (4_102_444_800, 4_133_980_800),
        ] {
            let (_, state) = year.decide(State::NONE, Timestamp::from_secs(now), 1);
            assert_eq!(state.expires_at(), Timestamp::from_secs(end), "{now}");
        }
    }

    #[test]
    fn year_is_exact_on_every_day_of_400_years() {
        let mut january = 0;
        for year in 1970..2_370_u64 {
            let leap =
                year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
            let next = january + 365 + u64::from(leap);
            assert!((january..next).all(|day| next_year(day) == next), "{year}");
            january = next;
        }
    }

    #[test]
    fn a_cost_above_the_limit_is_never_admitted_and_never_charged() {
        let (decision, state) = window(2, Alignment::Clock).decide(State::NONE, at(1), 3);
        assert!(decision.is_unsatisfiable());
        assert_eq!(decision.retry_after(), None);
        assert_eq!(state, State::NONE);
    }

    #[test]
    fn to_ask_for_nothing_opens_no_window() {
        let (peek, state) = window(2, Alignment::FirstRequest).decide(State::NONE, at(1), 0);
        assert_eq!((peek.remaining(), peek.reset_after()), (2, Duration::ZERO));
        assert_eq!(state, State::NONE);
    }

    #[test]
    fn a_clock_that_goes_back_neither_frees_the_count_nor_locks_out_for_longer_than_a_window() {
        let window = window(1, Alignment::FirstRequest);
        let (_, state) = window.decide(State::NONE, at(900_000_000), 1);
        let (denied, state) = window.decide(state, at(5), 1);
        assert_eq!(denied.retry_after(), Some(Duration::from_micros(WINDOW)));
        assert!(window.decide(state, at(5 + WINDOW), 1).0.is_admitted());
    }

    #[test]
    fn a_refund_never_lands_in_a_later_window() {
        let window = window(2, Alignment::FirstRequest);
        let (paid, state) = window.decide(State::NONE, at(0), 2);
        let refunded = window.refund(state, at(1), paid.receipt(), 1);
        assert_eq!(window.decide(refunded, at(1), 0).0.remaining(), 1);

        let (_, later) = window.decide(state, at(WINDOW), 1);
        let refunded = window.refund(later, at(WINDOW), paid.receipt(), 2);
        assert_eq!(window.decide(refunded, at(WINDOW), 0).0.remaining(), 1);
    }

    #[test]
    fn a_refund_of_more_than_was_used_leaves_the_window_whole_and_no_more() {
        let window = window(2, Alignment::FirstRequest);
        let (paid, state) = window.decide(State::NONE, at(0), 1);
        let refunded = window.refund(state, at(1), paid.receipt(), 50);
        assert_eq!(window.decide(refunded, at(1), 0).0.remaining(), 2);
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0_u64..4_000_000, 0_u64..4), 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn no_window_admits_more_than_the_limit(
            limit in 1_u64..12,
            start in 0_u64..WINDOW,
            steps in steps(),
        ) {
            let window = window(limit, Alignment::Clock);
            let (mut now, mut state) = (start, State::NONE);
            let mut used = std::collections::BTreeMap::<u64, u64>::new();
            for (pause, cost) in steps {
                now += pause;
                let in_window = used.entry(now / WINDOW).or_default();
                let (decision, next) = window.decide(state, at(now), cost);
                prop_assert_eq!(decision.is_admitted(), *in_window + cost <= limit);
                if decision.is_admitted() {
                    *in_window += cost;
                }
                prop_assert_eq!(decision.remaining(), limit - *in_window);
                state = next;
            }
        }

        #[test]
        fn an_anchored_window_is_a_count_since_its_first_request(
            limit in 1_u64..12,
            steps in steps(),
        ) {
            let window = window(limit, Alignment::FirstRequest);
            let (mut now, mut state) = (0, State::NONE);
            let (mut began, mut used) = (None::<u64>, 0);
            for (pause, cost) in steps {
                now += pause;
                if began.is_some_and(|began| now - began >= WINDOW) {
                    (began, used) = (None, 0);
                }
                let (decision, next) = window.decide(state, at(now), cost);
                prop_assert_eq!(decision.is_admitted(), used + cost <= limit);
                if decision.is_admitted() && cost > 0 {
                    began.get_or_insert(now);
                    used += cost;
                }
                state = next;
            }
        }

        #[test]
        fn retry_after_is_exact(
            limit in 1_u64..12,
            aligned in any::<bool>(),
            steps in steps(),
            cost in 1_u64..14,
        ) {
            let alignment = if aligned { Alignment::Clock } else { Alignment::FirstRequest };
            let window = window(limit, alignment);
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
                prop_assert!(window.decide(state, at(now + wait), cost).0.is_admitted());
            }
        }

        #[test]
        fn no_clock_makes_it_panic_or_admit_more_than_the_limit_at_once(
            limit in 1_u64..12,
            clock in vec(0_u64..1 << 53, 1..60),
        ) {
            let window = window(limit, Alignment::Clock);
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
    }
}
