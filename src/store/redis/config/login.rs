//! The authentication options of a Redis store.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{
    address::Address,
    credentials::{Login, Provider},
};
use crate::core::error::ConfigError;

/// The options that override the credentials and the database in a URL.
#[derive(Clone)]
pub(crate) struct LoginOptions {
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) database: Option<u32>,
    pub(super) provider: Option<Provider>,
    pub(super) sentinel_provider: Option<Provider>,
    pub(crate) timeout: Duration,
}

impl Default for LoginOptions {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            database: None,
            provider: None,
            sentinel_provider: None,
            timeout: Duration::from_secs(5),
        }
    }
}

impl LoginOptions {
    /// Rejects options that contradict one another or require an option that is missing.
    pub(crate) fn check(&self, has_sentinels: bool) -> Result<(), ConfigError> {
        if self.provider.is_some() && (self.username.is_some() || self.password.is_some()) {
            let problem = "the provider replaces `username` and `password`, which are also set";
            return Err(ConfigError::new("credentials_provider", "set", problem)
                .fix("drop `username` and `password`; the provider returns both"));
        }
        if self.sentinel_provider.is_some() && !has_sentinels {
            let problem = "the store has no Sentinels";
            return Err(
                ConfigError::new("sentinel_credentials_provider", "set", problem)
                    .fix("use `credentials_provider` for the servers"),
            );
        }
        Ok(())
    }

    /// Returns the server address with these options applied.
    pub(super) fn applied_to(&self, address: Address) -> Address {
        let login = match (&self.provider, address.login()) {
            (Some(provider), _) => Login::Provided(provider.clone(), self.timeout),
            (None, Login::Fixed { username, password }) => Login::Fixed {
                username: self.username.clone().or_else(|| username.clone()),
                password: self.password.clone().or_else(|| password.clone()),
            },
            (None, provided @ Login::Provided(..)) => provided.clone(),
        };
        let database = self.database.map_or(address.database(), i64::from);
        address.with_login(login).with_database(database)
    }

    /// Returns the Sentinel address with these options applied.
    pub(super) fn applied_to_sentinel(&self, sentinel: Address) -> Address {
        match &self.sentinel_provider {
            Some(provider) => sentinel.with_login(Login::Provided(provider.clone(), self.timeout)),
            None => sentinel,
        }
    }
}
