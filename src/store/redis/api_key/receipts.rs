//! Whether all instances have heard of what was changed.

use super::acknowledge::{MARK_START, receipts};
use std::{sync::LazyLock, time::Duration};

use redis::Value;

use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        time::{Clock, SystemClock},
    },
    store::redis::{
        connection::{client::Link, script::Script},
        store::RedisStore,
    },
};

static MARK: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_mark.lua")]));

/// How long to wait before receipts are counted again.
const PAUSE: Duration = Duration::from_millis(5);

/// The number of instances that have heard of all that was changed before they were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidationAcks {
    /// How many said so.
    pub heard: u64,
    /// How many listen to the server that was asked.
    pub listening: u64,
}

impl InvalidationAcks {
    /// Returns whether all who listen have heard.
    pub fn is_complete(&self) -> bool {
        self.heard >= self.listening
    }
}

impl RedisStore {
    /// Waits until all instances that listen have forgotten the keys that were changed before,
    /// but no longer than this, and returns how many have: for a revocation that somebody waits
    /// for.
    ///
    /// An instance listens from its first look-up of a key on. One that does not listen at the
    /// moment remembers nothing, and needs not be told. In a Cluster only those are counted that
    /// listen to the node which keeps the keys; the others hear at the same time.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use portcullis::{api_key::{KeyId, KeyManager}, store::RedisStore};
    /// # async fn revoke(manager: KeyManager, store: RedisStore, id: KeyId)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// manager.revoke(id, "it leaked").await?;
    /// let receipts = store.wait_for_invalidation_acks(Duration::from_secs(1)).await?;
    /// assert!(receipts.is_complete());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the server cannot be asked.
    pub async fn wait_for_invalidation_acks(
        &self,
        at_most: Duration,
    ) -> Result<InvalidationAcks, StoreError> {
        let link = &self.shared.link;
        let nonce = getrandom::u64().map_err(|_| StoreErrorKind::Unavailable)?;
        let mark = format!("{nonce:016x}");
        let key = receipts(link, mark.as_bytes());
        let begun = SystemClock::new();
        let start = begun.now();

        let mut call = MARK.call(&[&key]);
        call.arg(link.name("keys"))
            .arg([MARK_START, mark.as_bytes()].concat());
        let turn = link.begin(&key, at_most)?.at_most();
        let listening = match turn.script(call).await?[..] {
            [Value::Int(listening)] => u64::try_from(listening).unwrap_or_default(),
            _ => return Err(StoreErrorKind::Corrupt.into()),
        };
        loop {
            let heard = count(link, &key, at_most).await?;
            if heard >= listening || begun.now() - start >= at_most {
                return Ok(InvalidationAcks { heard, listening });
            }
            link.runtime().sleep(PAUSE).await;
        }
    }
}

async fn count(link: &Link, key: &[u8], at_most: Duration) -> Result<u64, StoreError> {
    let mut get = redis::cmd("GET");
    get.arg(key);
    match link.begin(key, at_most)?.at_most().command(&get).await? {
        Value::BulkString(count) => {
            let count = std::str::from_utf8(&count).unwrap_or_default();
            Ok(count.parse().unwrap_or_default())
        }
        _ => Ok(0),
    }
}
