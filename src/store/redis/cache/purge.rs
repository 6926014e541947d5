//! Purges, and the subscription to purges by other instances.

use std::sync::{Arc, LazyLock};

use super::{
    names::{NAME_BYTES, PurgeNames},
    state::Share,
};
use crate::{
    cache::PurgeMode,
    core::error::{StoreError, StoreErrorKind},
    store::redis::{
        connection::{
            pubsub::{Listening, News},
            script::{Script, ScriptCall},
        },
        store::{RedisInner, RedisStore},
    },
};

pub(super) const PURGES: &str = include_str!("../scripts/cache_purges.lua");
pub(super) const TOKENS: &str = include_str!("../scripts/cache_tokens.lua");

static PURGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[PURGES, include_str!("../scripts/cache_purge.lua")]));

/// The maximum number of recent purges in each set, which take about 10 MB. If more purges than
/// this occur during a fill, the response is not stored.
const PURGES_MAX: usize = 1 << 16;

/// An event of the subscription to purges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purged<'a> {
    /// Every purge from now on is received. Earlier purges are unknown.
    Heard,
    /// The concatenated names of one purge.
    These(&'a [u8]),
    /// Purges may be missed.
    Unheard,
}

impl RedisStore {
    /// Receives the purges of all instances until the returned value is dropped.
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
                // The message cannot be parsed, so all entries are invalidated.
                Some(_) | None => on_purge(Purged::Heard),
            },
        };
        let channel = self.shared.cache.channel.clone();
        self.shared.link.listen(channel, Arc::new(on_news))
    }
}

impl RedisInner {
    /// Purges the entries with these names in one slot.
    pub(super) async fn purge_share(
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
            // The server has no memory to record a purge.
            Err(error) if error.kind() == StoreErrorKind::Full => {
                let mut keys = names.token_keys(&share.tokens);
                keys.push(share.purges.clone());
                self.unlink(&keys).await
            }
            // Commands for a slot that is migrating are limited to one key.
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
        let turn = self.begin_cache_call(&share.purges)?;
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

    /// Purges with several single-key commands. A soft purge becomes a hard purge.
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

    /// Deletes keys that are in one slot.
    async fn unlink(&self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let turn = self.begin_cache_call(first)?;
        turn.command(redis::cmd("UNLINK").arg(keys)).await.map(drop)
    }
}

/// Returns a random token. Two tokens for the same name must never be equal.
pub(super) fn fresh_token() -> Result<[u8; 8], StoreError> {
    let token = getrandom::u64().map_err(|_| {
        StoreError::with_source(
            StoreErrorKind::Misconfigured,
            "the system has no random number source",
        )
    })?;
    Ok(token.to_ne_bytes())
}
