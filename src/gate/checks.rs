//! Checks that the layers of a gate fit together.

use crate::{
    access_log::AccessLogLayer, api_key::ApiKeyLayer, cache::CacheLayer, core::error::ConfigError,
    rate_limit::RateLimitLayer,
};

const KEYS_OR_NONE: &str = "call `api_keys`; if callers are authenticated by other means, or all \
     callers may see the same, call `without_api_keys`";

/// The layers that are present.
#[derive(Clone, Debug, Default)]
pub(super) struct Stages {
    pub(super) access_log: Option<AccessLogLayer>,
    pub(super) by_address: Option<RateLimitLayer>,
    pub(super) api_keys: Option<ApiKeyLayer>,
    pub(super) by_identity: Option<RateLimitLayer>,
    pub(super) cache: Option<CacheLayer>,
}

impl Stages {
    pub(super) fn check(&self, callers_known_otherwise: bool) -> Result<(), ConfigError> {
        let callers_known = self.api_keys.is_some() || callers_known_otherwise;
        if let Some(limits) = &self.by_address
            && limits.reads_identity()
        {
            return Err(ConfigError::new(
                "rate_limit_by_address",
                "counted by identity, owner or tier",
                "it runs before the API keys, where the caller is not known yet",
            )
            .fix(
                "count by `Partition::client_addr`, or pass the limits to `rate_limit_by_identity`",
            ));
        }
        if self.cache.is_some() && !callers_known {
            return Err(ConfigError::new(
                "cache",
                "outside of authentication",
                "if the inner service distinguishes callers, one receives the response of another",
            )
            .fix(KEYS_OR_NONE));
        }
        if let Some(limits) = &self.by_identity
            && limits.needs_identity()
            && !callers_known
        {
            return Err(ConfigError::new(
                "rate_limit_by_identity",
                "counted by identity or owner",
                "without API keys no request has an identity, and none is limited",
            )
            .fix(KEYS_OR_NONE));
        }
        Ok(())
    }
}
