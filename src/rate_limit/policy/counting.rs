//! Decisions and charges under policies.

use std::time::Duration;

use super::{params::PolicyParams, policy::Policy, sync_mode::SyncMode};
use crate::{
    core::time::Timestamp,
    rate_limit::decision::{
        algorithm::{Log, State},
        decision::{Decision, Receipt},
    },
};

impl Policy {
    /// Returns the maximum over-admission in any period: the number of requests of cost 1 that the
    /// [sync mode](SyncMode) lets this number of instances admit beyond the limit.
    ///
    /// Lost connections and lost replies do not raise this bound. An instance that is killed and
    /// restarted counts as an additional instance in the window in which it is killed.
    pub fn max_over_admission(&self, instances: u32) -> u64 {
        match self.sync_mode() {
            SyncMode::Exact => 0,
            SyncMode::Leased { instances: of } if self.algorithm.is_bucket() => {
                // Each instance holds at most one lease, obtained when the bucket was full.
                let lease = self.capacity() / (2 * u64::from(of.get()));
                lease.saturating_mul(instances.into())
            }
            // A lease on a window is spent in that window or expires.
            SyncMode::Leased { .. } => 0,
            SyncMode::Deferred {
                max_unreported: most,
            } => u64::from(most.get()) * u64::from(instances),
        }
    }

    /// Returns the maximum number of requests of cost 1 that one exact store admits in any period
    /// of one window length.
    ///
    /// ```
    /// use portcullis::rate_limit::{Policy, Quota};
    ///
    /// let quota = Quota::per_second(10);
    /// assert_eq!(Policy::sliding_log("strict", quota)?.max_per_window(), 10);
    /// assert_eq!(Policy::sliding_window("sliding", quota)?.max_per_window(), 20);
    /// assert_eq!(Policy::token_bucket("bucket", quota.burst(3))?.max_per_window(), 12);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn max_per_window(&self) -> u64 {
        self.algorithm.max_per_window(&self.quota)
    }

    /// Returns the numeric parameters of the policy, for a store that decides outside this process.
    pub fn terms(&self) -> PolicyParams {
        self.algorithm.terms()
    }

    /// Decides one request and returns the decision and the state to store.
    ///
    /// This method is the reference for all stores. In one atomic step, a store must read the
    /// state, call this method, and write the returned state.
    ///
    /// An expired state is equivalent to [`State::NONE`]. A cost of zero charges nothing, and the
    /// decision then contains the remaining quota.
    #[inline(always)]
    pub fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        self.algorithm.decide(state, now, cost)
    }

    /// Refunds `amount` from the charge that `paid` identifies, and returns the state to store.
    ///
    /// A charge whose window has ended, or that has already leaked away, is not refunded.
    pub fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        self.algorithm.refund(state, now, paid, amount)
    }

    /// Charges an amount that is already used, even beyond the remaining quota, and returns the
    /// state to store.
    ///
    /// The excess is an overdraft. A window continues to count beyond its limit, and a bucket must
    /// refill the overdraft before it admits another request. The overdraft is at most the policy's
    /// capacity.
    pub fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.algorithm.charge(state, now, amount)
    }

    /// Returns `true` if the policy is exact only with a [`Log`].
    #[inline]
    pub fn requires_log(&self) -> bool {
        self.algorithm.log().is_some()
    }

    /// Returns the maximum time that a request can wait for its turn, or `None` if the policy is
    /// not a [queue](Self::leaky_queue).
    pub fn max_wait(&self) -> Option<Duration> {
        Some(self.algorithm.queue()?.max_wait())
    }

    /// Returns the time that an admitted request must wait for its turn. The returned time is never
    /// too short, and is less than two microseconds too long.
    ///
    /// The time is zero for policies other than [queues](Self::leaky_queue). A decision with a cost
    /// of zero has no turn; for such a decision, the method returns the time until the last turn in
    /// the queue.
    pub fn delay(&self, said: &Decision) -> Duration {
        let queue = self.algorithm.queue();
        queue.map_or(Duration::ZERO, |queue| queue.delay(said))
    }

    /// Refunds `amount` of the charge in a sliding log that `paid` identifies.
    pub fn refund_log(&self, log: &mut Log, paid: Receipt, amount: u64) {
        if let Some(exact) = self.algorithm.log() {
            exact.refund(log, paid, amount);
        }
    }

    /// Charges a log for an amount that is already used, like [`charge`](Self::charge).
    pub fn charge_log(&self, log: &mut Log, now: Timestamp, amount: u64) {
        self.algorithm.charge_log(log, now, amount);
    }

    /// Returns the time in which the entire capacity refills, in whole seconds, rounded up.
    pub(crate) fn window_secs(&self) -> u64 {
        self.algorithm.horizon_micros().div_ceil(1_000_000)
    }
}
