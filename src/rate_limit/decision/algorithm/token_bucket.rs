//! The token bucket: the bucket refills at a constant rate, and each request removes its cost.

use super::state::{SLACK_MICROS, State, mul_div_up};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::{MICROS_MAX, Pace, Quota, Span},
    },
};

/// A bucket of tokens that refills at the quota's rate, up to the burst.
///
/// In any time `t`, at most the burst plus `t` times the rate is admitted.
///
/// The state is the time at which the bucket is full again. A request moves that time forward by
/// the time in which the bucket regains the request's cost. The request is denied if the bucket
/// would then take longer to fill than an empty bucket. (This is the generic cell rate algorithm.)
/// The time is exact: the first word is the time rounded up to whole microseconds, and the second
/// word contains the parts of the last microsecond. The third word is the mark: twice the number of
/// microseconds in which an empty bucket of this quota fills, plus one if the bucket is overdrawn.
/// A state with another quota's mark retains the remaining share of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    pace: Pace,
    /// The time in which an empty bucket fills.
    refill: Span,
}

impl TokenBucket {
    pub(super) fn new(quota: &Quota) -> Result<Self, ConfigError> {
        let pace = quota.pace()?;
        Ok(Self {
            refill: pace.times(pace.burst),
            pace,
        })
    }

    /// Creates a bucket that fills in this time. The bucket holds the burst of its pace, plus a
    /// fraction of a token for the remaining time.
    pub(super) fn up_to(pace: Pace, refill: Span) -> Self {
        Self { pace, refill }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.pace.burst
    }

    /// Returns the numbers for the bucket's policy parameters.
    pub(super) fn numbers(&self) -> [u64; 6] {
        let (pace, refill) = (self.pace, self.refill);
        let interval = pace.interval;
        [
            pace.burst,
            pace.parts,
            interval.micros,
            interval.parts,
            refill.micros,
            refill.parts,
        ]
    }

    pub(super) fn refill_micros(&self) -> u64 {
        self.refill.rounded_up()
    }

    #[inline(always)]
    pub(super) fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        match self.admit_whole(state, now, cost) {
            Some(admitted) => admitted,
            None => self.decide_parts(state, now, cost),
        }
    }

    /// Decides a request in the common case: the interval is a whole number of microseconds, the
    /// state belongs to this quota, and the bucket admits the request. Returns `None` in all other
    /// cases.
    #[inline(always)]
    pub(super) fn admit_whole(
        &self,
        state: State,
        now: Timestamp,
        cost: u64,
    ) -> Option<(Decision, State)> {
        let (interval, refill) = (self.pace.interval.micros, self.refill.micros);
        let missing = state.expires_at.as_micros().saturating_sub(now.as_micros());
        let is_of_other_quota = missing > 0 && state.words[1] != self.mark();
        // A bucket that is more than empty is overdrawn, or the clock went back.
        if self.pace.parts != 1 || cost > self.pace.burst || is_of_other_quota || missing > refill {
            return None;
        }
        // At most twice the refill time. A full bucket that remains full has no state.
        let missing = missing + interval * cost;
        if missing == 0 || missing > refill {
            return None;
        }
        let full_at = Timestamp::from_micros(now.as_micros() + missing);
        let decision = Decision::admitted_micros((refill - missing) / interval, missing, full_at);
        Some((decision, State::new(full_at, [0, self.mark()])))
    }

    #[inline(never)]
    fn decide_parts(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        let missing = self.missing(state, now);
        if cost > self.pace.burst {
            let decision = Decision::never_micros(self.remaining(missing), missing.rounded_up());
            return (decision, self.state_of(missing, now));
        }
        let price = match cost {
            1 => self.pace.interval,
            cost => self.pace.times(cost),
        };
        let then_missing = self.pace.add(missing, price);
        if then_missing <= self.refill {
            let charged = self.state_of(then_missing, now);
            let decision = Decision::admitted_micros(
                self.remaining(then_missing),
                then_missing.rounded_up(),
                charged.expires_at,
            );
            (decision, charged)
        } else if cost == 0 {
            // The bucket is overdrawn. A request without cost is still admitted.
            let kept = self.state_of(missing, now);
            let decision = Decision::admitted_micros(0, missing.rounded_up(), kept.expires_at);
            (decision, kept)
        } else {
            let decision = Decision::denied_micros(
                self.remaining(missing),
                missing.rounded_up(),
                self.pace.sub(then_missing, self.refill).rounded_up(),
            );
            (decision, self.state_of(missing, now))
        }
    }

    /// Refunds the part of a charge that has not been refilled since the charge.
    pub(super) fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        let missing = self.missing(state, now);
        let price = self.pace.times(amount.min(self.pace.burst));
        let outstanding = paid
            .expires_at()
            .as_micros()
            .saturating_sub(now.as_micros());
        let outstanding = Span {
            micros: outstanding,
            parts: 0,
        };
        let back = price.min(outstanding).min(missing);
        self.state_of(self.pace.sub(missing, back), now)
    }

    /// Charges an amount that is already used. The bucket can be overdrawn by up to one burst.
    pub(super) fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        let missing = self.missing(state, now);
        // The amount is capped at two bursts, so that all products are exact.
        let one = amount.min(self.pace.burst);
        let other = (amount - one).min(self.pace.burst);
        let price = self.pace.add(self.pace.times(one), self.pace.times(other));
        let most = self.pace.add(self.refill, self.refill).max(missing);
        let missing = self.pace.add(missing, price).min(most);
        self.state_of(missing, now)
    }

    /// Returns the state that takes longer to fill.
    pub(super) fn worse(&self, own: State, carried: State, now: Timestamp) -> State {
        match self.missing(own, now) >= self.missing(carried, now) {
            true => own,
            false => carried,
        }
    }

    /// Converts another bucket's state at the time of a change. The remaining share stays the same.
    pub(super) fn converted(&self, previous: &Self, state: State, changed_at: Timestamp) -> State {
        let missing = previous.missing(state, changed_at);
        // Charges after the change do not overdraw the bucket.
        let missing = match state.words[1] & 1 {
            0 => missing.min(previous.refill),
            _ => missing,
        };
        let state = previous.state_of(missing, changed_at);
        let missing = self.scaled(state, changed_at, previous.refill.micros);
        self.state_of(missing, changed_at)
    }

    /// Returns the mark for a state of this quota that is not overdrawn.
    #[inline]
    fn mark(&self) -> u64 {
        2 * self.refill.micros
    }

    /// Returns the fill time at which this bucket has the same remaining share as a bucket in this
    /// state that fills in `refill` microseconds.
    ///
    /// The result is exact except for the fraction of a microsecond. An empty bucket remains empty.
    #[cold]
    fn scaled(&self, state: State, now: Timestamp, refill: u64) -> Span {
        let whole = |micros| Span { micros, parts: 0 };
        let missing = state.expires_at.as_micros().saturating_sub(now.as_micros());
        let missing = missing - u64::from(state.words[0] > 0 && missing > 0);
        let refill = refill.max(1);
        let is_overdrawn = state.words[1] & 1 == 1;
        let most = if is_overdrawn { 2 * refill } else { refill };
        if !is_overdrawn && missing >= refill {
            return self.refill;
        }
        let micros = mul_div_up(missing.min(most), self.refill.micros, refill);
        match is_overdrawn {
            true => whole(micros),
            false => whole(micros).min(self.refill),
        }
    }

    /// Returns the time that the bucket takes to fill from now on.
    ///
    /// A state that takes longer to fill than an empty bucket and is not overdrawn was written
    /// before the clock moved back. If the clock moved back by more than a second, the state is
    /// truncated to an empty bucket.
    #[inline]
    fn missing(&self, state: State, now: Timestamp) -> Span {
        if !state.is_alive(now) {
            return Span::default();
        }
        let refill = state.words[1] / 2;
        if refill > 0 && refill != self.refill.micros {
            return self.scaled(state, now, refill.min(MICROS_MAX));
        }
        let parts = state.words[0];
        let micros = state.expires_at.as_micros() - now.as_micros();
        let missing = if parts == 0 || parts >= self.pace.parts {
            // The parts belong to another quota, so the whole microsecond counts.
            Span { micros, parts: 0 }
        } else {
            let micros = micros - 1;
            Span { micros, parts }
        };
        if missing.micros > self.refill.micros + SLACK_MICROS {
            self.cut(state, missing)
        } else {
            missing
        }
    }

    /// Returns the truncated fill time of a bucket that would take longer to fill than an empty
    /// bucket. The result is an empty bucket's fill time, or at most twice that time if the bucket
    /// is overdrawn.
    #[cold]
    fn cut(&self, state: State, missing: Span) -> Span {
        if state.words[1] & 1 == 0 {
            return self.refill;
        }
        let most = self.pace.add(self.refill, self.refill);
        match missing.micros > most.micros + SLACK_MICROS {
            true => most,
            false => missing,
        }
    }

    /// Returns the state of a bucket with this fill time.
    ///
    /// A full bucket has no state. If it had one, the bucket would no longer be full after the
    /// clock moves back.
    #[inline]
    fn state_of(&self, missing: Span, now: Timestamp) -> State {
        if missing == Span::default() {
            return State::NONE;
        }
        let full_at = Timestamp::from_micros(now.as_micros() + missing.rounded_up());
        let overdrawn = u64::from(missing > self.refill);
        State::new(full_at, [missing.parts, self.mark() + overdrawn])
    }

    #[inline]
    fn remaining(&self, missing: Span) -> u64 {
        if missing < self.refill {
            self.pace.gained_in(self.pace.sub(self.refill, missing))
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bucket(quota: Quota) -> TokenBucket {
        TokenBucket::new(&quota).unwrap()
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn admitted_at_once(bucket: &TokenBucket, state: &mut State, now: u64) -> u64 {
        let mut admitted = 0;
        loop {
            let (decision, next) = bucket.decide(*state, at(now), 1);
            *state = next;
            if !decision.is_admitted() {
                return admitted;
            }
            admitted += 1;
        }
    }

    #[test]
    fn a_full_bucket_admits_its_burst_and_then_one_each_interval() {
        let bucket = bucket(Quota::per_second(10).burst(3));
        let mut state = State::NONE;
        assert_eq!(admitted_at_once(&bucket, &mut state, 0), 3);
        assert_eq!(admitted_at_once(&bucket, &mut state, 99_999), 0);
        assert_eq!(admitted_at_once(&bucket, &mut state, 100_000), 1);
        assert_eq!(admitted_at_once(&bucket, &mut state, 60_000_000), 3);
    }

    #[test]
    fn a_rate_that_is_no_whole_microsecond_admits_exactly_the_limit_in_each_window() {
        let bucket = bucket(Quota::per_second(3));
        let mut state = State::NONE;
        for second in 0..1_000 {
            assert_eq!(admitted_at_once(&bucket, &mut state, second * 1_000_000), 3);
        }
    }

    #[test]
    fn years_of_idleness_give_one_burst() {
        let bucket = bucket(Quota::per_second(10));
        let mut state = State::NONE;
        admitted_at_once(&bucket, &mut state, 0);
        assert_eq!(admitted_at_once(&bucket, &mut state, 1 << 52), 10);
    }

    #[test]
    fn a_cost_above_the_burst_is_never_admitted_and_never_charged() {
        let (decision, state) = bucket(Quota::per_second(10)).decide(State::NONE, at(1), 11);
        assert!(decision.is_unsatisfiable());
        assert_eq!(decision.retry_after(), None);
        assert!(!state.is_alive(at(1)));
    }

    #[test]
    fn a_denied_request_leaves_the_bucket_as_it_was() {
        let bucket = bucket(Quota::per_second(1).burst(2));
        let (_, state) = bucket.decide(State::NONE, at(0), 1);
        for _ in 0..3 {
            let (denied, next) = bucket.decide(state, at(0), 2);
            assert_eq!((denied.is_admitted(), denied.remaining()), (false, 1));
            assert_eq!(next, state);
        }
    }

    #[test]
    fn a_clock_that_goes_back_costs_at_most_one_refill() {
        let bucket = bucket(Quota::per_second(1));
        let (_, state) = bucket.decide(State::NONE, at(900_000_000), 1);
        let (denied, state) = bucket.decide(state, at(5), 1);
        assert_eq!(denied.retry_after(), Some(Duration::from_secs(1)));
        assert!(bucket.decide(state, at(1_000_005), 1).0.is_admitted());
    }

    #[test]
    fn a_clock_that_goes_back_a_little_gives_nothing_away() {
        let bucket = bucket(Quota::per_second(10));
        let (_, state) = bucket.decide(State::NONE, at(900_000_000), 10);
        for back in [1, 4_000, 999_999] {
            let (denied, kept) = bucket.decide(state, at(900_000_000 - back), 1);
            assert_eq!((denied.is_admitted(), denied.remaining()), (false, 0));
            assert_eq!(kept.expires_at, state.expires_at);
        }
    }

    #[test]
    fn a_refund_gives_back_what_has_not_yet_come_back_by_itself() {
        let bucket = bucket(Quota::per_second(10));
        let (paid, state) = bucket.decide(State::NONE, at(0), 10);
        let left = |state, now| bucket.decide(state, at(now), 0).0.remaining();
        assert_eq!(left(bucket.refund(state, at(0), paid.receipt(), 4), 0), 4);
        let half = bucket.refund(state, at(500_000), paid.receipt(), 10);
        assert_eq!(left(half, 500_000), 10);
        assert_eq!(left(half, 10_000_000), 10);
    }

    #[test]
    fn a_refund_of_a_charge_that_has_leaked_away_gives_nothing_of_a_later_one() {
        let bucket = bucket(Quota::per_second(10));
        let (paid, state) = bucket.decide(State::NONE, at(0), 10);
        let (_, later) = bucket.decide(state, at(1_000_000), 10);
        let refunded = bucket.refund(later, at(1_000_000), paid.receipt(), 10);
        assert_eq!(bucket.decide(refunded, at(1_000_000), 0).0.remaining(), 0);
    }

    fn quota() -> impl Strategy<Value = Quota> {
        (1_u64..40, 1_u64..3_000_000, 1_u64..20).prop_map(|(limit, window, burst)| {
            Quota::new(limit, Duration::from_micros(window)).burst(burst)
        })
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0_u64..400_000, 0_u64..4), 1..120)
    }

    /// A reference model of the bucket that multiplies tokens by the window to avoid rounding.
    struct Model {
        quota: Quota,
        window: u128,
        tokens: u128,
        at: u64,
    }

    impl Model {
        fn new(quota: Quota) -> Self {
            let window = quota.window().as_micros();
            Self {
                quota,
                window,
                tokens: u128::from(quota.burst_size()) * window,
                at: 0,
            }
        }

        fn take(&mut self, now: u64, cost: u64) -> bool {
            let full = u128::from(self.quota.burst_size()) * self.window;
            let gained = u128::from(now - self.at) * u128::from(self.quota.limit());
            self.tokens = full.min(self.tokens + gained);
            self.at = now;
            let price = u128::from(cost) * self.window;
            let enough = price <= self.tokens;
            if enough {
                self.tokens -= price;
            }
            enough
        }

        fn remaining(&self) -> u64 {
            (self.tokens / self.window) as u64
        }
    }

    #[test]
    fn whole_intervals_are_admitted_until_the_bucket_is_empty() {
        let bucket = bucket(Quota::per_second(10).burst(3));
        let mut state = State::NONE;
        for left in [2, 1, 0] {
            let (decision, next) = bucket.admit_whole(state, at(9), 1).unwrap();
            assert_eq!(decision.remaining(), left);
            state = next;
        }
        assert!(bucket.admit_whole(state, at(9), 1).is_none());
        assert!(bucket.admit_whole(state, at(100_009), 1).is_some());
        let thirds = super::tests::bucket(Quota::per_second(3));
        assert!(thirds.admit_whole(State::NONE, at(9), 1).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn it_decides_as_a_bucket_of_tokens_does(quota in quota(), steps in steps()) {
            let (bucket, mut model) = (bucket(quota), Model::new(quota));
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                let (decision, next) = bucket.decide(state, at(now), cost);
                prop_assert_eq!(decision.is_admitted(), model.take(now, cost));
                prop_assert_eq!(decision.remaining(), model.remaining());
                state = next;
            }
        }

        #[test]
        fn whole_intervals_are_decided_as_those_with_parts_are(
            (interval, burst) in (1_u64..2_000_000, 1_u64..20),
            (words, now) in (any::<[u64; 2]>(), 0_u64..1 << 53),
            offset in -3_000_000_i64..30_000_000,
            cost in any::<prop::sample::Index>(),
        ) {
            let bucket = bucket(Quota::new(1, Duration::from_micros(interval)).burst(burst));
            let state = State::new(at(now.saturating_add_signed(offset)), words);
            let cost = cost.index(burst as usize + 1) as u64;
            let parts = bucket.decide_parts(state, at(now), cost);
            if let Some(whole) = bucket.admit_whole(state, at(now), cost) {
                prop_assert_eq!(whole, parts);
            }
        }

        #[test]
        fn any_time_admits_at_most_the_burst_and_what_was_gained_in_it(
            quota in quota(),
            steps in steps(),
        ) {
            let bucket = bucket(quota);
            let (mut now, mut state, mut log) = (0, State::NONE, Vec::new());
            for (pause, cost) in steps {
                now += pause;
                let (decision, next) = bucket.decide(state, at(now), cost);
                if decision.is_admitted() {
                    log.push((now, cost));
                }
                state = next;
            }
            let window = quota.window().as_micros();
            for (from, (began, _)) in log.iter().enumerate() {
                let mut sum = 0;
                for (then, cost) in &log[from..] {
                    sum += cost;
                    let gained = u128::from(then - began) * u128::from(quota.limit());
                    let bound = u128::from(quota.burst_size()) * window + gained;
                    prop_assert!(u128::from(sum) * window <= bound);
                }
            }
        }

        #[test]
        fn retry_after_is_exact(quota in quota(), steps in steps(), cost in 1_u64..22) {
            let bucket = bucket(quota);
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                state = bucket.decide(state, at(now), cost).1;
            }
            let (decision, _) = bucket.decide(state, at(now), cost);
            prop_assert_eq!(decision.is_unsatisfiable(), cost > quota.burst_size());
            if let Some(wait) = decision.retry_after() {
                let wait = wait.as_micros() as u64;
                prop_assert!(!bucket.decide(state, at(now + wait - 1), cost).0.is_admitted());
                prop_assert!(bucket.decide(state, at(now + wait), cost).0.is_admitted());
            }
        }

        #[test]
        fn the_bucket_is_full_when_reset_after_has_passed_and_not_before(
            quota in quota(),
            steps in steps(),
        ) {
            let bucket = bucket(quota);
            let (mut now, mut state) = (0, State::NONE);
            for (pause, cost) in steps {
                now += pause;
                state = bucket.decide(state, at(now), cost).1;
            }
            let reset = bucket.decide(state, at(now), 0).0.reset_after().as_micros() as u64;
            prop_assert!(!state.is_alive(at(now + reset)));
            prop_assert!(reset == 0 || state.is_alive(at(now + reset - 1)));
        }

        #[test]
        fn no_clock_makes_it_panic_or_admit_more_than_the_burst_at_once(
            quota in quota(),
            clock in vec(0_u64..1 << 53, 1..60),
        ) {
            let bucket = bucket(quota);
            let mut state = State::NONE;
            for now in clock {
                prop_assert!(admitted_at_once(&bucket, &mut state, now) <= quota.burst_size());
            }
        }
    }
}
