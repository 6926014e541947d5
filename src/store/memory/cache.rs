//! The cache part of the store in memory.
//!
//! One map holds everything. Under a key stands the answer, if it does not vary; else an index of
//! its variants, and each of them under the key with its variant's id. A weighted, scan-resistant
//! policy decides what goes when the room is full.

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

use super::{MemoryStore, Shelf};
use crate::{
    cache::{
        CacheKey, CacheStore, Fence, Found, Lookup, PurgeMode, PurgeTarget, Put, PutOutcome,
        Selection, Stamp, StoredResponse, Touch, VariantId, VarySpec,
    },
    store::purges::{DigestHasher, NAME_BYTES, Name, Purges, Standing, StoredNames, names_of},
    store_future::StoreFuture,
    store_key::StoreKeys,
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
    purges: Arc<Purges>,
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
    fence: Fence,
    stamp: Stamp,
    expires_at: Timestamp,
    weight: u64,
    names: StoredNames,
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
            purges: Purges::new(),
            stamps: AtomicU64::new(0),
        }
    }

    fn look_up(&self, key: &CacheKey, selection: &Selection<'_>, now: Timestamp) -> Lookup {
        // Read before the answer is: a purge between the two is one that the answer has to face.
        let fence = Fence(self.purges.now());
        let found = match self.slots.get(&SlotKey::of(key)) {
            None => Found::Nothing,
            Some(Slot::Answer(answer)) => self.shown(answer, fence, now).unwrap_or(Found::Nothing),
            Some(Slot::Index(index)) => self
                .variant(key, &index, selection, fence, now)
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
        fence: Fence,
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
                    return self.shown(answer, fence, now);
                }
            }
        }
        None
    }

    /// Returns a stored entry unless it has expired or was purged before the lookup with this fence.
    fn shown(&self, answer: Answer, fence: Fence, now: Timestamp) -> Option<Found> {
        if answer.expires_at <= now {
            return None;
        }
        let expired = match self.purges.standing(&answer.names, answer.fence.0, fence.0) {
            Standing::Valid => false,
            Standing::Expired => true,
            Standing::Purged => return None,
        };
        Some(Found::Entry {
            expired,
            entry: answer.entry,
            stamp: answer.stamp,
        })
    }

    fn put(&self, put: Put, now: Timestamp) -> PutOutcome {
        if weight(&put.entry) > self.slots.shard_capacity() {
            return PutOutcome::TooLarge;
        }
        let (root, fence) = (SlotKey::of(&put.key), put.fence);
        let Some(answer) = self.answer(&put.key, put.entry, fence, now + put.retain) else {
            return PutOutcome::Purged;
        };
        let _writing = self.write(&root);
        if answer.entry.vary().is_empty() {
            self.slots.insert(root, Slot::Answer(answer));
        } else {
            self.put_variant(root, answer, put.variants_max);
        }
        PutOutcome::Stored
    }

    /// Stores an entry under its variant, and removes the oldest variants beyond the maximum.
    fn put_variant(&self, root: SlotKey, answer: Answer, variants_max: usize) {
        let indexed = Indexed {
            spec: answer.entry.vary().clone(),
            variant: answer.entry.variant(),
        };
        let variant = indexed.variant;
        let mut index = vec![indexed];
        if let Some(Slot::Index(old)) = self.slots.peek(&root) {
            index.extend(old.iter().filter(|old| old.variant != variant).cloned());
        }
        for gone in index.drain(variants_max.clamp(1, index.len())..) {
            self.slots.remove(&root.variant(gone.variant));
        }
        self.slots.insert(root, Slot::Index(index.into()));
        self.slots
            .insert(root.variant(variant), Slot::Answer(answer));
    }

    fn touch(&self, touch: Touch, now: Timestamp) -> bool {
        let root = SlotKey::of(&touch.key);
        let _writing = self.write(&root);
        let place = match touch.entry.vary().is_empty() {
            true => root,
            false => root.variant(touch.entry.variant()),
        };
        let is_own = |slot: &Slot| matches!(slot, Slot::Answer(old) if old.stamp == touch.stamp);
        if !self.slots.peek(&place).as_ref().is_some_and(is_own) {
            return false;
        }
        let until = now + touch.retain;
        let Some(answer) = self.answer(&touch.key, touch.entry, touch.fence, until) else {
            return false;
        };
        self.slots.insert(place, Slot::Answer(answer));
        true
    }

    /// Makes an entry ready to be stored. `None` if it was purged since the lookup with its fence.
    fn answer(
        &self,
        key: &CacheKey,
        entry: Arc<StoredResponse>,
        fence: Fence,
        expires_at: Timestamp,
    ) -> Option<Answer> {
        // Each later purge finds the names, and so reaches the entry.
        let names = self.purges.register(names_of(key, &entry));
        let now = self.purges.now();
        match self.purges.standing(&names, fence.0, now) {
            Standing::Purged => None,
            Standing::Valid | Standing::Expired => Some(Answer {
                weight: weight(&entry),
                entry,
                fence,
                stamp: self.next_stamp(),
                expires_at,
                names,
            }),
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
        let names = targets.iter().map(Name::of);
        self.shared.cache.purges.purge(names, mode);
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
    // All entries of a caller share its name.
    let names = 1 + entry.tags().len();
    (SLOT_BYTES + names * NAME_BYTES + entry.weight_bytes()) as u64
}
