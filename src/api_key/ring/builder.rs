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
            checksum_tag::TagSecret,
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
    /// Creates a builder for a ring whose keys start with `prefix`, the name of the service. A
    /// prefix starts with a letter and consists of 3 to 24 characters in `a-z0-9` and single inner
    /// underscores. Secret scanners report fewer false positives if the prefix has six or more
    /// letters.
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

/// The maximum number of cached wrong credentials, and their time to live.
const WRONG_MAX: usize = 10_000;
const WRONG_FOR: Duration = Duration::from_secs(5);
/// The default store timeout of requests.
const DEADLINE: Duration = Duration::from_millis(50);
/// The default store timeout of managers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flushes a ring periodically until the ring is dropped.
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
    pub(super) tag: Option<TagSecret>,
    pub(super) previous_tags: Vec<TagSecret>,
    pub(super) checksums_too: bool,
}

impl KeyRingBuilder {
    /// Sets the environments whose keys are accepted. Defaults to `live`.
    ///
    /// New keys without an environment use the first one. The name of an environment consists of 1
    /// to 10 characters in `a-z0-9` and starts with a letter.
    pub fn environments<I>(mut self, environments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.environments = environments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the pepper with which new keys are digested. There is no default: a ring needs a pepper
    /// unless [`without_pepper`](Self::without_pepper) is called.
    ///
    /// Write access to the store is not enough to create a valid key, because every digest and
    /// imported hash is bound to one of the ring's peppers. It is enough to edit the owner, scopes,
    /// tier or expiry of an existing key, unless records are [sealed](Self::seal_records).
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Adds a previous pepper and accepts keys that were digested with it. Defaults to none.
    ///
    /// A previous pepper is trusted as much as the current one. Anyone who has the pepper and can
    /// write to the store can create valid keys, so remove a pepper that has leaked.
    pub fn previous_pepper(mut self, pepper: Pepper) -> Self {
        self.previous.push(pepper);
        self
    }

    /// Disables the pepper. Keys are then digested with plain SHA-256, and anyone who can write to
    /// the store can create valid keys. By default, a pepper is required.
    pub fn without_pepper(mut self) -> Self {
        self.unpeppered = true;
        self
    }

    /// Sets the clock that determines whether a key has expired. Defaults to the clock of
    /// [`Gate::clock`](crate::Gate::clock), or to the system clock if there is none.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Inherited::set(LayerClock::new(clock));
        self
    }

    /// Sets the auditor of the ring. Defaults to none. The auditor receives an event for each
    /// change that a manager of this ring makes and for each forged record (see
    /// [`seal_records`](Self::seal_records)). The access log's queue is an auditor.
    ///
    /// The auditor is called after the change is stored, on the task that made the change, and must
    /// not block. If the auditor panics, the change remains in effect.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    /// Counts the uses of each key. [`KeyRing::flush`] reports them to the store. This option is
    /// off by default.
    ///
    /// Requests never write to the store. Between two reports, the uses of at most 16 384 keys are
    /// counted. Uses of additional keys are not counted.
    pub fn count_uses(mut self) -> Self {
        self.counts_uses = true;
        self
    }

    /// Flushes the ring periodically (see [`KeyRing::flush`]). This option is off by default.
    ///
    /// The interval must be at least 1 second. An interval of 30 to 60 seconds is recommended. The
    /// task ends when the ring is dropped.
    pub fn flush_every(mut self, interval: Duration, runtime: impl Runtime) -> Self {
        self.flush = Some((interval, Arc::new(runtime)));
        self
    }

    /// Sets the timeout of store calls for requests. A request whose store call times out receives
    /// `503`. Defaults to 50 milliseconds, or to the store's [own
    /// timeout](ApiKeyStore::has_timeout), if any.
    ///
    /// [`runtime`](Self::runtime) provides the timer. The timeout does not apply to in-memory
    /// stores. [`build`](Self::build) fails if the timeout is zero.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Removes the timeout of store calls for requests, for stores that have their own timeout.
    pub fn without_store_timeout(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Sets the timeout of store calls by a [`KeyManager`](crate::api_key::KeyManager) or a
    /// [flush](KeyRing::flush). Calls that take longer fail with
    /// [`Timeout`](crate::StoreErrorKind::Timeout). Defaults to 5 seconds, or to the store's [own
    /// timeout](ApiKeyStore::has_timeout), if any.
    ///
    /// [`build`](Self::build) fails if the timeout is zero.
    pub fn manager_timeout(mut self, after: Duration) -> Self {
        self.patience.set(Some(after));
        self
    }

    /// Sets the runtime whose timer enforces store timeouts. Defaults to the Tokio runtime of the
    /// request (feature `tokio`). Without a runtime, store calls have no timeout.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.patience.sleep_on(runtime);
        self
    }

    /// Replaces the checksum of new keys with a keyed tag and rejects keys without a valid tag.
    /// Forged keys then cause no store requests. Defaults to no tag. The ids of new keys start with
    /// `2`.
    ///
    /// If keys with a checksum already exist, also call
    /// [`accept_untagged_keys`](Self::accept_untagged_keys).
    pub fn tag_secret(mut self, tag: TagSecret) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Adds a previous keyed tag and accepts keys that have it. Defaults to none.
    pub fn previous_tag_secret(mut self, tag: TagSecret) -> Self {
        self.previous_tags.push(tag);
        self
    }

    /// Accepts keys that were created before the ring had a keyed tag. This option is off by
    /// default. While this option is set, forged keys without a tag cause store requests.
    pub fn accept_untagged_keys(mut self) -> Self {
        self.checksums_too = true;
        self
    }

    /// Seals every record with a MAC that is keyed with the pepper, and rejects records without a
    /// valid seal. This option is off by default.
    ///
    /// The MAC covers the whole record: id, version, digest, owner, lineage, tier, scopes, state,
    /// times, metadata, constraints, credits and limits. Write access to the store is then not
    /// enough to create a key or to change a key's permissions. It is still enough to delete a
    /// record or to replace a record with an older version.
    ///
    /// If the record of a key has no valid seal, requests with the key receive `500`, and the
    /// auditor receives [`KeyRecordForged`](crate::AuditEvent::KeyRecordForged). Enable this option
    /// before the first key is created, because keys without a seal are rejected.
    pub fn seal_records(mut self) -> Self {
        self.seals = true;
        self
    }

    /// Accepts keys that were created before the ring had a pepper. This option is off by default.
    ///
    /// On its next use, such a key receives a digest that is keyed with the pepper. Until all of
    /// these keys have been used, anyone who can write to the store can create keys.
    pub fn accept_unpeppered(mut self) -> Self {
        self.plain_too = true;
        self
    }

    /// Accepts [imported](crate::api_key::KeyManager::import) keys, which another system issued,
    /// and sets the method by which they are found. This option is off by default.
    ///
    /// A credential is looked up as an imported key if it does not have the form of the ring's keys
    /// and no verifier of the layer recognizes it. On its first use, an imported key receives a
    /// digest that is keyed with the current pepper. The next [`KeyRing::flush`] writes the digest.
    ///
    /// Without this option, requests with a key whose record contains an imported digest or hash
    /// receive `500`.
    pub fn imported_keys(mut self, foreign: ImportedKeys) -> Self {
        self.foreign = Some(foreign);
        self
    }

    /// Sets the time for which records from a server are cached, at most 10 seconds. Zero disables
    /// the cache. Defaults to 10 seconds if the store announces changes, and to zero otherwise.
    ///
    /// Changes by a manager of this ring take effect in this process immediately. Changes by other
    /// processes take effect when the store announces them or, without announcements, after this
    /// time. Records from in-memory stores are not cached.
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
    /// Returns an error in these cases:
    ///
    /// - the prefix or an environment is invalid;
    /// - two peppers have the same id;
    /// - [`pepper`](Self::pepper) and [`without_pepper`](Self::without_pepper) are both called or
    ///   both omitted;
    /// - [`key_cache_ttl`](Self::key_cache_ttl) exceeds 10 seconds;
    /// - a timeout is zero, or [`flush_every`](Self::flush_every) is less than 1 second;
    /// - records are sealed without a pepper;
    /// - a previous tag or [`accept_untagged_keys`](Self::accept_untagged_keys) is set without a
    ///   current tag.
    ///
    /// # Panics
    ///
    /// Panics if [`flush_every`](Self::flush_every) is set and its runtime cannot spawn a task.
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
