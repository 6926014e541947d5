//! Recently rejected credentials, and credentials that were accepted within the last hour.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::core::{record::AuthDenial, time::Timestamp, ttl_map::TtlMap};

/// The maximum number of remembered good credentials, in at most 2 MiB.
const GOOD_MAX: usize = 16_384;
/// The minimum time for which a good credential is remembered.
const GOOD_FOR: Duration = Duration::from_secs(3_600);
/// The minimum age at which a use renews an entry, so that a busy credential does not evict others.
const GOOD_RENEWED_AFTER: Duration = Duration::from_secs(600);

/// A fingerprint of a whole credential, which does not reveal it.
pub(crate) type Fingerprint = [u8; 16];

/// Scopes the fingerprint of a credential to a layer, because other layers' verifiers can accept
/// the same credential.
pub(crate) fn scoped(mut fingerprint: Fingerprint, layer: u64) -> Fingerprint {
    for (byte, own) in fingerprint.iter_mut().zip(layer.to_le_bytes()) {
        *byte ^= own;
    }
    fingerprint
}

/// The credentials that a ring checked recently.
pub(crate) struct Guesses {
    wrong: Mutex<TtlMap<Fingerprint, AuthDenial>>,
    wrong_for: Duration,
    /// The time at which each credential was accepted.
    good: Mutex<TtlMap<Fingerprint, Timestamp>>,
    /// The number of concurrent requests for each credential.
    asking: Mutex<HashMap<Fingerprint, usize>>,
}

/// A check of a credential. While it runs, further requests with the same credential are not
/// counted: together they are one guess.
#[derive(Debug)]
pub(crate) struct CredentialCheck {
    guesses: Arc<Guesses>,
    fingerprint: Fingerprint,
}

impl Drop for CredentialCheck {
    fn drop(&mut self) {
        let mut asking = lock(&self.guesses.asking);
        if let Entry::Occupied(mut own) = asking.entry(self.fingerprint) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// The state of a credential among the good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Good {
    /// The credential was accepted within the last hour.
    Recently,
    /// The credential was accepted within the last hour. If it is accepted again, its entry is
    /// renewed.
    LongAgo,
    /// The credential is not remembered.
    Unknown,
}

impl Guesses {
    /// Creates a memory of at most `max_wrong` wrong credentials, each for `wrong_for`.
    pub(crate) fn new(max_wrong: usize, wrong_for: Duration) -> Self {
        Self {
            wrong: Mutex::new(TtlMap::new(max_wrong)),
            wrong_for,
            good: Mutex::new(TtlMap::new(GOOD_MAX)),
            asking: Mutex::default(),
        }
    }

    /// Starts a check of a credential. Returns `true` if concurrent checks of the same credential
    /// are running.
    pub(crate) fn ask(self: &Arc<Self>, fingerprint: Fingerprint) -> (CredentialCheck, bool) {
        let mut asking = lock(&self.asking);
        let count = asking.entry(fingerprint).or_default();
        *count += 1;
        let is_joined = *count > 1;
        drop(asking);
        let guesses = Arc::clone(self);
        let asking = CredentialCheck {
            guesses,
            fingerprint,
        };
        (asking, is_joined)
    }

    /// Returns the reason if the credential was rejected recently.
    pub(crate) fn wrong(&self, key: &Fingerprint, now: Timestamp) -> Option<AuthDenial> {
        lock(&self.wrong).get(key, now).copied()
    }

    pub(crate) fn remember_wrong(&self, key: Fingerprint, reason: AuthDenial, now: Timestamp) {
        lock(&self.wrong).insert(key, reason, now + self.wrong_for, now);
    }

    pub(crate) fn good(&self, key: &Fingerprint, now: Timestamp) -> Good {
        match lock(&self.good).get(key, now) {
            Some(since) if now < *since + GOOD_RENEWED_AFTER => Good::Recently,
            Some(_) => Good::LongAgo,
            None => Good::Unknown,
        }
    }

    pub(crate) fn remember_good(&self, key: Fingerprint, now: Timestamp) {
        let expires_at = now + GOOD_FOR + GOOD_RENEWED_AFTER;
        lock(&self.good).insert(key, now, expires_at, now);
    }

    pub(crate) fn forget_good(&self, key: &Fingerprint) {
        lock(&self.good).remove(key);
    }
}

impl fmt::Debug for Guesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guesses")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_000_000);

    fn guesses() -> Guesses {
        Guesses::new(10, Duration::from_secs(5))
    }

    #[test]
    fn a_good_credential_is_known_for_an_hour_after_its_last_use() {
        let guesses = guesses();
        guesses.remember_good([1; 16], NOON);
        let just_before = NOON + GOOD_RENEWED_AFTER - Duration::from_micros(1);
        assert_eq!(guesses.good(&[1; 16], just_before), Good::Recently);
        let an_hour_later = just_before + GOOD_FOR;
        assert_eq!(guesses.good(&[1; 16], an_hour_later), Good::LongAgo);
        let end = NOON + GOOD_FOR + GOOD_RENEWED_AFTER;
        assert_eq!(guesses.good(&[1; 16], end), Good::Unknown);
    }

    #[test]
    fn requests_with_one_credential_are_one_guess_while_one_of_them_asks() {
        let guesses = Arc::new(guesses());
        let (first, joined) = guesses.ask([1; 16]);
        assert!(!joined);
        let (second, joined) = guesses.ask([1; 16]);
        assert!(joined && !guesses.ask([2; 16]).1);
        drop(first);
        assert!(guesses.ask([1; 16]).1);
        drop(second);
        assert!(!guesses.ask([1; 16]).1);
        assert!(lock(&guesses.asking).is_empty());
    }

    #[test]
    fn a_flood_of_good_credentials_is_bounded() {
        let guesses = guesses();
        for number in 0..100_000_u128 {
            guesses.remember_good(number.to_le_bytes(), NOON);
        }
        let known = (0..100_000_u128)
            .filter(|number| guesses.good(&number.to_le_bytes(), NOON) != Good::Unknown);
        assert!(known.count() <= GOOD_MAX);
    }

    #[test]
    fn layers_do_not_share_what_only_one_of_them_can_judge() {
        let fingerprint = [7; 16];
        assert_ne!(scoped(fingerprint, 1), scoped(fingerprint, 2));
        assert_ne!(scoped(fingerprint, 1), fingerprint);
    }
}
