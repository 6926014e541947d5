//! Keys that were presented and whose digests are to be renewed under the current pepper.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Mutex, PoisonError},
};

use super::{digest::KeyDigest, key::KeyId};

/// How many wait at most; further ones are renewed when they are next used.
const WAITING_MAX: usize = 1_024;

/// New digests, until they are written.
#[derive(Default)]
pub(super) struct Redigests {
    waiting: Mutex<HashMap<KeyId, KeyDigest>>,
}

impl Redigests {
    /// Adds a digest, unless it waits already or there is no room.
    pub(super) fn add(&self, id: KeyId, digest: impl FnOnce() -> KeyDigest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX && !waiting.contains_key(&id) {
            waiting.insert(id, digest());
        }
    }

    /// Returns the digest of a key that waits.
    pub(super) fn of(&self, id: KeyId) -> Option<KeyDigest> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(&id).cloned()
    }

    pub(super) fn take(&self) -> HashMap<KeyId, KeyDigest> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *waiting)
    }
}

impl fmt::Debug for Redigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redigests")
    }
}
