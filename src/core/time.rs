//! Time, in whole microseconds. No other file reads a clock.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads a clock"
)]

use std::{
    fmt,
    ops::{Add, Sub},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A point in time, in whole microseconds since the Unix epoch.
///
/// All stores can represent a timestamp in microseconds exactly: until the year 2255, the number of
/// microseconds since the Unix epoch is an integer that a Lua double represents exactly. Arithmetic
/// saturates and never panics.
///
/// ```
/// use std::time::Duration;
/// use portcullis::Timestamp;
///
/// let noon = Timestamp::from_micros(1_700_000_000_000_000);
/// let later = noon + Duration::from_millis(1);
/// assert_eq!(later - noon, Duration::from_millis(1));
/// assert_eq!(noon - later, Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// Creates a timestamp from microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Creates a timestamp from seconds since the Unix epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Returns the number of microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the number of whole milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Returns the number of whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl From<SystemTime> for Timestamp {
    /// Converts a system time. A time before the epoch is converted to the epoch.
    fn from(time: SystemTime) -> Self {
        Self(micros(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Returns the duration from `earlier` to `self`, or zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A source of time.
///
/// Layers and in-memory stores read the time only through this trait, so a test can advance the
/// clock instead of sleeping. A store on a server uses the server's time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the monotonic time, used for durations and windows. Changes to the system clock do
    /// not affect it.
    fn now(&self) -> Timestamp;

    /// Returns the monotonic time at a lower cost than [`now`](Self::now). The returned time can be
    /// a few milliseconds late.
    ///
    /// Use this method for calls that are made for each request and do not need millisecond
    /// precision. The default implementation calls [`now`](Self::now).
    fn coarse(&self) -> Timestamp {
        self.now()
    }

    /// Returns the wall-clock time, used for expiry dates and log records. Changes to the system
    /// clock affect it. The default implementation calls [`now`](Self::now).
    fn wall(&self) -> Timestamp {
        self.now()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn coarse(&self) -> Timestamp {
        (**self).coarse()
    }

    fn wall(&self) -> Timestamp {
        (**self).wall()
    }
}

/// The system clock.
///
/// [`Clock::now`] returns the wall-clock time at which this clock was created, plus the monotonic
/// time that has elapsed since then. Setting the system clock back by an hour therefore does not
/// reopen a window.
#[derive(Clone, Debug)]
pub struct SystemClock {
    started: Instant,
    started_at: Timestamp,
    coarse: coarse::Watch,
}

impl SystemClock {
    /// Creates a clock that starts at the current system time.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now().into(),
            coarse: coarse::Watch::start(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    #[inline]
    fn coarse(&self) -> Timestamp {
        match self.coarse.elapsed_micros() {
            Some(micros) => Timestamp(self.started_at.0 + micros),
            None => self.now(),
        }
    }

    fn wall(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// The coarse system clock. On Linux, it shows the time of the kernel's last tick. A tick takes one
/// to four milliseconds.
#[cfg(target_os = "linux")]
mod coarse {
    use rustix::time::{ClockId, clock_gettime};

    #[derive(Clone, Debug)]
    pub(super) struct Watch {
        started_micros: u64,
    }

    impl Watch {
        pub(super) fn start() -> Self {
            Self {
                started_micros: micros(ClockId::Monotonic),
            }
        }

        /// Returns a time that is never ahead of the precise time, because both start at the same
        /// instant.
        #[inline]
        pub(super) fn elapsed_micros(&self) -> Option<u64> {
            Some(micros(ClockId::MonotonicCoarse).saturating_sub(self.started_micros))
        }
    }

    #[inline]
    fn micros(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
    }
}

/// A placeholder for systems that have no coarse clock.
#[cfg(not(target_os = "linux"))]
mod coarse {
    #[derive(Clone, Debug)]
    pub(super) struct Watch;

    impl Watch {
        pub(super) fn start() -> Self {
            Self
        }

        pub(super) fn elapsed_micros(&self) -> Option<u64> {
            None
        }
    }
}

/// A clock for tests that changes only when it is advanced or set.
///
/// Clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use portcullis::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(clock.now() - before, Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    hands: Arc<Hands>,
}

#[derive(Debug)]
struct Hands {
    now_micros: AtomicU64,
    wall_micros: AtomicU64,
}

impl ManualClock {
    /// Creates a clock whose monotonic time and wall-clock time are both set to this time.
    pub fn new(at: Timestamp) -> Self {
        Self {
            hands: Arc::new(Hands {
                now_micros: AtomicU64::new(at.as_micros()),
                wall_micros: AtomicU64::new(at.as_micros()),
            }),
        }
    }

    /// Advances both times by a duration, rounded down to whole microseconds.
    pub fn advance(&self, by: Duration) {
        let by = micros(by);
        self.hands.now_micros.fetch_add(by, Ordering::SeqCst);
        self.hands.wall_micros.fetch_add(by, Ordering::SeqCst);
    }

    /// Sets only the wall-clock time, forward or back, to simulate a change to the system clock.
    pub fn set_wall(&self, at: Timestamp) {
        self.hands
            .wall_micros
            .store(at.as_micros(), Ordering::SeqCst);
    }

    /// Sets the monotonic time, forward or back. A real monotonic clock never moves back. Use this
    /// method to test that nothing breaks if a clock does move back.
    pub fn set_now(&self, at: Timestamp) {
        self.hands
            .now_micros
            .store(at.as_micros(), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// Returns a clock that is set to 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(Timestamp::from_secs(1_767_225_600))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.hands.now_micros.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.hands.wall_micros.load(Ordering::SeqCst))
    }
}

/// Returns a duration in whole microseconds, rounded down to at most `u64::MAX`.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Timestamp::from_micros(u64::MAX);
        assert_eq!(end + Duration::MAX, end);
        assert_eq!(Timestamp::EPOCH - Duration::MAX, Timestamp::EPOCH);
        assert_eq!(Timestamp::from_secs(u64::MAX), end);
    }

    #[test]
    fn a_time_before_the_epoch_becomes_the_epoch() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp::from(before), Timestamp::EPOCH);
    }

    #[test]
    fn system_clock_starts_at_wall_time_and_is_monotonic() {
        let clock = SystemClock::new();
        let first = clock.now();
        assert!(first >= clock.started_at);
        assert!(clock.now() >= first);
        assert!(clock.wall() - first < Duration::from_secs(60));
    }

    #[test]
    fn coarse_time_is_late_by_some_milliseconds_at_most_and_never_early() {
        let clock = SystemClock::new();
        for _ in 0..1_000 {
            let (before, coarse, after) = (clock.now(), clock.coarse(), clock.now());
            assert!(coarse <= after);
            assert!(before - coarse <= Duration::from_millis(20));
        }
        assert_eq!(
            ManualClock::default().coarse(),
            ManualClock::default().now()
        );
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_move_steady_time() {
        let clock = ManualClock::default();
        let now = clock.now();
        clock.set_wall(Timestamp::EPOCH);
        assert_eq!(clock.now(), now);
        assert_eq!(clock.wall(), Timestamp::EPOCH);
    }
}
