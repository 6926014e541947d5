//! The conformance suite for cache stores, run on the built-in stores and on faulty ones.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    Clock, ManualClock, StoreFuture, Timestamp,
    cache::{CacheStore, PurgeMode},
    conformance,
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Fence, Found, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome,
            Selection, Stamp, StoreKey, StoredResponse, Touch,
        },
    },
};

#[tokio::test]
async fn the_store_in_memory_keeps_every_promise() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    conformance::cache(&store, async |time| clock.advance(time)).await;
}

#[tokio::test]
async fn a_small_store_in_memory_keeps_every_promise() {
    let clock = ManualClock::default();
    let store = MemoryStore::builder()
        .clock(clock.clone())
        .max_cache_bytes(4 << 20)
        .build()
        .unwrap();
    conformance::cache(&store, async |time| clock.advance(time)).await;
}

#[tokio::test]
async fn a_store_that_leases_keeps_every_promise() {
    let store = Wrong::new(Fault::None);
    let clock = store.clock.clone();
    conformance::cache(&store, async |time| clock.advance(time)).await;
}

/// A store that does one thing wrong.
struct Wrong {
    memory: MemoryStore,
    clock: ManualClock,
    fault: Fault,
    /// The latest answer under each URL.
    latest: Mutex<HashMap<StoreKey, Found>>,
    leases: Mutex<HashMap<CacheKey, (LeaseToken, Timestamp)>>,
    tokens: Mutex<u64>,
    purges: Mutex<u64>,
    purged_names: Mutex<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    MixesCallersUp,
    KeepsForEver,
    IgnoresFences,
    TouchesAnything,
    NeverTouches,
    PurgesSoftly,
    PurgesHard,
    SoftPurgesNothing,
    ForgetsTags,
    ForgetsCallers,
    PurgesEverything,
    /// It records few names exactly, and purges everything when there are more.
    RecordsFewPurges,
    /// After many purges, names that begin with the same byte are one name.
    ConfusesManyPurges,
    ExpiresWithManyPurges,
    KeepsAllVariants,
    KeepsOneVariant,
    KeepsNothing,
    /// Fills do not learn of purges.
    HidesPurges,
    AsksForEver,
    LeasesToAll,
    AnybodyReleases,
}

impl Wrong {
    fn new(fault: Fault) -> Self {
        let clock = ManualClock::default();
        Self {
            memory: MemoryStore::with_clock(clock.clone()),
            clock,
            fault,
            latest: Mutex::default(),
            leases: Mutex::default(),
            tokens: Mutex::default(),
            purges: Mutex::default(),
            purged_names: Mutex::default(),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Returns the targets that a faulty store purges by mistake, in addition to `targets`.
    fn reached_by_mistake(&self, targets: &[PurgeTarget]) -> Vec<PurgeTarget> {
        const FEW: usize = 65_536;
        let mut purged = self.purged_names.lock().unwrap();
        *purged += targets.len();
        match self.fault {
            Fault::RecordsFewPurges | Fault::ExpiresWithManyPurges if *purged > FEW => {
                *purged = 0;
                vec![PurgeTarget::All]
            }
            Fault::ConfusesManyPurges if *purged > FEW => {
                let first_byte = |target: &PurgeTarget| match target {
                    PurgeTarget::Uri(uri) => Some(uri.as_bytes()[0]),
                    _ => None,
                };
                let purged: HashSet<u8> = targets.iter().filter_map(first_byte).collect();
                let stored = self.latest.lock().unwrap();
                let confused = stored
                    .keys()
                    .filter(|uri| purged.contains(&uri.as_bytes()[0]));
                confused.map(|uri| PurgeTarget::Uri(*uri)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn now_or_never<T>(future: StoreFuture<T>) -> T {
        future.into_ready().ready().unwrap().unwrap()
    }
}

impl CacheStore for Wrong {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.memory)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let mut lookup = Self::now_or_never(self.memory.get(key, selection));
        let latest = self.latest.lock().unwrap();
        match &lookup.found {
            Found::Entry { entry, .. } if self.is(Fault::AsksForEver) => {
                lookup.found = Found::Varies(entry.vary().clone());
            }
            Found::Nothing if self.is(Fault::MixesCallersUp) => {
                if let Some(other) = latest.get(key.uri()) {
                    lookup.found = other.clone();
                }
            }
            _ => {}
        }
        StoreFuture::ready(lookup)
    }

    fn put(&self, mut put: Put) -> StoreFuture<PutOutcome> {
        let found = Found::entry(Arc::clone(&put.entry), Stamp(0), false);
        self.latest.lock().unwrap().insert(*put.key.uri(), found);
        match self.fault {
            Fault::KeepsForEver => put.retain = Duration::from_secs(1 << 30),
            // As if it had been looked up just now.
            Fault::IgnoresFences => put.fence = Fence(1 + *self.purges.lock().unwrap()),
            Fault::KeepsAllVariants => put.max_variants = 1_000,
            Fault::KeepsOneVariant => put.max_variants = 1,
            Fault::KeepsNothing => return StoreFuture::ready(PutOutcome::Stored),
            _ => {}
        }
        self.memory.put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        match self.fault {
            Fault::NeverTouches => StoreFuture::ready(false),
            Fault::TouchesAnything => {
                let Touch {
                    key,
                    entry,
                    fence,
                    retain,
                    ..
                } = touch;
                let put = Put::new(key, entry, fence, retain);
                let outcome = Self::now_or_never(self.memory.put(put));
                StoreFuture::ready(outcome == PutOutcome::Stored)
            }
            _ => self.memory.touch(touch),
        }
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let heeds = |target: &PurgeTarget| match target {
            PurgeTarget::Tag(_) => !self.is(Fault::ForgetsTags),
            PurgeTarget::Partition(_) => !self.is(Fault::ForgetsCallers),
            _ => true,
        };
        let mut targets: Vec<_> = targets.iter().copied().filter(heeds).collect();
        if self.is(Fault::PurgesEverything) {
            targets = vec![PurgeTarget::All];
        }
        targets.extend(self.reached_by_mistake(&targets));
        let mode = match self.fault {
            Fault::ExpiresWithManyPurges
                if targets.len() > 1 && targets.contains(&PurgeTarget::All) =>
            {
                PurgeMode::Soft
            }
            Fault::PurgesSoftly => PurgeMode::Soft,
            Fault::PurgesHard => PurgeMode::Hard,
            Fault::SoftPurgesNothing if mode == PurgeMode::Soft => return StoreFuture::ready(()),
            _ => mode,
        };
        *self.purges.lock().unwrap() += 1;
        self.memory.purge(&targets, mode)
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        match self.is(Fault::HidesPurges) {
            true => StoreFuture::ready(false),
            false => self.memory.is_purged_since(key, entry, fence),
        }
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        let now = self.clock.now();
        let mut leases = self.leases.lock().unwrap();
        match leases.get(key) {
            Some((_, until)) if *until > now && !self.is(Fault::LeasesToAll) => {
                StoreFuture::ready(Lease::Busy(*until - now))
            }
            _ => {
                let mut tokens = self.tokens.lock().unwrap();
                *tokens += 1;
                leases.insert(*key, (LeaseToken(*tokens), now + at_most));
                StoreFuture::ready(Lease::Leader(LeaseToken(*tokens)))
            }
        }
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        let mut leases = self.leases.lock().unwrap();
        let holds = leases.get(key).is_some_and(|(held, _)| *held == token);
        if holds || self.is(Fault::AnybodyReleases) {
            leases.remove(key);
        }
        StoreFuture::ready(())
    }
}

#[test]
fn a_store_that_breaks_a_promise_does_not_pass() {
    let purged = "a purged entry";
    let others = "purges of other names removed";
    for (fault, says) in [
        (Fault::MixesCallersUp, "an entry of another key"),
        (Fault::KeepsForEver, "an expired entry"),
        (Fault::IgnoresFences, "was purged during its fill"),
        (
            Fault::TouchesAnything,
            "a touch of an unknown entry succeeded",
        ),
        (Fault::NeverTouches, "a touch was rejected"),
        (Fault::PurgesSoftly, purged),
        (Fault::PurgesHard, "is not found"),
        (Fault::SoftPurgesNothing, "is expired: false"),
        (Fault::HidesPurges, "`is_purged_since` missed a purge"),
        (Fault::ForgetsTags, purged),
        (Fault::ForgetsCallers, purged),
        (Fault::PurgesEverything, "is not found"),
        (Fault::RecordsFewPurges, others),
        (Fault::ConfusesManyPurges, others),
        (Fault::ExpiresWithManyPurges, "of other names expired"),
        (Fault::KeepsAllVariants, "a variant beyond `max_variants`"),
        (Fault::KeepsOneVariant, "is not found"),
        (Fault::KeepsNothing, "is not found"),
        (Fault::AsksForEver, "returned `Varies`"),
        (Fault::LeasesToAll, "two leases of one key"),
        (Fault::AnybodyReleases, "released with another token"),
    ] {
        let store = Wrong::new(fault);
        let clock = store.clock.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let passed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let pause = async |time: Duration| clock.advance(time);
            runtime.block_on(conformance::cache(&store, pause));
        }));
        let panic = passed.expect_err(&format!("{fault:?} went unseen"));
        let said = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap();
        assert!(said.contains(says), "{fault:?} was seen as {said:?}");
    }
}
