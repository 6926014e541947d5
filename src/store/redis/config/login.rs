//! The options of a Redis store that authenticate its connections.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{
    address::Address,
    credentials::{Login, Provider},
};
use crate::core::error::ConfigError;

/// The options that replace what a URL says of credentials and database.
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
    /// Checks that no option contradicts or lacks another one.
    pub(crate) fn check(&self, has_sentinels: bool) -> Result<(), ConfigError> {
        if self.provider.is_some() && (self.username.is_some() || self.password.is_some()) {
            let problem = "the provider replaces `user` and `password`, which are set too";
            return Err(ConfigError::new("credentials", "set", problem)
                .fix("drop `user` and `password`; the provider returns both"));
        }
        if self.sentinel_provider.is_some() && !has_sentinels {
            let problem = "the store has no Sentinels";
            return Err(ConfigError::new("sentinel_credentials", "set", problem)
                .fix("use `credentials` for the servers"));
        }
        Ok(())
    }

    /// Returns the address of a server with these options.
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

    /// Returns the address of a Sentinel with these options.
    pub(super) fn applied_to_sentinel(&self, sentinel: Address) -> Address {
        match &self.sentinel_provider {
            Some(provider) => sentinel.with_login(Login::Provided(provider.clone(), self.timeout)),
            None => sentinel,
        }
    }
}
