//! The near cache, which is in the memory of this process.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, unsync::Cache};

use crate::{
    cache::{
        PurgeMode,
        backend::{CacheKey, Fence, Found, Lookup, Stamp, StoredResponse, VariantId},
    },
    core::time::{Clock, SystemClock, Timestamp},
    store::{
        RedisStore,
        purges::{self, Name, PurgeTable, Standing, StoredNames, names_of},
        redis::{Listening, NAME_BYTES, Purged, SeenEntry},
    },
};

/// The maximum age of an entry that is served without asking the server. This is the time that it
/// takes to detect that purges no longer arrive.
const MAX_AGE: Duration = Duration::from_secs(2);

/// The number of parts, each of which has its own lock.
const PARTS: usize = 8;

/// The overhead of an entry in addition to its own bytes and its names.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The cache entries that are in the memory of this process.
pub(crate) struct Near {
    parts: [Mutex<Cache<NearKey, NearEntry, NearWeigher>>; PARTS],
    /// Purges and writes that have occurred since entries were looked up.
    pub(super) purges: Arc<PurgeTable>,
    /// `true` while purges by other instances are received.
    is_receiving: AtomicBool,
    listening: Mutex<Option<Listening>>,
    clock: SystemClock,
}

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct NearKey {
    key: [u8; 32],
    variant: VariantId,
}

struct NearEntry {
    entry: Arc<StoredResponse>,
    /// The fence of the lookup on the server. This fence is older than the fence of a current
    /// lookup. At worst, a fill that could have been stored is rejected.
    fence: Fence,
    stamp: Stamp,
    until: Timestamp,
    pub(super) names: StoredNames,
    /// The time in `purges` at which the lookup on the server started.
    since: u64,
}

impl Near {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let each = (max_bytes / PARTS as u64).max(1);
        let items = usize::try_from(each / 4_096).unwrap_or(usize::MAX);
        Self {
            parts: std::array::from_fn(|_| {
                Mutex::new(Cache::with_weighter(
                    items.clamp(16, 1 << 16),
                    each,
                    NearWeigher,
                ))
            }),
            purges: PurgeTable::new(),
            is_receiving: AtomicBool::new(false),
            listening: Mutex::default(),
            clock: SystemClock::new(),
        }
    }

    /// Subscribes to purges, unless a subscription is open.
    pub(super) fn listen(self: &Arc<Self>, far: &RedisStore) {
        let mut listening = lock(&self.listening);
        if listening.as_ref().is_none_or(Listening::is_over) {
            // A weak reference, so that the subscription does not keep this memory alive.
            let near = Arc::downgrade(self);
            *listening = Some(far.hear_purges(move |purged| {
                if let Some(near) = near.upgrade() {
                    near.hear(purged);
                }
            }));
        }
    }

    fn hear(&self, purged: Purged<'_>) {
        match purged {
            Purged::These(names) => self.purge(names.chunks(NAME_BYTES).map(name_in)),
            Purged::Heard => {
                self.purge([None]);
                self.is_receiving.store(true, Ordering::SeqCst);
            }
            Purged::Unheard => {
                self.is_receiving.store(false, Ordering::SeqCst);
                self.purge([None]);
            }
        }
    }

    pub(super) fn get(&self, key: &CacheKey, variant: VariantId) -> Option<Lookup> {
        if !self.is_receiving.load(Ordering::SeqCst) {
            return None;
        }
        let (place, purged_to) = (NearKey::of(key, variant), self.purges.now());
        let part = self.part(key);
        let kept = part.get(&place)?;
        let standing = self.purges.standing(&kept.names, kept.since, purged_to);
        let is_valid = standing == Standing::Valid && kept.until > self.clock.coarse();
        is_valid.then(|| Lookup {
            fence: kept.fence,
            found: Found::Entry {
                entry: Arc::clone(&kept.entry),
                stamp: kept.stamp,
                expired: false,
            },
        })
    }

    /// Stores a copy of the server's entry, unless the entry was purged or written after the lookup
    /// started.
    pub(super) fn keep(&self, key: &CacheKey, seen: &SeenEntry, since: u64) {
        let Found::Entry {
            entry,
            stamp,
            expired: false,
        } = &seen.lookup.found
        else {
            return;
        };
        let names = names_of(key, entry).chain([name_of_key(key)]);
        let Some(names) = self.purges.register(names, since) else {
            return;
        };
        let kept = NearEntry {
            entry: Arc::clone(entry),
            fence: seen.lookup.fence,
            stamp: *stamp,
            until: self.clock.coarse() + seen.left.min(MAX_AGE),
            names,
            since,
        };
        self.part(key)
            .insert(NearKey::of(key, entry.variant()), kept);
    }

    /// Invalidates all variants of a key.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.purge([Some(name_of_key(key))]);
    }

    /// Invalidates the entries that have one of these names. The server distinguishes hard purges
    /// from soft purges.
    pub(super) fn purge(&self, names: impl IntoIterator<Item = Option<Name>>) {
        self.purges.purge(names, PurgeMode::Hard);
    }

    fn part(&self, key: &CacheKey) -> MutexGuard<'_, Cache<NearKey, NearEntry, NearWeigher>> {
        lock(&self.parts[usize::from(key.full().as_bytes()[0]) % PARTS])
    }
}

/// Returns the name of all variants of a key.
fn name_of_key(key: &CacheKey) -> Name {
    let half = key.full().as_bytes().first_chunk();
    Name::new(b'k', half.expect("a digest has 32 bytes"))
}

/// Parses a name from a message. Returns `None`, which targets all entries, if the name is not that
/// of a URL, a tag or a caller.
fn name_in(message: &[u8]) -> Option<Name> {
    match message.split_first()? {
        (kind @ (b'u' | b't' | b'p'), digest) => Some(Name::new(*kind, digest.first_chunk()?)),
        _ => None,
    }
}

impl NearKey {
    fn of(key: &CacheKey, variant: VariantId) -> Self {
        Self {
            key: *key.full().as_bytes(),
            variant,
        }
    }
}

/// Weighs an entry by its size in bytes.
#[derive(Clone)]
struct NearWeigher;

impl Weighter<NearKey, NearEntry> for NearWeigher {
    fn weight(&self, _: &NearKey, kept: &NearEntry) -> u64 {
        let names = 2 + kept.entry.tags().len();
        (ENTRY_OVERHEAD_BYTES + names * purges::NAME_BYTES + kept.entry.weight_bytes()) as u64
    }
}

impl fmt::Debug for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.parts.iter().map(|part| lock(part).weight()).sum();
        f.debug_struct("Near").field("bytes", &bytes).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks, so a poisoned lock is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, header};

    use super::*;
    use crate::{
        cache::{
            backend::PurgeTarget,
            sample::{Sample, Samples},
        },
        core::store_api::store_key::{StoreKey, StoreKeys},
    };

    struct Tier {
        near: Near,
        samples: Samples,
    }

    impl Tier {
        /// Returns an empty near cache that receives purges.
        fn new() -> Self {
            let keys = StoreKeys::random();
            let near = Near::new(16 << 20);
            near.hear(Purged::Heard);
            Self {
                near,
                samples: Samples::new(&keys, "test"),
            }
        }

        fn now(&self) -> u64 {
            self.near.purges.now()
        }

        fn keep(&self, sample: &Sample, since: u64) {
            let seen = SeenEntry {
                lookup: Lookup {
                    fence: Fence(7),
                    found: Found::Entry {
                        entry: self.samples.entry(sample),
                        stamp: Stamp(1),
                        expired: false,
                    },
                },
                left: Duration::from_secs(60),
            };
            self.near.keep(&self.samples.key(sample), &seen, since);
        }

        fn has(&self, sample: &Sample) -> bool {
            let variant = self.samples.entry(sample).variant();
            let key = self.samples.key(sample);
            self.near.get(&key, variant).is_some()
        }

        fn entries(&self) -> usize {
            self.near.parts.iter().map(|part| lock(part).len()).sum()
        }

        fn purge(&self, target: PurgeTarget) {
            self.near.purge([Name::of(&target)]);
        }
    }

    fn page(path: &str) -> Sample {
        Sample {
            path: path.to_owned(),
            body: Bytes::from_static(b"body"),
            ..Sample::default()
        }
    }

    fn variant(path: &str, accept: &'static str) -> Sample {
        let mut sample = page(path);
        sample.vary = vec![header::ACCEPT];
        let accept = HeaderValue::from_static(accept);
        sample.asked.insert(header::ACCEPT, accept);
        sample
    }

    /// Returns a shared response, one of a caller, a tagged one, and two variants.
    fn each_kind() -> [Sample; 5] {
        let tagged = Sample {
            tags: vec!["a", "b", "c"],
            ..page("/tagged")
        };
        let own = Sample {
            caller: Some(1),
            ..page("/own")
        };
        let (one, two) = (variant("/varying", "one"), variant("/varying", "two"));
        [page("/shared"), own, tagged, one, two]
    }

    fn other(number: u64) -> PurgeTarget {
        let digest = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let key = StoreKey::from_bytes(digest.to_le_bytes());
        match number % 3 {
            0 => PurgeTarget::Tag(key),
            1 => PurgeTarget::Partition(key),
            _ => PurgeTarget::Uri(key),
        }
    }

    #[test]
    fn purges_of_other_names_leave_every_copy_in_its_place() {
        let (tier, samples) = (Tier::new(), each_kind());
        samples
            .iter()
            .for_each(|sample| tier.keep(sample, tier.now()));
        for number in 1..200_000 {
            tier.purge(other(number));
        }
        assert!(samples.iter().all(|sample| tier.has(sample)));
    }

    #[test]
    fn purge_invalidates_copies_without_visiting_them() {
        type Target = fn(&Samples, &[Sample]) -> PurgeTarget;
        let samples = each_kind();
        let cases: [(Target, &[usize]); 5] = [
            (|names, samples| names.uri(&samples[0]), &[0]),
            (|names, samples| names.uri(&samples[3]), &[3, 4]),
            (|names, _| names.caller(1), &[1]),
            (|names, _| names.tag("c"), &[2]),
            (|_, _| PurgeTarget::All, &[0, 1, 2, 3, 4]),
        ];
        for (target, gone) in cases {
            let tier = Tier::new();
            samples
                .iter()
                .for_each(|sample| tier.keep(sample, tier.now()));
            tier.purge(target(&tier.samples, &samples));
            for (number, sample) in samples.iter().enumerate() {
                assert_eq!(tier.has(sample), !gone.contains(&number), "{number}");
            }
            assert_eq!(tier.entries(), samples.len(), "no copy was visited");
        }
    }

    #[test]
    fn purge_that_another_instance_published_invalidates_copies() {
        let (tier, [shared, own, ..]) = (Tier::new(), each_kind());
        let PurgeTarget::Uri(uri) = tier.samples.uri(&shared) else {
            panic!("a URL is named by its URL");
        };
        let message = [&b"u"[..], uri.as_bytes()].concat();
        // All entries, and a kind of a later version.
        for names in [&message[..], &[b'a'; NAME_BYTES], &[b'z'; NAME_BYTES]] {
            tier.keep(&shared, tier.now());
            tier.keep(&own, tier.now());
            tier.near.hear(Purged::These(names));
            assert!(!tier.has(&shared));
            assert_eq!(tier.has(&own), names[0] == b'u');
        }
    }

    #[test]
    fn late_lookup_is_stored_unless_its_names_were_purged() {
        let (tier, samples) = (Tier::new(), each_kind());
        for sample in &samples {
            let since = tier.now();
            tier.purge(other(1));
            tier.keep(sample, since);
            assert!(tier.has(sample));

            let since = tier.now();
            tier.purge(tier.samples.uri(sample));
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            let since = tier.now();
            tier.near.forget(&tier.samples.key(sample));
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            let since = tier.now();
            tier.purge(PurgeTarget::All);
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            tier.keep(sample, tier.now());
            assert!(tier.has(sample));
        }
    }

    #[test]
    fn write_to_a_key_invalidates_all_variants_of_it_and_no_other_key() {
        let (tier, samples) = (Tier::new(), each_kind());
        samples
            .iter()
            .for_each(|sample| tier.keep(sample, tier.now()));
        tier.near.forget(&tier.samples.key(&samples[3]));
        let kept = samples.each_ref().map(|sample| tier.has(sample));
        assert_eq!(kept, [true, true, true, false, false]);
    }

    #[test]
    fn local_entries_are_unused_while_purges_are_not_received() {
        let (tier, [sample, ..]) = (Tier::new(), each_kind());
        tier.keep(&sample, tier.now());
        let since = tier.now();
        tier.near.hear(Purged::Unheard);
        assert!(!tier.has(&sample));
        tier.keep(&sample, since);
        tier.near.hear(Purged::Heard);
        assert!(!tier.has(&sample));
        tier.keep(&sample, since);
        assert!(!tier.has(&sample), "its lookup began before purges arrived");
        tier.keep(&sample, tier.now());
        assert!(tier.has(&sample));
    }
}
