//! The options of a Redis store that authenticate its connections.

use std::{future::Future, time::Duration};

use zeroize::Zeroizing;

use super::{
    config::RedisConfig,
    credentials::{Provider, RedisCredentials},
};
use crate::core::error::BoxError;

impl RedisConfig {
    /// Sets the username, in place of the URL's.
    pub fn username(mut self, user: impl Into<String>) -> Self {
        self.login.username = Some(user.into());
        self
    }

    /// Sets the password, in place of the URL's.
    ///
    /// For a password that changes while the service runs, see [`credentials`](Self::credentials_provider).
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.login.password = Some(Zeroizing::new(password.into()));
        self
    }

    /// Sets the number of the database, in place of the URL's. A Cluster has database 0 only.
    pub fn database(mut self, database: u32) -> Self {
        self.login.database = Some(database);
        self
    }

    /// Sets a function that returns the current credentials, for passwords and tokens that rotate.
    ///
    /// The store calls it for each connection that it opens to a server or to a node of a Cluster,
    /// and once more if the server refuses what it returned (`WRONGPASS` or `NOAUTH`).
    /// [`RedisStore::reauthenticate`](crate::store::redis::store::RedisStore::reauthenticate) applies new credentials to
    /// open connections. Calls may overlap, so the function should return a cached value while that
    /// is valid.
    ///
    /// A function that fails, panics or exceeds [`credentials_timeout`](Self::credentials_timeout)
    /// makes the server unavailable until a later attempt succeeds; the store tries once per
    /// second. The notice holds the text of the error, so keep secrets out of it.
    ///
    /// It replaces the credentials of the URL. Sentinels have
    /// [`sentinel_credentials`](Self::sentinel_credentials_provider).
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
    /// [`RedisStore::new`](crate::store::redis::store::RedisStore::new) rejects it together with [`user`](Self::username) or
    /// [`password`](Self::password).
    pub fn credentials_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login.provider = Some(Provider::new(provider));
        self
    }

    /// Sets a function that returns the current credentials for the Sentinels, in place of the
    /// URLs'. It is called like that of [`credentials`](Self::credentials_provider).
    ///
    /// # Errors
    ///
    /// [`RedisStore::new`](crate::store::redis::store::RedisStore::new) rejects it on a store without Sentinels.
    pub fn sentinel_credentials_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login.sentinel_provider = Some(Provider::new(provider));
        self
    }

    /// Sets how long a call of [`credentials`](Self::credentials_provider) or
    /// [`sentinel_credentials`](Self::sentinel_credentials_provider) may take.
    ///
    /// Defaults to 5 s; must be positive and at most 60 s. Requests do not wait that long: they wait for a
    /// connection for [`connect_timeout`](Self::connect_timeout) at most.
    pub fn credentials_timeout(mut self, timeout: Duration) -> Self {
        self.login.timeout = timeout;
        self
    }
}
