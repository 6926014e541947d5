//! Confirmation that all instances have received a change.

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

/// The interval between two reads of the acknowledgment counter.
const PAUSE: Duration = Duration::from_millis(5);

/// The acknowledgments of previous key changes, sent by the subscribed instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidationAcks {
    /// The number of instances that have acknowledged the changes.
    pub heard: u64,
    /// The number of instances that are subscribed to the server.
    pub listening: u64,
}

impl InvalidationAcks {
    /// Returns `true` if all subscribed instances have acknowledged the changes.
    pub fn is_complete(&self) -> bool {
        self.heard >= self.listening
    }
}

impl RedisStore {
    /// Waits until all subscribed instances have invalidated the keys that were changed before this
    /// call, and returns the acknowledgments. Waits for at most `at_most`. Call this method after a
    /// revocation whose effect must be confirmed.
    ///
    /// An instance subscribes at its first key lookup. While an instance is not subscribed, it
    /// caches no keys and needs no acknowledgment. In a Cluster, only the instances that are
    /// subscribed to the node that stores the keys are counted. The other instances receive the
    /// message at the same time.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use portcullis::{BoxError, api_key::{KeyId, KeyManager}, store::RedisStore};
    ///
    /// /// Returns `true` if all subscribed instances reject the key.
    /// async fn revoke(
    ///     manager: &KeyManager,
    ///     store: &RedisStore,
    ///     id: KeyId,
    /// ) -> Result<bool, BoxError> {
    ///     manager.revoke(id, "it leaked").await?;
    ///     let acks = store.wait_for_invalidation_acks(Duration::from_secs(1)).await?;
    ///     Ok(acks.is_complete())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the server is unavailable or rejects the call.
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
