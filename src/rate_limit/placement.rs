//! Checks a limiter against the layers outside of it, and against other limiters on its store.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Extensions;

use super::{config::Config, partition::StoredPartition, policy::Policy, policy_set::PolicySets};
use crate::{
    error::ConfigError,
    framework,
    identity::Identity,
    layer_order::{self, Placed, Placement},
    live::Live,
    notice,
    store_key::StoreKey,
};

/// The limiters of this process.
static LIMITERS: Live<Config> = Live::new();

/// What a limiter counts.
#[derive(Debug)]
pub(super) struct Counted {
    /// The spaces of the store, if they can be compared.
    spaces: Option<Vec<StoreKey>>,
    policies: Vec<Policy>,
    /// Policies that each request is charged for, if each costs one.
    of_each_request: Vec<Policy>,
    /// Present if routes are counted apart: whether one was known.
    is_route_known: Option<AtomicBool>,
}

impl Counted {
    pub(super) fn new(partition: &StoredPartition, sets: &PolicySets) -> Self {
        Self {
            spaces: partition.spaces(),
            policies: sets.policies().cloned().collect(),
            of_each_request: sets.fallback().for_all().to_vec(),
            is_route_known: partition.counts_routes().then(AtomicBool::default),
        }
    }

    /// Keeps that the charges of a request depend on a function or a list.
    pub(super) fn conditional(mut self, is_conditional: bool) -> Self {
        if is_conditional {
            self.of_each_request.clear();
        }
        self
    }

    fn shares_spaces(&self, other: &Self) -> bool {
        self.spaces.is_some() && self.spaces == other.spaces
    }

    /// Returns the name of a policy that both charge each request for.
    fn charged_twice(&self, outer: &Self) -> Option<&str> {
        if !self.shares_spaces(outer) {
            return None;
        }
        let is_outer = |own: &&Policy| outer.of_each_request.iter().any(|it| it.id() == own.id());
        self.of_each_request.iter().find(is_outer).map(Policy::name)
    }

    /// Returns a policy whose count both share while their quotas differ, and the other quota.
    fn contradicted<'a>(&'a self, other: &'a Self) -> Option<(&'a Policy, &'a Policy)> {
        if !self.shares_spaces(other) {
            return None;
        }
        self.policies.iter().find_map(|own| {
            let mut same_count = other.policies.iter().filter(|it| it.id() == own.id());
            let theirs = same_count.clone().next()?;
            let is_known = same_count.any(|it| self.has_quota_of(it));
            (!is_known).then_some((own, theirs))
        })
    }

    fn has_quota_of(&self, other: &Policy) -> bool {
        let mut same_count = self.policies.iter().filter(|own| own.id() == other.id());
        same_count.any(|own| own.quota() == other.quota())
    }
}

impl Placed for Config {
    fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// Compares a new limiter with the others of this process.
pub(super) fn compare(config: &Arc<Config>) {
    let others = LIMITERS.add(config);
    let contradicted = others
        .iter()
        .find_map(|other| config.counted.contradicted(&other.counted));
    if let Some((own, other)) = contradicted {
        notice::built_wrong(&two_quotas(own, other));
    }
}

/// Checks one of the first requests, and marks it for the layers further inside.
#[cold]
pub(super) fn check(config: &Arc<Config>, extensions: &mut Extensions) {
    for outer in layer_order::passed(extensions) {
        if outer.is(config) {
            config.placement.report_nested(|| applied_twice(config));
        } else if let Some(outer) = outer.config::<Config>()
            && let Some(policy) = config.counted.charged_twice(&outer.counted)
        {
            config.placement.report_nested(|| charged_twice(policy));
        }
    }
    check_route(config, extensions);
    let is_unidentified = config.placement.reads_identity() && !has_identity(extensions);
    layer_order::pass(config, extensions, is_unidentified);
}

/// Reports a limiter by route if none of the first requests had one.
fn check_route(config: &Config, extensions: &Extensions) {
    let Some(is_known) = &config.counted.is_route_known else {
        return;
    };
    is_known.fetch_or(
        framework::matched_path(extensions).is_some(),
        Ordering::Relaxed,
    );
    if config.placement.is_last() && !is_known.load(Ordering::Relaxed) {
        config.placement.report_nested(no_route);
    }
}

/// Marks a request without an identity, for a limiter that reads it.
pub(super) fn mark(config: &Arc<Config>, extensions: &mut Extensions) {
    if !has_identity(extensions) {
        layer_order::pass_unidentified(config, extensions);
    }
}

fn has_identity(extensions: &Extensions) -> bool {
    extensions.get::<Identity>().is_some()
}

fn applied_twice(config: &Config) -> ConfigError {
    let policies = &config.counted.policies;
    let policy = policies.first().map_or("none", Policy::name);
    ConfigError::new(
        "RateLimitLayer",
        format_args!("applied twice (policy `{policy}`)"),
        "each request is charged twice, so half of the limit is admitted",
    )
    .fix("apply the layer once, around all that shares its limits")
}

fn no_route() -> ConfigError {
    ConfigError::new(
        "Partition::route",
        "outside of the router",
        "none of the first requests had a route, so all routes share one quota",
    )
    .fix(
        "apply the layer by axum's `Router::layer` or `route_layer` (feature `axum`), or count by \
         `Partition::by`",
    )
}

fn charged_twice(policy: &str) -> ConfigError {
    ConfigError::new(
        "policy",
        policy,
        "two limiters around one service charge each request to one count, so half of the limit is \
         admitted",
    )
    .fix("remove one of them, or count apart by `Policy::scope` or by another name")
}

fn two_quotas(own: &Policy, other: &Policy) -> ConfigError {
    let (name, own, other) = (own.name(), own.quota(), other.quota());
    ConfigError::new(
        "policy",
        name,
        format!(
            "two limiters on one store share one count under this name, and have different quotas: \
             {other} and {own}"
        ),
    )
    .fix("count apart by `Policy::scope` or by another name, or give both the same quota")
}
