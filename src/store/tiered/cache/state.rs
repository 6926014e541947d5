//! The tier in the memory of this process.

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
        CacheKey, CacheStore, Fence, Found, Lookup, PurgeMode, Stamp, StoredResponse, VariantId,
    },
    core::time::{Clock, SystemClock, Timestamp},
    store::{
        RedisStore,
        purges::{self, Name, Purges, Standing, StoredNames, names_of},
        redis::{Listening, NAME_BYTES, Purged, Seen},
    },
};

/// The time for which an entry is used without asking the server: at most as long as it takes to find out that
/// purges no longer arrive.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// Entries are spread over this many parts, each under its own lock.
const PARTS: usize = 8;

/// The overhead of an entry in addition to its own bytes and its names.
const PLACE_BYTES: usize = 256;

/// Cache entries in the memory of this process.
pub(crate) struct Near {
    parts: [Mutex<Cache<Place, Kept, Weigh>>; PARTS],
    /// The purges, and the keys that have been written to, since entries were looked up.
    pub(super) purges: Arc<Purges>,
    /// Whether purges of other instances arrive.
    is_heard: AtomicBool,
    listening: Mutex<Option<Listening>>,
    clock: SystemClock,
}

/// The place of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    key: [u8; 32],
    variant: VariantId,
}

struct Kept {
    entry: Arc<StoredResponse>,
    /// The fence of the lookup on the server. It is older than that of a lookup now, so at worst it
    /// refuses a fill that could have been stored.
    fence: Fence,
    stamp: Stamp,
    until: Timestamp,
    pub(super) names: StoredNames,
    /// The time of `purges` when the lookup on the server began.
    since: u64,
}

impl Near {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let each = (bytes_max / PARTS as u64).max(1);
        let items = usize::try_from(each / 4_096).unwrap_or(usize::MAX);
        Self {
            parts: std::array::from_fn(|_| {
                Mutex::new(Cache::with_weighter(items.clamp(16, 1 << 16), each, Weigh))
            }),
            purges: Purges::new(),
            is_heard: AtomicBool::new(false),
            listening: Mutex::default(),
            clock: SystemClock::new(),
        }
    }

    /// Subscribes to purges, unless that was done already.
    pub(super) fn listen(self: &Arc<Self>, far: &RedisStore) {
        let mut listening = lock(&self.listening);
        if listening.as_ref().is_none_or(Listening::is_over) {
            // The subscription must not keep this memory alive.
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
                self.is_heard.store(true, Ordering::SeqCst);
            }
            Purged::Unheard => {
                self.is_heard.store(false, Ordering::SeqCst);
                self.purge([None]);
            }
        }
    }

    pub(super) fn get(&self, key: &CacheKey, variant: VariantId) -> Option<Lookup> {
        if !self.is_heard.load(Ordering::SeqCst) {
            return None;
        }
        let (place, purged_to) = (Place::of(key, variant), self.purges.now());
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

    /// Keeps a copy of an entry on the server, unless it was purged or written since the lookup began.
    pub(super) fn keep(&self, key: &CacheKey, seen: &Seen, since: u64) {
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
        let kept = Kept {
            entry: Arc::clone(entry),
            fence: seen.lookup.fence,
            stamp: *stamp,
            until: self.clock.coarse() + seen.left.min(TRUSTED_FOR),
            names,
            since,
        };
        self.part(key).insert(Place::of(key, entry.variant()), kept);
    }

    /// Forgets all variants under a key.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.purge([Some(name_of_key(key))]);
    }

    /// Forgets every entry that has one of these names. The server tells hard and soft purges apart.
    pub(super) fn purge(&self, names: impl IntoIterator<Item = Option<Name>>) {
        self.purges.purge(names, PurgeMode::Hard);
    }

    fn part(&self, key: &CacheKey) -> MutexGuard<'_, Cache<Place, Kept, Weigh>> {
        lock(&self.parts[usize::from(key.full().as_bytes()[0]) % PARTS])
    }
}

/// Returns the name of all variants under a key.
fn name_of_key(key: &CacheKey) -> Name {
    let half = key.full().as_bytes().first_chunk();
    Name::new(b'k', half.expect("a digest has 32 bytes"))
}

/// Reads a name from a message. `None`, which names everything, if it is not one of a URL, a tag or a
/// caller.
fn name_in(message: &[u8]) -> Option<Name> {
    match message.split_first()? {
        (kind @ (b'u' | b't' | b'p'), digest) => Some(Name::new(*kind, digest.first_chunk()?)),
        _ => None,
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

/// Weighs an entry by the bytes that it takes.
#[derive(Clone)]
struct Weigh;

impl Weighter<Place, Kept> for Weigh {
    fn weight(&self, _: &Place, kept: &Kept) -> u64 {
        let names = 2 + kept.entry.tags().len();
        (PLACE_BYTES + names * purges::NAME_BYTES + kept.entry.weight_bytes()) as u64
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
