//! The limit on wrong keys per address.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::core::{error::ConfigError, time::Timestamp};

/// The number of cells (128 KiB). Addresses in the same cell are counted together, so that a flood
/// can only make the limit stricter.
const CELLS: usize = 16_384;

/// Counts wrong keys per address in leaky buckets.
///
/// A cell is one word: the time at which its bucket will be empty.
pub(crate) struct Failures {
    cells: Box<[AtomicU64]>,
    hasher: RandomState,
    interval_micros: u64,
    window_micros: u64,
}

/// The cell in which a failure was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureCell(usize);

impl Failures {
    /// Creates a limiter that allows `failures` failures at once and regains that number over each
    /// `window`.
    pub(crate) fn new(failures: u32, window: Duration) -> Result<Self, ConfigError> {
        let window_micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        let interval_micros = window_micros / u64::from(failures.max(1));
        if failures == 0 || interval_micros == 0 || window > Duration::from_secs(86_400) {
            return Err(ConfigError::new(
                "failure_limit",
                format_args!("{failures} per {window:?}"),
                "the limit must be at least 1 and at most one failure per microsecond, and the \
                 window at most a day",
            )
            .fix("set some tens per minute, or call `without_failure_limit`"));
        }
        Ok(Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            interval_micros,
            window_micros: interval_micros * u64::from(failures),
        })
    }

    /// Counts a failure of an address, or returns the time until another failure could be counted.
    pub(crate) fn count(&self, address: [u8; 17], now: Timestamp) -> Result<FailureCell, Duration> {
        let cell = usize::try_from(self.hasher.hash_one(address) % CELLS as u64)
            .expect("the cell index is less than `CELLS`");
        let now = now.as_micros();
        let filled = |dry_at: u64| dry_at.max(now).saturating_add(self.interval_micros);
        let fits = |dry_at: u64| {
            let dry_at = filled(dry_at);
            (dry_at - now <= self.window_micros).then_some(dry_at)
        };
        let counted = self.cells[cell].fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        match counted {
            Ok(_) => Ok(FailureCell(cell)),
            Err(dry_at) => Err(Duration::from_micros(
                filled(dry_at) - now - self.window_micros,
            )),
        }
    }

    /// Reverts a counted failure.
    pub(crate) fn take_back(&self, counted: FailureCell) {
        let earlier = |dry_at: u64| Some(dry_at.saturating_sub(self.interval_micros));
        // The closure always returns `Some`, so the update never fails.
        let _ = self.cells[counted.0].fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures")
            .field("interval_micros", &self.interval_micros)
            .field("window_micros", &self.window_micros)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn failures_beyond_the_limit_are_rejected_with_retry_after() {
        let failures = Failures::new(3, MINUTE).unwrap();
        for _ in 0..3 {
            failures.count([1; 17], NOON).unwrap();
        }
        let wait = failures.count([1; 17], NOON).unwrap_err();
        assert_eq!(wait, Duration::from_secs(20));
        assert!(
            failures
                .count([1; 17], NOON + wait - Duration::from_micros(1))
                .is_err()
        );
        assert!(failures.count([1; 17], NOON + wait).is_ok());
    }

    #[test]
    fn refunded_failure_is_not_counted() {
        let failures = Failures::new(1, MINUTE).unwrap();
        for _ in 0..10 {
            let counted = failures.count([1; 17], NOON).unwrap();
            failures.take_back(counted);
        }
        assert!(failures.count([1; 17], NOON).is_ok());
    }

    #[test]
    fn an_address_does_not_count_for_another() {
        let failures = Failures::new(1, MINUTE).unwrap();
        failures.count([1; 17], NOON).unwrap();
        // Few of the hundred other addresses share the cell.
        let others = (2..102).filter(|n| failures.count([*n; 17], NOON).is_ok());
        assert!(others.count() > 90);
    }

    #[test]
    fn a_clock_at_either_end_does_no_harm() {
        let failures = Failures::new(2, MINUTE).unwrap();
        let end = Timestamp::from_micros(u64::MAX);
        for now in [end, Timestamp::EPOCH, end, NOON] {
            let _ = failures.count([1; 17], now);
        }
    }

    #[test]
    fn a_limit_that_means_nothing_is_refused() {
        assert!(Failures::new(0, MINUTE).is_err());
        assert!(Failures::new(1, Duration::ZERO).is_err());
        assert!(Failures::new(u32::MAX, MINUTE).is_err());
        assert!(Failures::new(1, Duration::MAX).is_err());
    }
}
