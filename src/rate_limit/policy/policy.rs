//! A policy: a named quota, and how it is counted.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    policy_id::PolicyId,
    quota::{Quota, QuotaPeriod},
    sync_mode::SyncMode,
};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::algorithm::{Algorithm, Alignment},
        failover::failure_override::FailureOverride,
    },
};

/// A named quota, and how it is counted.
///
/// The name is shown to callers in the `RateLimit` fields and in the body of a `429`.
///
/// # Sharing a count
///
/// A store keeps one count for each partition and each combination of name, algorithm and window.
/// Two layers or routes on one store that agree in all four share a count, even if their limits
/// differ. Policies of one name whose windows differ never affect one another. To give a route its
/// own count, call [`scope`](Self::scope):
///
/// ```
/// use portcullis::rate_limit::{Policy, Quota};
///
/// let calls = Policy::token_bucket("calls", Quota::per_second(10))?;
/// let search = calls.clone().scope("search");
/// assert_ne!(calls.id(), search.id());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// # Changing a quota
///
/// A change of the quota refills nothing. A window keeps its count: 10 used of 10 become 10 used of
/// 1000. A bucket keeps the share that is left: a spent one stays spent, and a half-full one stays
/// half full, to within a microsecond of the time it takes to fill. This applies to
/// [`RateLimitHandle::replace_policies`](crate::rate_limit::RateLimitHandle::replace_policies), to any two policies that share a count, and, where a
/// deployment changes the window, to a policy that [replaces](Self::replacing) another.
///
/// # Choosing an algorithm
///
/// | | admits at most | choose it when |
/// |---|---|---|
/// | [`token_bucket`](Self::token_bucket) | the burst, and the rate from then on | traffic should be steady, and bursts are fine |
/// | [`fixed_window`](Self::fixed_window) | the limit in each window from a client's first request | "100 in a minute" should mean just that to the client |
/// | [`aligned_window`](Self::aligned_window) | the limit in each window of the clock | quotas are by the hour or the day |
/// | [`calendar_month`](Self::calendar_month) | the limit in each month | quotas are billed |
/// | [`sliding_window`](Self::sliding_window) | the limit in each window of the clock, and at most twice that in any other | windows should have no edge to wait for |
/// | [`sliding_log`](Self::sliding_log) | the limit in any window at all | limits are small and strict |
/// | [`leaky_bucket`](Self::leaky_bucket) | what a token bucket does | that is the name you know it by |
/// | [`leaky_queue`](Self::leaky_queue) | one each interval; the others wait for their turn | callers would rather wait than be denied |
///
/// A bucket that may burst its whole limit admits up to twice the limit in the first window: the
/// burst, and what is gained meanwhile. Windows admit up to twice the limit around an edge. For
/// less, give the bucket a smaller burst.
///
/// ```
/// use portcullis::rate_limit::{Policy, Quota};
///
/// let burst = Policy::token_bucket("burst", Quota::per_second(10).burst(20))?;
/// let daily = Policy::aligned_window("daily", Quota::per_day(10_000))?;
/// assert_eq!((burst.capacity(), daily.capacity()), (20, 10_000));
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) name: Arc<str>,
    pub(super) quota: Quota,
    pub(super) algorithm: Algorithm,
    pub(super) id: u64,
    pub(super) scope: u64,
    pub(super) shadow: bool,
    pub(super) mode: SyncMode,
    pub(super) on_store_error: Option<FailureOverride>,
    pub(super) tolerates_coarse_clock: bool,
    pub(super) previous: Option<Arc<Previous>>,
}

impl Policy {
    /// Counts in windows, each of which begins with the first request that finds none open.
    ///
    /// # Errors
    ///
    /// If the name or the quota cannot be used; so for all constructors.
    pub fn fixed_window(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        let algorithm = Algorithm::fixed_window(&quota, Alignment::FirstRequest)?;
        Self::new(name, quota, algorithm)
    }

    /// Counts in windows that begin at whole multiples of their length since the Unix epoch: on
    /// the minute, on the hour, at midnight UTC. A quota [per month](Quota::per_month) or
    /// [per year](Quota::per_year) is counted in months or years of the calendar.
    pub fn aligned_window(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        let alignment = match quota.period() {
            QuotaPeriod::Fixed(_) => Alignment::Clock,
            QuotaPeriod::Month => Alignment::Month,
            QuotaPeriod::Year => Alignment::Year,
        };
        Self::new(name, quota, Algorithm::fixed_window(&quota, alignment)?)
    }

    /// Counts in months of the calendar, which begin at midnight UTC.
    pub fn calendar_month(name: &str, limit: u64) -> Result<Self, ConfigError> {
        Self::aligned_window(name, Quota::per_month(limit))
    }

    /// Counts the current window of the clock, and a share of the previous one as if its requests had
    /// been evenly spaced.
    ///
    /// A caller whose requests are evenly spaced at the limit's rate is never denied. A stretch of time
    /// as long as the window admits at most twice the limit, and only if the previous requests all came
    /// at the end of their window; see [`max_per_window`](Self::max_per_window).
    pub fn sliding_window(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        Self::new(name, quota, Algorithm::sliding_window(&quota)?)
    }

    /// Remembers each request of the last window: in any window at all at most the limit is
    /// admitted.
    ///
    /// The limit is at most 10 000, and each partition may take 16 bytes times that, on a Redis server
    /// 20. Both count exactly; a store that keeps words alone counts as
    /// [`sliding_window`](Self::sliding_window) does.
    pub fn sliding_log(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        Self::new(name, quota, Algorithm::sliding_log(&quota)?)
    }

    /// Counts by a bucket that leaks at the quota's rate, and holds its burst: what would overflow
    /// it is denied.
    pub fn leaky_bucket(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        Self::new(name, quota, Algorithm::leaky_bucket(&quota)?)
    }

    /// Lets requests go on at the quota's rate: one that comes too early waits for its turn, and one
    /// that would wait longer than `max_wait` is denied.
    ///
    /// As many as the burst of the quota go on at once after a pause: one, unless the quota names
    /// another. Then the queue has a place for each that has its turn within `max_wait`, and those
    /// and the burst are the policy's [`capacity`](Self::capacity). A request stands in the queue
    /// for all that it costs.
    ///
    /// ```
    /// use std::time::Duration;
    /// use portcullis::rate_limit::{Policy, Quota};
    ///
    /// // Ten in a second, 100 ms apart; who would wait for more than two seconds is denied.
    /// let steady = Policy::leaky_queue("steady", Quota::per_second(10), Duration::from_secs(2))?;
    /// assert_eq!(steady.capacity(), 1 + 20);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn leaky_queue(name: &str, quota: Quota, max_wait: Duration) -> Result<Self, ConfigError> {
        Self::new(name, quota, Algorithm::leaky_queue(&quota, max_wait)?)
    }

    /// Counts by a bucket that refills at the quota's rate, up to its burst.
    pub fn token_bucket(name: &str, quota: Quota) -> Result<Self, ConfigError> {
        Self::new(name, quota, Algorithm::token_bucket(&quota)?)
    }

    fn new(name: &str, quota: Quota, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let shown = |byte: u8| (0x20..=0x7e).contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(shown) {
            return Err(ConfigError::new(
                "policy name",
                name,
                "a policy is named in a header by 1 to 64 printable ASCII characters",
            )
            .fix("name it by what it is for, such as `burst` or `daily`"));
        }
        Ok(Self {
            id: PolicyId::of(name, algorithm.letter())
                .number(quota.window_id())
                .0,
            name: name.into(),
            quota,
            algorithm,
            scope: 0,
            shadow: false,
            mode: SyncMode::Exact,
            on_store_error: None,
            tolerates_coarse_clock: algorithm.horizon_micros() >= 100_000
                && algorithm.log().is_none()
                && algorithm.queue().is_none(),
            previous: None,
        })
    }

    /// Counts apart from policies of the same name, algorithm and window that have another scope, or
    /// none. No scope by default; the scope is not shown to callers.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.id = PolicyId(self.id).text(scope).0;
        self.scope = PolicyId(self.scope).text(scope).0;
        self
    }

    /// Counts under the name and the algorithm alone, for policies of which a partition has one at a
    /// time: a change of the window is then a change of the quota.
    pub(super) fn of_any_window(mut self) -> Self {
        self.id = PolicyId::of(&self.name, self.algorithm.letter()).0;
        self
    }

    /// Only watches: what the policy would deny is admitted all the same.
    ///
    /// It counts as it would if it were enforced, and its word stands in the record, but no header
    /// and no answer speaks of it. For trying a limit on real traffic before it turns anyone away.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// Sets how the instances that share a store count together. Exactly by default.
    #[must_use]
    pub fn with_sync_mode(mut self, mode: SyncMode) -> Self {
        self.mode = mode;
        self
    }

    /// Returns how the instances that share a store count together.
    pub fn sync_mode(&self) -> SyncMode {
        if self.algorithm.queue().is_some() || self.algorithm.log().is_some() {
            return SyncMode::Exact;
        }
        self.mode
    }

    /// Returns whether a mode was set that this algorithm does not support.
    pub(crate) fn ignores_mode(&self) -> bool {
        self.mode != self.sync_mode()
    }

    /// Sets the rule for requests while the limiter's store fails.
    pub(crate) fn with_failure_override(mut self, rule: FailureOverride) -> Self {
        self.on_store_error = Some(rule);
        self
    }

    /// Returns the rule for requests while the limiter's store fails, if the policy has one.
    pub(crate) fn failure_override(&self) -> Option<FailureOverride> {
        self.on_store_error
    }

    /// Returns the policy by which each of so many instances has its part of the quota, under the
    /// same name.
    ///
    /// # Errors
    ///
    /// If the part cannot be counted.
    pub(crate) fn divided(&self, share: NonZeroU32) -> Result<Self, ConfigError> {
        let (quota, algorithm) = self.algorithm.divided(&self.quota, share)?;
        let part = Self::new(&self.name, quota, algorithm)?;
        Ok(Self {
            id: self.id,
            scope: self.scope,
            shadow: self.shadow,
            previous: self.previous.as_ref().and_then(|it| it.divided(share)),
            ..part
        })
    }

    /// Returns whether the policy only watches.
    #[inline]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the quota.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns the most that can be left: the limit of a window, the burst of a bucket, the places
    /// of a queue.
    pub fn capacity(&self) -> u64 {
        self.algorithm.capacity()
    }

    /// Returns a number that identifies the name, the algorithm, the window and the scope, the same in
    /// each process. A store keeps the policy's states under it and the partition.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether a time that is some milliseconds late decides as well: whether the window
    /// is at least a tenth of a second, and neither moments nor turns are kept.
    #[inline]
    pub fn tolerates_coarse_clock(&self) -> bool {
        self.tolerates_coarse_clock
    }

    pub(crate) fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }
}

/// A policy that was replaced.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) policy: Policy,
    /// When the new policy was first used, by the store's clock.
    pub(super) changed_at: OnceLock<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_header_cannot_show_is_refused() {
        for name in ["", "täglich", "a\nb", &"n".repeat(65)] {
            let error = Policy::token_bucket(name, Quota::per_second(1)).unwrap_err();
            assert_eq!(error.option(), "policy name");
        }
    }

    #[test]
    fn a_part_of_a_policy_keeps_its_name_its_algorithm_and_whether_it_only_watches() {
        let quota = Quota::per_minute(10);
        let share = NonZeroU32::new(3).unwrap();
        for policy in [
            Policy::fixed_window("p", quota).unwrap(),
            Policy::aligned_window("p", quota).unwrap(),
            Policy::calendar_month("p", 10).unwrap(),
            Policy::sliding_window("p", quota).unwrap(),
            Policy::sliding_log("p", quota).unwrap(),
            Policy::leaky_bucket("p", quota).unwrap(),
            Policy::token_bucket("p", quota).unwrap().shadow(),
            Policy::leaky_queue("p", quota.burst(10), Duration::from_micros(1)).unwrap(),
        ] {
            let part = policy.divided(share).unwrap();
            assert_eq!((part.id(), part.name()), (policy.id(), "p"));
            assert_eq!(part.is_shadow(), policy.is_shadow());
            assert_eq!(part.capacity(), 4, "{policy:?}");
            let alone = policy.divided(NonZeroU32::MIN).unwrap();
            assert_eq!(alone.algorithm(), policy.algorithm());
        }
    }

    #[test]
    fn another_name_or_another_algorithm_counts_apart() {
        let quota = Quota::per_second(1);
        let ids = [
            Policy::token_bucket("a", quota).unwrap().id(),
            Policy::token_bucket("b", quota).unwrap().id(),
            Policy::fixed_window("a", quota).unwrap().id(),
            Policy::aligned_window("a", quota).unwrap().id(),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[at + 1..].contains(id));
        }
    }

    #[test]
    fn id_depends_on_window_and_scope_and_not_on_limit() {
        let id = |quota| Policy::token_bucket("a", quota).unwrap().id();
        assert_eq!(id(Quota::per_day(9)), id(Quota::per_day(2).burst(7)));
        assert_ne!(id(Quota::per_day(9)), id(Quota::per_hour(9)));
        let scoped = |scope| {
            Policy::token_bucket("a", Quota::per_day(9))
                .unwrap()
                .scope(scope)
                .id()
        };
        assert_ne!(id(Quota::per_day(9)), scoped("search"));
        assert_ne!(scoped("find"), scoped("search"));
        assert_eq!(scoped("search"), scoped("search"));
    }

    #[test]
    fn policy_cannot_replace_one_of_another_algorithm() {
        let bucket = Policy::token_bucket("a", Quota::per_day(9)).unwrap();
        let window = Policy::fixed_window("a", Quota::per_day(9)).unwrap();
        assert_eq!(window.replacing(&bucket).unwrap_err().option(), "replacing");
    }

    #[test]
    fn a_lease_of_a_bucket_admits_at_most_half_a_burst_more_and_that_of_a_window_nothing() {
        let (quota, four) = (Quota::per_second(1_000), NonZeroU32::new(4).unwrap());
        let mode = SyncMode::auto(quota.limit(), four);
        let bucket = Policy::token_bucket("b", quota).unwrap();
        assert_eq!(bucket.max_over_admission(4), 0);
        assert_eq!(bucket.with_sync_mode(mode).max_over_admission(4), 500);
        let window = Policy::sliding_window("w", quota)
            .unwrap()
            .with_sync_mode(mode);
        assert_eq!(window.max_over_admission(4), 0);
        let (three, window) = (NonZeroU32::new(3).unwrap(), window.clone());
        let owing = window.with_sync_mode(SyncMode::Deferred {
            max_unreported: three,
        });
        assert_eq!(owing.max_over_admission(4), 12);
        let queue = Policy::leaky_queue("q", quota, Duration::from_secs(1)).unwrap();
        assert_eq!(queue.with_sync_mode(mode).sync_mode(), SyncMode::Exact);
    }
}
