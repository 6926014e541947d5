//! The pause after the origin fails, during which stale responses are served.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::core::{store_api::store_key::LongStoreKey, time::Timestamp, ttl_map::TtlMap};

/// The maximum number of cache keys in backoff. Failures of further keys are not recorded.
const KEYS_MAX: usize = 4_096;

/// The cache keys whose last request to the origin failed.
pub(crate) struct Backoffs {
    /// The last pause of each key. It is retained until `max` has passed after its end: a failure
    /// within that time doubles the pause.
    keys: Mutex<TtlMap<LongStoreKey, Backoff>>,
    /// The size of the map. No lock is taken while it is zero.
    len: AtomicUsize,
    initial: Duration,
    max: Duration,
}

#[derive(Clone, Copy)]
struct Backoff {
    until: Timestamp,
    pause: Duration,
}

impl Backoffs {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self {
            keys: Mutex::new(TtlMap::new(KEYS_MAX)),
            len: AtomicUsize::new(0),
            initial,
            max: max.max(initial),
        }
    }

    /// Returns `true` if the origin is in backoff for this key.
    pub(crate) fn holds(&self, key: &LongStoreKey, now: Timestamp) -> bool {
        self.len.load(Ordering::Relaxed) > 0
            && self
                .lock()
                .get(key, now)
                .is_some_and(|backoff| now < backoff.until)
    }

    /// Starts a pause after a failure. It is twice as long as the previous one.
    pub(crate) fn failed(&self, key: &LongStoreKey, now: Timestamp) {
        if self.initial.is_zero() {
            return;
        }
        let mut keys = self.lock();
        let pause = match keys.get(key, now) {
            // Concurrent failures are one.
            Some(backoff) if now < backoff.until => return,
            Some(backoff) => backoff.pause.saturating_mul(2).min(self.max),
            None => self.initial,
        };
        let until = now + jittered(pause, key, now);
        keys.try_insert(*key, Backoff { until, pause }, until + self.max, now);
        self.len.store(keys.len(), Ordering::Relaxed);
    }

    /// Ends the backoff of a key after a response from the origin.
    pub(crate) fn succeeded(&self, key: &LongStoreKey) {
        if self.len.load(Ordering::Relaxed) > 0 {
            let mut keys = self.lock();
            keys.remove(key);
            self.len.store(keys.len(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, TtlMap<LongStoreKey, Backoff>> {
        // No user code runs under the lock.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spreads a pause by up to a tenth in either direction, by the digest of the key and the time.
fn jittered(pause: Duration, key: &LongStoreKey, now: Timestamp) -> Duration {
    let word = *key.as_bytes().first_chunk().expect("a digest has 32 bytes");
    let mixed = (u64::from_le_bytes(word) ^ now.as_micros()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let spread = (mixed >> 56) as u32;
    pause * 9 / 10 + pause / 5 * spread / 256
}

impl fmt::Debug for Backoffs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoffs")
            .field("initial", &self.initial)
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn key(number: u64) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("b");
        let mut key = space.long();
        key.field(&number.to_le_bytes());
        key.finish()
    }

    fn backoffs() -> Backoffs {
        Backoffs::new(Duration::from_secs(1), Duration::from_secs(30))
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_end_with_a_success() {
        let (backoffs, key) = (backoffs(), key(1));
        let mut now = NOW;
        for secs in [1, 2, 4, 8, 16, 30, 30] {
            let pause = Duration::from_secs(secs);
            backoffs.failed(&key, now);
            assert!(backoffs.holds(&key, now + pause * 89 / 100), "{secs}");
            assert!(!backoffs.holds(&key, now + pause * 111 / 100), "{secs}");
            now = now + pause * 111 / 100;
        }
        backoffs.succeeded(&key);
        backoffs.failed(&key, now);
        assert!(!backoffs.holds(&key, now + Duration::from_secs(2)));
    }

    #[test]
    fn pauses_start_over_after_as_long_without_failure_as_the_longest_pause() {
        let (backoffs, key) = (backoffs(), key(1));
        backoffs.failed(&key, NOW);
        let within = NOW + Duration::from_secs(30);
        backoffs.failed(&key, within);
        assert!(backoffs.holds(&key, within + Duration::from_millis(1_700)));
        let beyond = within + Duration::from_secs(33);
        backoffs.failed(&key, beyond);
        assert!(!backoffs.holds(&key, beyond + Duration::from_millis(1_200)));
    }

    #[test]
    fn concurrent_failures_count_once() {
        let (backoffs, key) = (backoffs(), key(1));
        (0..50).for_each(|_| backoffs.failed(&key, NOW));
        assert!(!backoffs.holds(&key, NOW + Duration::from_secs(2)));
    }

    #[test]
    fn other_keys_are_not_affected() {
        let backoffs = backoffs();
        backoffs.failed(&key(1), NOW);
        assert!(backoffs.holds(&key(1), NOW) && !backoffs.holds(&key(2), NOW));
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let backoffs = backoffs();
        for number in 0..(KEYS_MAX as u64 + 10) {
            backoffs.failed(&key(number), NOW);
        }
        assert_eq!(backoffs.lock().len(), KEYS_MAX);
        backoffs.failed(&key(1 << 40), NOW + Duration::from_secs(60));
        assert_eq!(backoffs.lock().len(), 1);
    }

    #[test]
    fn a_zero_pause_turns_backoff_off() {
        let backoffs = Backoffs::new(Duration::ZERO, Duration::from_secs(30));
        backoffs.failed(&key(1), NOW);
        assert!(!backoffs.holds(&key(1), NOW));
    }
}
