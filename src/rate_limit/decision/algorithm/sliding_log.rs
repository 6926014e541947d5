//! The sliding log: an exact list of the requests in the last window.

use std::collections::VecDeque;

use super::state::add_capped;
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::decision::{Decision, Receipt},
        policy::quota::Quota,
    },
};

/// The maximum limit of a sliding log, and thus the maximum number of entries per partition.
pub(super) const LIMIT_MAX: u64 = 10_000;

/// A count of the requests that were admitted in the window that ends now.
///
/// Any window admits at most the limit. Each partition takes 16 bytes for each distinct admission
/// time, so at most 16 bytes times the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlidingLog {
    limit: u64,
    window_micros: u64,
}

/// The sliding log of one partition.
///
/// A store that supports logs counts sliding-log policies exactly; see
/// [`StateRef`](crate::store::backend::StateRef).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Pairs of a time and an amount, in ascending order of time. The times are distinct, and the
    /// amounts are not zero.
    entries: VecDeque<(u64, u64)>,
    used: u64,
    expires_at: Timestamp,
}

impl Log {
    /// Returns the time after which the log is equivalent to an empty log.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Returns the number of entries. Requests that are admitted at the same time share an entry.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `true` if the log has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl SlidingLog {
    pub(super) fn new(quota: &Quota) -> Result<Self, ConfigError> {
        if quota.limit() > LIMIT_MAX {
            return Err(ConfigError::new(
                "quota",
                quota,
                "the limit of a sliding log is at most 10000, because it stores each request",
            )
            .fix("use a sliding window or a token bucket"));
        }
        Ok(Self {
            limit: quota.limit(),
            window_micros: quota.burstless_window_micros()?,
        })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Decides one request without charging it. To charge the request, call
    /// [`record`](Self::record).
    pub(crate) fn decide(&self, log: &mut Log, now: Timestamp, cost: u64) -> Decision {
        let now = now.as_micros();
        self.expire(log, now);
        let left = self.limit.saturating_sub(log.used);
        let newest = match cost {
            0 => log.entries.back().map(|(at, _)| *at),
            _ => Some(now),
        };
        let until = |at: Option<u64>| at.map_or(0, |at| at + self.window_micros - now);
        if cost <= left {
            let receipt = Timestamp::from_micros(now + self.window_micros);
            Decision::admitted_micros(left - cost, until(newest), receipt)
        } else {
            let reset_after = until(log.entries.back().map(|(at, _)| *at));
            match self.freed_at(log, cost) {
                Some(at) => Decision::denied_micros(left, reset_after, until(Some(at))),
                None => Decision::never_micros(left, reset_after),
            }
        }
    }

    /// Records a request that was admitted at this time.
    pub(crate) fn record(&self, log: &mut Log, now: Timestamp, cost: u64) {
        if cost == 0 {
            return;
        }
        let now = now.as_micros();
        match log.entries.back_mut() {
            Some((at, used)) if *at == now => *used += cost,
            Some(_) | None => log.entries.push_back((now, cost)),
        }
        log.used += cost;
        log.expires_at = Timestamp::from_micros(now + self.window_micros);
    }

    /// Charges an amount that is already used, as of the current time.
    pub(crate) fn charge(&self, log: &mut Log, now: Timestamp, amount: u64) {
        self.expire(log, now.as_micros());
        let amount = add_capped(log.used, amount, self.limit) - log.used;
        self.record(log, now, amount);
    }

    /// Refunds part of the charge that this receipt identifies.
    pub(crate) fn refund(&self, log: &mut Log, paid: Receipt, amount: u64) {
        let at = paid.expires_at().as_micros();
        let found = log
            .entries
            .iter()
            .position(|(then, _)| then + self.window_micros == at);
        if let Some(found) = found {
            let entry = &mut log.entries[found];
            let back = amount.min(entry.1);
            entry.1 -= back;
            log.used -= back;
            if entry.1 == 0 {
                log.entries.remove(found);
            }
        }
    }

    /// Returns the usage at this time.
    pub(super) fn used_at(&self, log: &mut Log, now: u64) -> u64 {
        self.expire(log, now);
        log.used
    }

    /// Raises the usage, until one window after a change, to the amount that was used under the
    /// previous window at the time of the change.
    pub(super) fn carry(&self, log: &mut Log, used: u64, changed_at: u64, now: Timestamp) {
        if now.as_micros() >= changed_at + self.window_micros {
            return;
        }
        self.expire(log, now.as_micros());
        self.record(log, now, used.saturating_sub(log.used));
    }

    /// Removes entries that have left the window. If the clock moved back, entries in the future
    /// count as entries at the current time.
    fn expire(&self, log: &mut Log, now: u64) {
        while let Some((at, used)) = log.entries.front().copied() {
            if at + self.window_micros > now {
                break;
            }
            log.used -= used;
            log.entries.pop_front();
        }
        if log.entries.back().is_some_and(|(at, _)| *at > now) {
            let later = log.entries.partition_point(|(at, _)| *at < now);
            let used = log.entries.drain(later..).map(|(_, used)| used).sum();
            log.entries.push_back((now, used));
            log.expires_at = Timestamp::from_micros(now + self.window_micros);
        }
    }

    /// Returns the time of the last entry that must leave the window before this cost fits, or
    /// `None` if the cost never fits.
    fn freed_at(&self, log: &Log, cost: u64) -> Option<u64> {
        // The cost is at most the limit, so usage plus cost does not overflow.
        let free = self.limit.checked_sub(cost)?;
        let mut surplus = log.used.checked_sub(free)?;
        for (at, used) in &log.entries {
            surplus = surplus.saturating_sub(*used);
            if surplus == 0 {
                return Some(*at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const WINDOW: u64 = 1_000_000;

    fn log_of(limit: u64) -> SlidingLog {
        SlidingLog::new(&Quota::new(limit, Duration::from_micros(WINDOW))).unwrap()
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn take(policy: &SlidingLog, log: &mut Log, now: u64, cost: u64) -> Decision {
        let decision = policy.decide(log, at(now), cost);
        if decision.is_admitted() {
            policy.record(log, at(now), cost);
        }
        decision
    }

    #[test]
    fn a_place_is_free_again_one_window_after_it_was_taken() {
        let (policy, mut log) = (log_of(2), Log::default());
        take(&policy, &mut log, 0, 1);
        take(&policy, &mut log, 700_000, 1);
        let denied = take(&policy, &mut log, 900_000, 1);
        assert_eq!(denied.retry_after(), Some(Duration::from_micros(100_000)));
        assert_eq!(denied.reset_after(), Duration::from_micros(800_000));
        assert!(take(&policy, &mut log, WINDOW, 1).is_admitted());
        assert!(!take(&policy, &mut log, WINDOW + 699_999, 1).is_admitted());
    }

    #[test]
    fn two_requests_of_one_moment_both_count() {
        let (policy, mut log) = (log_of(2), Log::default());
        let admitted = (0..5).filter(|_| take(&policy, &mut log, 7, 1).is_admitted());
        assert_eq!(admitted.count(), 2);
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn a_limit_that_would_remember_too_much_is_refused() {
        let quota = Quota::per_day(10_001);
        assert!(
            SlidingLog::new(&quota)
                .unwrap_err()
                .to_string()
                .contains("10000")
        );
    }

    #[test]
    fn a_refund_reaches_the_request_that_was_charged_and_no_other() {
        let (policy, mut log) = (log_of(4), Log::default());
        let paid = take(&policy, &mut log, 0, 2).receipt();
        take(&policy, &mut log, 1, 2);
        policy.refund(&mut log, paid, 1);
        assert_eq!(policy.decide(&mut log, at(1), 0).remaining(), 1);
        policy.refund(&mut log, paid, 50);
        assert_eq!(policy.decide(&mut log, at(1), 0).remaining(), 2);
        policy.refund(&mut log, paid, 1);
        assert_eq!(policy.decide(&mut log, at(1), 0).remaining(), 2);
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0_u64..400_000, 0_u64..4), 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn no_window_at_all_admits_more_than_the_limit_and_none_denies_without_need(
            limit in 1_u64..12,
            steps in steps(),
        ) {
            let (policy, mut log) = (log_of(limit), Log::default());
            let (mut now, mut all) = (0, Vec::<(u64, u64)>::new());
            for (pause, cost) in steps {
                now += pause;
                let in_window = all.iter().filter(|(at, _)| at + WINDOW > now);
                let used: u64 = in_window.map(|(_, cost)| cost).sum();
                let decision = take(&policy, &mut log, now, cost);
                prop_assert_eq!(decision.is_admitted(), used + cost <= limit);
                let used = used + if decision.is_admitted() { cost } else { 0 };
                prop_assert_eq!(decision.remaining(), limit - used);
                prop_assert!(log.len() as u64 <= limit);
                if decision.is_admitted() {
                    all.push((now, cost));
                }
            }
        }

        #[test]
        fn retry_after_and_reset_after_are_exact(
            limit in 1_u64..12,
            steps in steps(),
            cost in 1_u64..14,
        ) {
            let (policy, mut log, mut now) = (log_of(limit), Log::default(), 0);
            for (pause, cost) in steps {
                now += pause;
                take(&policy, &mut log, now, cost);
            }
            let decision = policy.decide(&mut log.clone(), at(now), cost);
            prop_assert_eq!(decision.is_unsatisfiable(), cost > limit);
            let then = |wait: u64| policy.decide(&mut log.clone(), at(now + wait), cost);
            if let Some(wait) = decision.retry_after() {
                let wait = wait.as_micros() as u64;
                prop_assert!(!then(wait - 1).is_admitted());
                prop_assert!(then(wait).is_admitted());
            }
            let reset = policy.decide(&mut log, at(now), 0).reset_after().as_micros() as u64;
            let left = |wait: u64| policy.decide(&mut log.clone(), at(now + wait), 0).remaining();
            prop_assert_eq!(left(reset), limit);
            prop_assert!(reset == 0 || left(reset - 1) < limit);
        }

        #[test]
        fn no_clock_makes_it_panic_or_admit_more_than_the_limit_at_once(
            limit in 1_u64..12,
            clock in vec(0_u64..1 << 53, 1..60),
        ) {
            let (policy, mut log) = (log_of(limit), Log::default());
            for now in clock {
                let is_admitted = |_: &u64| take(&policy, &mut log, now, 1).is_admitted();
                let taken = (0..2 * limit).filter(is_admitted);
                prop_assert!(taken.count() as u64 <= limit);
            }
        }
    }
}
