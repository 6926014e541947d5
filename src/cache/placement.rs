//! Checks the position of a cache among the layers around it, on the first requests that reach the
//! handler.

use std::sync::Arc;

use http::{Extensions, Request};

use super::{config::Config, lookup::plan::RequestPlan, policy::policy::CachePolicy};
use crate::core::{
    error::ConfigError,
    identity::Identity,
    layer_order::{self, Placed, Placement},
};

impl Placed for Config {
    fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// Checks a request that is forwarded to the handler, and marks the request for the inner layers.
#[inline]
pub(super) fn check<B>(config: &Arc<Config>, plan: &RequestPlan, request: &mut Request<B>) {
    if config.placement.is_open() {
        check_nesting(config, request.extensions_mut());
    }
    if config.placement.reads_identity() {
        check_identity(config, request.extensions_mut());
    }
    if let RequestPlan::Look(look) = plan
        && config.probes.is_open()
    {
        probe_policy(config, look.facts.policy.as_ref(), request.extensions_mut());
    }
}

#[cold]
fn check_nesting(config: &Arc<Config>, extensions: &mut Extensions) {
    let passed = layer_order::passed(extensions);
    if passed.iter().any(|outer| outer.is(config)) {
        config.placement.report_nested(applied_twice);
    }
    layer_order::pass(config, extensions, false);
}

#[inline(never)]
fn check_identity(config: &Arc<Config>, extensions: &mut Extensions) {
    match extensions.get::<Identity>() {
        Some(_) => layer_order::identified(extensions),
        None => layer_order::pass_unidentified(config, extensions),
    }
}

/// Inserts a policy into the extensions that detects its replacement inside the cache.
#[cold]
fn probe_policy(config: &Config, policy: Option<&CachePolicy>, extensions: &mut Extensions) {
    if extensions.get::<CachePolicy>().is_some() {
        return;
    }
    let policy = policy.cloned().unwrap_or_default();
    let (probed, probe) = policy.probed(&config.probes);
    extensions.insert(probed);
    if let Some(placed) = extensions.get::<CachePolicy>() {
        probe.placed_at(placed);
    }
}

fn applied_twice() -> ConfigError {
    ConfigError::new(
        "CacheLayer",
        "applied twice",
        "a request that misses in the outer cache waits for itself in the inner one, for up to \
         `max_wait`",
    )
    .fix("apply the layer once, around everything that it caches")
}
