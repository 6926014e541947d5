//! The cache on a Redis server.
//!
//! The entries of one key form a hash with an expiry. Each name by which entries are purged (a URL,
//! a tag, a caller, or all entries) has a token, which is a separate key. An entry is valid as long
//! as all tokens with which it was stored exist. A purge deletes the token. This takes one write,
//! regardless of the number of entries, and needs no further record. Fills in flight are compared
//! with a size-limited set of recent purges.
//!
//! In a Cluster, there are several such sets. Each set is in one slot, together with the entries of
//! some of the URLs and the tokens of those entries. A lookup is a single command even in a
//! Cluster. Only a purge by tag or caller is sent to each slot.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::Value;

use super::{
    names::PurgeNames,
    purge::{PURGES, TOKENS, fresh_token},
    query::{EntryQuery, SeenEntry, corrupt},
};
use crate::{
    cache::{
        CacheStore, PurgeMode,
        backend::{
            CacheKey, Fence, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Selection,
            StoredResponse, Touch, VarySpec,
        },
    },
    core::{
        error::StoreError,
        store_api::{store_future::StoreFuture, store_key::StoreKeys},
    },
    store::redis::{
        connection::{
            client::CallTurn,
            ground::together,
            script::{Script, ScriptCall},
        },
        store::{RedisInner, RedisStore},
    },
};

static GET: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_get.lua")]));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, TOKENS, include_str!("../scripts/cache_put.lua")]));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, TOKENS, include_str!("../scripts/cache_touch.lua")]));
static SINCE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_since.lua")]));
static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_lease.lua")]));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/cache_release.lua")]));

/// The maximum time for which an entry is stored.
const RETAIN_MAX: Duration = Duration::from_secs(7 * 86_400);

impl RedisInner {
    pub(super) fn begin_cache_call(&self, key: &[u8]) -> Result<CallTurn, StoreError> {
        self.link.begin(key, self.link.timeouts().cache)
    }

    fn entry_key(&self, key: &CacheKey) -> Vec<u8> {
        let mut name = self.cache.share_of(key.uri()).start.clone();
        name.push(b':');
        crate::store::redis::connection::client::push_base64(&mut name, key.full().as_bytes());
        name
    }

    fn lease(&self, key: &CacheKey) -> Vec<u8> {
        [&self.entry_key(key)[..], b":lease"].concat()
    }
}

impl RedisStore {
    /// Returns the expected `Vary` fields of a key.
    pub(crate) fn names_for(&self, key: &CacheKey, selection: &Selection<'_>) -> VarySpec {
        match selection.hint() {
            Some(names) => names.clone(),
            None => self.shared.cache.guess(key),
        }
    }

    /// Looks up an entry and the remaining time for which the entry is stored.
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
            entry: self.shared.entry_key(key),
            variant: selection.variant(&names),
            is_asked_again: selection.hint().is_some(),
        };
        let turn = self.shared.begin_cache_call(&question.entry)?;
        let share = part.share_of(key.uri());
        let mut call = GET.call(&[&share.purges, &question.entry]);
        call.arg(names.to_bytes())
            .arg(&question.variant.as_bytes()[..])
            .arg(&share.tokens);
        Ok(async move { question.read(turn.script(call).await?).await })
    }

    /// Sends a call about an entry.
    fn ask_cache<T: 'static>(
        &self,
        key: &[u8],
        call: ScriptCall,
        read: impl FnOnce(&[Value]) -> Option<T> + Send + 'static,
    ) -> StoreFuture<T> {
        match self.shared.begin_cache_call(key) {
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
    fn has_timeout(&self) -> bool {
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
            Some(head) if body.len() <= self.shared.bounds.max_cache_body_bytes => head,
            Some(_) | None => return StoreFuture::ready(PutOutcome::TooLarge),
        };
        let Ok(fresh) = fresh_token() else {
            return StoreFuture::ready(PutOutcome::Purged);
        };
        part.learn(&put.key, put.entry.vary());
        let entry = self.shared.entry_key(&put.key);
        let names = PurgeNames::of(&put.key, &put.entry);
        let share = part.share_of(put.key.uri());
        let mut call = share.call(&PUT, Some(&entry), &names);
        call.arg(put.fence.0)
            .arg(put.entry.vary().to_bytes())
            .arg(&put.entry.variant().as_bytes()[..])
            .arg(&put.key.full().as_bytes()[..])
            .arg(names.as_bytes())
            .arg(millis(put.retain))
            .arg(put.max_variants.max(1))
            .arg(head)
            .arg(&body[..])
            .arg(&fresh[..]);
        self.ask_cache(&entry, call, |reply| match reply {
            [Value::BulkString(said)] if said == b"stored" => Some(PutOutcome::Stored),
            [Value::BulkString(said)] if said == b"purged" => Some(PutOutcome::Purged),
            _ => None,
        })
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let (Some(head), Ok(fresh)) = (touch.entry.encode_head(), fresh_token()) else {
            return StoreFuture::ready(false);
        };
        let entry = self.shared.entry_key(&touch.key);
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
        self.ask_cache(&entry, call, |reply| match reply {
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
            // The other nodes of a Cluster execute the purge even if one is unavailable.
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
        self.ask_cache(&name, call, move |reply| match reply {
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

fn millis(time: Duration) -> u64 {
    let millis = time.min(RETAIN_MAX).as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}
