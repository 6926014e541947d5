//! Policies for a single caller's credits and limit.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{policy::Policy, policy_set::PolicySet, policy_sets::Chosen, quota::Quota};
use crate::core::{allowance::Allowance, error::ConfigError, identity::Identity};

/// The maximum number of cached sets. The cache is cleared when this number is reached.
const SETS_MAX: usize = 1_024;

/// The name of the policy for a caller's credits.
const CREDITS: &str = "credits";
const OWN_LIMIT: &str = "own";

/// The allowances of callers that a limiter reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    pub(crate) credits: bool,
    pub(crate) limit: bool,
}

impl Reads {
    pub(crate) fn any(self) -> bool {
        self.credits || self.limit
    }

    fn of(self, caller: &Identity) -> Own {
        Own {
            credits: caller.credits().filter(|_| self.credits),
            limit: caller.limit().filter(|_| self.limit),
        }
    }
}

/// The allowances of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Own {
    credits: Option<Allowance>,
    limit: Option<Allowance>,
}

/// The policy sets that were created for callers with allowances. Callers with the same allowances
/// share a set.
#[derive(Debug)]
pub(crate) struct OwnSets {
    reads: Reads,
    made: RwLock<HashMap<(usize, Own), DerivedSet>>,
}

/// A policy set and its base. The base is stored so that its address remains unique and can serve
/// as a key.
#[derive(Debug)]
struct DerivedSet {
    base: Arc<PolicySet>,
    set: Arc<PolicySet>,
}

impl OwnSets {
    pub(crate) fn new(reads: Reads) -> Self {
        Self {
            reads,
            made: RwLock::default(),
        }
    }

    pub(crate) fn reads(&self) -> Reads {
        self.reads
    }

    /// Returns the policies of a caller, given the policies of the caller's tier.
    pub(crate) fn for_caller<'a>(&self, base: Chosen<'a>, caller: Option<&Identity>) -> Chosen<'a> {
        let Some(own) = caller.map(|caller| self.reads.of(caller)) else {
            return base;
        };
        if own.credits.is_none() && own.limit.is_none() {
            return base;
        }
        let base = base.shared();
        let place = (Arc::as_ptr(base).addr(), own);
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&place) {
            return Chosen::Latest(Arc::clone(&known.set));
        }
        drop(made);
        let set = Arc::new(own.make(base));
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= SETS_MAX {
            made.clear();
        }
        let base = Arc::clone(base);
        let made = made.entry(place).or_insert(DerivedSet { base, set });
        debug_assert_eq!(Arc::as_ptr(&made.base).addr(), place.0);
        Chosen::Latest(Arc::clone(&made.set))
    }
}

impl Own {
    fn make(self, base: &PolicySet) -> PolicySet {
        let kept = match self.limit {
            Some(_) => base.for_all(),
            None => base.policies(),
        };
        let limit = self.limit.map(|own| bucket(OWN_LIMIT, own));
        let credits = self.credits.map(|own| window(CREDITS, own));
        let policies = kept.iter().cloned().chain(limit).chain(credits);
        base.with_policies(policies.collect())
    }
}

/// Returns a policy that admits the entire amount in each period. A period starts with the first
/// use of the policy.
fn window(name: &str, own: Allowance) -> Policy {
    let policy = match own.period() {
        Some(period) => Policy::fixed_window(name, Quota::new(own.amount(), period)),
        None => Policy::calendar_month(name, own.amount()),
    };
    policy
        .expect("an allowance can be counted in a window")
        .for_any_window()
}

/// Returns a bucket that holds the amount, or a window if the amount is too large for a bucket to
/// count exactly.
fn bucket(name: &str, own: Allowance) -> Policy {
    let bucket = own
        .period()
        .map(|period| Policy::token_bucket(name, Quota::new(own.amount(), period)));
    match bucket {
        Some(Ok(policy)) => policy.for_any_window(),
        Some(Err(_)) | None => window(name, own),
    }
}

/// Rejects policies whose names are reserved for allowances.
pub(super) fn check_names<'a>(
    reads: Reads,
    mut policies: impl Iterator<Item = &'a Policy>,
) -> Result<(), ConfigError> {
    let taken = |policy: &&Policy| {
        (reads.credits && policy.name() == CREDITS) || (reads.limit && policy.name() == OWN_LIMIT)
    };
    match policies.find(taken) {
        None => Ok(()),
        Some(policy) => Err(ConfigError::new(
            "policies",
            policy.name(),
            "the name is reserved for an allowance of callers",
        )
        .fix("rename the policy after its purpose")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_allowance_can_be_counted_by_a_policy(
            amount in prop_oneof![1..100_u64, 1..=1_u64 << 53],
            millis in prop_oneof![1..100_u64, 1..=316_224_000_000_u64],
        ) {
            for own in [
                Allowance::new(amount, Duration::from_millis(millis)).unwrap(),
                Allowance::per_month(amount).unwrap(),
            ] {
                prop_assert_eq!(window("w", own).capacity(), amount);
                prop_assert_eq!(bucket("b", own).capacity(), amount);
            }
        }
    }
}
