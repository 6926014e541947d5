//! Answers that were looked up a moment ago, before those on the server.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, unsync::Cache};

use super::TieredStore;
use crate::{
    cache::{
        CacheKey, CacheStore, Fence, Found, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put,
        PutOutcome, Selection, Stamp, StoredResponse, Touch, VariantId,
    },
    store::{
        RedisStore,
        redis::{Listening, NAME_BYTES, Purged, Seen, name_of, targets_of},
    },
    store_future::StoreFuture,
    store_key::StoreKeys,
    time::{Clock, SystemClock, Timestamp},
};

/// How long an answer is shown without a look at the server: as long as it takes at most to find
/// out that purges are no longer heard.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// Answers are spread over so many parts, each under a lock of its own.
const PARTS: usize = 8;

/// What an answer takes beside its own bytes.
const PLACE_BYTES: u64 = 256;

/// Answers in this process's memory.
pub(super) struct Near {
    parts: [Mutex<Cache<Place, Kept, Weigh>>; PARTS],
    /// Counts all that may make untrue what is being looked up.
    changes: AtomicU64,
    /// Whether each purge is heard of.
    is_heard: AtomicBool,
    listening: Mutex<Option<Listening>>,
    clock: SystemClock,
}

/// Where an answer stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    key: [u8; 32],
    variant: VariantId,
}

#[derive(Clone)]
struct Kept {
    entry: Arc<StoredResponse>,
    /// Of the look-up at the server: older than that of one now, which refuses at worst what could
    /// have been taken.
    fence: Fence,
    stamp: Stamp,
    until: Timestamp,
    /// By what it is purged.
    names: Arc<[u8]>,
}

impl Near {
    pub(super) fn new(bytes_max: u64) -> Self {
        let each = (bytes_max / PARTS as u64).max(1);
        let items = usize::try_from(each / 4_096).unwrap_or(usize::MAX);
        Self {
            parts: std::array::from_fn(|_| {
                Mutex::new(Cache::with_weighter(items.clamp(16, 1 << 16), each, Weigh))
            }),
            changes: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            listening: Mutex::default(),
            clock: SystemClock::new(),
        }
    }

    /// Begins to hear of purges, unless that goes on already.
    fn listen(self: &Arc<Self>, far: &RedisStore) {
        let mut listening = lock(&self.listening);
        if listening.as_ref().is_none_or(Listening::is_over) {
            // It is not kept for the sake of what it hears.
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
            Purged::These(names) => self.purge(names),
            Purged::Heard => {
                self.forget_all();
                self.is_heard.store(true, Ordering::SeqCst);
            }
            Purged::Unheard => {
                self.is_heard.store(false, Ordering::SeqCst);
                self.forget_all();
            }
        }
    }

    fn get(&self, key: &CacheKey, variant: VariantId) -> Option<Lookup> {
        if !self.is_heard.load(Ordering::SeqCst) {
            return None;
        }
        let place = Place::of(key, variant);
        let kept = self.part(key).get(&place).cloned()?;
        (kept.until > self.clock.coarse()).then_some(Lookup {
            fence: kept.fence,
            found: Found::Entry {
                entry: kept.entry,
                stamp: kept.stamp,
                expired: false,
            },
        })
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Keeps what was looked up, unless something was purged since the look-up began, or put.
    fn keep(&self, key: &CacheKey, seen: &Seen, since: u64) {
        let Found::Entry {
            entry,
            stamp,
            expired: false,
        } = &seen.lookup.found
        else {
            return;
        };
        let kept = Kept {
            entry: Arc::clone(entry),
            fence: seen.lookup.fence,
            stamp: *stamp,
            until: self.clock.coarse() + seen.left.min(TRUSTED_FOR),
            names: targets_of(key, entry).into(),
        };
        let mut part = self.part(key);
        // Whoever purges counts first and looks into this part then: it finds what is kept here.
        if self.changes() == since && self.is_heard.load(Ordering::SeqCst) {
            part.insert(Place::of(key, entry.variant()), kept);
        }
    }

    /// Forgets all variants under a key.
    fn forget(&self, key: &CacheKey) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let own = key.full().as_bytes();
        self.part(key).retain(|place, _| place.key != *own);
    }

    fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        for part in &self.parts {
            lock(part).clear();
        }
    }

    /// Forgets what these name.
    fn purge(&self, names: &[u8]) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let names: HashSet<&[u8]> = names.chunks(NAME_BYTES).collect();
        for part in &self.parts {
            lock(part).retain(|_, kept| {
                let mut own = kept.names.chunks(NAME_BYTES);
                !own.any(|name| names.contains(name))
            });
        }
    }

    fn part(&self, key: &CacheKey) -> MutexGuard<'_, Cache<Place, Kept, Weigh>> {
        lock(&self.parts[usize::from(key.full().as_bytes()[0]) % PARTS])
    }
}

impl Place {
    fn of(key: &CacheKey, variant: VariantId) -> Self {
        Self {
            key: *key.full().as_bytes(),
            variant,
        }
    }
}

/// Weighs an answer by the bytes that it takes.
#[derive(Clone)]
struct Weigh;

impl Weighter<Place, Kept> for Weigh {
    fn weight(&self, _: &Place, kept: &Kept) -> u64 {
        PLACE_BYTES + (kept.names.len() + kept.entry.weight_bytes()) as u64
    }
}

impl CacheStore for TieredStore {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.far)
    }

    fn has_deadline(&self) -> bool {
        CacheStore::has_deadline(&self.far)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let names = self.far.names_for(key, selection);
        if let Some(lookup) = self.near.get(key, selection.variant(&names)) {
            return StoreFuture::ready(lookup);
        }
        let since = self.near.changes();
        let asked = match self.far.look_up(key, selection) {
            Ok(asked) => asked,
            Err(error) => return StoreFuture::failed(error),
        };
        let (store, key) = (self.clone(), *key);
        StoreFuture::pending(async move {
            store.near.listen(&store.far);
            let seen = asked.await?;
            store.near.keep(&key, &seen, since);
            Ok(seen.lookup)
        })
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let key = put.key;
        self.changing(self.far.put(put), move |near| near.forget(&key))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let key = touch.key;
        self.changing(self.far.touch(touch), move |near| near.forget(&key))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let names: Vec<u8> = targets.iter().flat_map(name_of).collect();
        let purging = self.far.purge(targets, mode);
        self.changing(purging, move |near| near.purge(&names))
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        // Who makes the answer looks first whether somebody else has: at the server.
        self.near.forget(key);
        self.far.lease(key, at_most)
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        self.far.release(key, token)
    }
}

impl TieredStore {
    /// Forgets what a call makes untrue: before it is made, in case that it is given up, and once
    /// it has been, also when it failed and may have been made all the same.
    fn changing<T: Send + 'static>(
        &self,
        asked: StoreFuture<T>,
        forget: impl Fn(&Near) + Send + 'static,
    ) -> StoreFuture<T> {
        forget(&self.near);
        match asked.into_ready() {
            Ok(answer) => answer.into(),
            Err(pending) => {
                let near = Arc::clone(&self.near);
                StoreFuture::pending(async move {
                    let answer = pending.await;
                    forget(&near);
                    answer
                })
            }
        }
    }
}

impl fmt::Debug for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.parts.iter().map(|part| lock(part).weight()).sum();
        f.debug_struct("Near").field("bytes", &bytes).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
