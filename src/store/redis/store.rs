//! A store on a Redis server, on a primary that Sentinels monitor, or on a Cluster.

use super::{
    ApiKeyNames, CacheShares, LogStreams, RateLimitState,
    config::{
        config::{RedisBounds, RedisConfig},
        server_check::ServerCheck,
    },
    connection::{client::Link, stats::RedisStats},
};

use crate::core::{
    error::{ConfigError, StoreError},
    notice,
    store_api::store_key::StoreKeys,
};
use std::{fmt, sync::Arc};

/// A store on a Redis server that all instances of a service share.
///
/// A single store serves every layer; a clone is a handle to the same store and connections. The
/// store connects at the first call and reconnects in the background, so a service can start while
/// its server is unavailable.
///
/// Instances that share a server need the same secret, because keys are digested with it. There is
/// no default secret. Instances with different secrets do not share their counts.
///
/// ```no_run
/// use portcullis::store::{StoreKeys, RedisConfig, RedisStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret_of_all_instances = std::env::var("STORE_SECRET")?;
/// let keys = StoreKeys::from_secret(secret_of_all_instances.as_bytes())?;
/// let store = RedisStore::new(RedisConfig::single("redis://127.0.0.1:6379"), keys)?;
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
///
/// # When the server is unavailable
///
/// Each call has a timeout. A call that exceeds the timeout fails with
/// [`Timeout`](crate::StoreErrorKind::Timeout) and is never sent again, because the server may have
/// executed it. While the server replies slowly, a call waits for as long as recent replies took,
/// but for at most eight times the timeout. If this process was too busy to read a reply in time,
/// it reads the reply before the call fails.
///
/// The server counts as unavailable if it sends nothing for 50 ms while a call waits
/// ([`idle_timeout`](RedisConfig::idle_timeout)), or after five rounds of calls without a reply.
/// From then on, all calls fail immediately, and a background task tries to connect once per
/// second. The calls fail with [`Misconfigured`](crate::StoreErrorKind::Misconfigured) if the
/// server rejects the credentials or the protocol version, and with
/// [`Unavailable`](crate::StoreErrorKind::Unavailable) otherwise. Time during which this process
/// did not run does not count. Each change in availability is reported once in a notice, to the
/// [`auditor`](RedisConfig::auditor), and in the [`stats`](Self::stats).
///
/// # Runtime
///
/// Connections run on the Tokio runtime of the call that opens them. Outside Tokio, or in a runtime
/// without an I/O driver, connections run on a thread named `portcullis`, which the process starts
/// on first use.
#[derive(Clone)]
pub struct RedisStore {
    pub(super) shared: Arc<RedisInner>,
}

/// The connections and the state of each layer, which all clones of a store share.
pub(super) struct RedisInner {
    pub(super) link: Arc<Link>,
    pub(super) keys: StoreKeys,
    pub(super) access_log: LogStreams,
    pub(super) api_key: ApiKeyNames,
    pub(super) cache: CacheShares,
    pub(super) rate_limit: RateLimitState,
    pub(super) bounds: RedisBounds,
    pub(super) server_check: ServerCheck,
}

impl RedisStore {
    /// Creates a store. The store connects at its first call.
    ///
    /// All instances need the same secret, so using [`StoreKeys::random`] is reported as a mistake.
    ///
    /// # Errors
    ///
    /// Returns an error if the configuration is invalid. An unreachable server does not cause an
    /// error here. To check that the server is reachable, call [`ping`](Self::ping).
    pub fn new(config: RedisConfig, keys: StoreKeys) -> Result<Self, ConfigError> {
        let config = config.check()?;
        if keys.is_random() {
            notice::built_wrong(&random_keys());
        }
        let bounds = config.bounds;
        let link = Arc::new(Link::new(config));
        Ok(Self {
            shared: Arc::new(RedisInner {
                access_log: LogStreams::new(&link, &keys),
                api_key: ApiKeyNames::new(&link, &keys),
                cache: CacheShares::new(&link, &keys),
                rate_limit: RateLimitState::new(&link, &keys),
                bounds,
                server_check: ServerCheck::default(),
                link,
                keys,
            }),
        })
    }

    /// Checks that the server replies. Use this method for readiness checks.
    ///
    /// Also call this method at startup, because the error contains the reason why the server
    /// cannot be used. Once the layers are built, the method also reads `INFO`, if that command is
    /// permitted. It then reports settings that can cause API keys or counts to be lost: eviction
    /// and a disabled append-only file. On a Cluster, the method checks one node.
    ///
    /// # Errors
    ///
    /// Returns an error if no reply arrives within
    /// [`api_key_timeout`](RedisConfig::api_key_timeout), or if the server cannot be used. The
    /// error's [`source`](std::error::Error::source) contains the server and the reason, as in
    /// `cannot use 127.0.0.1:6379: WRONGPASS ...`, but never a password. The kind is
    /// [`Misconfigured`](crate::StoreErrorKind::Misconfigured) if the server rejects the
    /// credentials or the configuration, and [`Unavailable`](crate::StoreErrorKind::Unavailable) or
    /// [`Timeout`](crate::StoreErrorKind::Timeout) otherwise.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let link = &self.shared.link;
        link.ping(link.timeouts().api_key).await?;
        self.shared.server_check.run(link).await;
        Ok(())
    }

    /// Calls the credentials provider and authenticates the open connections with the returned
    /// credentials.
    ///
    /// Call this method after a password or token is rotated, before the server stops accepting the
    /// previous password or token. No request fails, because current and later calls use the same
    /// connections. The connection that receives messages from other instances reconnects. For a
    /// few milliseconds, this instance therefore looks up API keys and cache entries on the server
    /// instead of using its local copies. Connections that are opened later always call the
    /// provider.
    ///
    /// # Errors
    ///
    /// Returns an error if the provider fails or times out, or if a server rejects the credentials
    /// twice. Each failure is reported as a notice, and the open connections keep their previous
    /// credentials. The kind is [`Misconfigured`](crate::StoreErrorKind::Misconfigured) if a server
    /// rejects the credentials, or if the store has no
    /// [`credentials_provider`](RedisConfig::credentials_provider).
    pub async fn reauthenticate(&self) -> Result<(), StoreError> {
        self.shared.link.reauthenticate().await
    }

    /// Returns the store's counters.
    pub fn stats(&self) -> RedisStats {
        self.shared.link.stats()
    }
}

pub(super) fn random_keys() -> ConfigError {
    let problem = "Redis outlives this process and a random secret does not: no data is found after a \
         restart, and instances do not share their counts and cache entries";
    ConfigError::new("keys", "StoreKeys::random", problem).fix(
        "pass the same `StoreKeys::from_secret` to all instances, 32 bytes from `openssl rand -hex 32`",
    )
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("server", &self.shared.link)
            .finish_non_exhaustive()
    }
}
