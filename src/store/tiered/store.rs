//! A store on a Redis server with a near cache in the memory of this process.

use std::{fmt, sync::Arc};

use super::cache::Near;
use crate::store::RedisStore;

/// A [`RedisStore`] with a near cache in the memory of this process.
///
/// After a cached response is looked up on the server, it is served from memory for up to two
/// seconds, without a command to the server. Each purge is published to all instances. An instance
/// invalidates its copies when it receives the purge, usually within milliseconds. While an
/// instance cannot receive purges, it bypasses the near cache and looks up each response on the
/// server.
///
/// A purge takes effect immediately on the instance that sends it, as with a [`RedisStore`]. On
/// each other instance, the purge takes effect when that instance receives the message, or after
/// two seconds if the message is lost.
///
/// Calls for API keys, rate limits and the log are passed to the server unchanged. A
/// [`KeyRing`](crate::api_key::KeyRing) has its own cache of keys.
///
/// ```no_run
/// use portcullis::{
///     cache::CacheLayer,
///     store::{StoreKeys, RedisConfig, RedisStore, TieredStore},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret_of_all_instances = std::env::var("STORE_SECRET")?;
/// let keys = StoreKeys::from_secret(secret_of_all_instances.as_bytes())?;
/// let server = RedisStore::new(RedisConfig::single("redis://127.0.0.1:6379"), keys)?;
/// let store = TieredStore::new(server, 16 << 20);
/// let cache = CacheLayer::new(store);
/// # let _ = cache;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TieredStore {
    pub(super) far: RedisStore,
    pub(super) near: Arc<Near>,
}

impl TieredStore {
    /// Creates a store whose near cache holds at most `max_near_bytes` of cached responses.
    pub fn new(server: RedisStore, max_near_bytes: u64) -> Self {
        Self {
            far: server,
            near: Arc::new(Near::new(max_near_bytes)),
        }
    }

    /// Returns the underlying store.
    pub fn server(&self) -> &RedisStore {
        &self.far
    }
}

impl fmt::Debug for TieredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TieredStore")
            .field("server", &self.far)
            .field("near", &self.near)
            .finish()
    }
}
