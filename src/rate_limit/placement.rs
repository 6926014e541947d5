//! Checks a limiter against its outer layers and against other limiters on the same store.

use std::sync::{Arc, atomic::Ordering};

use http::Extensions;

use super::{config::RateLimitConfig, policy::policy::Policy};
use crate::core::{
    error::ConfigError,
    framework,
    identity::Identity,
    layer_order::{self, Placed, Placement},
    live::Live,
    notice,
};

/// The limiters of this process.
static LIMITERS: Live<RateLimitConfig> = Live::new();

impl Placed for RateLimitConfig {
    fn placement(&self) -> &Placement {
        &self.checks.placement
    }
}

/// Compares a new limiter with the other limiters of this process.
pub(super) fn compare(config: &Arc<RateLimitConfig>) {
    let others = LIMITERS.add(config);
    let contradicted = others
        .iter()
        .find_map(|other| config.checks.counted.contradicted(&other.checks.counted));
    if let Some((own, other)) = contradicted {
        notice::built_wrong(&two_quotas(own, other));
    }
}

/// Checks one of the first requests and marks it for the inner layers.
#[cold]
pub(super) fn check(config: &Arc<RateLimitConfig>, extensions: &mut Extensions) {
    for outer in layer_order::passed(extensions) {
        if outer.is(config) {
            config
                .checks
                .placement
                .report_nested(|| applied_twice(config));
        } else if let Some(outer) = outer.config::<RateLimitConfig>()
            && let Some(policy) = config.checks.counted.charged_twice(&outer.checks.counted)
        {
            config
                .checks
                .placement
                .report_nested(|| charged_twice(policy));
        }
    }
    check_route(config, extensions);
    let is_unidentified = config.checks.placement.reads_identity() && !has_identity(extensions);
    layer_order::pass(config, extensions, is_unidentified);
}

/// Reports a limiter that is partitioned by route if none of the first requests has a route.
fn check_route(config: &RateLimitConfig, extensions: &Extensions) {
    let Some(is_known) = &config.checks.counted.is_route_known else {
        return;
    };
    is_known.fetch_or(
        framework::matched_path(extensions).is_some(),
        Ordering::Relaxed,
    );
    if config.checks.placement.is_last() && !is_known.load(Ordering::Relaxed) {
        config.checks.placement.report_nested(no_route);
    }
}

/// Marks a request without an identity for a limiter that reads the identity.
pub(super) fn mark(config: &Arc<RateLimitConfig>, extensions: &mut Extensions) {
    if !has_identity(extensions) {
        layer_order::pass_unidentified(config, extensions);
    }
}

fn has_identity(extensions: &Extensions) -> bool {
    extensions.get::<Identity>().is_some()
}

fn applied_twice(config: &RateLimitConfig) -> ConfigError {
    let policies = &config.checks.counted.policies;
    let policy = policies.first().map_or("none", Policy::name);
    ConfigError::new(
        "RateLimitLayer",
        format_args!("applied twice (policy `{policy}`)"),
        "each request is charged twice, so half of the limit is admitted",
    )
    .fix("apply the layer once, around all services that share its limits")
}

fn no_route() -> ConfigError {
    ConfigError::new(
        "Partition::route",
        "outside of the router",
        "none of the first requests had a route, so all routes share one quota",
    )
    .fix(
        "apply the layer by axum's `Router::layer` or `route_layer` (feature `axum`), or use \
         `Partition::from_fn`",
    )
}

fn charged_twice(policy: &str) -> ConfigError {
    ConfigError::new(
        "policy",
        policy,
        "two limiters around one service charge each request to the same count, so half of the \
         limit is admitted",
    )
    .fix("remove one of them, or separate the counts by `Policy::scope` or another name")
}

fn two_quotas(own: &Policy, other: &Policy) -> ConfigError {
    let (name, own, other) = (own.name(), own.quota(), other.quota());
    ConfigError::new(
        "policy",
        name,
        format!(
            "two limiters on one store share a count under this name with different quotas: \
             {other} and {own}"
        ),
    )
    .fix("separate the counts by `Policy::scope` or another name, or use the same quota in both")
}
