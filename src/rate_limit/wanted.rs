//! What a limiter was told to hold requests to, and whether it can.

use super::{
    on_store_error::OnStoreError,
    own_sets::{self, Reads},
    policy::Policy,
    policy_set::{PolicySets, Tiers},
    store::RateLimitStore,
    when_store_fails::WhenStoreFails,
};
use crate::error::ConfigError;

/// The limits as they were told, and what they need to be kept.
pub(super) struct Wanted<'a> {
    pub(super) policies: &'a [Policy],
    pub(super) tiers: Option<&'a Tiers>,
    pub(super) reads: Reads,
    pub(super) store: &'a dyn RateLimitStore,
    /// Is asked along with the others.
    pub(super) ban: Option<&'a Policy>,
    pub(super) on_store_error: &'a OnStoreError,
    pub(super) has_runtime: bool,
    /// Whether a function may choose others for a request.
    pub(super) others_are_chosen: bool,
}

impl Wanted<'_> {
    /// Returns the sets that requests are held to.
    ///
    /// # Errors
    ///
    /// If they limit nothing, contradict one another, or need what is not there.
    pub(super) fn sets(&self) -> Result<PolicySets, ConfigError> {
        let share = self.on_store_error.share()?;
        let sets = PolicySets::new(self.policies, self.tiers, share)?;
        own_sets::check_names(self.reads, sets.policies())?;
        if sets.is_empty() && !self.reads.any() && !self.others_are_chosen {
            return Err(ConfigError::new(
                "policies",
                "empty",
                "a limiter without a policy limits nothing",
            )
            .fix("add one with `policy`, or tiers that have some"));
        }
        let local = |policy: &Policy| policy.own_failure() == Some(WhenStoreFails::Local);
        if share.is_none() && sets.policies().any(local) {
            return Err(ConfigError::new(
                "when_store_fails",
                "Local",
                "the limiter has no local store to decide by",
            )
            .fix("name one with `on_store_error(OnStoreError::local(..))`"));
        }
        let waits = |policy: &Policy| policy.max_wait().is_some();
        if sets.policies().any(waits) && !self.has_runtime {
            return Err(ConfigError::new(
                "runtime",
                "none",
                "requests in a queue have to wait for their turns",
            )
            .fix("give one with `runtime`, or turn on the feature `tokio`"));
        }
        for set in sets.each() {
            let asked: Vec<&Policy> = set.policies().iter().chain(self.ban).collect();
            self.store.check(&asked)?;
            if let (OnStoreError::Local { store, .. }, Some(local)) =
                (self.on_store_error, set.local())
            {
                let asked: Vec<&Policy> = local.policies().iter().collect();
                store.check(&asked)?;
            }
        }
        Ok(sets)
    }
}
