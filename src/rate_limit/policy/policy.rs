//! A policy: a named quota and its algorithm.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    policy_id::PolicyId,
    quota::{Quota, QuotaPeriod},
    quota_text::IntoQuota,
    sync_mode::SyncMode,
};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::{
        decision::algorithm::{Algorithm, Alignment},
        failover::failure_override::FailureOverride,
    },
};

/// A named quota and its algorithm.
///
/// Callers see the name in the `RateLimit` fields and in the body of a `429` response, unless the
/// policy is [hidden](Self::hidden).
///
/// # Sharing a count
///
/// A store has one count for each partition and each combination of name, algorithm, window and
/// scope. Two layers or routes on one store share a count if all of these properties are equal,
/// even if the limits differ. Policies with the same name but different windows never affect one
/// another. To give a route its own count, call [`scope`](Self::scope):
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
/// Changing a quota does not refill the quota. A window keeps its count: after 10 of 10 requests
/// are used, raising the limit to 1000 leaves 990. A bucket keeps its remaining share: an empty
/// bucket stays empty, and a half-full bucket stays half full, to within a microsecond of its
/// refill time. This behavior applies to
/// [`RateLimitHandle::replace_policies`](crate::rate_limit::RateLimitHandle::replace_policies) and
/// to any two policies that share a count. The behavior also applies if a deployment changes the
/// window and the new policy [replaces](Self::replacing) the previous one.
///
/// # Choosing an algorithm
///
/// | Algorithm | Maximum | Use it if |
/// |---|---|---|
/// | [`token_bucket`](Self::token_bucket) | the burst, then the rate | traffic should be steady, but bursts are acceptable |
/// | [`fixed_window`](Self::fixed_window) | the limit in each window from a client's first request | clients expect "100 in a minute" to be literal |
/// | [`aligned_window`](Self::aligned_window) | the limit in each clock-aligned window | quotas are per hour or per day |
/// | [`calendar_month`](Self::calendar_month) | the limit in each month | quotas are billed |
/// | [`sliding_window`](Self::sliding_window) | the limit in each clock-aligned window, and at most twice that in any other window | usage should not reset at window boundaries |
/// | [`sliding_log`](Self::sliding_log) | the limit in any window | limits are small and strict |
/// | [`leaky_bucket`](Self::leaky_bucket) | the same as a token bucket | you prefer this name |
/// | [`leaky_queue`](Self::leaky_queue) | one per interval; others wait for their turn | callers prefer waiting to being denied |
///
/// A bucket whose burst equals its limit admits up to twice the limit in the first window: the
/// burst, and the refill during the window. Windows admit up to twice the limit around the boundary
/// between two windows. For a lower maximum, give the bucket a smaller burst.
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
    pub(super) hidden: bool,
    pub(super) mode: SyncMode,
    pub(super) on_store_error: Option<FailureOverride>,
    pub(super) tolerates_coarse_clock: bool,
    pub(super) previous: Option<Arc<Previous>>,
}

impl Policy {
    /// Creates a policy that counts requests in consecutive windows. Each window starts with the
    /// first request after the previous window has ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the name or the quota is invalid. The other constructors return an error
    /// in the same cases.
    pub fn fixed_window(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        let algorithm = Algorithm::fixed_window(&quota, Alignment::FirstRequest)?;
        Self::new(name, quota, algorithm)
    }

    /// Creates a policy that counts in windows that start at multiples of their length since the
    /// Unix epoch: on the minute, on the hour, or at midnight UTC. A quota [per
    /// month](Quota::per_month) or [per year](Quota::per_year) is counted in calendar months or
    /// years.
    pub fn aligned_window(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        let alignment = match quota.period() {
            QuotaPeriod::Fixed(_) => Alignment::Clock,
            QuotaPeriod::Month => Alignment::Month,
            QuotaPeriod::Year => Alignment::Year,
        };
        Self::new(name, quota, Algorithm::fixed_window(&quota, alignment)?)
    }

    /// Creates a policy that counts in calendar months, which start at midnight UTC.
    pub fn calendar_month(name: &str, limit: u64) -> Result<Self, ConfigError> {
        Self::aligned_window(name, Quota::per_month(limit))
    }

    /// Creates a policy that counts the requests in the current clock-aligned window and a share of
    /// the requests in the previous window. The share assumes that the requests in the previous
    /// window were evenly spaced.
    ///
    /// A caller whose requests are evenly spaced at the limit's rate is never denied. In any period
    /// of one window length, at most twice the limit is admitted. This maximum is reached only if
    /// all requests of the previous window arrived at the end of that window; see
    /// [`max_per_window`](Self::max_per_window).
    pub fn sliding_window(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        Self::new(name, quota, Algorithm::sliding_window(&quota)?)
    }

    /// Creates a policy that stores the time of each request in the last window and admits at most
    /// the limit in any window.
    ///
    /// The limit is at most 10 000. Each partition takes up to 16 bytes per admitted request, or 20
    /// bytes on a Redis server. Both of this crate's stores count exactly. A store that does not
    /// support logs counts the policy as a [`sliding_window`](Self::sliding_window).
    pub fn sliding_log(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        Self::new(name, quota, Algorithm::sliding_log(&quota)?)
    }

    /// Creates a policy that counts in a bucket that leaks at the quota's rate and holds the
    /// quota's burst. Requests that would overflow the bucket are denied.
    pub fn leaky_bucket(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        Self::new(name, quota, Algorithm::leaky_bucket(&quota)?)
    }

    /// Creates a policy that delays requests to match the quota's rate. A request that is too early
    /// waits for its turn, and a request that would wait longer than `max_wait` is denied.
    ///
    /// After a pause, the burst of the quota is admitted at once. The burst defaults to 1. The
    /// queue also holds every request whose turn is within `max_wait`. The policy's
    /// [`capacity`](Self::capacity) is the burst plus the number of turns within `max_wait`. A
    /// request takes as many turns as its cost.
    ///
    /// ```
    /// use std::time::Duration;
    /// use portcullis::rate_limit::{Policy, Quota};
    ///
    /// // Ten per second, 100 ms apart. Requests that would wait for more than 2 s are denied.
    /// let steady = Policy::leaky_queue("steady", Quota::per_second(10), Duration::from_secs(2))?;
    /// assert_eq!(steady.capacity(), 1 + 20);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn leaky_queue(
        name: &str,
        quota: impl IntoQuota,
        max_wait: Duration,
    ) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        Self::new(name, quota, Algorithm::leaky_queue(&quota, max_wait)?)
    }

    /// Creates a policy that counts in a bucket that refills at the quota's rate, up to the quota's
    /// burst.
    pub fn token_bucket(name: &str, quota: impl IntoQuota) -> Result<Self, ConfigError> {
        let quota = quota.into_quota()?;
        Self::new(name, quota, Algorithm::token_bucket(&quota)?)
    }

    fn new(name: &str, quota: Quota, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let shown = |byte: u8| (0x20..=0x7e).contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(shown) {
            return Err(ConfigError::new(
                "policy name",
                name,
                "a policy name is 1 to 64 printable ASCII characters",
            )
            .fix("name the policy after its purpose, for example `burst` or `daily`"));
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
            hidden: false,
            mode: SyncMode::Exact,
            on_store_error: None,
            tolerates_coarse_clock: algorithm.horizon_micros() >= 100_000
                && algorithm.log().is_none()
                && algorithm.queue().is_none(),
            previous: None,
        })
    }

    /// Sets a scope. Policies with the same name, algorithm and window but different scopes have
    /// separate counts. Defaults to no scope. Callers do not see the scope.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.id = PolicyId(self.id).text(scope).0;
        self.scope = PolicyId(self.scope).text(scope).0;
        self
    }

    /// Counts under the name and the algorithm only, for policies that occur once per partition. A
    /// change of the window then counts as a change of the quota.
    pub(super) fn for_any_window(mut self) -> Self {
        self.id = PolicyId::of(&self.name, self.algorithm.letter()).0;
        self
    }

    /// Enables shadow mode, in which requests that the policy would deny are admitted. Off by
    /// default.
    ///
    /// The policy still counts requests as if it were enforced. Its decision appears in the
    /// access-log record, but not in any header or response. Use shadow mode to test a limit on
    /// real traffic before you enforce it.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// Hides the policy from callers. The policy is enforced, but no header field and no response
    /// body contains its name, limit, window or remaining quota. Off by default.
    ///
    /// A request that the policy denies receives `429` and `Retry-After`. The request's other
    /// policies are reported as usual. If all policies are hidden, the response has no `RateLimit`
    /// or `X-RateLimit` field. The access-log record, metrics, audit events and the
    /// [`RateLimitOutcome`](crate::outcome::RateLimitOutcome) contain the policy, so a handler or a
    /// custom [`Responder`](crate::Responder) that renders the outcome can disclose the policy.
    ///
    /// ```
    /// use portcullis::rate_limit::{Policy, Quota};
    ///
    /// let published = Policy::token_bucket("burst", Quota::per_second(10))?;
    /// let scraping = Policy::aligned_window("scraping", Quota::per_day(50_000))?.hidden();
    /// # let _ = (published, scraping);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Sets how instances that share a store synchronize their counts. Defaults to
    /// [`SyncMode::Exact`].
    #[must_use]
    pub fn with_sync_mode(mut self, mode: SyncMode) -> Self {
        self.mode = mode;
        self
    }

    /// Returns the sync mode of instances that share a store.
    pub fn sync_mode(&self) -> SyncMode {
        if self.algorithm.queue().is_some() || self.algorithm.log().is_some() {
            return SyncMode::Exact;
        }
        self.mode
    }

    /// Returns `true` if the policy has a mode that its algorithm does not support.
    pub(crate) fn ignores_mode(&self) -> bool {
        self.mode != self.sync_mode()
    }

    /// Sets the rule for requests while the limiter's store fails.
    pub(crate) fn with_failure_override(mut self, rule: FailureOverride) -> Self {
        self.on_store_error = Some(rule);
        self
    }

    /// Returns the policy's rule for requests while the limiter's store fails, if it has one.
    pub(crate) fn failure_override(&self) -> Option<FailureOverride> {
        self.on_store_error
    }

    /// Returns the policy with one instance's share of the quota, under the same name.
    ///
    /// # Errors
    ///
    /// Returns an error if the share cannot be counted.
    pub(crate) fn divided(&self, share: NonZeroU32) -> Result<Self, ConfigError> {
        let (quota, algorithm) = self.algorithm.divided(&self.quota, share)?;
        let part = Self::new(&self.name, quota, algorithm)?;
        Ok(Self {
            id: self.id,
            scope: self.scope,
            shadow: self.shadow,
            hidden: self.hidden,
            previous: self.previous.as_ref().and_then(|it| it.divided(share)),
            ..part
        })
    }

    /// Returns `true` if the policy is in shadow mode.
    #[inline]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Returns `true` if the policy is hidden from callers.
    #[inline]
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Returns `true` if header fields report the policy to callers.
    pub(crate) fn is_reported(&self) -> bool {
        !self.shadow && !self.hidden
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the quota.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns the maximum remaining amount: the limit of a window, the burst of a bucket, or the
    /// burst and the waiting capacity of a queue.
    pub fn capacity(&self) -> u64 {
        self.algorithm.capacity()
    }

    /// Returns a number that identifies the combination of name, algorithm, window and scope. The
    /// number is the same in every process. A store identifies a state by the partition and this
    /// id.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns `true` if decisions are not affected by a time that is a few milliseconds late. This
    /// is the case if the window is at least 100 ms and the state contains neither the times of
    /// requests nor positions in a queue.
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

/// A replaced policy.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) policy: Policy,
    /// The time of the first use of the new policy, according to the store's clock.
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
            Policy::token_bucket("p", quota).unwrap().hidden(),
            Policy::leaky_queue("p", quota.burst(10), Duration::from_micros(1)).unwrap(),
        ] {
            let part = policy.divided(share).unwrap();
            assert_eq!((part.id(), part.name()), (policy.id(), "p"));
            assert_eq!(part.is_shadow(), policy.is_shadow());
            assert_eq!(part.is_hidden(), policy.is_hidden());
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
        let deferred = window.with_sync_mode(SyncMode::Deferred {
            max_unreported: three,
        });
        assert_eq!(deferred.max_over_admission(4), 12);
        let queue = Policy::leaky_queue("q", quota, Duration::from_secs(1)).unwrap();
        assert_eq!(queue.with_sync_mode(mode).sync_mode(), SyncMode::Exact);
    }
}
