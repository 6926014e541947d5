//! Quotas: limits per window.

use std::{num::NonZeroU32, time::Duration};

use crate::core::error::ConfigError;

/// The maximum window, and the maximum refill time of a burst: about 71 years.
///
/// A time at that distance from today fits in the 53 bits that a store counts exactly.
pub(crate) const MICROS_MAX: u64 = 1 << 51;

/// The largest product of a burst and a fraction of a microsecond that a store counts exactly.
pub(crate) const EXACT_MAX: u64 = 1 << 53;

/// The number of requests that a policy admits per window.
///
/// The first argument of each constructor is the number of admitted requests: `per_second(10)`
/// admits ten requests per second.
///
/// A quota can be [parsed from text](Self#impl-FromStr-for-Quota). If a policy can count the quota,
/// the quota's `Display` output parses to the same quota.
///
/// ```
/// use std::time::Duration;
/// use portcullis::rate_limit::Quota;
///
/// const SEARCH: Quota = Quota::per_minute(100).burst(20);
/// assert_eq!(SEARCH.limit(), 100);
/// assert_eq!(SEARCH.window(), Duration::from_secs(60));
/// assert_eq!(Quota::new(10, Duration::from_secs(10)).to_string(), "10/10s");
/// assert_eq!("100/minute burst 20".parse(), Ok(SEARCH));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u64,
    period: QuotaPeriod,
    burst: Option<u64>,
}

/// The window of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QuotaPeriod {
    Fixed(Duration),
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl QuotaPeriod {
    /// Returns the length of the longest period of this kind.
    const fn longest(self) -> Duration {
        match self {
            Self::Fixed(window) => window,
            Self::Month => Duration::from_secs(31 * DAY.as_secs()),
            Self::Year => Duration::from_secs(366 * DAY.as_secs()),
        }
    }
}

impl Quota {
    /// Creates a quota that admits `limit` requests per window.
    ///
    /// Invalid quotas, such as a limit of zero, are rejected when a policy is created.
    pub const fn new(limit: u64, window: Duration) -> Self {
        Self {
            limit,
            period: QuotaPeriod::Fixed(window),
            burst: None,
        }
    }

    /// Creates a quota that admits `limit` requests per calendar month.
    ///
    /// [`Policy::aligned_window`](crate::rate_limit::Policy::aligned_window) counts calendar
    /// months, which start at midnight UTC. The other algorithms treat a month as 31 days.
    pub const fn per_month(limit: u64) -> Self {
        Self::of(limit, QuotaPeriod::Month)
    }

    /// Creates a quota that admits `limit` requests per calendar year.
    ///
    /// [`Policy::aligned_window`](crate::rate_limit::Policy::aligned_window) counts calendar years,
    /// which start at midnight UTC. The other algorithms treat a year as 366 days.
    pub const fn per_year(limit: u64) -> Self {
        Self::of(limit, QuotaPeriod::Year)
    }

    pub(crate) const fn of(limit: u64, period: QuotaPeriod) -> Self {
        Self {
            limit,
            period,
            burst: None,
        }
    }

    /// Creates a quota that admits `limit` requests per second.
    pub const fn per_second(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(1))
    }

    /// Creates a quota that admits `limit` requests per minute.
    pub const fn per_minute(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(60))
    }

    /// Creates a quota that admits `limit` requests per hour.
    pub const fn per_hour(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(60 * 60))
    }

    /// Creates a quota that admits `limit` requests per day.
    pub const fn per_day(limit: u64) -> Self {
        Self::new(limit, DAY)
    }

    /// Sets the number of requests that are admitted at once after a pause. Defaults to the limit,
    /// or to 1 in a [queue](crate::rate_limit::Policy::leaky_queue).
    ///
    /// Only buckets and queues support a burst. A window always admits its entire limit at once.
    #[must_use]
    pub const fn burst(mut self, burst: u64) -> Self {
        self.burst = Some(burst);
        self
    }

    /// Returns the number of requests that are admitted per window.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the window. For a calendar month or year, returns the length of the longest month or
    /// year.
    pub const fn window(&self) -> Duration {
        self.period.longest()
    }

    pub(crate) const fn period(&self) -> QuotaPeriod {
        self.period
    }

    /// Returns the number of requests that are admitted at once after a pause.
    pub const fn burst_size(&self) -> u64 {
        match self.burst {
            Some(burst) => burst,
            None => self.limit,
        }
    }

    /// Returns the id of the window, which is the window's length in microseconds.
    pub(super) const fn window_id(&self) -> u64 {
        // No policy has a longer window than 71 years.
        self.window().as_micros() as u64
    }

    /// Returns the burst, if it was set.
    pub(crate) const fn own_burst(&self) -> Option<u64> {
        self.burst
    }

    /// Returns one instance's share for a window, rounded up.
    pub(crate) fn windows_part(&self, share: NonZeroU32) -> Self {
        Self {
            limit: self.limit.div_ceil(share.get().into()),
            ..*self
        }
    }

    /// Returns one instance's share for a bucket. The burst is rounded up, and the rate is exact.
    pub(crate) fn buckets_part(&self, share: NonZeroU32) -> Self {
        // Stretching the window has the same effect on the rate as dividing the limit, and is
        // exact.
        let divisor = gcd(share.get().into(), self.limit);
        let stretch = u64::from(share.get()) / divisor;
        let window = u32::try_from(stretch)
            .ok()
            .and_then(|stretch| self.window().checked_mul(stretch));
        Self {
            limit: self.limit / divisor,
            period: QuotaPeriod::Fixed(window.unwrap_or(Duration::MAX)),
            burst: Some(self.burst_size().div_ceil(share.get().into())),
        }
    }

    /// Returns the window in whole microseconds.
    ///
    /// # Errors
    ///
    /// Returns an error if the limit or the window is zero, or if the window is too long or not a
    /// whole number of microseconds.
    pub(crate) fn window_micros(&self) -> Result<u64, ConfigError> {
        if self.limit == 0 {
            return Err(self
                .error("a limit of zero admits no requests")
                .fix("set at least 1, or deny the route in the router"));
        }
        if self.window().is_zero() {
            return Err(self
                .error("the window must be at least a microsecond")
                .fix("set a longer window"));
        }
        if !self.window().subsec_nanos().is_multiple_of(1_000) {
            return Err(self
                .error("the window must be a whole number of microseconds")
                .fix("round it"));
        }
        u64::try_from(self.window().as_micros())
            .ok()
            .filter(|micros| *micros <= MICROS_MAX)
            .ok_or_else(|| {
                self.error("the window must be at most 71 years")
                    .fix("set a shorter window")
            })
    }

    /// Returns the window in whole microseconds, for an algorithm without a burst.
    ///
    /// # Errors
    ///
    /// Also returns an error if the quota has a burst or its limit cannot be counted exactly.
    pub(crate) fn burstless_window_micros(&self) -> Result<u64, ConfigError> {
        if self.burst.is_some() {
            return Err(self
                .error("a window admits its whole limit at once, so it has no burst")
                .fix("drop the burst, or use a token bucket"));
        }
        if self.limit > EXACT_MAX {
            return Err(self
                .error("the limit must be at most 2^53")
                .fix("reduce it"));
        }
        self.window_micros()
    }

    /// Checks that a policy can count the quota.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if no policy can count the quota.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match (self.burstless_window_micros(), self.pace()) {
            (Ok(_), _) | (_, Ok(_)) => Ok(()),
            (Err(window), Err(pace)) => Err(match self.burst {
                Some(_) => pace,
                None => window,
            }),
        }
    }

    /// Returns the quota in the form that a bucket counts; see [`Pace`].
    ///
    /// # Errors
    ///
    /// Returns an error if the quota is invalid, or if its numbers are too large to be counted
    /// exactly.
    pub(crate) fn pace(&self) -> Result<Pace, ConfigError> {
        let window = self.window_micros()?;
        let burst = self.burst_size();
        if burst == 0 {
            return Err(self
                .error("the burst must be at least 1")
                .fix("drop it to use the limit"));
        }
        let divisor = gcd(window, self.limit);
        let (window, parts) = (window / divisor, self.limit / divisor);
        let pace = Pace {
            burst,
            parts,
            interval: Span {
                micros: window / parts,
                parts: window % parts,
            },
        };
        let exact = u128::from(burst) * u128::from(parts) <= u128::from(EXACT_MAX);
        let refill = u128::from(burst) * u128::from(window) / u128::from(parts);
        if !exact {
            return Err(self
                .error("the burst and the limit are too large to be counted exactly")
                .fix("use a rounder limit, or count in thousands"));
        }
        if refill > u128::from(MICROS_MAX) {
            return Err(self
                .error("the burst must refill within 71 years")
                .fix("set a smaller burst"));
        }
        Ok(pace)
    }

    fn error(&self, problem: &str) -> ConfigError {
        ConfigError::new("quota", self, problem)
    }
}

/// A quota in the form that a bucket counts: in whole microseconds and parts of a microsecond, so
/// that nothing is rounded. For 3 requests per second, the interval is 333 333 microseconds and 1
/// of 3 parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The capacity of the bucket.
    pub(crate) burst: u64,
    /// The number of parts in a microsecond.
    pub(crate) parts: u64,
    /// The time in which the bucket refills by one.
    pub(crate) interval: Span,
}

/// A span of time, in whole microseconds and parts of one microsecond. The [`Pace`] defines the
/// number of parts per microsecond, and `parts` is less than that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) micros: u64,
    pub(crate) parts: u64,
}

impl Pace {
    /// Returns the time in which the bucket refills by `count`, which is at most the burst.
    #[inline]
    pub(crate) fn times(&self, count: u64) -> Span {
        // At most 2^53: the burst was checked with the parts.
        let parts = self.interval.parts * count;
        Span {
            micros: self.interval.micros * count + parts / self.parts,
            parts: parts % self.parts,
        }
    }

    #[inline]
    pub(crate) fn add(&self, one: Span, other: Span) -> Span {
        let parts = one.parts + other.parts;
        let carry = parts >= self.parts;
        Span {
            micros: one.micros + other.micros + u64::from(carry),
            parts: if carry { parts - self.parts } else { parts },
        }
    }

    /// Returns `one` minus `other`. `one` must not be shorter than `other`.
    #[inline]
    pub(crate) fn sub(&self, one: Span, other: Span) -> Span {
        let borrow = one.parts < other.parts;
        Span {
            micros: one.micros - other.micros - u64::from(borrow),
            parts: one.parts + if borrow { self.parts } else { 0 } - other.parts,
        }
    }

    /// Returns the amount that is refilled in this time, rounded down.
    #[inline]
    pub(crate) fn gained_in(&self, span: Span) -> u64 {
        if self.parts == 1 {
            return span.micros / self.interval.micros;
        }
        let fine =
            |span: Span| u128::from(span.micros) * u128::from(self.parts) + u128::from(span.parts);
        let (span, interval) = (fine(span), fine(self.interval));
        match (u64::try_from(span), u64::try_from(interval)) {
            (Ok(span), Ok(interval)) => span / interval,
            (Err(_), _) | (_, Err(_)) => u64::try_from(span / interval).unwrap_or(u64::MAX),
        }
    }
}

impl Span {
    /// Returns the span in whole microseconds, rounded up.
    #[inline]
    pub(crate) fn rounded_up(self) -> u64 {
        self.micros + u64::from(self.parts > 0)
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(quota: Quota) -> String {
        quota.pace().unwrap_err().to_string()
    }

    #[test]
    fn the_number_is_what_is_admitted_and_the_unit_is_the_window() {
        assert_eq!(
            Quota::per_second(4_000),
            Quota::new(4_000, Duration::from_secs(1))
        );
        let pace = Quota::per_second(4_000).pace().unwrap();
        assert_eq!((pace.interval.micros, pace.parts), (250, 1));
    }

    #[test]
    fn a_part_of_a_quota_is_rounded_up_and_of_a_bucket_the_burst_alone() {
        let share = NonZeroU32::new(3).unwrap();
        assert_eq!(
            Quota::per_second(10).windows_part(share),
            Quota::per_second(4)
        );
        assert_eq!(
            Quota::per_second(1).windows_part(share),
            Quota::per_second(1)
        );
        assert_eq!(
            Quota::per_second(10).burst(20).buckets_part(share),
            Quota::new(10, Duration::from_secs(3)).burst(7)
        );
        assert_eq!(
            Quota::per_second(9).buckets_part(share),
            Quota::per_second(3).burst(3)
        );
        // If it were rounded to whole limits, a third of this could not be counted exactly.
        let third = Quota::per_second(1_000_000_000).buckets_part(share);
        assert!(third.pace().is_ok());
    }

    #[test]
    fn an_interval_that_is_no_whole_microsecond_keeps_its_rest() {
        let pace = Quota::per_second(3).pace().unwrap();
        assert_eq!(
            pace.times(1),
            Span {
                micros: 333_333,
                parts: 1
            }
        );
        assert_eq!(
            pace.times(3),
            Span {
                micros: 1_000_000,
                parts: 0
            }
        );
    }

    #[test]
    fn rejects_quotas_that_admit_no_request_or_exceed_bounds() {
        assert!(problem(Quota::per_second(0)).contains("a limit of zero admits no requests"));
        assert!(problem(Quota::per_second(1).burst(0)).contains("burst must be at least 1"));
        assert!(problem(Quota::new(1, Duration::ZERO)).contains("at least a microsecond"));
        assert!(
            problem(Quota::new(1, Duration::from_nanos(1_500)))
                .contains("whole number of microseconds")
        );
        assert!(problem(Quota::new(1, Duration::from_secs(u64::MAX))).contains("71 years"));
        assert!(problem(Quota::per_day(1).burst(1 << 40)).contains("71 years"));
        assert!(problem(Quota::per_second(u64::MAX)).contains("counted exactly"));
    }

    #[test]
    fn a_window_that_is_given_a_burst_is_refused_rather_than_ignoring_it() {
        let error = Quota::per_second(1).burst(5).burstless_window_micros();
        assert!(error.unwrap_err().to_string().contains("has no burst"));
    }

    #[test]
    fn large_and_odd_limits_are_counted_exactly() {
        for quota in [
            Quota::per_second(1_000_000_000),
            Quota::per_day(89_999_999),
            Quota::new(99_999, Duration::from_secs(30 * 86_400)),
        ] {
            let pace = quota.pace().unwrap();
            let window = quota.window_micros().unwrap();
            let whole = Span {
                micros: window,
                parts: 0,
            };
            assert_eq!(pace.times(quota.limit()), whole, "{quota}");
            assert_eq!(pace.gained_in(whole), quota.limit(), "{quota}");
        }
    }
}
