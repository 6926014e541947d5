//! A bounded record of whether the last response for each URL and route was storable.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::core::{store_api::store_key::StoreKey, time::Timestamp};

/// The time for which the last response for a URL or route is recorded.
const REMEMBERED_FOR: Duration = Duration::from_secs(180);

/// The maximum number of recorded URLs. They take 64 KiB.
const URLS_MAX: usize = 8_192;
/// The maximum number of recorded routes. They take 8 KiB.
const ROUTES_MAX: usize = 1_024;

/// The partition in which the last response for a URL was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storable {
    /// In the partition of the first lookup: the shared one, unless the route shares nothing.
    Shared,
    /// In the caller's own partition, of a route that shares.
    Own,
    /// None: it was not stored. Requests do not wait for each other.
    No,
}

/// Records the partition of the last response for each URL and route, for all callers.
///
/// The tables are bounded. An evicted URL costs one more wait, and a collision costs one call to
/// the handler.
#[derive(Debug)]
pub(crate) struct StorableMemory {
    urls: Marks,
    routes: Marks,
    /// `true` once anything is marked. Most caches never see a response that is not storable, and
    /// skip the tables.
    is_marked: AtomicBool,
}

impl Default for StorableMemory {
    fn default() -> Self {
        Self {
            urls: Marks::new(URLS_MAX),
            routes: Marks::new(ROUTES_MAX),
            is_marked: AtomicBool::new(false),
        }
    }
}

impl StorableMemory {
    /// Returns the partition of the last response for a URL, or else for its route.
    pub(crate) fn get(
        &self,
        url: &StoreKey,
        route: Option<&StoreKey>,
        now: Timestamp,
    ) -> Option<Storable> {
        if !self.is_marked.load(Ordering::Relaxed) {
            return None;
        }
        let for_route = || route.and_then(|route| self.routes.get(route, now));
        self.urls.get(url, now).or_else(for_route)
    }

    /// Records a response.
    pub(crate) fn set(
        &self,
        url: &StoreKey,
        route: Option<&StoreKey>,
        storable: Storable,
        now: Timestamp,
    ) {
        let is_default = storable == Storable::Shared;
        if !self.is_marked.load(Ordering::Relaxed) {
            if is_default {
                return;
            }
            self.is_marked.store(true, Ordering::Relaxed);
        }
        let until = now + REMEMBERED_FOR;
        self.urls.set(url, storable, until);
        if let Some(route) = route {
            self.routes.set(route, storable, until);
        }
    }
}

/// A table of marks of fixed size. A mark has 30 bits of a digest, 2 bits of state, and 32 bits of
/// seconds.
struct Marks {
    buckets: Box<[StorableBucket]>,
}

/// The marks in one cache line.
type StorableBucket = [AtomicU64; 8];

const SECONDS: u64 = u32::MAX as u64;
const STORABLE: u64 = 0b11 << 32;
const DIGEST: u64 = !(SECONDS | STORABLE);

impl Marks {
    fn new(max_marks: usize) -> Self {
        let buckets = (max_marks / 8).max(1);
        Self {
            buckets: (0..buckets).map(|_| StorableBucket::default()).collect(),
        }
    }

    fn set(&self, name: &StoreKey, storable: Storable, until: Timestamp) {
        let (bucket, digest) = self.place(name);
        let found = |place: &AtomicU64| place.load(Ordering::Relaxed);
        // In its own slot, or in that of the mark that expires first.
        let own = bucket.iter().find(|place| found(place) & DIGEST == digest);
        let place = own.or_else(|| bucket.iter().min_by_key(|place| found(place) & SECONDS));
        if let Some(place) = place {
            place.store(digest | storable.bits() | seconds(until), Ordering::Relaxed);
        }
    }

    #[inline]
    fn get(&self, name: &StoreKey, now: Timestamp) -> Option<Storable> {
        let (bucket, digest) = self.place(name);
        let marks = bucket.iter().map(|place| place.load(Ordering::Relaxed));
        let mut own = marks.filter(|mark| mark & DIGEST == digest);
        own.find(|mark| mark & SECONDS > seconds(now))
            .and_then(Storable::from_bits)
    }

    #[inline]
    fn place(&self, name: &StoreKey) -> (&StorableBucket, u64) {
        let word = *name
            .as_bytes()
            .first_chunk()
            .expect("a digest has 16 bytes");
        let word = u64::from_le_bytes(word);
        let at = usize::from(word as u16) % self.buckets.len();
        (&self.buckets[at], word & DIGEST)
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Marks")
    }
}

impl Storable {
    fn bits(self) -> u64 {
        let bits = match self {
            Self::Shared => 1,
            Self::Own => 2,
            Self::No => 3,
        };
        bits << 32
    }

    fn from_bits(mark: u64) -> Option<Self> {
        match (mark & STORABLE) >> 32 {
            1 => Some(Self::Shared),
            2 => Some(Self::Own),
            3 => Some(Self::No),
            _ => None,
        }
    }
}

fn seconds(at: Timestamp) -> u64 {
    at.as_secs() & SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn name(number: u64) -> StoreKey {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(number << 34).to_le_bytes());
        StoreKey::from_bytes(bytes)
    }

    #[test]
    fn a_response_is_remembered_for_at_least_two_minutes() {
        let memory = StorableMemory::default();
        memory.set(&name(1), None, Storable::No, NOW);
        let at = |secs| memory.get(&name(1), None, NOW + Duration::from_secs(secs));
        assert_eq!(at(0), Some(Storable::No));
        assert_eq!(at(120), Some(Storable::No));
        assert_eq!(at(181), None);
    }

    #[test]
    fn a_url_without_a_response_is_known_by_its_route() {
        let memory = StorableMemory::default();
        memory.set(&name(1), Some(&name(9)), Storable::No, NOW);
        assert_eq!(
            memory.get(&name(2), Some(&name(9)), NOW),
            Some(Storable::No)
        );
        assert_eq!(memory.get(&name(2), None, NOW), None);
        memory.set(&name(2), Some(&name(9)), Storable::Own, NOW);
        assert_eq!(
            memory.get(&name(3), Some(&name(9)), NOW),
            Some(Storable::Own)
        );
        assert_eq!(
            memory.get(&name(1), Some(&name(9)), NOW),
            Some(Storable::No)
        );
    }

    #[test]
    fn a_full_bucket_evicts_the_mark_that_expires_first() {
        let marks = Marks::new(8);
        for number in 0..9 {
            marks.set(
                &name(number + 1),
                Storable::Shared,
                NOW + Duration::from_secs(number + 1),
            );
        }
        assert_eq!(marks.get(&name(1), NOW), None);
        assert!((1..9).all(|number| marks.get(&name(number + 1), NOW).is_some()));
    }
}
