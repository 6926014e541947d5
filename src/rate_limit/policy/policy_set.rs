//! The policies of one request.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::policy::Policy;
use crate::{
    core::error::ConfigError,
    rate_limit::{
        decision::decision::Decisions, failover::failure_override::FailureOverride, headers::Texts,
    },
};

/// The policies of a request, and the constant parts of their header fields.
#[derive(Debug)]
pub(crate) struct PolicySet {
    policies: Box<[Policy]>,
    texts: Texts,
    delays: bool,
    watches: bool,
    failure_rule: FailureRule,
    // The number of policies for all callers, which precede those of the tier.
    for_all: usize,
    /// The number of instances by which the quotas are divided while the store fails.
    share: Option<NonZeroU32>,
    /// The policies of the local store.
    local: Option<Arc<PolicySet>>,
}

impl PolicySet {
    pub(super) fn new(
        policies: Vec<Policy>,
        share: Option<NonZeroU32>,
    ) -> Result<Self, ConfigError> {
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

    pub(super) fn for_tier(
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

    /// Returns the policy as the successor of the policy with the same name in this set.
    pub(super) fn succeed(&self, policy: &Policy) -> Policy {
        let mut policies = self.policies.iter();
        policy.succeeding(policies.find(|other| other.name() == policy.name()))
    }

    /// Returns the policies for all callers.
    pub(crate) fn for_all(&self) -> &[Policy] {
        &self.policies[..self.for_all]
    }

    /// Returns a set with other policies and the same share. The names of the policies must be
    /// distinct. If a policy's share cannot be counted, the local store does not decide with these
    /// policies.
    pub(super) fn with_policies(&self, policies: Vec<Policy>) -> Self {
        Self::new(policies.clone(), self.share)
            .or_else(|_| Self::new(policies, None))
            .expect("the names are distinct")
    }

    /// Returns the rendered parts of the header fields.
    #[inline]
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// Returns the only policy of a set that has no queue and no policy in shadow mode.
    #[inline]
    pub(crate) fn alone(&self) -> Option<&Policy> {
        match &*self.policies {
            [one] if !self.delays && !self.watches => Some(one),
            _ => None,
        }
    }

    /// Returns `true` if a policy is in shadow mode.
    #[inline]
    pub(crate) fn watches(&self) -> bool {
        self.watches
    }

    /// Returns the rule for requests while the store fails.
    pub(crate) fn failure_rule(&self) -> FailureRule {
        self.failure_rule
    }

    /// Returns `true` if a request may have to wait for its turn.
    #[inline]
    pub(crate) fn delays(&self) -> bool {
        self.delays
    }

    /// Returns the time that an admitted request with these costs waits for its turn.
    pub(crate) fn delay(&self, costs: &[u64], decisions: &Decisions) -> Duration {
        let said = self.policies.iter().zip(decisions.each()).zip(costs);
        said.filter(|((policy, _), cost)| delays(policy) && **cost > 0)
            .map(|((policy, said), _)| policy.delay(said))
            .max()
            .unwrap_or_default()
    }

    /// Returns the policies with which the local store decides, each with one of `share` equal
    /// shares of its quota. Returns `None` if the local store does not decide.
    pub(crate) fn local(&self, share: Option<NonZeroU32>) -> Option<Arc<Self>> {
        match (&self.local, self.share) {
            (Some(local), _) => Some(Arc::clone(local)),
            // The list of a function has no share. The local store does not decide if its shares
            // cannot be counted.
            (None, None) => Self::new(self.policies.to_vec(), share).ok()?.local,
            (None, Some(_)) => None,
        }
    }

    /// Returns the local store's policies that were created with this set.
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
            return Err(error.fix("rename one after its purpose"));
        }
    }
    Ok(())
}

/// The rule for a request that no store has decided.
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

/// Returns `true` if a local store decides for this policy while the main store fails.
fn is_local(policy: &Policy) -> bool {
    match policy.failure_override() {
        None | Some(FailureOverride::Local(_)) => true,
        Some(FailureOverride::Allow | FailureOverride::Deny) => false,
    }
}

/// A list of policies that a function selects for a request.
///
/// Used with [`policies_with`](crate::rate_limit::RateLimitLayerBuilder::policies_with). Clones
/// share the list, so create it once and clone it for each request.
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
    /// Creates a list. An empty list limits nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if two policies have the same name.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Result<Self, ConfigError> {
        let policies = policies.into_iter().collect();
        PolicySet::new(policies, None).map(Arc::new).map(Self)
    }
}

/// Returns `true` if requests may have to wait under a policy.
fn delays(policy: &Policy) -> bool {
    policy.max_wait().is_some() && !policy.is_shadow()
}
