//! The cache part of the store in memory.
//!
//! One map holds everything. Under a key stands the answer, if it does not vary; else an index of
//! its variants, and each of them under the key with its variant's id. A weighted, scan-resistant
//! policy decides what goes when the room is full.

mod epochs;

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

use self::epochs::Epochs;
use super::{MemoryStore, Shelf};
use crate::{
    cache::{
        CacheKey, CacheStore, Fence, Found, Lookup, PurgeMode, PurgeTarget, Put, PutOutcome,
        Selection, Stamp, StoredResponse, Touch, VariantId, VarySpec,
    },
    store_future::StoreFuture,
    store_key::{StoreKey, StoreKeys},
    time::Timestamp,
};

/// What a place in the map weighs beside what stands in it: the map grows by doubling, and keeps
/// places for what it remembers to have let go.
const SLOT_BYTES: usize = 640;
/// No part of the map is smaller than this, so that an answer of common size has room in it.
const SHARD_BYTES_MIN: u64 = 8 << 20;

/// What this part keeps.
pub(super) struct Part {
    slots: Cache<SlotKey, Slot, Weigh, BuildHasherDefault<DigestHasher>>,
    /// Each write of a key reads what is there first: one at a time for each key.
    writing: Box<[Mutex<()>]>,
    hard: Epochs,
    soft: Epochs,
    /// Counts purges: the store's own time.
    purges: AtomicU64,
    /// Counts writes.
    stamps: AtomicU64,
}

/// Where an answer, or an index of variants, stands: a key's digest, or that with a variant's own. Both
/// are keyed, so no two of them meet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SlotKey([u8; 32]);

#[derive(Clone)]
enum Slot {
    Answer(Answer),
    /// The variants of a key, the latest first.
    Index(Arc<[Indexed]>),
}

#[derive(Clone)]
struct Answer {
    entry: Arc<StoredResponse>,
    uri: StoreKey,
    fence: Fence,
    stamp: Stamp,
    expires_at: Timestamp,
    weight: u64,
}

#[derive(Clone)]
struct Indexed {
    spec: VarySpec,
    variant: VariantId,
}

impl Part {
    pub(super) fn new(shelf: &Shelf) -> Self {
        let bytes_max = shelf.bounds.cache_bytes_max;
        let shards = (bytes_max / SHARD_BYTES_MIN).clamp(1, 16);
        // Rounded down: the map would round up, and leave each part too small.
        let shards = 1 << shards.ilog2();
        let items = (bytes_max / 8_192).clamp(64, 1 << 20);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(usize::try_from(items).expect("at most 2^20"))
            .weight_capacity(bytes_max)
            .build()
            .expect("all that is needed is set");
        Self {
            slots: Cache::with_options(
                options,
                Weigh,
                BuildHasherDefault::default(),
                DefaultLifecycle::default(),
            ),
            writing: (0..64).map(|_| Mutex::default()).collect(),
            hard: Epochs::default(),
            soft: Epochs::default(),
            purges: AtomicU64::new(1),
            stamps: AtomicU64::new(0),
        }
    }

    fn look_up(&self, key: &CacheKey, selection: &Selection<'_>, now: Timestamp) -> Lookup {
        // Read before the answer is: a purge between the two is one that the answer has to face.
        let fence = Fence(self.purges.load(Ordering::Acquire));
        let found = match self.slots.get(&SlotKey::of(key)) {
            None => Found::Nothing,
            Some(Slot::Answer(answer)) => self.shown(answer, now).unwrap_or(Found::Nothing),
            Some(Slot::Index(index)) => self
                .variant(key, &index, selection, now)
                .unwrap_or(Found::NoVariant),
        };
        Lookup { fence, found }
    }

    /// Finds the latest variant that fits.
    fn variant(
        &self,
        key: &CacheKey,
        index: &[Indexed],
        selection: &Selection<'_>,
        now: Timestamp,
    ) -> Option<Found> {
        // Most often all vary by the same fields: their values are digested once.
        let mut last: Option<(&VarySpec, VariantId)> = None;
        for indexed in index {
            let wanted = match last {
                Some((spec, id)) if *spec == indexed.spec => id,
                _ => selection.variant(&indexed.spec),
            };
            last = Some((&indexed.spec, wanted));
            if wanted == indexed.variant {
                let slot = self.slots.get(&SlotKey::of(key).variant(wanted));
                if let Some(Slot::Answer(answer)) = slot {
                    return self.shown(answer, now);
                }
            }
        }
        None
    }

    /// Returns an answer if it is alive.
    fn shown(&self, answer: Answer, now: Timestamp) -> Option<Found> {
        if answer.expires_at <= now || self.hard.reaches(&answer) {
            return None;
        }
        Some(Found::Entry {
            expired: self.soft.reaches(&answer),
            entry: answer.entry,
            stamp: answer.stamp,
        })
    }

    fn put(&self, put: Put, now: Timestamp) -> PutOutcome {
        let answer = Answer {
            weight: weight(&put.entry),
            entry: put.entry,
            uri: *put.key.uri(),
            fence: put.fence,
            stamp: self.next_stamp(),
            expires_at: now + put.retain,
        };
        if answer.weight > self.slots.shard_capacity() {
            return PutOutcome::TooLarge;
        }
        if self.hard.reaches(&answer) {
            return PutOutcome::Purged;
        }
        let root = SlotKey::of(&put.key);
        let _writing = self.write(&root);
        if answer.entry.vary().is_empty() {
            self.slots.insert(root, Slot::Answer(answer));
            return PutOutcome::Stored;
        }
        let indexed = Indexed {
            spec: answer.entry.vary().clone(),
            variant: answer.entry.variant(),
        };
        let variant = indexed.variant;
        let mut index = vec![indexed];
        if let Some(Slot::Index(old)) = self.slots.peek(&root) {
            index.extend(old.iter().filter(|old| old.variant != variant).cloned());
        }
        for gone in index.drain(put.variants_max.clamp(1, index.len())..) {
            self.slots.remove(&root.variant(gone.variant));
        }
        self.slots.insert(root, Slot::Index(index.into()));
        self.slots
            .insert(root.variant(variant), Slot::Answer(answer));
        PutOutcome::Stored
    }

    fn touch(&self, touch: Touch, now: Timestamp) -> bool {
        let root = SlotKey::of(&touch.key);
        let _writing = self.write(&root);
        let place = match touch.entry.vary().is_empty() {
            true => root,
            false => root.variant(touch.entry.variant()),
        };
        match self.slots.peek(&place) {
            Some(Slot::Answer(old)) if old.stamp == touch.stamp => {
                let answer = Answer {
                    weight: weight(&touch.entry),
                    entry: touch.entry,
                    uri: old.uri,
                    fence: touch.fence,
                    stamp: self.next_stamp(),
                    expires_at: now + touch.retain,
                };
                if self.hard.reaches(&answer) {
                    return false;
                }
                self.slots.insert(place, Slot::Answer(answer));
                true
            }
            Some(Slot::Answer(_) | Slot::Index(_)) | None => false,
        }
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) {
        // Whoever looks up from now on gets a later fence; whoever has begun has this one at most.
        let at = self.purges.fetch_add(1, Ordering::AcqRel);
        let epochs = match mode {
            PurgeMode::Hard => &self.hard,
            PurgeMode::Soft => &self.soft,
        };
        for target in targets {
            epochs.raise(target, at);
        }
    }

    fn write(&self, key: &SlotKey) -> MutexGuard<'_, ()> {
        let at = usize::from(key.0[24]) % self.writing.len();
        // It guards an order, and no data: a panic leaves nothing behind.
        self.writing[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn next_stamp(&self) -> Stamp {
        Stamp(self.stamps.fetch_add(1, Ordering::Relaxed))
    }
}

impl Epochs {
    /// Returns whether a purge has come since the making of an answer began.
    fn reaches(&self, answer: &Answer) -> bool {
        let entry = &answer.entry;
        let since = |target| self.of(&target) >= answer.fence.0;
        self.any()
            && (since(PurgeTarget::All)
                || since(PurgeTarget::Uri(answer.uri))
                || since(PurgeTarget::Partition(*entry.partition()))
                || entry.tags().iter().any(|tag| since(PurgeTarget::Tag(*tag))))
    }
}

impl CacheStore for MemoryStore {
    fn keys(&self) -> &StoreKeys {
        &self.shared.shelf.keys
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let now = self.shared.shelf.clock.coarse();
        StoreFuture::ready(self.shared.cache.look_up(key, selection, now))
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let now = self.shared.shelf.clock.coarse();
        StoreFuture::ready(self.shared.cache.put(put, now))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let now = self.shared.shelf.clock.coarse();
        StoreFuture::ready(self.shared.cache.touch(touch, now))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        self.shared.cache.purge(targets, mode);
        StoreFuture::ready(())
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

/// Takes what is a keyed digest already for its hash.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Weighs what stands in the map, by the bytes that it takes.
#[derive(Clone)]
struct Weigh;

impl Weighter<SlotKey, Slot> for Weigh {
    fn weight(&self, _: &SlotKey, slot: &Slot) -> u64 {
        match slot {
            Slot::Answer(answer) => answer.weight,
            Slot::Index(index) => (SLOT_BYTES + size_of_val::<[Indexed]>(index)) as u64,
        }
    }
}

fn weight(entry: &StoredResponse) -> u64 {
    (SLOT_BYTES + entry.weight_bytes()) as u64
}
