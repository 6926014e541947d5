//! The options of a key ring.

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
        notice,
        runtime::Runtime,
        store_api::{store_monitor::StoreWatch, timeout::Deadline},
        time::{Clock, SystemClock},
    },
};

impl KeyRing {
    /// Begins a ring of keys that open with `prefix`: the service's name, 3 to 24 of `a-z`, `0-9`
    /// and inner underscores. Six letters or more keep scanners from false alarms.
    pub fn builder(prefix: impl Into<String>, store: impl ApiKeyStore) -> KeyRingBuilder {
        KeyRingBuilder {
            prefix: prefix.into(),
            environments: vec!["live".to_owned()],
            pepper: None,
            former: Vec::new(),
            unpeppered: false,
            store: Arc::new(store),
            clock: None,
            audit: KeyAudit::default(),
            foreign: None,
            counts_uses: false,
            seals: false,
            plain_too: false,
            flush: None,
            deadline: Deadline::after(DEADLINE),
            patience: Deadline::after(PATIENCE),
            tag: None,
            former_tags: Vec::new(),
            checksums_too: false,
            memory: Memory {
                max_records: 10_000,
                records_for: None,
            },
        }
    }
}

/// The maximum number of wrong credentials that are remembered, and the time.
const WRONG_MAX: usize = 10_000;
const WRONG_FOR: Duration = Duration::from_secs(5);
/// How long a request waits for the store, unless the ring is told otherwise.
const DEADLINE: Duration = Duration::from_millis(50);
/// How long who manages keys waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flushes a ring again and again, as long as it is there.
async fn flush_every(interval: Duration, runtime: Arc<dyn Runtime>, ring: Weak<KeyRingInner>) {
    loop {
        runtime.sleep(interval).await;
        let Some(shared) = ring.upgrade() else { return };
        // A store that fails is told again after the next interval.
        let _ = shared.flush().await;
    }
}

/// Builds a [`KeyRing`].
#[must_use]
pub struct KeyRingBuilder {
    pub(super) prefix: String,
    pub(super) environments: Vec<String>,
    pub(super) pepper: Option<Pepper>,
    pub(super) former: Vec<Pepper>,
    pub(super) unpeppered: bool,
    pub(super) store: Arc<dyn ApiKeyStore>,
    pub(super) clock: Option<Arc<dyn Clock>>,
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
    pub(super) former_tags: Vec<KeyedTag>,
    pub(super) checksums_too: bool,
}

impl KeyRingBuilder {
    /// Sets the environments whose keys are made and accepted here; the first one is that of keys
    /// that name none. `live` alone by default.
    pub fn environments<I>(mut self, environments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.environments = environments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the pepper that new keys are digested under.
    ///
    /// A writer of the store that does not know the pepper cannot make a key: every digest, and
    /// every hash of an imported key, is bound to a pepper of the ring. It can still edit the owner,
    /// the scopes, the tier or the expiry of a key that exists, unless records are
    /// [sealed](Self::seal_records).
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Adds a previous pepper, whose keys are still accepted.
    ///
    /// It is trusted as much as the current one: a holder of it and a writer of the store can
    /// together make keys. Remove a pepper that has leaked.
    pub fn previous_pepper(mut self, pepper: Pepper) -> Self {
        self.former.push(pepper);
        self
    }

    /// Says that there is no pepper: keys are digested by SHA-256 alone, and whoever can write to
    /// the store can make keys.
    pub fn without_pepper(mut self) -> Self {
        self.unpeppered = true;
        self
    }

    /// Sets the clock that expiry is told by. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets who is told of each change that a manager of this ring has made, and of records that
    /// somebody else has written (see [`seal_records`](Self::seal_records)). The access log's
    /// queue is an auditor.
    ///
    /// It is called once the change is kept, on the task that made it: it must not block. If it
    /// panics, the change stands.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    /// Counts the uses of each key, to be told to the store by [`KeyRing::flush`].
    ///
    /// No request writes to the store. Between two reports, the uses of 16 384 keys at most are
    /// remembered.
    pub fn count_uses(mut self) -> Self {
        self.counts_uses = true;
        self
    }

    /// Flushes the ring at this interval (see [`KeyRing::flush`]). 30 to 60 seconds are plenty. The
    /// task ends with the ring.
    pub fn flush_every(mut self, interval: Duration, runtime: impl Runtime) -> Self {
        self.flush = Some((interval, Arc::new(runtime)));
        self
    }

    /// Sets how long a request waits for the store to answer, before it is answered `503`. 50
    /// milliseconds by default, or what a store that has a
    /// [deadline of its own](ApiKeyStore::has_timeout) waits.
    ///
    /// The time is told by [`runtime`](Self::runtime). A store in memory is never waited for.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Lets requests wait for as long as the store takes: for a store with a deadline of its own.
    pub fn without_store_timeout(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Sets how long a [`KeyManager`](crate::api_key::KeyManager) and a [flush](KeyRing::flush) wait for each
    /// answer of the store, before they fail by
    /// [`Timeout`](crate::StoreErrorKind::Timeout). 5 seconds by default, or what a store that has a
    /// [deadline of its own](ApiKeyStore::has_timeout) waits.
    pub fn manager_timeout(mut self, after: Duration) -> Self {
        self.patience.set(Some(after));
        self
    }

    /// Sets what tells that the store's time is over. By default it is the Tokio runtime that the
    /// request runs on (feature `tokio`); where there is none, there is no deadline.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.patience.sleep_on(runtime);
        self
    }

    /// Gives new keys a tag in the place of their checksum, and takes no key without one: whoever
    /// makes up keys costs the store nothing. Their ids begin with a `2`.
    ///
    /// Where there are keys with a checksum already, say so by
    /// [`accept_untagged`](Self::accept_untagged).
    pub fn keyed_tag(mut self, tag: KeyedTag) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Adds a tag that was in use before: its keys are still accepted.
    pub fn previous_keyed_tag(mut self, tag: KeyedTag) -> Self {
        self.former_tags.push(tag);
        self
    }

    /// Says that keys were made before there was a tag: they are still accepted. Until this is
    /// taken back, who makes up keys makes them up without a tag.
    pub fn accept_untagged(mut self) -> Self {
        self.checksums_too = true;
        self
    }

    /// Seals every record with a MAC under the pepper, and rejects records without a valid seal. Off
    /// by default.
    ///
    /// The MAC covers the whole record: id, version, digest, owner, lineage, tier, scopes, state,
    /// times, metadata, constraints, credits and limits. A writer of the store can then neither make
    /// a key nor change what a key may do. It can still delete a record, or replace a record by an
    /// older version of the same key.
    ///
    /// A request with a key whose record has no valid seal receives `500`, and the auditor is sent
    /// [`KeyRecordForged`](crate::AuditEvent::KeyRecordForged). Enable it before the first key is
    /// made: keys without a seal are rejected.
    pub fn seal_records(mut self) -> Self {
        self.seals = true;
        self
    }

    /// Says that keys were made without a pepper before there was one: they are still accepted, and
    /// get a digest under the pepper when they are used. Until the last of them has, who can write
    /// to the store can make keys.
    pub fn accept_unpeppered(mut self) -> Self {
        self.plain_too = true;
        self
    }

    /// Accepts keys that were made elsewhere and [imported](crate::api_key::KeyManager::import) here, and
    /// says how they are found.
    ///
    /// A credential that does not have the form of the ring's keys, and that no verifier of the layer
    /// recognizes, is looked up among them. On the first use of such a key its digest is renewed
    /// under the current pepper; the next [`KeyRing::flush`] writes it.
    ///
    /// Without this option, a record that holds the digest or the hash of a foreign key is rejected
    /// with `500`.
    pub fn imported_keys(mut self, foreign: ImportedKeys) -> Self {
        self.foreign = Some(foreign);
        self
    }

    /// Sets for how long a record that a server answered is remembered, 10 seconds at most; zero to
    /// ask the store for each request.
    ///
    /// By default this is 10 seconds where the store announces changes, and zero where it does not.
    /// A change made through a manager of this ring is known here at once. One made elsewhere is
    /// known when the store announces it, and if it does not, after this time at the latest. A
    /// store in memory is asked each time.
    pub fn key_cache_ttl(mut self, duration: Duration) -> Self {
        self.memory.records_for = Some(duration);
        self
    }

    /// Sets how many records are remembered at most. 10 000 by default.
    pub fn max_cached_keys(mut self, records: usize) -> Self {
        self.memory.max_records = records;
        self
    }

    /// Returns the ring.
    ///
    /// # Errors
    ///
    /// If the prefix or an environment is out of grammar, if two peppers have one id, if there is
    /// neither a pepper nor the word that there is none, if records are to be remembered for more
    /// than 10 seconds, if a deadline is zero, if the ring is to be flushed more often than each
    /// second, if records are to be sealed without a pepper, or if there was a former tag, or none,
    /// and there is none now.
    ///
    /// # Panics
    ///
    /// If the ring is to be flushed at an interval, and the runtime cannot spawn here.
    pub fn build(self) -> Result<KeyRing, ConfigError> {
        self.check_memory()?;
        self.check_pepper()?;
        self.check_flush()?;
        self.check_seal()?;
        self.check_deadlines()?;
        let tags = self.check_tags()?;
        let is_pepper_random = self.pepper.as_ref().is_some_and(Pepper::is_random);
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
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
                peppers: Peppers::new(self.pepper, self.former, self.plain_too)?,
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
        "the store outlives this process and the pepper does not: after a restart, and in every other \
         instance, all keys are invalid",
    )
    .fix("give `Pepper::new` a secret of 32 bytes from `openssl rand -hex 32`")
}

/// Returns a number that no other ring or layer of this process has; never zero.
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
