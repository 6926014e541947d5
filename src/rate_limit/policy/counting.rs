//! Decisions and charges of policies.

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
    /// Returns the number of requests of cost 1 that this number of instances can admit beyond the
    /// policy in any period, because of their [sync mode](SyncMode).
    ///
    /// Lost connections and lost replies do not raise this bound. An instance that is killed and
    /// restarted counts as an additional instance in the window in which it was killed.
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
    /// of the length of the window.
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

    /// Decides one request, and returns the decision and the state to store.
    ///
    /// This is the reference for all stores. A store reads the state, calls this method, and writes
    /// the returned state in one atomic step.
    ///
    /// An expired state is equivalent to [`State::NONE`]. A cost of zero charges nothing, and the
    /// decision contains the remaining quota.
    #[inline(always)]
    pub fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        self.algorithm.decide(state, now, cost)
    }

    /// Refunds an excess amount of the charge of a receipt, and returns the state to store.
    ///
    /// A charge whose window has ended, or that has leaked away, is not refunded.
    pub fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        self.algorithm.refund(state, now, paid, amount)
    }

    /// Charges usage after the fact, even beyond the remaining quota, and returns the state to
    /// store.
    ///
    /// The excess is overdrawn: a window counts on beyond its limit, and a bucket must refill it
    /// before it admits another request. The overdraft is at most the policy's capacity.
    pub fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.algorithm.charge(state, now, amount)
    }

    /// Returns `true` if the policy counts exactly only in a [`Log`].
    #[inline]
    pub fn requires_log(&self) -> bool {
        self.algorithm.log().is_some()
    }

    /// Returns the maximum time that a request waits for its turn, if the policy is a
    /// [queue](Self::leaky_queue).
    pub fn max_wait(&self) -> Option<Duration> {
        Some(self.algorithm.queue()?.max_wait())
    }

    /// Returns the time that an admitted request waits for its turn. It is never too short, and
    /// less than two microseconds too long.
    ///
    /// It is zero for policies other than [queues](Self::leaky_queue). For a decision of cost zero,
    /// which has no turn, it is the length of the queue.
    pub fn delay(&self, said: &Decision) -> Duration {
        let queue = self.algorithm.queue();
        queue.map_or(Duration::ZERO, |queue| queue.delay(said))
    }

    /// Refunds an excess amount of the charge of a receipt to a log.
    pub fn refund_log(&self, log: &mut Log, paid: Receipt, amount: u64) {
        if let Some(exact) = self.algorithm.log() {
            exact.refund(log, paid, amount);
        }
    }

    /// Charges usage after the fact to a log, like [`charge`](Self::charge).
    pub fn charge_log(&self, log: &mut Log, now: Timestamp, amount: u64) {
        self.algorithm.charge_log(log, now, amount);
    }

    /// Returns the time in which the whole capacity refills, in whole seconds, rounded up.
    pub(crate) fn window_secs(&self) -> u64 {
        self.algorithm.horizon_micros().div_ceil(1_000_000)
    }
}
