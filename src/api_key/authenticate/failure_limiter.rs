//! How many wrong keys an address may try.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::core::{error::ConfigError, time::Timestamp};

/// Addresses are counted in so many cells: 128 KiB, whatever comes. Two addresses in one cell are
/// counted together, so a flood can only make the limit stricter.
const CELLS: usize = 16_384;

/// Counts wrong keys by address, as a bucket that leaks.
///
/// A cell is one word: the moment at which its bucket will have leaked dry.
pub(crate) struct Failures {
    cells: Box<[AtomicU64]>,
    hasher: RandomState,
    interval_micros: u64,
    window_micros: u64,
}

/// The cell that a failure was counted in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureCell(usize);

impl Failures {
    /// Admits `failures` at once, and as many again in the course of each `window`.
    pub(crate) fn new(failures: u32, window: Duration) -> Result<Self, ConfigError> {
        let window_micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        let interval_micros = window_micros / u64::from(failures.max(1));
        if failures == 0 || interval_micros == 0 || window > Duration::from_secs(86_400) {
            return Err(ConfigError::new(
                "failure_limit",
                format_args!("{failures} per {window:?}"),
                "a limit admits at least one wrong key, at most one each microsecond, and looks \
                 back a day at most",
            )
            .fix("give some dozens per minute, or call `without_failure_limit`"));
        }
        Ok(Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            interval_micros,
            window_micros: interval_micros * u64::from(failures),
        })
    }

    /// Counts a failure of an address, or says how long to wait until one more would be counted.
    pub(crate) fn count(&self, address: [u8; 17], now: Timestamp) -> Result<FailureCell, Duration> {
        let cell = usize::try_from(self.hasher.hash_one(address) % CELLS as u64)
            .expect("the number of a cell is small");
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

    /// Takes back a failure that was none.
    pub(crate) fn take_back(&self, counted: FailureCell) {
        let earlier = |dry_at: u64| Some(dry_at.saturating_sub(self.interval_micros));
        // The update never refuses, so it never fails.
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
    fn as_many_as_the_limit_are_counted_and_the_next_is_told_when() {
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
    fn what_is_taken_back_was_never_counted() {
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
        // Some of a hundred others may share the cell, but never many.
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
