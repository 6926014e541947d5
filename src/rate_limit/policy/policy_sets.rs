//! The policies of each tier, and their selection for a request.

use std::{
    borrow::Cow,
    num::NonZeroU32,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{policy::Policy, policy_set::PolicySet, tiers::Tiers};
use crate::core::{error::ConfigError, notice};

/// The maximum number of characters of a tier name in a notice.
const TIER_SHOWN_MAX: usize = 64;

/// The policies of each tier.
#[derive(Debug)]
pub(crate) struct PolicySets {
    fallback: Arc<PolicySet>,
    tiers: Box<[(Box<str>, Arc<PolicySet>)]>,
    /// `true` if an unknown tier was already reported, or must not be reported.
    unknown_tier_said: AtomicBool,
}

impl PolicySets {
    /// Creates one set for each tier, which contains the policies for all callers followed by the
    /// policies of the tier. If there is a share, each set has a local set with divided quotas.
    pub(crate) fn new(
        for_all: &[Policy],
        tiers: Option<&Tiers>,
        share: Option<NonZeroU32>,
    ) -> Result<Self, ConfigError> {
        let Some(tiers) = tiers else {
            return Ok(Self {
                fallback: Arc::new(PolicySet::new(for_all.to_vec(), share)?),
                tiers: Box::default(),
                unknown_tier_said: AtomicBool::new(true),
            });
        };
        tiers.check_names()?;
        let set = |(name, own): &(String, Vec<Policy>)| {
            let set = PolicySet::for_tier(for_all, own, share)?;
            Ok((name.as_str().into(), Arc::new(set)))
        };
        let sets: Result<Box<[(Box<str>, _)]>, ConfigError> = tiers.tiers.iter().map(set).collect();
        let sets = sets?;
        let mut fallbacks = sets.iter().filter(|(name, _)| **name == *tiers.fallback);
        let Some((_, fallback)) = fallbacks.next() else {
            let problem = "there is no tier of this name";
            let error = ConfigError::new("fallback tier", &tiers.fallback, problem);
            return Err(error.fix("add it with `tier`, or with `unlimited`"));
        };
        Ok(Self {
            fallback: Arc::clone(fallback),
            tiers: sets,
            unknown_tier_said: AtomicBool::new(false),
        })
    }

    /// Suppresses reports of unknown tiers if an application function returns the tiers.
    pub(super) fn with_tiers_by_function(self, is_function: bool) -> Self {
        self.unknown_tier_said
            .fetch_or(is_function, Ordering::Relaxed);
        self
    }

    pub(super) fn for_tier(&self, tier: Option<&str>) -> &Arc<PolicySet> {
        let Some(tier) = tier else {
            return &self.fallback;
        };
        self.named(tier).unwrap_or_else(|| {
            let error = || self.unknown_tier(tier);
            notice::misconfigured(&self.unknown_tier_said, error);
            &self.fallback
        })
    }

    fn named(&self, tier: &str) -> Option<&Arc<PolicySet>> {
        let named = self.tiers.iter().find(|(name, _)| **name == *tier);
        named.map(|(_, set)| set)
    }

    #[cold]
    fn unknown_tier(&self, tier: &str) -> ConfigError {
        let alike = self.tiers.iter().map(|(name, _)| &**name);
        let alike = alike.clone().find(|name| name.eq_ignore_ascii_case(tier));
        let fix = match alike {
            Some(name) => format!("write it as `{name}`, or add it with `Tiers::tier`"),
            None => "add it with `Tiers::tier`, or change the tier of the key".to_owned(),
        };
        let shown: String = tier.chars().take(TIER_SHOWN_MAX).collect();
        let problem = "a caller has this tier, which `Tiers` does not contain, so the limits of the \
             fallback apply";
        ConfigError::new("tier", shown.escape_debug(), problem).fix(fix)
    }

    /// Returns the set for callers without a tier.
    pub(crate) fn fallback(&self) -> &PolicySet {
        &self.fallback
    }

    /// Returns `true` if there are tiers.
    pub(crate) fn by_tier(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// Returns the sets of all tiers.
    pub(crate) fn each(&self) -> impl Iterator<Item = &PolicySet> {
        let tiers = self.tiers.iter().map(|(_, set)| &**set);
        std::iter::once(&*self.fallback).chain(tiers)
    }

    /// Returns the policies of all tiers.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.each().flat_map(PolicySet::policies)
    }

    /// Returns `true` if no tier has a policy.
    pub(crate) fn is_empty(&self) -> bool {
        let empty = |set: &PolicySet| set.policies().is_empty();
        empty(&self.fallback) && self.tiers.iter().all(|(_, set)| empty(set))
    }
}

/// The active sets: the initial sets, until those are replaced.
#[derive(Debug)]
pub(crate) struct LiveSets {
    first: PolicySets,
    // Requests take the lock only after a replacement.
    is_replaced: AtomicBool,
    latest: RwLock<Option<PolicySets>>,
}

/// The policies that were chosen for a request.
pub(crate) enum Chosen<'a> {
    First(&'a Arc<PolicySet>),
    Latest(Arc<PolicySet>),
}

impl LiveSets {
    pub(crate) fn new(first: PolicySets) -> Self {
        Self {
            first,
            is_replaced: AtomicBool::new(false),
            latest: RwLock::new(None),
        }
    }

    /// Replaces the active sets.
    pub(crate) fn replace(&self, sets: PolicySets) {
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Some(sets);
        self.is_replaced.store(true, Ordering::Release);
    }

    /// Returns policies and tiers that succeed the active policies and tiers.
    pub(crate) fn successors(
        &self,
        policies: impl IntoIterator<Item = Policy>,
        tiers: Option<Tiers>,
    ) -> (Vec<Policy>, Option<Tiers>) {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let active = latest.as_ref().unwrap_or(&self.first);
        let policies = policies.into_iter();
        let policies = policies.map(|policy| active.fallback.succeed(&policy));
        let tiers = tiers.map(|tiers| Tiers {
            fallback: tiers.fallback,
            tiers: tiers
                .tiers
                .into_iter()
                .map(|(name, own)| {
                    let set = active.named(&name).unwrap_or(&active.fallback);
                    let own = own.iter().map(|policy| set.succeed(policy)).collect();
                    (name, own)
                })
                .collect(),
        });
        (policies.collect(), tiers)
    }

    /// Chooses a set. Calls the function only if there are tiers.
    pub(crate) fn choose<'t>(&self, tier: impl Fn() -> Option<Cow<'t, str>>) -> Chosen<'_> {
        if let Some(set) = self.choose_first(&tier) {
            return Chosen::First(set);
        }
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let sets = latest.as_ref().unwrap_or(&self.first);
        let tier = if sets.by_tier() { tier() } else { None };
        Chosen::Latest(Arc::clone(sets.for_tier(tier.as_deref())))
    }

    /// Chooses among the initial sets, unless the sets were replaced.
    #[inline]
    pub(crate) fn choose_first<'t>(
        &self,
        tier: impl FnOnce() -> Option<Cow<'t, str>>,
    ) -> Option<&Arc<PolicySet>> {
        if self.is_replaced.load(Ordering::Acquire) {
            return None;
        }
        if !self.first.by_tier() {
            return Some(&self.first.fallback);
        }
        Some(self.first.for_tier(tier().as_deref()))
    }
}

impl Chosen<'_> {
    pub(crate) fn shared(&self) -> &Arc<PolicySet> {
        match self {
            Self::First(set) => set,
            Self::Latest(set) => set,
        }
    }

    pub(crate) fn into_owned(self) -> Arc<PolicySet> {
        match self {
            Self::First(set) => Arc::clone(set),
            Self::Latest(set) => set,
        }
    }
}

impl Deref for Chosen<'_> {
    type Target = PolicySet;

    #[inline]
    fn deref(&self) -> &PolicySet {
        match self {
            Self::First(set) => set,
            Self::Latest(set) => set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::policy::quota::Quota;

    fn policy(name: &str) -> Policy {
        Policy::token_bucket(name, Quota::per_second(1)).unwrap()
    }

    fn names(set: &PolicySet) -> Vec<&str> {
        set.policies().iter().map(Policy::name).collect()
    }

    #[test]
    fn a_tier_has_its_own_policies_after_those_of_all_and_others_have_the_fallbacks() {
        let tiers = Tiers::new("free")
            .tier("free", [policy("few")])
            .tier("pro", [policy("many")])
            .unlimited("internal");
        let sets = PolicySets::new(&[policy("all")], Some(&tiers), None).unwrap();
        assert_eq!(names(sets.for_tier(Some("pro"))), ["all", "many"]);
        assert_eq!(names(sets.for_tier(Some("internal"))), ["all"]);
        for tier in [None, Some("free"), Some("unheard of")] {
            assert_eq!(names(sets.for_tier(tier)), ["all", "few"]);
        }
    }

    #[test]
    fn a_fallback_that_is_no_tier_is_refused() {
        let tiers = Tiers::new("fre").tier("free", [policy("few")]);
        let error = PolicySets::new(&[], Some(&tiers), None).unwrap_err();
        assert_eq!((error.option(), error.value()), ("fallback tier", "fre"));
    }

    #[test]
    fn two_tiers_or_two_policies_of_one_name_are_refused() {
        let tiers = Tiers::new("a").tier("a", []).tier("a", []);
        assert_eq!(
            PolicySets::new(&[], Some(&tiers), None)
                .unwrap_err()
                .option(),
            "tiers"
        );
        let error = PolicySets::new(&[policy("p"), policy("p")], None, None).unwrap_err();
        assert_eq!(error.option(), "policies");
    }
}
