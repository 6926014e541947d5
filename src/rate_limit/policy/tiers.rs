//! The policies of a request, by the tier of its caller.

use std::{
    borrow::Cow,
    num::NonZeroU32,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::policy::Policy;
use crate::{
    core::{error::ConfigError, notice},
    rate_limit::{
        decision::decision::Decisions, failover::failure_override::FailureOverride, headers::Texts,
    },
};

/// The maximum number of characters of a tier that a notice shows.
const TIER_SHOWN_MAX: usize = 64;

/// The policies of each tier of callers.
///
/// The tier is that of the caller's [`Identity`](crate::Identity). Callers without a tier, or of an
/// unknown one, have the policies of the fallback.
///
/// ```
/// use std::time::Duration;
/// use portcullis::rate_limit::{Policy, Quota, Tiers};
///
/// let in_ten_seconds = |limit| Quota::new(limit, Duration::from_secs(10));
/// let tiers = Tiers::new("free")
///     .tier("free", [Policy::fixed_window("free", in_ten_seconds(10))?])
///     .tier("pro", [Policy::fixed_window("pro", in_ten_seconds(100))?])
///     .unlimited("internal");
/// assert!(tiers.contains("pro"));
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// A caller whose tier changes keeps its count if the policies of both tiers
/// [share one](Policy#sharing-a-count), and starts a new one otherwise.
#[derive(Clone, Debug)]
pub struct Tiers {
    fallback: String,
    tiers: Vec<(String, Vec<Policy>)>,
}

impl Tiers {
    /// Creates a list of tiers. `fallback` names the tier of callers whose own is not in the list.
    pub fn new(fallback: impl Into<String>) -> Self {
        Self {
            fallback: fallback.into(),
            tiers: Vec::new(),
        }
    }

    /// Adds a tier and the policies of its callers.
    #[must_use]
    pub fn tier(
        mut self,
        name: impl Into<String>,
        policies: impl IntoIterator<Item = Policy>,
    ) -> Self {
        self.tiers
            .push((name.into(), policies.into_iter().collect()));
        self
    }

    /// Adds a tier without policies. Policies for all requests still apply to its callers.
    #[must_use]
    pub fn unlimited(self, name: impl Into<String>) -> Self {
        self.tier(name, [])
    }

    /// Returns whether a tier has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tiers.iter().any(|(tier, _)| tier == name)
    }

    /// Returns the names of the tiers, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tiers.iter().map(|(tier, _)| tier.as_str())
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        let names: Vec<&str> = self.names().collect();
        let mut each = names.iter().enumerate();
        let Some((_, twin)) = each.find(|(at, name)| names[..*at].contains(name)) else {
            return Ok(());
        };
        let error = ConfigError::new("tiers", twin, "the tier stands twice");
        Err(error.fix("give all policies of a tier in one call"))
    }
}

/// The policies of a request, with the parts of their header fields that are always the same.
#[derive(Debug)]
pub(crate) struct PolicySet {
    policies: Box<[Policy]>,
    texts: Texts,
    delays: bool,
    watches: bool,
    failure_rule: FailureRule,
    // The number of policies for all callers, which precede those of the tier.
    for_all: usize,
    /// The number of instances that divide the quotas while the store fails.
    share: Option<NonZeroU32>,
    /// The policies of the local store.
    local: Option<Arc<PolicySet>>,
}

impl PolicySet {
    fn new(policies: Vec<Policy>, share: Option<NonZeroU32>) -> Result<Self, ConfigError> {
        check_distinct(&policies)?;
        let failure_rule = FailureRule::of(&policies);
        let local = match share {
            Some(share) if failure_rule == FailureRule::AsLimiter => {
                let local = policies.iter().filter(|policy| is_local(policy));
                let divided = local.map(|policy| policy.divided(share));
                let divided = divided.collect::<Result<Vec<_>, _>>()?;
                Some(Arc::new(Self::new(divided, None)?))
            }
            Some(_) | None => None,
        };
        Ok(Self {
            watches: policies.iter().any(Policy::is_shadow),
            failure_rule,
            texts: Texts::new(&policies),
            delays: policies.iter().any(delays),
            for_all: policies.len(),
            share,
            policies: policies.into(),
            local,
        })
    }

    fn of_tier(
        for_all: &[Policy],
        own: &[Policy],
        share: Option<NonZeroU32>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            for_all: for_all.len(),
            ..Self::new([for_all, own].concat(), share)?
        })
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Returns the policy as the successor of the one of its name in this set.
    fn succeed(&self, policy: &Policy) -> Policy {
        let mut policies = self.policies.iter();
        policy.succeeding(policies.find(|other| other.name() == policy.name()))
    }

    /// Returns the policies for all callers.
    pub(crate) fn for_all(&self) -> &[Policy] {
        &self.policies[..self.for_all]
    }

    /// Returns a set of other policies, whose names must be distinct, with the share of this one. If
    /// their shares cannot be counted, the local store does not decide by them.
    pub(super) fn with_policies(&self, policies: Vec<Policy>) -> Self {
        Self::new(policies.clone(), self.share)
            .or_else(|_| Self::new(policies, None))
            .expect("no name stands twice")
    }

    /// Returns the rendered parts of the header fields.
    #[inline]
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// Returns the only policy of a set without queues and shadow mode.
    #[inline]
    pub(crate) fn alone(&self) -> Option<&Policy> {
        match &*self.policies {
            [one] if !self.delays && !self.watches => Some(one),
            _ => None,
        }
    }

    /// Returns whether a policy is in shadow mode.
    #[inline]
    pub(crate) fn watches(&self) -> bool {
        self.watches
    }

    /// Returns the rule for requests while the store fails.
    pub(crate) fn failure_rule(&self) -> FailureRule {
        self.failure_rule
    }

    /// Returns whether a request may have to wait for its turn.
    #[inline]
    pub(crate) fn delays(&self) -> bool {
        self.delays
    }

    /// Returns the time that an admitted request of these costs waits for its turn.
    pub(crate) fn delay(&self, costs: &[u64], decisions: &Decisions) -> Duration {
        let said = self.policies.iter().zip(decisions.each()).zip(costs);
        said.filter(|((policy, _), cost)| delays(policy) && **cost > 0)
            .map(|((policy, said), _)| policy.delay(said))
            .max()
            .unwrap_or_default()
    }

    /// Returns the policies that the local store decides by, with the quotas of one of this many
    /// instances. `None` if it does not decide.
    pub(crate) fn local(&self, share: Option<NonZeroU32>) -> Option<Arc<Self>> {
        match (&self.local, self.share) {
            (Some(local), _) => Some(Arc::clone(local)),
            // The list of a function is made without a share. If its shares cannot be counted, the
            // local store does not decide.
            (None, None) => Self::new(self.policies.to_vec(), share).ok()?.local,
            (None, Some(_)) => None,
        }
    }

    /// Returns the policies of the local store that were made with these.
    pub(super) fn local_part(&self) -> Option<&Self> {
        self.local.as_deref()
    }
}

/// Checks that the policies of a request have distinct names.
fn check_distinct(policies: &[Policy]) -> Result<(), ConfigError> {
    for (at, policy) in policies.iter().enumerate() {
        if policies[..at]
            .iter()
            .any(|other| other.name() == policy.name())
        {
            let problem = "two policies of one request have the same name";
            let error = ConfigError::new("policies", policy.name(), problem);
            return Err(error.fix("name each by what it is for"));
        }
    }
    Ok(())
}

/// The rule for requests that no store has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureRule {
    /// All policies admit.
    Allow,
    /// A policy denies.
    Deny,
    /// The limiter's [`OnStoreError`](crate::rate_limit::OnStoreError) applies.
    AsLimiter,
}

impl FailureRule {
    fn of(policies: &[Policy]) -> Self {
        let enforced = policies.iter().filter(|policy| !policy.is_shadow());
        let mut overrides = enforced.map(Policy::failure_override);
        let denies = |own| own == Some(FailureOverride::Deny);
        if overrides.clone().any(denies) {
            Self::Deny
        } else if overrides.all(|own| own == Some(FailureOverride::Allow)) {
            Self::Allow
        } else {
            Self::AsLimiter
        }
    }
}

/// Returns whether a local store decides a policy while the main store fails.
fn is_local(policy: &Policy) -> bool {
    match policy.failure_override() {
        None | Some(FailureOverride::Local(_)) => true,
        Some(FailureOverride::Allow | FailureOverride::Deny) => false,
    }
}

/// A list of policies for the requests that a function assigns to it.
///
/// For [`RateLimitLayerBuilder::policies_by`](crate::rate_limit::RateLimitLayerBuilder::policies_by). Clones share
/// the list, so create it once and clone it for each request.
///
/// ```
/// use portcullis::rate_limit::{Policy, PolicyList, Quota};
///
/// let list = PolicyList::new([
///     Policy::token_bucket("burst", Quota::per_second(10))?,
///     Policy::aligned_window("daily", Quota::per_day(1_000))?,
/// ])?;
/// # let _ = list;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PolicyList(pub(crate) Arc<PolicySet>);

impl PolicyList {
    /// Creates a list. An empty one limits nothing.
    ///
    /// # Errors
    ///
    /// If two policies have the same name.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Result<Self, ConfigError> {
        let policies = policies.into_iter().collect();
        PolicySet::new(policies, None).map(Arc::new).map(Self)
    }
}

/// Returns whether requests may wait for a policy.
fn delays(policy: &Policy) -> bool {
    policy.max_wait().is_some() && !policy.is_shadow()
}

/// The policies of each tier.
#[derive(Debug)]
pub(crate) struct PolicySets {
    fallback: Arc<PolicySet>,
    tiers: Box<[(Box<str>, Arc<PolicySet>)]>,
    /// Whether an unknown tier was reported. Set from the start if none is to be reported.
    unknown_tier_said: AtomicBool,
}

impl PolicySets {
    /// Creates one set for each tier: the policies for all callers, then those of the tier. With a
    /// share, each set has a local one, whose quotas are divided by it.
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
            let set = PolicySet::of_tier(for_all, own, share)?;
            Ok((name.as_str().into(), Arc::new(set)))
        };
        let sets: Result<Box<[(Box<str>, _)]>, _> = tiers.tiers.iter().map(set).collect();
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

    /// Suppresses reports of unknown tiers if a function of the application returns them.
    pub(super) fn with_tiers_by_function(self, is_function: bool) -> Self {
        self.unknown_tier_said
            .fetch_or(is_function, Ordering::Relaxed);
        self
    }

    pub(super) fn of_tier(&self, tier: Option<&str>) -> &Arc<PolicySet> {
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
        let problem = "a caller has this tier, and `Tiers` does not name it: it has the limits of \
             the fallback";
        ConfigError::new("tier", shown.escape_debug(), problem).fix(fix)
    }

    /// Returns the set of callers without a tier.
    pub(crate) fn fallback(&self) -> &PolicySet {
        &self.fallback
    }

    /// Returns whether there are tiers.
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

    /// Returns whether no tier has a policy.
    pub(crate) fn is_empty(&self) -> bool {
        let empty = |set: &PolicySet| set.policies.is_empty();
        empty(&self.fallback) && self.tiers.iter().all(|(_, set)| empty(set))
    }
}

/// The active sets: the first ones, until they are replaced.
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

    /// Returns policies and tiers that succeed the active ones.
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
        Chosen::Latest(Arc::clone(sets.of_tier(tier.as_deref())))
    }

    /// Chooses among the first sets, unless they were replaced.
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
        Some(self.first.of_tier(tier().as_deref()))
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
        assert_eq!(names(sets.of_tier(Some("pro"))), ["all", "many"]);
        assert_eq!(names(sets.of_tier(Some("internal"))), ["all"]);
        for tier in [None, Some("free"), Some("unheard of")] {
            assert_eq!(names(sets.of_tier(tier)), ["all", "few"]);
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
