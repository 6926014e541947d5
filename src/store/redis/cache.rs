//! Answers, on a Redis server.
//!
//! What is kept under a key is one hash, which expires. What was purged stands in one sorted set,
//! by the server's time, and each look-up holds what it finds against it: so a purge is one write,
//! whatever it names, and reaches what is being made.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use redis::Value;

use super::{
    RedisStore, Shared,
    link::{Link, Turn},
    script::{Script, ScriptCall},
};
use crate::{
    cache::{
        CacheKey, CacheStore, Fence, Found, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put,
        PutOutcome, Selection, Stamp, StoredResponse, Touch, VariantId, VarySpec,
    },
    error::{StoreError, StoreErrorKind},
    store_future::StoreFuture,
    store_key::{StoreKey, StoreKeys},
};

const PURGES: &str = include_str!("scripts/cache_purges.lua");

static GET: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("scripts/cache_get.lua")]));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("scripts/cache_put.lua")]));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("scripts/cache_touch.lua")]));
static PURGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("scripts/cache_purge.lua")]));
static DROP: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/cache_drop.lua")]));
static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/cache_lease.lua")]));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("scripts/cache_release.lua")]));

/// How long an answer is kept at most: a day less than what was purged is remembered.
const RETAIN_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How many purges are remembered at most, about 10 MB of them.
const PURGES_MAX: usize = 1 << 16;

/// Of how many keys this process remembers what their answers vary by.
const SPECS: usize = 1_024;

/// What this part holds on to.
pub(super) struct Part {
    purges: Vec<u8>,
    channel: Vec<u8>,
    /// What the answers of a key varied by when it was last looked up: a guess, which spares a
    /// second question. A key has one place.
    specs: Box<[Mutex<Option<Spec>>]>,
}

struct Spec {
    key: [u8; 32],
    names: VarySpec,
}

impl Part {
    pub(super) fn new(link: &Link, _: &StoreKeys) -> Self {
        Self {
            purges: link.name("purges"),
            channel: link.name("purged"),
            specs: (0..SPECS).map(|_| Mutex::default()).collect(),
        }
    }

    fn guess(&self, key: &CacheKey) -> VarySpec {
        match &*self.spec(key) {
            Some(spec) if spec.key == *key.full().as_bytes() => spec.names.clone(),
            Some(_) | None => VarySpec::default(),
        }
    }

    /// Remembers what the answers of a key vary by. Most vary by nothing, and take no place.
    fn learn(&self, key: &CacheKey, names: &VarySpec) {
        let mut place = self.spec(key);
        let is_own = matches!(&*place, Some(spec) if spec.key == *key.full().as_bytes());
        if !names.is_empty() {
            *place = Some(Spec {
                key: *key.full().as_bytes(),
                names: names.clone(),
            });
        } else if is_own {
            *place = None;
        }
    }

    fn spec(&self, key: &CacheKey) -> MutexGuard<'_, Option<Spec>> {
        let [first, second, ..] = key.full().as_bytes();
        let at = (usize::from(*first) << 8 | usize::from(*second)) % SPECS;
        // No foreign code runs under this lock.
        self.specs[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question for the answer under a key.
struct Question {
    shared: Arc<Shared>,
    key: CacheKey,
    entry: Vec<u8>,
    variant: VariantId,
    is_asked_again: bool,
}

impl Question {
    /// Reads what the server says.
    async fn read(self, answer: Vec<Value>) -> Result<Lookup, StoreError> {
        let mut answer = answer.into_iter();
        let (Some(Value::Int(fence)), Some(Value::BulkString(what))) =
            (answer.next(), answer.next())
        else {
            return Err(corrupt());
        };
        let fence = Fence(u64::try_from(fence).unwrap_or_default());
        let found = match (&what[..], answer.next()) {
            (b"nothing", None) => Found::Nothing,
            (b"novariant", None) => Found::NoVariant,
            (b"varies", Some(Value::BulkString(names))) => self.varies(&names),
            (b"entry", Some(Value::BulkString(stamp))) => match self.entry(&stamp, answer) {
                Some(entry) => entry,
                None => self.drop_damaged(&stamp).await,
            },
            _ => return Err(corrupt()),
        };
        Ok(Lookup { fence, found })
    }

    /// They vary by something else than was guessed: the server is asked again.
    fn varies(&self, names: &[u8]) -> Found {
        match VarySpec::from_bytes(names) {
            Ok(names) if !self.is_asked_again => {
                self.shared.cache.learn(&self.key, &names);
                Found::Varies(names)
            }
            // It changes under our eyes, or is damaged, and the next answer takes its place.
            Ok(_) | Err(_) => Found::Nothing,
        }
    }

    /// Reads an answer. `None` if it is not, byte for byte, one that was put under this key.
    fn entry(&self, stamp: &[u8], mut parts: impl Iterator<Item = Value>) -> Option<Found> {
        let (
            Some(Value::BulkString(key)),
            Some(Value::Int(soft)),
            Some(Value::BulkString(head)),
            Some(Value::BulkString(body)),
        ) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let entry = StoredResponse::decode(Bytes::from(head), Bytes::from(body)).ok()?;
        let is_own = key == self.key.full().as_bytes() && entry.variant() == self.variant;
        is_own.then_some(Found::Entry {
            entry: Arc::new(entry),
            stamp: Stamp(std::str::from_utf8(stamp).ok()?.parse().ok()?),
            expired: soft == 1,
        })
    }

    /// Lets go of what cannot be read, so that it is not read again.
    async fn drop_damaged(&self, stamp: &[u8]) -> Found {
        let mut call = DROP.call(&[&self.entry]);
        call.arg(&self.variant.as_bytes()[..]).arg(stamp);
        if let Ok(turn) = self.shared.begin_answer(&self.entry) {
            // Should it fail, whoever looks next tries again.
            let _ = turn.script(call).await;
        }
        Found::Nothing
    }
}

impl Shared {
    fn begin_answer(&self, key: &[u8]) -> Result<Turn, StoreError> {
        self.link.begin(key, self.link.deadlines().cache)
    }

    fn answers(&self, key: &CacheKey) -> Vec<u8> {
        let mut name = self.link.key("c", key.uri().as_bytes());
        name.push(b':');
        super::link::push_base64(&mut name, key.full().as_bytes());
        name
    }

    fn lease(&self, key: &CacheKey) -> Vec<u8> {
        [&self.answers(key)[..], b":lease"].concat()
    }
}

impl RedisStore {
    /// Puts a call about an answer.
    fn ask_cache<T: 'static>(
        &self,
        key: &[u8],
        call: ScriptCall,
        read: impl FnOnce(&[Value]) -> Option<T> + Send + 'static,
    ) -> StoreFuture<T> {
        match self.shared.begin_answer(key) {
            Ok(turn) => {
                StoreFuture::pending(
                    async move { read(&turn.script(call).await?).ok_or_else(corrupt) },
                )
            }
            Err(error) => StoreFuture::failed(error),
        }
    }
}

impl CacheStore for RedisStore {
    fn keys(&self) -> &StoreKeys {
        &self.shared.keys
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let part = &self.shared.cache;
        let names = match selection.hint() {
            Some(names) => names.clone(),
            None => part.guess(key),
        };
        let question = Question {
            shared: Arc::clone(&self.shared),
            key: *key,
            entry: self.shared.answers(key),
            variant: selection.variant(&names),
            is_asked_again: selection.hint().is_some(),
        };
        let turn = match self.shared.begin_answer(&question.entry) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut call = GET.call(&[&part.purges, &question.entry]);
        call.arg(names.to_bytes())
            .arg(&question.variant.as_bytes()[..]);
        StoreFuture::pending(async move { question.read(turn.script(call).await?).await })
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let part = &self.shared.cache;
        let body = put.entry.body();
        let head = match put.entry.encode_head() {
            Some(head) if body.len() <= self.shared.bounds.cache_body_bytes_max => head,
            Some(_) | None => return StoreFuture::ready(PutOutcome::TooLarge),
        };
        part.learn(&put.key, put.entry.vary());
        let entry = self.shared.answers(&put.key);
        let mut call = PUT.call(&[&part.purges, &entry]);
        call.arg(put.fence.0)
            .arg(put.entry.vary().to_bytes())
            .arg(&put.entry.variant().as_bytes()[..])
            .arg(&put.key.full().as_bytes()[..])
            .arg(targets_of(&put.key, &put.entry))
            .arg(millis(put.retain))
            .arg(put.variants_max.max(1))
            .arg(head)
            .arg(&body[..]);
        self.ask_cache(&entry, call, |answer| match answer {
            [Value::BulkString(said)] if said == b"stored" => Some(PutOutcome::Stored),
            [Value::BulkString(said)] if said == b"purged" => Some(PutOutcome::Purged),
            _ => None,
        })
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let Some(head) = touch.entry.encode_head() else {
            return StoreFuture::ready(false);
        };
        let entry = self.shared.answers(&touch.key);
        let mut call = TOUCH.call(&[&self.shared.cache.purges, &entry]);
        call.arg(touch.fence.0)
            .arg(format!("{:016}", touch.stamp.0))
            .arg(&touch.entry.variant().as_bytes()[..])
            .arg(&touch.key.full().as_bytes()[..])
            .arg(targets_of(&touch.key, &touch.entry))
            .arg(millis(touch.retain))
            .arg(head);
        self.ask_cache(&entry, call, |answer| match answer {
            [Value::Int(touched)] => Some(*touched == 1),
            _ => None,
        })
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let part = &self.shared.cache;
        if targets.is_empty() {
            return StoreFuture::ready(());
        }
        let turn = match self.shared.begin_answer(&part.purges) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut call = PURGE.call(&[&part.purges]);
        call.arg(match mode {
            PurgeMode::Hard => "h",
            PurgeMode::Soft => "s",
        });
        call.arg(&part.channel)
            .arg(targets.iter().flat_map(name_of).collect::<Vec<u8>>())
            .arg(PURGES_MAX);
        let shared = Arc::clone(&self.shared);
        StoreFuture::pending(async move {
            match turn.script(call).await {
                Err(error) if error.kind() == StoreErrorKind::Full => shared.purge_all().await,
                answer => answer.map(drop),
            }
        })
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        let Ok(token) = getrandom::u64() else {
            return StoreFuture::ready(Lease::Unsupported);
        };
        let name = self.shared.lease(key);
        let mut call = LEASE.call(&[&name]);
        call.arg(token).arg(millis(at_most));
        self.ask_cache(&name, call, move |answer| match answer {
            [Value::Int(1)] => Some(Lease::Leader(LeaseToken(token))),
            [Value::Int(0), Value::Int(wait)] => {
                let wait = u64::try_from(*wait).unwrap_or_default();
                Some(Lease::Busy(Duration::from_millis(wait).min(at_most)))
            }
            _ => None,
        })
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        let name = self.shared.lease(key);
        let mut call = RELEASE.call(&[&name]);
        call.arg(token.0);
        self.ask_cache(&name, call, |_| Some(()))
    }
}

impl Shared {
    /// Lets go of everything, on a server that has no room to write down what was purged: without
    /// its purges no answer lives.
    async fn purge_all(&self) -> Result<(), StoreError> {
        let turn = self.begin_answer(&self.cache.purges)?;
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(&self.cache.purges);
        turn.command(&unlink).await.map(drop)
    }
}

/// Returns all by which an answer is purged, 17 bytes each.
fn targets_of(key: &CacheKey, entry: &StoredResponse) -> Vec<u8> {
    let mut targets = vec![
        PurgeTarget::All,
        PurgeTarget::Uri(*key.uri()),
        PurgeTarget::Partition(*entry.partition()),
    ];
    targets.extend(entry.tags().iter().map(|tag| PurgeTarget::Tag(*tag)));
    targets.iter().flat_map(name_of).collect()
}

fn name_of(target: &PurgeTarget) -> [u8; 17] {
    let nothing = StoreKey::from_bytes([0; 16]);
    let (kind, digest) = match target {
        PurgeTarget::Uri(uri) => (b'u', uri),
        PurgeTarget::Tag(tag) => (b't', tag),
        PurgeTarget::Partition(partition) => (b'p', partition),
        PurgeTarget::All => (b'a', &nothing),
    };
    let mut name = [kind; 17];
    name[1..].copy_from_slice(digest.as_bytes());
    name
}

fn millis(time: Duration) -> u64 {
    let millis = time.min(RETAIN_MAX).as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

fn corrupt() -> StoreError {
    StoreError::with_source(StoreErrorKind::Corrupt, "the answer is none of a cache")
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cache::Part")
    }
}
