//! Decisions and charges by a policy.

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
    /// Returns how many requests of cost 1 this number of instances may admit beyond the policy, in
    /// any stretch of time, because of how they [count](SyncMode).
    ///
    /// Lost connections and lost replies do not raise this bound. An instance that is killed and
    /// started again counts as one more instance, in the window in which it was killed.
    pub fn max_over_admission(&self, instances: u32) -> u64 {
        match self.sync_mode() {
            SyncMode::Exact => 0,
            SyncMode::Leased { instances: of } if self.algorithm.is_bucket() => {
                // Each holds at most one lease, which was gained when the bucket was full.
                let lease = self.capacity() / (2 * u64::from(of.get()));
                lease.saturating_mul(instances.into())
            }
            // What is taken ahead of a window is spent in that window, or not at all.
            SyncMode::Leased { .. } => 0,
            SyncMode::Deferred {
                max_unreported: most,
            } => u64::from(most.get()) * u64::from(instances),
        }
    }

    /// Returns the most requests of cost 1 that one exact store admits in any stretch of time as long as
    /// the window of the quota, wherever the stretch begins.
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

    /// Returns the policy in numbers, for a store that decides elsewhere than in this process.
    pub fn terms(&self) -> PolicyParams {
        self.algorithm.terms()
    }

    /// Decides one request, and says what to remember of it.
    ///
    /// This is the one truth that all stores hold to. A store reads the state, asks this, and
    /// writes the state that comes back, all in one step.
    ///
    /// A state that is no longer alive is the same as [`State::NONE`]. With a cost of zero nothing
    /// is charged, and the decision says what is left.
    #[inline(always)]
    pub fn decide(&self, state: State, now: Timestamp, cost: u64) -> (Decision, State) {
        self.algorithm.decide(state, now, cost)
    }

    /// Gives back what was taken too much by the charge that the receipt is for, and returns what to
    /// remember.
    ///
    /// What is over is over: a charge whose window has ended, or that has leaked away, gives
    /// nothing back.
    pub fn refund(&self, state: State, now: Timestamp, paid: Receipt, amount: u64) -> State {
        self.algorithm.refund(state, now, paid, amount)
    }

    /// Charges what has been used already, whether it was left or not, and returns what to
    /// remember.
    ///
    /// What was not left is owed: a window counts on beyond its limit, and a bucket has to gain it
    /// before anyone passes again. No more is owed than the policy's capacity.
    pub fn charge(&self, state: State, now: Timestamp, amount: u64) -> State {
        self.algorithm.charge(state, now, amount)
    }

    /// Returns whether the policy counts exactly only in a [`Log`].
    #[inline]
    pub fn requires_log(&self) -> bool {
        self.algorithm.log().is_some()
    }

    /// Returns the longest that a request may wait for its turn, if the policy is a
    /// [queue](Self::leaky_queue).
    pub fn max_wait(&self) -> Option<Duration> {
        Some(self.algorithm.queue()?.max_wait())
    }

    /// Returns how long a request that this policy decided on so waits for its turn before it goes
    /// on. It is never too short a time, and less than two microseconds too long.
    ///
    /// Only a [queue](Self::leaky_queue) lets anyone wait. Of what was asked at a cost of zero, and
    /// so has no turn, it is how long the queue is.
    pub fn delay(&self, said: &Decision) -> Duration {
        let queue = self.algorithm.queue();
        queue.map_or(Duration::ZERO, |queue| queue.delay(said))
    }

    /// Gives back to a log what was taken too much by the charge that the receipt is for.
    pub fn refund_log(&self, log: &mut Log, paid: Receipt, amount: u64) {
        if let Some(exact) = self.algorithm.log() {
            exact.refund(log, paid, amount);
        }
    }

    /// Charges a log what has been used already, as [`charge`](Self::charge) does a state.
    pub fn charge_log(&self, log: &mut Log, now: Timestamp, amount: u64) {
        self.algorithm.charge_log(log, now, amount);
    }

    /// Returns the time in which the whole capacity comes back, in whole seconds, rounded up.
    pub(crate) fn window_secs(&self) -> u64 {
        self.algorithm.horizon_micros().div_ceil(1_000_000)
    }
}
