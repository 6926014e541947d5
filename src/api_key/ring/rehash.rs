//! New digests, computed with the current pepper, for keys whose digests are outdated.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::api_key::{
    key::{digest::KeyDigest, format::KeyId},
    record::record::Brief,
};

/// The maximum number of pending digests. Further keys are renewed on their next use.
const WAITING_MAX: usize = 1_024;

/// Pending digests that have not been written.
#[derive(Default)]
pub(crate) struct Redigests {
    waiting: Mutex<HashMap<KeyId, Redigest>>,
}

/// A new digest and the one that it replaces. A record with another digest is left unchanged,
/// because it belongs to another key.
pub(crate) struct Redigest {
    pub(crate) replaced: KeyDigest,
    pub(crate) digest: KeyDigest,
}

impl Redigests {
    /// Adds a digest for a record, unless one is pending or the map is full.
    pub(crate) fn add(&self, record: &Brief, digest: impl FnOnce() -> KeyDigest) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= WAITING_MAX || waiting.contains_key(&record.id) {
            return;
        }
        let redigest = Redigest {
            replaced: record.digest.clone(),
            digest: digest(),
        };
        waiting.insert(record.id, redigest);
    }

    /// Returns the pending digest of a record, if the record is unchanged.
    pub(crate) fn of(&self, record: &Brief) -> Option<KeyDigest> {
        let waiting = lock(&self.waiting);
        let own = waiting.get(&record.id)?;
        own.replaced
            .matches(&record.digest)
            .then(|| own.digest.clone())
    }

    pub(crate) fn take(&self) -> HashMap<KeyId, Redigest> {
        mem::take(&mut *lock(&self.waiting))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under this lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Redigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redigests")
    }
}
