//! Options that authenticate the connections of a Redis store.

use std::{future::Future, time::Duration};

use zeroize::Zeroizing;

use super::{
    config::RedisConfig,
    credentials::{Provider, RedisCredentials},
};
use crate::core::error::BoxError;

impl RedisConfig {
    /// Sets the username. Overrides the username in the URL.
    pub fn username(mut self, user: impl Into<String>) -> Self {
        self.login.username = Some(user.into());
        self
    }

    /// Sets the password. Overrides the password in the URL.
    ///
    /// If the password changes while the service runs, use
    /// [`credentials_provider`](Self::credentials_provider) instead.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.login.password = Some(Zeroizing::new(password.into()));
        self
    }

    /// Sets the database number. Overrides the number in the URL. Defaults to 0. A Cluster has only
    /// database 0.
    pub fn database(mut self, database: u32) -> Self {
        self.login.database = Some(database);
        self
    }

    /// Sets a function that returns the current credentials, for passwords and tokens that are
    /// rotated.
    ///
    /// The store calls this function for each connection to a server or to a node of a Cluster. It
    /// calls the function again if the server rejects the returned credentials (`WRONGPASS` or
    /// `NOAUTH`).
    /// [`RedisStore::reauthenticate`](crate::store::redis::store::RedisStore::reauthenticate)
    /// applies new credentials to open connections. Calls can overlap, so the function should cache
    /// the credentials and return them for as long as they are valid.
    ///
    /// If the function fails, panics or exceeds [`credentials_timeout`](Self::credentials_timeout),
    /// the server is unavailable until a later attempt to connect succeeds. The store makes one
    /// attempt per second. The notice contains the error text, which must not contain secrets.
    ///
    /// The credentials in the URL are not used. For Sentinels, use
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

    /// Sets a function that returns the current credentials for the Sentinels. Overrides the
    /// credentials in the URLs of the Sentinels. The function is called under the same conditions
    /// as the function that is set with [`credentials_provider`](Self::credentials_provider).
    ///
    /// # Errors
    ///
    /// [`RedisStore::new`](crate::store::redis::store::RedisStore::new) returns an error if the
    /// store is not configured with Sentinels.
    pub fn sentinel_credentials_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login.sentinel_provider = Some(Provider::new(provider));
        self
    }

    /// Sets the timeout for a call to [`credentials_provider`](Self::credentials_provider) or
    /// [`sentinel_credentials_provider`](Self::sentinel_credentials_provider). Defaults to 5 s. The
    /// value must be positive and at most 60 s.
    ///
    /// Requests do not wait for the entire timeout. They wait for a connection for at most
    /// [`connect_timeout`](Self::connect_timeout).
    pub fn credentials_timeout(mut self, timeout: Duration) -> Self {
        self.login.timeout = timeout;
        self
    }
}
