//! Options that authenticate the connections of a Redis store.

use std::{future::Future, time::Duration};

use zeroize::Zeroizing;

use super::{
    config::RedisConfig,
    credentials::{Provider, RedisCredentials},
};
use crate::core::error::BoxError;

impl RedisConfig {
    /// Sets the username. Overrides that of the URL.
    pub fn username(mut self, user: impl Into<String>) -> Self {
        self.login.username = Some(user.into());
        self
    }

    /// Sets the password. Overrides that of the URL.
    ///
    /// For a password that changes while the service runs, see
    /// [`credentials_provider`](Self::credentials_provider).
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.login.password = Some(Zeroizing::new(password.into()));
        self
    }

    /// Sets the database number. Overrides that of the URL; 0 by default. A Cluster has database 0
    /// only.
    pub fn database(mut self, database: u32) -> Self {
        self.login.database = Some(database);
        self
    }

    /// Sets a function that returns the current credentials, for passwords and tokens that rotate.
    ///
    /// The store calls it for each connection to a server or to a node of a Cluster, and again
    /// if the server rejects the result (`WRONGPASS` or `NOAUTH`).
    /// [`RedisStore::reauthenticate`](crate::store::redis::store::RedisStore::reauthenticate)
    /// applies new credentials to open connections. Calls can overlap, so the function should
    /// return a cached value while it is valid.
    ///
    /// If the function fails, panics or exceeds [`credentials_timeout`](Self::credentials_timeout),
    /// the server is unavailable until a later attempt succeeds; the store tries once per second.
    /// The notice contains the text of the error, which must not contain secrets.
    ///
    /// The credentials of the URL are not used. For Sentinels, use
    /// [`sentinel_credentials_provider`](Self::sentinel_credentials_provider).
    ///
    /// ```
    /// use portcullis::store::{RedisConfig, RedisCredentials};
    ///
    /// let config = RedisConfig::single("redis://127.0.0.1:6379").credentials_provider(|| async {
    ///     let password = std::fs::read_to_string("/run/secrets/redis")?;
    ///     Ok::<_, std::io::Error>(RedisCredentials::new("acme", password.trim()))
    /// });
    /// # let _ = config;
    /// ```
    ///
    /// # Errors
    ///
    /// [`RedisStore::new`](crate::store::redis::store::RedisStore::new) returns an error if
    /// [`username`](Self::username) or [`password`](Self::password) is also set.
    pub fn credentials_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login.provider = Some(Provider::new(provider));
        self
    }

    /// Sets a function that returns the current credentials of the Sentinels. Overrides those of
    /// the URLs. It is called like [`credentials_provider`](Self::credentials_provider).
    ///
    /// # Errors
    ///
    /// [`RedisStore::new`](crate::store::redis::store::RedisStore::new) returns an error if the
    /// store has no Sentinels.
    pub fn sentinel_credentials_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login.sentinel_provider = Some(Provider::new(provider));
        self
    }

    /// Sets the timeout of a call of [`credentials_provider`](Self::credentials_provider) or
    /// [`sentinel_credentials_provider`](Self::sentinel_credentials_provider). Defaults to 5 s;
    /// must be positive and at most 60 s.
    ///
    /// Requests do not wait that long: they wait for a connection for
    /// [`connect_timeout`](Self::connect_timeout) at most.
    pub fn credentials_timeout(mut self, timeout: Duration) -> Self {
        self.login.timeout = timeout;
        self
    }
}
