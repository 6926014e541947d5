//! The policies that a request must pass, and which tier has which.

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

use super::{
    decision::Decisions, headers::Texts, policy::Policy, when_store_fails::WhenStoreFails,
};
use crate::{error::ConfigError, notice};

/// The maximum number of characters of a tier that a notice shows.
const TIER_SHOWN_MAX: usize = 64;

/// Which policies the callers of a tier must pass.
///
/// The tier is the [`Identity`](crate::Identity)'s. A caller without a tier, or of a tier that is
/// not named here, has the fallback's policies.
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
/// A caller whose tier changes keeps its count where the tiers' policies
/// [share one](Policy#sharing-a-count), and starts a new one where they do not.
#[derive(Clone, Debug)]
pub struct Tiers {
    fallback: String,
    tiers: Vec<(String, Vec<Policy>)>,
}

impl Tiers {
    /// Begins a list of tiers, and names the one for callers whose tier is not in it.
    pub fn new(fallback: impl Into<String>) -> Self {
        Self {
            fallback: fallback.into(),
            tiers: Vec::new(),
        }
    }

    /// Adds a tier, and the policies that its callers must all pass.
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

    /// Adds a tier whose callers are not limited by any policy of its own.
    #[must_use]
    pub fn unlimited(self, name: impl Into<String>) -> Self {
        self.tier(name, [])
    }

    /// Returns whether there is a tier of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tiers.iter().any(|(tier, _)| tier == name)
    }

    /// Returns the tiers' names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tiers.iter().map(|(tier, _)| tier.as_str())
    }
}

/// The policies of one request, and what is said of them in a header, rendered once.
#[derive(Debug)]
pub(super) struct PolicySet {
    policies: Box<[Policy]>,
    texts: Texts,
    delays: bool,
    watches: bool,
    failing: Failing,
    // So many of the policies are everybody's, the others the tier's.
    for_all: usize,
    share: Option<NonZeroU32>,
    // What is decided on while the store fails.
    local: Option<Arc<PolicySet>>,
}

impl PolicySet {
    fn new(policies: Vec<Policy>, share: Option<NonZeroU32>) -> Result<Self, ConfigError> {
        for (at, policy) in policies.iter().enumerate() {
            let same = |other: &Policy| other.name() == policy.name();
            if policies[at + 1..].iter().any(same) {
                return Err(ConfigError::new(
                    "policies",
                    policy.name(),
                    "two policies of one request have the same name",
                )
                .fix("name each by what it is for"));
            }
        }
        let failing = Failing::of(&policies);
        let local = match share {
            Some(share) if failing == Failing::AsConfigured => {
                let part = |policy: &Policy| policy.divided(share);
                let parts = policies
                    .iter()
                    .filter(|policy| is_local(policy))
                    .map(part)
                    .collect::<Result<Vec<_>, _>>()?;
                Some(Arc::new(Self::new(parts, None)?))
            }
            Some(_) | None => None,
        };
        Ok(Self {
            watches: policies.iter().any(Policy::is_shadow),
            failing,
            texts: Texts::new(&policies),
            delays: policies.iter().any(delays),
            for_all: policies.len(),
            share,
            policies: policies.into(),
            local,
        })
    }

    pub(super) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Returns the policy as the successor of the one of its name in this set.
    fn succeed(&self, policy: &Policy) -> Policy {
        let mut policies = self.policies.iter();
        policy.succeeding(policies.find(|other| other.name() == policy.name()))
    }

    /// Returns the policies that are not the tier's.
    pub(super) fn for_all(&self) -> &[Policy] {
        &self.policies[..self.for_all]
    }

    /// Returns the same with a local set, if a local store can count them.
    pub(super) fn shared_among(&self, share: Option<NonZeroU32>) -> Self {
        Self::new(self.policies.to_vec(), share)
            .or_else(|_| Self::new(self.policies.to_vec(), None))
            .expect("no name stands twice")
    }

    /// Returns other policies for a caller who would have these. Where a local store could not
    /// count them, there is none for them.
    ///
    /// No name stands twice among them.
    pub(super) fn with_policies(&self, policies: Vec<Policy>) -> Self {
        Self::new(policies.clone(), self.share)
            .or_else(|_| Self::new(policies, None))
            .expect("no name stands twice")
    }

    /// Returns what is said of the policies in a header.
    #[inline]
    pub(super) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// Returns the policy if there is one alone, and its word is all that there is to a request.
    #[inline]
    pub(super) fn alone(&self) -> Option<&Policy> {
        match &*self.policies {
            [one] if !self.delays && !self.watches => Some(one),
            _ => None,
        }
    }

    /// Returns whether a policy only watches.
    #[inline]
    pub(super) fn watches(&self) -> bool {
        self.watches
    }

    /// Returns what the policies themselves want while the store fails.
    pub(super) fn failing(&self) -> Failing {
        self.failing
    }

    /// Returns whether a request may have to wait for its turn.
    #[inline]
    pub(super) fn delays(&self) -> bool {
        self.delays
    }

    /// Returns how long a request that costs this much and was decided on so waits for its turn.
    pub(super) fn delay(&self, costs: &[u64], decisions: &Decisions) -> Duration {
        let said = self.policies.iter().zip(decisions.each()).zip(costs);
        said.filter(|((policy, _), cost)| delays(policy) && **cost > 0)
            .map(|((policy, said), _)| policy.delay(said))
            .max()
            .unwrap_or_default()
    }

    /// Returns the same policies with the quotas of one instance, if the store may be replaced by
    /// a local one.
    pub(super) fn local(&self) -> Option<&Arc<Self>> {
        self.local.as_ref()
    }
}

/// What policies themselves want while the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failing {
    /// None of them would deny.
    Open,
    /// One of them denies.
    Closed,
    /// What the limiter was told.
    AsConfigured,
}

impl Failing {
    fn of(policies: &[Policy]) -> Self {
        let enforced = policies.iter().filter(|policy| !policy.is_shadow());
        let mut wanted = enforced.map(Policy::own_failure);
        if wanted.clone().any(|own| own == Some(WhenStoreFails::Deny)) {
            Self::Closed
        } else if wanted.all(|own| own == Some(WhenStoreFails::Allow)) {
            Self::Open
        } else {
            Self::AsConfigured
        }
    }
}

/// Returns whether a policy is decided by a local store while the other fails, if there is one.
fn is_local(policy: &Policy) -> bool {
    match policy.own_failure() {
        None | Some(WhenStoreFails::Local) => true,
        Some(WhenStoreFails::Allow | WhenStoreFails::Deny) => false,
    }
}

/// Several policies that a request must all pass, made once for many requests.
///
/// For [`RateLimitLayerBuilder::policies_by`](super::RateLimitLayerBuilder::policies_by). A clone
/// is the same list.
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
pub struct PolicyList(pub(super) Arc<PolicySet>);

impl PolicyList {
    /// Creates a list; an empty one limits nothing.
    ///
    /// # Errors
    ///
    /// If two policies have the same name.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Result<Self, ConfigError> {
        let policies = policies.into_iter().collect();
        PolicySet::new(policies, None).map(Arc::new).map(Self)
    }
}

/// Returns whether a policy lets requests wait.
fn delays(policy: &Policy) -> bool {
    policy.max_wait().is_some() && !policy.is_shadow()
}

/// Chooses the policies of a request by its caller's tier.
#[derive(Debug)]
pub(super) struct PolicySets {
    fallback: Arc<PolicySet>,
    tiers: Box<[(Box<str>, Arc<PolicySet>)]>,
    /// Whether a tier without policies was reported; set from the start if it is not to be.
    unknown_tier_said: AtomicBool,
}

impl PolicySets {
    /// Puts the policies that all must pass before those of each tier. With a share, each set has
    /// a local one whose quotas are divided by it.
    pub(super) fn new(
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
        let mut sets = Vec::with_capacity(tiers.tiers.len());
        for (name, own) in &tiers.tiers {
            if sets
                .iter()
                .any(|(other, _): &(Box<str>, _)| **other == **name)
            {
                return Err(ConfigError::new("tiers", name, "the tier stands twice")
                    .fix("give all policies of a tier in one call"));
            }
            let policies = [for_all, own].concat();
            let set = PolicySet {
                for_all: for_all.len(),
                ..PolicySet::new(policies, share)?
            };
            sets.push((name.as_str().into(), Arc::new(set)));
        }
        let fallback = sets
            .iter()
            .find(|(name, _)| **name == *tiers.fallback)
            .map(|(_, set)| Arc::clone(set));
        match fallback {
            Some(fallback) => Ok(Self {
                fallback,
                tiers: sets.into(),
                unknown_tier_said: AtomicBool::new(false),
            }),
            None => Err(ConfigError::new(
                "fallback tier",
                &tiers.fallback,
                "there is no tier of this name",
            )
            .fix("add it with `tier`, or with `unlimited`")),
        }
    }

    /// Does not report tiers without policies: a function of the application names them.
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
    pub(super) fn fallback(&self) -> &PolicySet {
        &self.fallback
    }

    /// Returns whether the choice depends on who calls.
    pub(super) fn by_tier(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// Returns all sets of which a request may have to pass one.
    pub(super) fn each(&self) -> impl Iterator<Item = &PolicySet> {
        let tiers = self.tiers.iter().map(|(_, set)| &**set);
        std::iter::once(&*self.fallback).chain(tiers)
    }

    /// Returns all policies that any request may have to pass.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.each().flat_map(PolicySet::policies)
    }

    /// Returns whether no request is ever limited.
    pub(super) fn is_empty(&self) -> bool {
        let empty = |set: &PolicySet| set.policies.is_empty();
        empty(&self.fallback) && self.tiers.iter().all(|(_, set)| empty(set))
    }
}

/// The sets that count now: the first ones, until others take their place.
#[derive(Debug)]
pub(super) struct LiveSets {
    first: PolicySets,
    // Requests look at the lock only once there is something behind it.
    is_replaced: AtomicBool,
    latest: RwLock<Option<PolicySets>>,
}

/// A set that was chosen for a request.
pub(super) enum Chosen<'a> {
    First(&'a Arc<PolicySet>),
    Latest(Arc<PolicySet>),
}

impl LiveSets {
    pub(super) fn new(first: PolicySets) -> Self {
        Self {
            first,
            is_replaced: AtomicBool::new(false),
            latest: RwLock::new(None),
        }
    }

    /// Puts others in the place of those that count.
    pub(super) fn replace(&self, sets: PolicySets) {
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Some(sets);
        self.is_replaced.store(true, Ordering::Release);
    }

    /// Returns policies and tiers that succeed the active ones.
    pub(super) fn successors(
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

    /// Chooses a set; the tier is asked for only if there are some.
    pub(super) fn choose<'t>(&self, tier: impl Fn() -> Option<Cow<'t, str>>) -> Chosen<'_> {
        if let Some(set) = self.choose_first(&tier) {
            return Chosen::First(set);
        }
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let sets = latest.as_ref().unwrap_or(&self.first);
        let tier = if sets.by_tier() { tier() } else { None };
        Chosen::Latest(Arc::clone(sets.of_tier(tier.as_deref())))
    }

    /// Chooses among the first sets, if no others have taken their place.
    #[inline]
    pub(super) fn choose_first<'t>(
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
    pub(super) fn shared(&self) -> &Arc<PolicySet> {
        match self {
            Self::First(set) => set,
            Self::Latest(set) => set,
        }
    }

    pub(super) fn into_owned(self) -> Arc<PolicySet> {
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
    use crate::rate_limit::quota::Quota;

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
