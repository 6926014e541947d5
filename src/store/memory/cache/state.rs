//! Cached responses by key and variant, limited by their size in bytes.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{
    cache::backend::{
        CacheKey, Fence, Found, Lookup, Put, PutOutcome, Selection, Stamp, StoredResponse, Touch,
        VariantId, VarySpec,
    },
    core::time::Timestamp,
    store::{
        memory::context::MemoryContext,
        purges::{DigestHasher, NAME_BYTES, PurgeTable, Standing, StoredNames, names_of},
    },
};

/// The overhead of one slot in the map. The map grows by doubling and also has slots for evicted
/// keys that its policy remembers.
const SLOT_BYTES: usize = 640;
/// The minimum size of a shard, which is large enough for a response of common size.
const SHARD_BYTES_MIN: u64 = 8 << 20;

/// The cached responses of a store.
pub(crate) struct CacheTable {
    slots: Cache<SlotKey, CacheSlot, SlotWeigher, BuildHasherDefault<DigestHasher>>,
    /// Locks that make writes to one key wait for one another, because each write first reads the
    /// current entry.
    writing: Box<[Mutex<()>]>,
    pub(super) purges: Arc<PurgeTable>,
    /// The stamp of the next write.
    stamps: AtomicU64,
}

/// The key of a slot that contains an entry or an index of variants. It is the digest of a key, or
/// a combination of that digest with the digest of a variant. Both are keyed and do not collide.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SlotKey([u8; 32]);

#[derive(Clone)]
enum CacheSlot {
    Entry(MemoryEntry),
    /// The variants of a key, the latest first.
    Index(Arc<[Indexed]>),
}

#[derive(Clone)]
struct MemoryEntry {
    entry: Arc<StoredResponse>,
    fence: Fence,
    stamp: Stamp,
    expires_at: Timestamp,
    weight: u64,
    pub(super) names: StoredNames,
}

#[derive(Clone)]
struct Indexed {
    spec: VarySpec,
    variant: VariantId,
}

impl CacheTable {
    pub(crate) fn new(context: &MemoryContext) -> Self {
        let max_bytes = context.limits.max_cache_bytes;
        let shards = (max_bytes / SHARD_BYTES_MIN).clamp(1, 16);
        // Rounded down, since the map would round up and make each shard too small.
        let shards = 1 << shards.ilog2();
        let items = (max_bytes / 8_192).clamp(64, 1 << 20);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(usize::try_from(items).expect("at most 2^20"))
            .weight_capacity(max_bytes)
            .build()
            .expect("all required options are set");
        Self {
            slots: Cache::with_options(
                options,
                SlotWeigher,
                BuildHasherDefault::default(),
                DefaultLifecycle::default(),
            ),
            writing: (0..64).map(|_| Mutex::default()).collect(),
            purges: PurgeTable::new(),
            stamps: AtomicU64::new(0),
        }
    }

    pub(super) fn look_up(
        &self,
        key: &CacheKey,
        selection: &Selection<'_>,
        now: Timestamp,
    ) -> Lookup {
        // Read before the entry, so that a purge between the two reads is compared with it.
        let fence = Fence(self.purges.now());
        let found = match self.slots.get(&SlotKey::of(key)) {
            None => Found::Nothing,
            Some(CacheSlot::Entry(stored)) => {
                self.shown(stored, fence, now).unwrap_or(Found::Nothing)
            }
            Some(CacheSlot::Index(index)) => self
                .variant(key, &index, selection, fence, now)
                .unwrap_or(Found::NoVariant),
        };
        Lookup { fence, found }
    }

    /// Returns the latest variant that matches.
    fn variant(
        &self,
        key: &CacheKey,
        index: &[Indexed],
        selection: &Selection<'_>,
        fence: Fence,
        now: Timestamp,
    ) -> Option<Found> {
        // Most variants have the same `Vary` fields: the digest of their values is reused.
        let mut last: Option<(&VarySpec, VariantId)> = None;
        for indexed in index {
            let wanted = match last {
                Some((spec, id)) if *spec == indexed.spec => id,
                _ => selection.variant(&indexed.spec),
            };
            last = Some((&indexed.spec, wanted));
            if wanted == indexed.variant {
                let slot = self.slots.get(&SlotKey::of(key).variant(wanted));
                if let Some(CacheSlot::Entry(stored)) = slot {
                    return self.shown(stored, fence, now);
                }
            }
        }
        None
    }

    /// Returns an entry, unless the entry has expired or was purged before the lookup with this
    /// fence.
    fn shown(&self, stored: MemoryEntry, fence: Fence, now: Timestamp) -> Option<Found> {
        if stored.expires_at <= now {
            return None;
        }
        let expired = match self.purges.standing(&stored.names, stored.fence.0, fence.0) {
            Standing::Valid => false,
            Standing::Expired => true,
            Standing::Purged => return None,
        };
        Some(Found::Entry {
            expired,
            entry: stored.entry,
            stamp: stored.stamp,
        })
    }

    pub(super) fn put(&self, put: Put, now: Timestamp) -> PutOutcome {
        if weight(&put.entry) > self.slots.shard_capacity() {
            return PutOutcome::TooLarge;
        }
        let (root, fence) = (SlotKey::of(&put.key), put.fence);
        let Some(stored) = self.new_entry(&put.key, put.entry, fence, now + put.retain) else {
            return PutOutcome::Purged;
        };
        let _writing = self.write(&root);
        if stored.entry.vary().is_empty() {
            self.slots.insert(root, CacheSlot::Entry(stored));
        } else {
            self.put_variant(root, stored, put.max_variants);
        }
        PutOutcome::Stored
    }

    /// Stores an entry under its variant and removes the oldest variants that exceed the maximum.
    fn put_variant(&self, root: SlotKey, stored: MemoryEntry, max_variants: usize) {
        let indexed = Indexed {
            spec: stored.entry.vary().clone(),
            variant: stored.entry.variant(),
        };
        let variant = indexed.variant;
        let mut index = vec![indexed];
        if let Some(CacheSlot::Index(old)) = self.slots.peek(&root) {
            index.extend(old.iter().filter(|old| old.variant != variant).cloned());
        }
        for gone in index.drain(max_variants.clamp(1, index.len())..) {
            self.slots.remove(&root.variant(gone.variant));
        }
        self.slots.insert(root, CacheSlot::Index(index.into()));
        self.slots
            .insert(root.variant(variant), CacheSlot::Entry(stored));
    }

    pub(super) fn touch(&self, touch: Touch, now: Timestamp) -> bool {
        let root = SlotKey::of(&touch.key);
        let _writing = self.write(&root);
        let place = match touch.entry.vary().is_empty() {
            true => root,
            false => root.variant(touch.entry.variant()),
        };
        let is_own =
            |slot: &CacheSlot| matches!(slot, CacheSlot::Entry(old) if old.stamp == touch.stamp);
        if !self.slots.peek(&place).as_ref().is_some_and(is_own) {
            return false;
        }
        let until = now + touch.retain;
        let Some(stored) = self.new_entry(&touch.key, touch.entry, touch.fence, until) else {
            return false;
        };
        self.slots.insert(place, CacheSlot::Entry(stored));
        true
    }

    /// Prepares an entry for storage. Returns `None` if the entry was purged after the lookup with
    /// its fence.
    fn new_entry(
        &self,
        key: &CacheKey,
        entry: Arc<StoredResponse>,
        fence: Fence,
        expires_at: Timestamp,
    ) -> Option<MemoryEntry> {
        let names = self.purges.register(names_of(key, &entry), fence.0)?;
        Some(MemoryEntry {
            weight: weight(&entry),
            entry,
            fence,
            stamp: self.next_stamp(),
            expires_at,
            names,
        })
    }

    fn write(&self, key: &SlotKey) -> MutexGuard<'_, ()> {
        let at = usize::from(key.0[24]) % self.writing.len();
        // The lock protects an order and no data, so a poisoned lock is consistent.
        self.writing[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn next_stamp(&self) -> Stamp {
        Stamp(self.stamps.fetch_add(1, Ordering::Relaxed))
    }
}

impl SlotKey {
    fn of(key: &CacheKey) -> Self {
        Self(*key.full().as_bytes())
    }

    fn variant(self, variant: VariantId) -> Self {
        let Self(mut digest) = self;
        for (byte, own) in digest.iter_mut().zip(variant.as_bytes()) {
            *byte ^= own;
        }
        Self(digest)
    }
}

impl Hash for SlotKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let word = self.0.first_chunk().expect("a digest has eight bytes");
        state.write_u64(u64::from_le_bytes(*word));
    }
}

/// Weighs a slot by its size in bytes.
#[derive(Clone)]
struct SlotWeigher;

impl Weighter<SlotKey, CacheSlot> for SlotWeigher {
    fn weight(&self, _: &SlotKey, slot: &CacheSlot) -> u64 {
        match slot {
            CacheSlot::Entry(stored) => stored.weight,
            CacheSlot::Index(index) => (SLOT_BYTES + size_of_val::<[Indexed]>(index)) as u64,
        }
    }
}

fn weight(entry: &StoredResponse) -> u64 {
    // The name of the caller is shared by all of its entries.
    let names = 1 + entry.tags().len();
    (SLOT_BYTES + names * NAME_BYTES + entry.weight_bytes()) as u64
}

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderValue, header};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::{
            CacheStore, PurgeMode,
            backend::PurgeTarget,
            sample::{Sample, Samples},
        },
        core::{
            store_api::store_key::{StoreKey, StoreKeys},
            time::ManualClock,
        },
        store::MemoryStore,
    };

    const LONG: Duration = Duration::from_secs(3_600);

    fn store(max_bytes: u64) -> (MemoryStore, Samples) {
        let builder = MemoryStore::builder().clock(ManualClock::default());
        // A purge by a name that collides with another one may refuse a fill.
        let keys = StoreKeys::from_secret(&[7; 32]).unwrap();
        let store = builder.max_cache_bytes(max_bytes).with_keys(keys);
        let samples = Samples::new(CacheStore::keys(&store), "test");
        (store, samples)
    }

    fn sample(number: u32) -> Sample {
        let caller = [None, Some(1), Some(2)][number as usize % 3];
        let mut sample = Sample {
            path: format!("/{}", number / 6),
            caller,
            tags: [vec![], vec!["a"], vec!["a", "b", "c", "d"]][number as usize / 6 % 3].clone(),
            ..Sample::default()
        };
        if number / 6 % 2 == 1 {
            let accept = ["one", "two"][number as usize / 3 % 2];
            sample.vary = vec![header::ACCEPT];
            let accept = HeaderValue::from_static(accept);
            sample.asked.insert(header::ACCEPT, accept);
        }
        sample
    }

    /// Returns the number of the first sample with the same key and variant.
    fn place(number: u32) -> u32 {
        match number / 6 % 2 {
            0 => number / 6 * 6 + number % 3,
            _ => number,
        }
    }

    /// Returns a target: one that a few samples have, or one that no sample has.
    fn target(samples: &Samples, number: u32) -> PurgeTarget {
        match number {
            0..4 => samples.uri(&sample(number * 6)),
            4..8 => samples.tag(["a", "b", "c", "d"][number as usize - 4]),
            8..10 => samples.caller(number as u8 - 7),
            10 => {
                let shared = samples.entry(&sample(0));
                PurgeTarget::Partition(*shared.partition())
            }
            11 => PurgeTarget::All,
            _ => samples.tag("of none"),
        }
    }

    fn targets_of(samples: &Samples, sample: &Sample) -> Vec<PurgeTarget> {
        let entry = samples.entry(sample);
        let mut targets = vec![
            PurgeTarget::All,
            samples.uri(sample),
            PurgeTarget::Partition(*entry.partition()),
        ];
        targets.extend(entry.tags().iter().map(|tag| PurgeTarget::Tag(*tag)));
        targets
    }

    pub(super) fn look_up(store: &MemoryStore, samples: &Samples, sample: &Sample) -> Lookup {
        let selection = samples.selection(&sample.asked, None);
        let found = store.get(&samples.key(sample), &selection);
        found.into_ready().ready().unwrap().unwrap()
    }

    pub(super) fn put(
        store: &MemoryStore,
        samples: &Samples,
        sample: &Sample,
        fence: Fence,
    ) -> PutOutcome {
        let put = Put {
            key: samples.key(sample),
            entry: samples.entry(sample),
            fence,
            retain: LONG,
            max_variants: 16,
        };
        store.put(put).into_ready().ready().unwrap().unwrap()
    }

    pub(super) fn names(store: &MemoryStore) -> usize {
        store.shared.cache.purges.names()
    }

    /// An operation on a store: its sample or target, and its lookup.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Look(u32),
        /// With the fence of the lookup this number of steps ago.
        Put(u32, usize),
        Touch(u32, usize),
        Purge(u32, PurgeMode),
    }

    fn step() -> impl Strategy<Value = Step> {
        let mode = prop_oneof![Just(PurgeMode::Hard), Just(PurgeMode::Soft)];
        prop_oneof![
            (0..24_u32).prop_map(Step::Look),
            (0..24_u32, 0..6_usize).prop_map(|(sample, ago)| Step::Put(sample, ago)),
            (0..24_u32, 0..6_usize).prop_map(|(sample, ago)| Step::Touch(sample, ago)),
            (0..13_u32, mode).prop_map(|(target, mode)| Step::Purge(target, mode)),
        ]
    }

    /// The model of a store: all stored entries and all purges.
    ///
    /// A fill is in flight from its lookup until it is stored. Purges during that time may affect
    /// the fill even if they target other entries, because their times are then upper bounds.
    #[derive(Default)]
    struct Model {
        stored: Vec<StoredSample>,
        purges: Vec<(PurgeTarget, PurgeMode)>,
    }

    struct StoredSample {
        place: u32,
        /// The number of purges before the lookup of the fill.
        since: usize,
        /// `true` if there was a soft purge while the fill was in flight.
        may_be_expired: bool,
    }

    impl Model {
        fn is_purged(&self, targets: &[PurgeTarget], since: usize, by: PurgeMode) -> bool {
            let later = &self.purges[since.min(self.purges.len())..];
            later
                .iter()
                .any(|(target, mode)| *mode == by && targets.contains(target))
        }

        /// Returns `true` if there was any purge since a lookup.
        fn has_purges(&self, since: usize, by: PurgeMode) -> bool {
            self.purges[since..].iter().any(|(_, mode)| *mode == by)
        }

        fn store(&mut self, number: u32, since: usize) {
            self.stored.push(StoredSample {
                place: place(number),
                since,
                may_be_expired: self.has_purges(since, PurgeMode::Soft),
            });
        }

        /// Returns the lookups that are permitted: `None` if an entry is not stored or was purged,
        /// and otherwise whether it is expired.
        fn find(&self, number: u32, targets: &[PurgeTarget]) -> Vec<Option<bool>> {
            let mut stored = self.stored.iter();
            let Some(stored) = stored.rfind(|stored| stored.place == place(number)) else {
                return vec![None];
            };
            let is_purged = |by| self.is_purged(targets, stored.since, by);
            match (is_purged(PurgeMode::Hard), is_purged(PurgeMode::Soft)) {
                (true, _) => vec![None],
                (false, false) if stored.may_be_expired => vec![Some(false), Some(true)],
                (false, is_expired) => vec![Some(is_expired)],
            }
        }
    }

    proptest! {
        #[test]
        fn store_finds_what_a_plain_list_of_puts_and_purges_permits(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let (store, samples) = store(64 << 20);
            let mut model = Model::default();
            let mut fences = vec![(look_up(&store, &samples, &sample(0)).fence, 0)];
            for step in steps {
                let since = |ago: usize| fences[fences.len().saturating_sub(ago + 1)];
                match step {
                    Step::Look(number) => {
                        let sample = sample(number);
                        let lookup = look_up(&store, &samples, &sample);
                        let found = match lookup.found {
                            Found::Entry { expired, .. } => Some(expired),
                            _ => None,
                        };
                        let expected = model.find(number, &targets_of(&samples, &sample));
                        prop_assert!(expected.contains(&found), "{found:?} {expected:?}");
                        fences.push((lookup.fence, model.purges.len()));
                    }
                    Step::Put(number, ago) => {
                        let (fence, since) = since(ago);
                        let sample = sample(number);
                        let targets = targets_of(&samples, &sample);
                        let is_purged = model.is_purged(&targets, since, PurgeMode::Hard);
                        let outcome = put(&store, &samples, &sample, fence);
                        if is_purged || !model.has_purges(since, PurgeMode::Hard) {
                            prop_assert_eq!(outcome == PutOutcome::Purged, is_purged);
                        }
                        if outcome != PutOutcome::Purged {
                            model.store(number, since);
                        }
                    }
                    Step::Touch(number, ago) => {
                        let (fence, since) = since(ago);
                        let sample = sample(number);
                        let Found::Entry { entry, stamp, .. } =
                            look_up(&store, &samples, &sample).found
                        else {
                            continue;
                        };
                        let key = samples.key(&sample);
                        let touch = Touch { key, entry, stamp, fence, retain: LONG };
                        let touched = store.touch(touch).into_ready().ready().unwrap().unwrap();
                        let targets = targets_of(&samples, &sample);
                        let is_purged = model.is_purged(&targets, since, PurgeMode::Hard);
                        if is_purged || !model.has_purges(since, PurgeMode::Hard) {
                            prop_assert_eq!(touched, !is_purged);
                        }
                        if touched {
                            model.store(number, since);
                        }
                    }
                    Step::Purge(number, mode) => {
                        let target = target(&samples, number);
                        drop(store.purge(&[target], mode));
                        model.purges.push((target, mode));
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_released_with_the_last_entry_that_has_them() {
        let (store, samples) = store(64 << 20);
        let tagged = |path: &str| Sample {
            path: path.to_owned(),
            tags: vec!["a", "b", "c", "a"],
            ..Sample::default()
        };
        let fence = look_up(&store, &samples, &tagged("/1")).fence;
        put(&store, &samples, &tagged("/1"), fence);
        // The URL, the shared partition, and three tags.
        assert_eq!(names(&store), 5);
        put(&store, &samples, &tagged("/1"), fence);
        assert_eq!(names(&store), 5, "the replaced entry released its names");
        put(&store, &samples, &tagged("/2"), fence);
        assert_eq!(names(&store), 6);
        let plain = Sample {
            path: "/1".to_owned(),
            ..Sample::default()
        };
        put(&store, &samples, &plain, fence);
        assert_eq!(names(&store), 6, "the tags are in use by the other entry");
        store.shared.cache.slots.clear();
        assert_eq!(names(&store), 0);
    }

    #[test]
    fn refused_put_registers_no_names() {
        let (store, samples) = store(64 << 20);
        let sample = sample(0);
        let fence = look_up(&store, &samples, &sample).fence;
        drop(store.purge(&[PurgeTarget::All], PurgeMode::Hard));
        assert_eq!(put(&store, &samples, &sample, fence), PutOutcome::Purged);
        assert_eq!(names(&store), 0);
    }

    #[test]
    fn eviction_bounds_the_names() {
        let (store, samples) = store(1 << 20);
        for number in 0..5_000 {
            let sample = Sample {
                path: format!("/{number}"),
                body: Bytes::from_static(&[0; 100]),
                ..Sample::default()
            };
            let fence = look_up(&store, &samples, &sample).fence;
            put(&store, &samples, &sample, fence);
            drop(store.purge(&[samples.uri(&sample)], PurgeMode::Soft));
        }
        let stored = store.shared.cache.slots.len();
        assert!(stored < 1_000, "{stored} entries are stored");
        assert_eq!(names(&store), stored + 1);
    }

    /// A cell is reused for another name and retains its times.
    #[test]
    fn purge_before_a_cell_was_reused_does_not_reach_the_next_entry() {
        let (store, samples) = store(64 << 20);
        let page = |number: usize| Sample {
            path: format!("/{number}"),
            ..Sample::default()
        };
        for number in 0..200 {
            let sample = page(number);
            let fence = look_up(&store, &samples, &sample).fence;
            assert_eq!(put(&store, &samples, &sample, fence), PutOutcome::Stored);
            let found = look_up(&store, &samples, &sample).found;
            assert!(matches!(found, Found::Entry { expired: false, .. }));
            for mode in [PurgeMode::Soft, PurgeMode::Hard] {
                drop(store.purge(&[samples.uri(&sample)], mode));
            }
            store.shared.cache.slots.clear();
        }
    }

    #[test]
    fn fill_that_began_before_a_purge_of_its_name_is_refused_after_the_name_was_released() {
        let (store, samples) = store(64 << 20);
        let sample = sample(0);
        for mode in [PurgeMode::Hard, PurgeMode::Soft] {
            let fence = look_up(&store, &samples, &sample).fence;
            put(&store, &samples, &sample, fence);
            drop(store.purge(&[samples.uri(&sample)], mode));
            store.shared.cache.slots.clear();
            let outcome = put(&store, &samples, &sample, fence);
            let found = look_up(&store, &samples, &sample).found;
            match mode {
                PurgeMode::Hard => assert_eq!(outcome, PutOutcome::Purged),
                PurgeMode::Soft => assert!(matches!(found, Found::Entry { expired: true, .. })),
            }
        }
    }

    /// Threads that store, purge and look up the same few entries.
    struct Race {
        store: MemoryStore,
        samples: Samples,
        /// The version of each page that the origin serves.
        served: [AtomicU64; 4],
        /// The oldest version that a lookup may find: all purges of earlier ones have completed.
        oldest: [AtomicU64; 4],
    }

    impl Race {
        fn page(number: usize, version: u64) -> Sample {
            Sample {
                path: format!("/{number}"),
                tags: vec!["a"],
                body: Bytes::from(version.to_string()),
                ..Sample::default()
            }
        }

        /// Looks up a page, and returns the fence.
        fn check(&self, number: usize) -> Fence {
            let oldest = self.oldest[number].load(Ordering::SeqCst);
            let lookup = look_up(&self.store, &self.samples, &Self::page(number, 0));
            if let Found::Entry { entry, .. } = &lookup.found {
                let version: u64 = std::str::from_utf8(entry.body()).unwrap().parse().unwrap();
                assert!(version >= oldest, "purged version {version} is found");
            }
            lookup.fence
        }

        fn fill(&self, number: usize, fence: Fence) {
            let version = self.served[number].load(Ordering::SeqCst);
            put(
                &self.store,
                &self.samples,
                &Self::page(number, version),
                fence,
            );
        }

        /// Changes a page at the origin, and purges it.
        fn change(&self, number: usize, target: PurgeTarget) {
            let version = 1 + self.served[number].fetch_add(1, Ordering::SeqCst);
            drop(self.store.purge(&[target], PurgeMode::Hard));
            self.oldest[number].store(version, Ordering::SeqCst);
        }

        fn run(&self, thread: usize) {
            for round in 0..20_000 {
                let number = (round * 7 + thread) % 4;
                let fence = self.check(number);
                match (thread, round % 5) {
                    (0, 0) if round % 3 == 0 => self.change(number, self.samples.tag("a")),
                    (0, 0) => self.change(number, self.samples.uri(&Self::page(number, 0))),
                    (1, 0) => {
                        let other = StoreKey::from_bytes((round as u128).to_le_bytes());
                        drop(
                            self.store
                                .purge(&[PurgeTarget::Uri(other)], PurgeMode::Hard),
                        );
                    }
                    (2, 0) if round % 50 == 0 => self.store.shared.cache.slots.clear(),
                    _ => self.fill(number, fence),
                }
            }
        }
    }

    #[test]
    fn concurrent_puts_and_purges_never_show_a_purged_entry() {
        let (store, samples) = store(64 << 20);
        let race = Race {
            store,
            samples,
            served: Default::default(),
            oldest: Default::default(),
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let race = &race;
                scope.spawn(move || race.run(thread));
            }
        });
        race.store.shared.cache.slots.clear();
        assert_eq!(names(&race.store), 0, "every name was released");
    }
}
