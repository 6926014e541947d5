//! The limits of a layer before their validation.

use super::{
    overrides::{self, Reads},
    policy::Policy,
    policy_set::PolicySet,
    policy_sets::PolicySets,
    tiers::Tiers,
};
use crate::{
    core::error::ConfigError,
    rate_limit::{
        admission::{charging::ChargingOptions, penalty::Bans},
        config_notices::LimitNotices,
        failover::stores::StoreOptions,
    },
};

/// The limits of a layer, and the options that they depend on.
pub(crate) struct LimitSpec<'a> {
    pub(crate) policies: &'a [Policy],
    pub(crate) tiers: Option<&'a Tiers>,
    pub(crate) reads: Reads,
    pub(crate) bans: Option<&'a Bans>,
    pub(crate) stores: &'a StoreOptions,
    pub(crate) charging: &'a ChargingOptions,
}

impl LimitSpec<'_> {
    /// Returns the policies of all tiers and reports mistakes that are not errors.
    ///
    /// # Errors
    ///
    /// Returns an error if the policies limit nothing, contradict one another, or need an option
    /// that is not set.
    pub(crate) fn sets(&self) -> Result<PolicySets, ConfigError> {
        let share = self.stores.on_error.share()?;
        let sets = PolicySets::new(self.policies, self.tiers, share)?;
        overrides::check_names(self.reads, sets.policies())?;
        self.check_not_empty(&sets)?;
        let on_error = &self.stores.on_error;
        (sets.policies()).try_for_each(|policy| on_error.check_override(policy))?;
        self.check_runtime(&sets)?;
        sets.each().try_for_each(|set| self.check_stores(set))?;
        let sets = sets.with_tiers_by_function(self.charging.tier_with.is_some());
        self.notices(&sets)?.report();
        Ok(sets)
    }

    fn check_not_empty(&self, sets: &PolicySets) -> Result<(), ConfigError> {
        if !sets.is_empty() || self.has_others() {
            return Ok(());
        }
        let problem = "a limiter requires at least one policy";
        let error = ConfigError::new("policies", "empty", problem);
        Err(error.fix("add one with `policy`, or add tiers with policies"))
    }

    fn check_runtime(&self, sets: &PolicySets) -> Result<(), ConfigError> {
        if self.stores.runtime.is_some() || !sets.policies().any(has_queue) {
            return Ok(());
        }
        let problem = "queues require a timer";
        let error = ConfigError::new("runtime", "none", problem);
        Err(error.fix("set one with `runtime`, or enable the feature `tokio`"))
    }

    /// Checks that the stores can decide requests with these policies.
    fn check_stores(&self, set: &PolicySet) -> Result<(), ConfigError> {
        let ban = self.bans.map(Bans::policy);
        let policies: Vec<&Policy> = set.policies().iter().chain(ban).collect();
        self.stores.store.check(&policies)?;
        let (Some(store), Some(local)) = (self.stores.on_error.store(), set.local_part()) else {
            return Ok(());
        };
        let policies: Vec<&Policy> = local.policies().iter().collect();
        store.check(&policies)
    }

    fn notices<'s>(&'s self, sets: &'s PolicySets) -> Result<LimitNotices<'s>, ConfigError> {
        Ok(LimitNotices {
            sets,
            tiers: self.tiers,
            share: self.stores.on_error.share()?,
            has_penalty_for_denials: self.bans.is_some_and(|bans| !bans.counts_auth()),
            has_others: self.has_others(),
        })
    }

    /// Returns `true` if requests can have policies that are unknown when the limiter is built.
    fn has_others(&self) -> bool {
        self.charging.policies_with.is_some() || self.reads.any()
    }
}

/// Returns `true` if requests may have to wait under a policy.
pub(crate) fn has_queue(policy: &Policy) -> bool {
    policy.max_wait().is_some()
}
