//! A limiter's counts, which are compared with those of other limiters in the process.

use std::sync::atomic::AtomicBool;

use super::{
    partition::stored::StoredPartition,
    policy::{policy::Policy, policy_sets::PolicySets},
};
use crate::core::{
    layer_order::{LayerKind, Placement},
    store_api::store_key::StoreKey,
};

/// The checks of a limiter against the other layers in the process.
pub(super) struct Checks {
    pub(super) placement: Placement,
    pub(super) counted: LimiterCounts,
    /// `true` if a decision can depend on the identity of the caller.
    #[cfg_attr(
        not(all(
            feature = "access-log",
            feature = "api-key",
            feature = "cache",
            feature = "rate-limit"
        )),
        allow(dead_code, reason = "`Gate` alone reads it")
    )]
    pub(super) reads_identity: bool,
}

/// The counts that a limiter keeps.
#[derive(Debug)]
pub(super) struct LimiterCounts {
    /// The key spaces, if they can be compared.
    spaces: Option<Vec<StoreKey>>,
    pub(super) policies: Vec<Policy>,
    /// The policies that charge every request 1.
    unconditional: Vec<Policy>,
    /// Set to `true` once a request has a route. Present if the partition includes the route.
    pub(super) is_route_known: Option<AtomicBool>,
}

impl Checks {
    pub(super) fn new(counted: LimiterCounts, reads_identity: bool) -> Self {
        Self {
            placement: Placement::new(LayerKind::RateLimit, reads_identity),
            counted,
            reads_identity,
        }
    }
}

impl LimiterCounts {
    pub(super) fn new(partition: &StoredPartition, sets: &PolicySets) -> Self {
        Self {
            spaces: partition.spaces(),
            policies: sets.policies().cloned().collect(),
            unconditional: sets.fallback().for_all().to_vec(),
            is_route_known: partition.counts_routes().then(AtomicBool::default),
        }
    }

    /// Excludes policies whose charges depend on a function or on a caller list.
    pub(super) fn conditional(mut self, is_conditional: bool) -> Self {
        if is_conditional {
            self.unconditional.clear();
        }
        self
    }

    fn shares_spaces(&self, other: &Self) -> bool {
        self.spaces.is_some() && self.spaces == other.spaces
    }

    /// Returns the name of a policy that charges each request in both limiters, if there is one.
    pub(super) fn charged_twice(&self, outer: &Self) -> Option<&str> {
        if !self.shares_spaces(outer) {
            return None;
        }
        let is_outer = |own: &&Policy| outer.unconditional.iter().any(|it| it.id() == own.id());
        self.unconditional.iter().find(is_outer).map(Policy::name)
    }

    /// Returns two policies that share a count but have different quotas, if there are any.
    pub(super) fn contradicted<'a>(&'a self, other: &'a Self) -> Option<(&'a Policy, &'a Policy)> {
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
