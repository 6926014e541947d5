//! Checks of an API-key layer against the layers outside it.

use std::sync::Arc;

use http::Extensions;

use super::config::ApiKeyConfig;
use crate::core::{
    error::ConfigError,
    layer_order::{self, Placed, Placement},
};

impl Placed for ApiKeyConfig {
    fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// Checks one of the first requests, and marks it for the layers further inside.
#[cold]
pub(super) fn check(config: &Arc<ApiKeyConfig>, extensions: &mut Extensions) {
    let passed = layer_order::passed(extensions);
    let is_stripped = passed
        .iter()
        .filter_map(|outer| outer.config::<ApiKeyConfig>())
        .any(|outer| outer.strips_all_of(config));
    if is_stripped {
        config.placement.report_nested(nested);
    }
    layer_order::pass(config, extensions, false);
}

impl ApiKeyConfig {
    /// Returns `true` if a request that this layer admits no longer contains a key for `inner`.
    fn strips_all_of(&self, inner: &Self) -> bool {
        let strips = |source| self.sources.contains(source);
        !self.keeps_credential && inner.sources.iter().all(strips)
    }
}

fn nested() -> ConfigError {
    ConfigError::new(
        "ApiKeyLayer",
        "inside of another one",
        "the outer layer removes the key from the request, so this one never finds a key",
    )
    .fix(
        "remove one of them, or call `forward_credential` on the outer one; for the scopes of a \
         route, use `RequireScopesLayer`",
    )
}
