//! A store on a Redis server, with a little memory before it for what is asked for again and again.

use std::{fmt, sync::Arc};

use super::cache::Near;
use crate::store::RedisStore;

/// A [`RedisStore`] with a little memory before its cache.
///
/// An answer that was looked up once is shown again from this process's memory, without a command,
/// for as long as two seconds. Each purge is published to all instances, and what it names is gone
/// from their memories as soon as they hear of it: some milliseconds. While an instance cannot hear
/// it keeps nothing in memory, and asks the server each time.
///
/// What the instance that purges shows is right at once, as with a [`RedisStore`]; what others show
/// is as soon as they have heard, and should the network have swallowed that, within two seconds.
///
/// Keys, limits and log go to the server as they do without it: a
/// [`KeyRing`](crate::api_key::KeyRing) remembers records by itself.
///
/// ```no_run
/// use portcullis::{
///     cache::CacheLayer,
///     store::{StoreKeys, RedisConfig, RedisStore, TieredStore},
/// };
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// # let secret_of_all_instances = [7; 32];
/// let keys = StoreKeys::from_secret(&secret_of_all_instances)?;
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
    /// Puts memory for so many bytes of answers before a store on a server.
    pub fn new(server: RedisStore, max_near_bytes: u64) -> Self {
        Self {
            far: server,
            near: Arc::new(Near::new(max_near_bytes)),
        }
    }

    /// Returns the store on the server.
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
