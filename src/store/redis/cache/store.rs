//! The cache on a Redis server.
//!
//! The entries under a key are one hash, which expires. Each name by which entries are purged (a URL, a
//! tag, a caller, everything) has a token, a key of its own, and an entry is valid while the tokens
//! that it was stored with are there. A purge deletes the token: one write, whatever it names, that
//! needs no record afterwards. Fills in flight are compared with a bounded set of recent purges.
//!
//! In a Cluster there are several such sets, each in one slot with the entries of some of the URLs and
//! their tokens. A lookup is one command there too; only a purge by tag or caller goes to each slot.

use super::state::Share;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use redis::Value;

use crate::{
    cache::{
        CacheKey, CacheStore, Fence, Found, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put,
        PutOutcome, Selection, Stamp, StoredResponse, Touch, VariantId, VarySpec,
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::{store_future::StoreFuture, store_key::StoreKeys},
    },
    store::redis::{
        cache::names::{NAME_BYTES, PurgeNames},
        connection::{
            client::CallTurn,
            ground::together,
            pubsub::{Listening, News},
            script::{Script, ScriptCall},
        },
        store::{RedisInner, RedisStore},
    },
};

const PURGES: &str = include_str!("../scripts/cache_purges.lua");
const TOKENS: &str = include_str!("../scripts/cache_tokens.lua");

static GET: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_get.lua")]));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, TOKENS, include_str!("../scripts/cache_put.lua")]));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, TOKENS, include_str!("../scripts/cache_touch.lua")]));
static SINCE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_since.lua")]));
static PURGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_purge.lua")]));
static DROP: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_drop.lua")]));
static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_lease.lua")]));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_release.lua")]));

/// The maximum time for which an entry is stored.
const RETAIN_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The maximum number of recent purges that each set records, about 10 MB. A fill during which there are more is
/// not stored.
const PURGES_MAX: usize = 1 << 16;

/// What is heard of purges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purged<'a> {
    /// From now on each purge is heard of; what was before is not known.
    Heard,
    /// These were: their names, one behind the other.
    These(&'a [u8]),
    /// Purges may be missed.
    Unheard,
}

/// What a look-up found, and for how long it is kept.
pub(crate) struct SeenEntry {
    pub(crate) lookup: Lookup,
    pub(crate) left: Duration,
}

/// A question for the answer under a key.
struct EntryQuery {
    shared: Arc<RedisInner>,
    key: CacheKey,
    entry: Vec<u8>,
    variant: VariantId,
    is_asked_again: bool,
}

impl EntryQuery {
    /// Reads what the server says.
    async fn read(self, answer: Vec<Value>) -> Result<SeenEntry, StoreError> {
        let mut answer = answer.into_iter();
        let (Some(Value::Int(fence)), Some(Value::BulkString(what))) =
            (answer.next(), answer.next())
        else {
            return Err(corrupt());
        };
        let fence = Fence(u64::try_from(fence).unwrap_or_default());
        let mut left = Duration::ZERO;
        let found = match (&what[..], answer.next()) {
            (b"nothing", None) => Found::Nothing,
            (b"novariant", None) => Found::NoVariant,
            (b"varies", Some(Value::BulkString(names))) => self.varies(&names),
            (b"entry", Some(Value::BulkString(stamp))) => match self.entry(&stamp, answer) {
                Some((entry, kept_for)) => {
                    left = kept_for;
                    entry
                }
                None => self.drop_damaged(&stamp).await,
            },
            _ => return Err(corrupt()),
        };
        let lookup = Lookup { fence, found };
        Ok(SeenEntry { lookup, left })
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
    fn entry(&self, stamp: &[u8], parts: impl Iterator<Item = Value>) -> Option<(Found, Duration)> {
        let parts: [Value; 5] = parts.collect::<Vec<_>>().try_into().ok()?;
        let [
            Value::BulkString(key),
            Value::Int(soft),
            Value::Int(left),
            Value::BulkString(head),
            Value::BulkString(body),
        ] = parts
        else {
            return None;
        };
        let entry = StoredResponse::decode(Bytes::from(head), Bytes::from(body)).ok()?;
        if key != self.key.full().as_bytes() || entry.variant() != self.variant {
            return None;
        }
        let found = Found::Entry {
            entry: Arc::new(entry),
            stamp: Stamp(std::str::from_utf8(stamp).ok()?.parse().ok()?),
            expired: soft == 1,
        };
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        Some((found, left))
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

impl RedisInner {
    fn begin_answer(&self, key: &[u8]) -> Result<CallTurn, StoreError> {
        self.link.begin(key, self.link.deadlines().cache)
    }

    fn answers(&self, key: &CacheKey) -> Vec<u8> {
        let mut name = self.cache.share_of(key.uri()).start.clone();
        name.push(b':');
        crate::store::redis::connection::client::push_base64(&mut name, key.full().as_bytes());
        name
    }

    fn lease(&self, key: &CacheKey) -> Vec<u8> {
        [&self.answers(key)[..], b":lease"].concat()
    }
}

impl RedisStore {
    /// Returns what the answers under a key are expected to vary by.
    pub(crate) fn names_for(&self, key: &CacheKey, selection: &Selection<'_>) -> VarySpec {
        match selection.hint() {
            Some(names) => names.clone(),
            None => self.shared.cache.guess(key),
        }
    }

    /// Receives the purges of all instances, until the returned value is dropped.
    pub(in crate::store) fn hear_purges(
        &self,
        on_purge: impl Fn(Purged<'_>) + Send + Sync + 'static,
    ) -> Listening {
        let on_news = move |news| match news {
            News::Up => on_purge(Purged::Heard),
            News::Down => on_purge(Purged::Unheard),
            News::Message(message) => match message.split_at_checked(1) {
                Some((_, names)) if names.len().is_multiple_of(NAME_BYTES) => {
                    on_purge(Purged::These(names));
                }
                // Something was purged, and nobody knows what: nothing is kept.
                Some(_) | None => on_purge(Purged::Heard),
            },
        };
        let channel = self.shared.cache.channel.clone();
        self.shared.link.listen(channel, Arc::new(on_news))
    }

    /// Looks an answer up, and says for how long it is kept.
    pub(crate) fn look_up(
        &self,
        key: &CacheKey,
        selection: &Selection<'_>,
    ) -> Result<impl Future<Output = Result<SeenEntry, StoreError>> + Send + use<>, StoreError>
    {
        let part = &self.shared.cache;
        let names = self.names_for(key, selection);
        let question = EntryQuery {
            shared: Arc::clone(&self.shared),
            key: *key,
            entry: self.shared.answers(key),
            variant: selection.variant(&names),
            is_asked_again: selection.hint().is_some(),
        };
        let turn = self.shared.begin_answer(&question.entry)?;
        let share = part.share_of(key.uri());
        let mut call = GET.call(&[&share.purges, &question.entry]);
        call.arg(names.to_bytes())
            .arg(&question.variant.as_bytes()[..])
            .arg(&share.tokens);
        Ok(async move { question.read(turn.script(call).await?).await })
    }

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
    fn has_deadline(&self) -> bool {
        true
    }

    fn keys(&self) -> &StoreKeys {
        &self.shared.keys
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        match self.look_up(key, selection) {
            Ok(seen) => StoreFuture::pending(async move { Ok(seen.await?.lookup) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let part = &self.shared.cache;
        let body = put.entry.body();
        let head = match put.entry.encode_head() {
            Some(head) if body.len() <= self.shared.bounds.cache_body_bytes_max => head,
            Some(_) | None => return StoreFuture::ready(PutOutcome::TooLarge),
        };
        let Ok(fresh) = fresh_token() else {
            return StoreFuture::ready(PutOutcome::Purged);
        };
        part.learn(&put.key, put.entry.vary());
        let entry = self.shared.answers(&put.key);
        let names = PurgeNames::of(&put.key, &put.entry);
        let share = part.share_of(put.key.uri());
        let mut call = share.call(&PUT, Some(&entry), &names);
        call.arg(put.fence.0)
            .arg(put.entry.vary().to_bytes())
            .arg(&put.entry.variant().as_bytes()[..])
            .arg(&put.key.full().as_bytes()[..])
            .arg(names.as_bytes())
            .arg(millis(put.retain))
            .arg(put.variants_max.max(1))
            .arg(head)
            .arg(&body[..])
            .arg(&fresh[..]);
        self.ask_cache(&entry, call, |answer| match answer {
            [Value::BulkString(said)] if said == b"stored" => Some(PutOutcome::Stored),
            [Value::BulkString(said)] if said == b"purged" => Some(PutOutcome::Purged),
            _ => None,
        })
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let (Some(head), Ok(fresh)) = (touch.entry.encode_head(), fresh_token()) else {
            return StoreFuture::ready(false);
        };
        let entry = self.shared.answers(&touch.key);
        let names = PurgeNames::of(&touch.key, &touch.entry);
        let share = self.shared.cache.share_of(touch.key.uri());
        let mut call = share.call(&TOUCH, Some(&entry), &names);
        call.arg(touch.fence.0)
            .arg(format!("{:016}", touch.stamp.0))
            .arg(&touch.entry.variant().as_bytes()[..])
            .arg(&touch.key.full().as_bytes()[..])
            .arg(names.as_bytes())
            .arg(millis(touch.retain))
            .arg(head)
            .arg(&fresh[..]);
        self.ask_cache(&entry, call, |answer| match answer {
            [Value::Int(touched)] => Some(*touched == 1),
            _ => None,
        })
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let (shared, targets) = (Arc::clone(&self.shared), targets.to_vec());
        StoreFuture::pending(async move {
            let purges = shared.cache.shares.iter().map(|share| {
                let is_here = |target: &&PurgeTarget| match target {
                    PurgeTarget::Uri(uri) => std::ptr::eq(shared.cache.share_of(uri), share),
                    PurgeTarget::Tag(_) | PurgeTarget::Partition(_) | PurgeTarget::All => true,
                };
                let names: PurgeNames = targets.iter().filter(is_here).copied().collect();
                shared.purge_share(share, names, mode)
            });
            // Where a node of a Cluster is away the others purge all the same.
            let purged = together(purges).await;
            purged.into_iter().collect()
        })
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        let share = self.shared.cache.share_of(key.uri());
        let mut call = SINCE.call(&[&share.purges]);
        call.arg(fence.0).arg(PurgeNames::of(key, entry).as_bytes());
        self.ask_cache(&share.purges, call, |reply| match reply {
            [Value::Int(purged)] => Some(*purged != 0),
            _ => None,
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

impl RedisInner {
    /// Purges the entries with these names in one slot.
    async fn purge_share(
        &self,
        share: &Share,
        names: PurgeNames,
        mode: PurgeMode,
    ) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let call = share.call(&PURGE, None, &names);
        match self.purge_by(share, call, &names, mode).await {
            // There is no memory to record a purge in.
            Err(error) if error.kind() == StoreErrorKind::Full => {
                let mut keys = names.token_keys(&share.tokens);
                keys.push(share.purges.clone());
                self.unlink(&keys).await
            }
            // A slot that is moving to another node takes one key at a time.
            Err(error) if error.kind() == StoreErrorKind::Unavailable && self.link.is_spread() => {
                self.purge_apart(share, &names, mode).await
            }
            purged => purged,
        }
    }

    async fn purge_by(
        &self,
        share: &Share,
        mut call: ScriptCall,
        names: &PurgeNames,
        mode: PurgeMode,
    ) -> Result<(), StoreError> {
        let fresh = fresh_token()?;
        let turn = self.begin_answer(&share.purges)?;
        call.arg(match mode {
            PurgeMode::Hard => "h",
            PurgeMode::Soft => "s",
        });
        call.arg(&self.cache.channel)
            .arg(names.as_bytes())
            .arg(PURGES_MAX)
            .arg(&fresh[..]);
        turn.script(call).await.map(drop)
    }

    /// Purges by several commands of one key each. A soft purge is a hard one here.
    async fn purge_apart(
        &self,
        share: &Share,
        names: &PurgeNames,
        mode: PurgeMode,
    ) -> Result<(), StoreError> {
        let call = PURGE.call(&[&share.purges]);
        self.purge_by(share, call, names, mode).await?;
        for token in names.token_keys(&share.tokens) {
            self.unlink(&[token]).await?;
        }
        Ok(())
    }

    /// Deletes keys of one slot.
    async fn unlink(&self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let turn = self.begin_answer(first)?;
        turn.command(redis::cmd("UNLINK").arg(keys)).await.map(drop)
    }
}

/// Returns the random bytes of a token: no two tokens of a name may ever be equal.
fn fresh_token() -> Result<[u8; 8], StoreError> {
    let token = getrandom::u64().map_err(|_| {
        StoreError::with_source(
            StoreErrorKind::Misconfigured,
            "the system has no randomness",
        )
    })?;
    Ok(token.to_ne_bytes())
}

fn millis(time: Duration) -> u64 {
    let millis = time.min(RETAIN_MAX).as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

fn corrupt() -> StoreError {
    StoreError::with_source(StoreErrorKind::Corrupt, "the answer is none of a cache")
}
