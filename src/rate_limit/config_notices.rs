//! Notices about valid limits that are probably mistakes.

use std::num::NonZeroU32;

use super::policy::{
    policy::Policy, policy_set::PolicySet, policy_sets::PolicySets, sync_mode::SyncMode,
    tiers::Tiers,
};
use crate::core::{error::ConfigError, notice};

/// The options of a limiter that are checked against one another.
pub(super) struct LimitNotices<'a> {
    pub(super) sets: &'a PolicySets,
    pub(super) tiers: Option<&'a Tiers>,
    /// The number of instances among which a local store divides the quotas.
    pub(super) share: Option<NonZeroU32>,
    /// `true` if the limiter has a penalty that counts only the limiter's own denials.
    pub(super) has_penalty_for_denials: bool,
    /// `true` if requests can have policies that are unknown when the limiter is built.
    pub(super) has_others: bool,
}

impl LimitNotices<'_> {
    /// Emits one notice for each mistake.
    pub(super) fn report(&self) {
        let found = [
            self.tiers_alike(),
            self.too_many_shares(),
            self.unreported_above_limit(),
            self.lease_of_nothing(),
            self.mode_without_effect(),
            self.mixed_modes(),
            self.penalty_without_denials(),
        ];
        found.iter().flatten().for_each(notice::built_wrong);
    }

    fn find(&self, is_wrong: impl Fn(&Policy) -> bool) -> Option<&Policy> {
        self.sets.policies().find(|policy| is_wrong(policy))
    }

    fn tiers_alike(&self) -> Option<ConfigError> {
        let names: Vec<&str> = self.tiers?.names().collect();
        let twin = names.iter().enumerate().find_map(|(at, name)| {
            let is_alike = |other: &&&str| other.eq_ignore_ascii_case(name);
            Some((name, names[at + 1..].iter().find(is_alike)?))
        });
        let (name, other) = twin?;
        let problem = format!("the tier `{other}` differs from it only in case");
        let error = ConfigError::new("tiers", name, problem);
        Some(error.fix("use one spelling for the tier and in the keys"))
    }

    fn too_many_shares(&self) -> Option<ConfigError> {
        let share = self.share?;
        let is_exceeded =
            |policy: &Policy| !policy.is_shadow() && policy.capacity() < share.get().into();
        let policy = self.find(is_exceeded)?;
        let problem = format!(
            "policy `{}` admits {} in total, and each instance admits at least 1 while the store \
             fails",
            policy.name(),
            policy.capacity()
        );
        let error = ConfigError::new("share", share, problem);
        Some(error.fix(
            "set the number of instances, or `on_store_error(OnStoreError::Deny)` on that policy",
        ))
    }

    fn unreported_above_limit(&self) -> Option<ConfigError> {
        let unreported = |policy: &Policy| match policy.sync_mode() {
            SyncMode::Deferred {
                max_unreported: most,
            } => Some(most),
            SyncMode::Exact | SyncMode::Leased { .. } => None,
        };
        let is_above = |policy: &Policy| {
            unreported(policy).is_some_and(|most| u64::from(most.get()) > policy.capacity())
        };
        let policy = self.find(is_above)?;
        let problem = format!(
            "each instance can admit more than the limit of policy `{}`, {}, before it reports",
            policy.name(),
            policy.capacity()
        );
        let option = "SyncMode::Deferred::max_unreported";
        let error = ConfigError::new(option, unreported(policy)?, problem);
        Some(error.fix("set a fraction of the limit, as `SyncMode::auto` does"))
    }

    fn lease_of_nothing(&self) -> Option<ConfigError> {
        let shared = |policy: &Policy| match policy.sync_mode() {
            SyncMode::Leased { instances } => Some(instances),
            SyncMode::Exact | SyncMode::Deferred { .. } => None,
        };
        let is_empty = |policy: &Policy| {
            shared(policy)
                .is_some_and(|instances| policy.capacity() < 2 * u64::from(instances.get()))
        };
        let policy = self.find(is_empty)?;
        let problem = format!(
            "a lease is the limit of policy `{}`, {}, divided by twice the number of instances, \
             which rounds down to 0, so the server decides each request",
            policy.name(),
            policy.capacity()
        );
        let error = ConfigError::new("SyncMode::Leased::instances", shared(policy)?, problem);
        Some(error.fix("use `SyncMode::Exact` or `SyncMode::auto`"))
    }

    fn mode_without_effect(&self) -> Option<ConfigError> {
        let policy = self.find(Policy::ignores_mode)?;
        let problem = "queues and sliding logs are always counted exactly";
        let error = ConfigError::new(
            "sync_mode",
            format_args!("of policy `{}`", policy.name()),
            problem,
        );
        Some(error.fix("drop the call of `Policy::with_sync_mode`, or use another algorithm"))
    }

    fn mixed_modes(&self) -> Option<ConfigError> {
        let set = self.sets.each().find(|set| is_mixed(set))?;
        let names: Vec<&str> = set.policies().iter().map(Policy::name).collect();
        let problem =
            "the policies of one request have different modes, so the server decides each request";
        let error = ConfigError::new("sync_mode", names.join(", "), problem);
        Some(error.fix("set the same mode on all of them, or `SyncMode::Exact`"))
    }

    fn penalty_without_denials(&self) -> Option<ConfigError> {
        if !self.has_penalty_for_denials || self.has_others {
            return None;
        }
        if self.sets.policies().any(|policy| !policy.is_shadow()) {
            return None;
        }
        let problem = "the penalty counts denials, and every policy is in shadow mode, which never \
             denies a request";
        let error = ConfigError::new("penalty", "without effect", problem);
        Some(
            error.fix(
                "enforce a policy, or call `Penalty::failed_auth` to count failed credentials",
            ),
        )
    }
}

/// Returns `true` if the policies of a set have different modes, in which case the modes have no
/// effect.
fn is_mixed(set: &PolicySet) -> bool {
    let kind = |policy: &Policy| match policy.sync_mode() {
        SyncMode::Exact => 0,
        SyncMode::Leased { .. } => 1,
        SyncMode::Deferred { .. } => 2,
    };
    let mut kinds = set.policies().iter().map(kind);
    kinds
        .next()
        .is_some_and(|first| kinds.any(|other| other != first))
}
