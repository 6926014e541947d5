//! The key ring builder.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{rehash::Redigests, ring::KeyRing, state::KeyRingInner, usage::Usage};
use crate::{
    api_key::{
        authenticate::{
            guesses::Guesses,
            lookup::{Lookup, Memory},
        },
        import::{hash_pool::Hashing, imported::ImportedKeys},
        key::{
            checksum_tag::KeyedTag,
            digest::{Pepper, Peppers},
            format::KeyFormat,
        },
        manage::{audit::KeyAudit, creating::Creating, patient::PatientStore},
        store::ApiKeyStore,
    },
    core::{
        audit::Auditor,
        error::ConfigError,
        inherited::Inherited,
        inherited_clock::{InheritedClock, LayerClock},
        notice,
        runtime::Runtime,
        store_api::{store_monitor::StoreWatch, timeout::Deadline},
        time::Clock,
    },
};

impl KeyRing {
    /// Creates a builder for a ring of keys that start with `prefix`, the name of the service: 3 to
    /// 24 of `a-z`, `0-9` and single inner underscores. Six letters or more prevent false positives
    /// of secret scanners.
    pub fn builder(prefix: impl Into<String>, store: impl ApiKeyStore) -> KeyRingBuilder {
        KeyRingBuilder {
            prefix: prefix.into(),
            environments: vec!["live".to_owned()],
            pepper: None,
            previous: Vec::new(),
            unpeppered: false,
            store: Arc::new(store),
            clock: InheritedClock::default(),
            audit: KeyAudit::default(),
            foreign: None,
            counts_uses: false,
            seals: false,
            plain_too: false,
            flush: None,
            deadline: Deadline::after(DEADLINE),
            patience: Deadline::after(PATIENCE),
            tag: None,
            previous_tags: Vec::new(),
            checksums_too: false,
            memory: Memory {
                max_records: 10_000,
                records_for: None,
            },
        }
    }
}

/// The maximum number of wrong credentials that are cached, and their time to live.
const WRONG_MAX: usize = 10_000;
const WRONG_FOR: Duration = Duration::from_secs(5);
/// The default store timeout of requests.
const DEADLINE: Duration = Duration::from_millis(50);
/// The default store timeout of managers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flushes a ring periodically until it is dropped.
async fn flush_every(interval: Duration, runtime: Arc<dyn Runtime>, ring: Weak<KeyRingInner>) {
    loop {
        runtime.sleep(interval).await;
        let Some(shared) = ring.upgrade() else { return };
        // After a failure the data remains for the next flush.
        let _ = shared.flush().await;
    }
}

/// Builds a [`KeyRing`].
#[must_use]
pub struct KeyRingBuilder {
    pub(super) prefix: String,
    pub(super) environments: Vec<String>,
    pub(super) pepper: Option<Pepper>,
    pub(super) previous: Vec<Pepper>,
    pub(super) unpeppered: bool,
    pub(super) store: Arc<dyn ApiKeyStore>,
    pub(super) clock: InheritedClock,
    pub(super) memory: Memory,
    pub(super) audit: KeyAudit,
    pub(super) foreign: Option<ImportedKeys>,
    pub(super) counts_uses: bool,
    pub(super) seals: bool,
    pub(super) plain_too: bool,
    pub(super) flush: Option<(Duration, Arc<dyn Runtime>)>,
    pub(super) deadline: Deadline,
    pub(super) patience: Deadline,
    pub(super) tag: Option<KeyedTag>,
    pub(super) previous_tags: Vec<KeyedTag>,
    pub(super) checksums_too: bool,
}

impl KeyRingBuilder {
    /// Sets the environments whose keys are accepted. Defaults to `live`.
    ///
    /// New keys without an environment use the first one. An environment is 1 to 10 of `a-z` and
    /// `0-9` and starts with a letter.
    pub fn environments<I>(mut self, environments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.environments = environments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the pepper under which new keys are digested. Required, unless
    /// [`without_pepper`](Self::without_pepper) is called.
    ///
    /// A writer of the store that does not know the pepper cannot create a key: every digest, and
    /// every hash of an imported key, is bound to a pepper of the ring. It can still edit the
    /// owner, scopes, tier or expiry of an existing key, unless records are
    /// [sealed](Self::seal_records).
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Adds a previous pepper, whose keys are still accepted. None by default.
    ///
    /// It is trusted as much as the current one: its holder can create keys together with a writer
    /// of the store. Remove a pepper that has leaked.
    pub fn previous_pepper(mut self, pepper: Pepper) -> Self {
        self.previous.push(pepper);
        self
    }

    /// Disables the pepper: keys are digested by SHA-256 alone, and a writer of the store can
    /// create keys.
    pub fn without_pepper(mut self) -> Self {
        self.unpeppered = true;
        self
    }

    /// Sets the clock for expiry. Defaults to that of [`Gate::clock`](crate::Gate::clock), or else
    /// to the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Inherited::set(LayerClock::new(clock));
        self
    }

    /// Sets the auditor that receives an event for each change by a manager of this ring, and for
    /// each forged record (see [`seal_records`](Self::seal_records)). None by default. The queue of
    /// the access log is an auditor.
    ///
    /// The auditor is called after the change is stored, on the task that made it, and must not
    /// block. If it panics, the change is still in effect.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    /// Counts the uses of each key. [`KeyRing::flush`] reports them to the store. Off by default.
    ///
    /// Requests never write to the store. At most 16 384 keys are counted between two reports; the
    /// uses of further keys are not counted.
    pub fn count_uses(mut self) -> Self {
        self.counts_uses = true;
        self
    }

    /// Flushes the ring periodically (see [`KeyRing::flush`]). Off by default.
    ///
    /// The interval must be at least 1 second; 30 to 60 seconds are recommended. The task ends when
    /// the ring is dropped.
    pub fn flush_every(mut self, interval: Duration, runtime: impl Runtime) -> Self {
        self.flush = Some((interval, Arc::new(runtime)));
        self
    }

    /// Sets the timeout of store calls by requests, which receive `503` after it. Defaults to 50
    /// milliseconds, or to the store's [own timeout](ApiKeyStore::has_timeout).
    ///
    /// [`runtime`](Self::runtime) provides the timer. It does not apply to in-memory stores.
    /// [`build`](Self::build) fails if it is zero.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Removes the timeout of requests, for stores with a timeout of their own.
    pub fn without_store_timeout(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Sets the timeout of store calls by a [`KeyManager`](crate::api_key::KeyManager) or a
    /// [flush](KeyRing::flush), which fail with [`Timeout`](crate::StoreErrorKind::Timeout) after
    /// it. Defaults to 5 seconds, or to the store's [own timeout](ApiKeyStore::has_timeout).
    ///
    /// [`build`](Self::build) fails if it is zero.
    pub fn manager_timeout(mut self, after: Duration) -> Self {
        self.patience.set(Some(after));
        self
    }

    /// Sets the runtime that provides the timer of store timeouts. Defaults to the Tokio runtime of
    /// the request (feature `tokio`). There are no timeouts without a runtime.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.patience.sleep_on(runtime);
        self
    }

    /// Replaces the checksum of new keys with a tag, and rejects keys without one, so that forged
    /// keys cause no store requests. No tag by default. The ids of new keys start with `2`.
    ///
    /// If keys with a checksum exist already, call [`accept_untagged`](Self::accept_untagged).
    pub fn keyed_tag(mut self, tag: KeyedTag) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Adds a previous tag, whose keys are still accepted. None by default.
    pub fn previous_keyed_tag(mut self, tag: KeyedTag) -> Self {
        self.previous_tags.push(tag);
        self
    }

    /// Accepts keys that were created before the ring had a tag. Off by default. While it is set,
    /// forged keys without a tag still cause store requests.
    pub fn accept_untagged(mut self) -> Self {
        self.checksums_too = true;
        self
    }

    /// Seals every record with a MAC under the pepper, and rejects records without a valid seal.
    /// Off by default.
    ///
    /// The MAC covers the whole record: id, version, digest, owner, lineage, tier, scopes, state,
    /// times, metadata, constraints, credits and limits. A writer of the store can then neither
    /// create a key nor change the permissions of a key. It can still delete a record, or replace a
    /// record with an older version of the same key.
    ///
    /// A request with a key whose record has no valid seal receives `500`, and the auditor receives
    /// [`KeyRecordForged`](crate::AuditEvent::KeyRecordForged). Enable it before the first key is
    /// created: keys without a seal are rejected.
    pub fn seal_records(mut self) -> Self {
        self.seals = true;
        self
    }

    /// Accepts keys that were created before the ring had a pepper. Off by default.
    ///
    /// They receive a digest under the pepper when they are next used. Until all of them have one,
    /// a writer of the store can create keys.
    pub fn accept_unpeppered(mut self) -> Self {
        self.plain_too = true;
        self
    }

    /// Accepts keys that another system issued and that were
    /// [imported](crate::api_key::KeyManager::import), and sets the method of finding them. Off by
    /// default.
    ///
    /// A credential that does not have the form of the ring's keys, and that no verifier of the
    /// layer recognizes, is looked up as an imported key. The first use of such a key renews its
    /// digest under the current pepper; the next [`KeyRing::flush`] writes it.
    ///
    /// Without this option, a record with the digest or the hash of an imported key is rejected
    /// with `500`.
    pub fn imported_keys(mut self, foreign: ImportedKeys) -> Self {
        self.foreign = Some(foreign);
        self
    }

    /// Sets the time for which records from a server are cached, at most 10 seconds. Zero disables
    /// the cache.
    ///
    /// Defaults to 10 seconds if the store announces changes, and to zero otherwise. Changes by a
    /// manager of this ring take effect in this process immediately. Changes by other processes
    /// take effect when the store announces them, or else after this time. In-memory stores are not
    /// cached.
    pub fn key_cache_ttl(mut self, duration: Duration) -> Self {
        self.memory.records_for = Some(duration);
        self
    }

    /// Sets the maximum number of cached records. Defaults to 10 000.
    pub fn max_cached_keys(mut self, records: usize) -> Self {
        self.memory.max_records = records;
        self
    }

    /// Builds the ring.
    ///
    /// # Errors
    ///
    /// Returns an error if the prefix or an environment is invalid, if two peppers have the same
    /// id, if neither [`pepper`](Self::pepper) nor [`without_pepper`](Self::without_pepper) is
    /// called or both are, if [`key_cache_ttl`](Self::key_cache_ttl) exceeds 10 seconds, if a
    /// timeout is zero, if [`flush_every`](Self::flush_every) is less than 1 second, if records are
    /// sealed without a pepper, or if there is a previous tag or
    /// [`accept_untagged`](Self::accept_untagged) without a current tag.
    ///
    /// # Panics
    ///
    /// Panics if [`flush_every`](Self::flush_every) is set and its runtime cannot spawn here.
    pub fn build(self) -> Result<KeyRing, ConfigError> {
        self.check_memory()?;
        self.check_pepper()?;
        self.check_flush()?;
        self.check_seal()?;
        self.check_deadlines()?;
        let tags = self.check_tags()?;
        let is_pepper_random = self.pepper.as_ref().is_some_and(Pepper::is_random);
        let clock = Arc::new(self.clock);
        let deadline = self.deadline.beside(self.store.has_timeout());
        let patience = self.patience.beside(self.store.has_timeout());
        let watch = StoreWatch::new("api_key", self.audit.ground.clone());
        let store = &self.store;
        let ring = KeyRing {
            shared: Arc::new(KeyRingInner {
                seals_as: self.seals.then(next_number),
                redigests: Redigests::default(),
                foreign: self.foreign,
                hashing: Hashing::default(),
                guesses: Arc::new(Guesses::new(WRONG_MAX, WRONG_FOR)),
                creating: Creating::default(),
                usage: self.counts_uses.then(Usage::new),
                format: KeyFormat::new(&self.prefix, &self.environments, tags)?,
                peppers: Peppers::new(self.pepper, self.previous, self.plain_too)?,
                lookup: Lookup::new(
                    Arc::clone(store),
                    Arc::clone(&clock),
                    self.memory,
                    watch.clone(),
                    deadline,
                ),
                store: PatientStore::new(self.store, watch, patience),
                audit: self.audit,
                clock,
            }),
        };
        if is_pepper_random && ring.shared.lookup.is_shared() {
            notice::built_wrong(&random_pepper());
        }
        if let Some((interval, runtime)) = self.flush {
            let ring = Arc::downgrade(&ring.shared);
            let task = flush_every(interval, Arc::clone(&runtime), ring);
            runtime.spawn(Box::pin(task));
        }
        Ok(ring)
    }
}

fn random_pepper() -> ConfigError {
    ConfigError::new(
        "pepper",
        "Pepper::random",
        "the pepper is lost at exit while the store persists: all keys are invalid after a restart \
         and in other instances",
    )
    .fix("use `Pepper::new` with a secret from `openssl rand -hex 32`")
}

/// Returns a nonzero number that is unique among the rings and layers of this process.
pub(crate) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl fmt::Debug for KeyRingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRingBuilder")
            .field("prefix", &self.prefix)
            .field("environments", &self.environments)
            .finish_non_exhaustive()
    }
}
