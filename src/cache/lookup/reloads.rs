//! The limit on reloads of fresh responses that clients can force.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::core::{store_api::store_key::LongStoreKey, time::Timestamp};

const PLACES: usize = 1_024;

/// Counts the reloads of fresh responses that clients have requested, in a table of fixed size.
/// Keys in the same slot share their limit.
pub(crate) struct Reloads {
    places: Box<[AtomicU64]>,
    most: u32,
    per_secs: u64,
}

impl Reloads {
    /// Allows `most` reloads of a key within `per`, in whole seconds.
    pub(crate) fn new(most: u32, per: Duration) -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            most,
            per_secs: per.as_secs().max(1),
        }
    }

    /// Takes one reload. Returns `false` if none is left.
    pub(crate) fn take(&self, key: &LongStoreKey, now: Timestamp) -> bool {
        let bytes = key.as_bytes();
        let at = usize::from(bytes[0]) | usize::from(bytes[1]) << 8;
        // A count of another window is ignored.
        let window = (now.as_secs() / self.per_secs) << 32;
        let step = |found: u64| {
            let taken = if found & !COUNT == window {
                found & COUNT
            } else {
                0
            };
            (taken < u64::from(self.most)).then_some(window | (taken + 1))
        };
        self.places[at % PLACES]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .is_ok()
    }
}

const COUNT: u64 = u32::MAX as u64;

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloads")
            .field("most", &self.most)
            .field("per_secs", &self.per_secs)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    #[test]
    fn limits_reloads_per_window() {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("r");
        let mut key = space.long();
        key.field(b"a");
        let key = key.finish();
        let reloads = Reloads::new(2, Duration::from_secs(10));
        let take = |secs| reloads.take(&key, Timestamp::from_secs(secs));
        assert!(take(100) && take(109));
        assert!(!take(109));
        assert!(take(110));
    }
}
