//! The charge of a request: its partition, its policies, and their costs.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc};

use super::{charged::Costs, response_head::ChargeIfFn};
use crate::{
    core::{identity::Identity, store_api::store_key::StoreKey},
    rate_limit::{
        partition::stored::{SingleComponent, StoredPartition},
        policy::{
            overrides::OwnSets,
            policy::Policy,
            policy_set::{PolicyList, PolicySet},
            policy_sets::{Chosen, LiveSets},
        },
        request_head::RequestHead,
    },
};

/// A function that returns the tier of a request.
type TierFn = dyn for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync;
/// A function that looks up the policies of a request.
type PoliciesFn = dyn Fn(&RequestHead<'_>) -> PolicyLookup + Send + Sync;
/// A function that returns the cost of a request.
type CostFn = dyn Fn(&RequestHead<'_>, &Policy) -> u64 + Send + Sync;

/// A pending lookup of one request's policies.
pub(super) type PolicyLookup = Pin<Box<dyn Future<Output = Option<PolicyList>> + Send>>;

/// The options that determine the charges of each request.
#[derive(Default)]
pub(crate) struct ChargingOptions {
    pub(crate) tier_with: Option<Arc<TierFn>>,
    pub(crate) policies_with: Option<Arc<PoliciesFn>>,
    pub(crate) cost: Option<Arc<CostFn>>,
    /// `true` if the cost is an estimate that is settled later.
    pub(crate) settles: bool,
    pub(crate) charge_if: Option<Arc<ChargeIfFn>>,
}

/// The charges of a limiter.
pub(crate) struct Charging {
    pub(crate) partition: StoredPartition,
    /// The component of the partition on the [fast path](super::fast_path), if requests can take
    /// it.
    pub(crate) fast: Option<SingleComponent>,
    pub(crate) sets: LiveSets,
    pub(crate) own: Option<OwnSets>,
    pub(crate) options: ChargingOptions,
}

impl ChargingOptions {
    pub(crate) fn tier<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
        match &self.tier_with {
            Some(tier_with) => tier_with(head),
            None => {
                let tier = head.extensions.get().and_then(Identity::tier);
                tier.map(Cow::Borrowed)
            }
        }
    }

    /// Returns the cost of a request for each policy. Calls the cost function once for each policy.
    #[inline]
    pub(crate) fn costs(&self, set: &PolicySet, head: &RequestHead<'_>) -> Costs {
        let mut costs = Costs::new();
        for policy in set.policies() {
            costs.push(self.cost.as_ref().map_or(1, |cost| cost(head, policy)));
        }
        costs
    }

    /// Returns `true` if the application provides a tier, policy, or cost function.
    pub(crate) fn has_functions(&self) -> bool {
        self.tier_with.is_some()
            || self.policies_with.is_some()
            || self.cost.is_some()
            || self.charge_if.is_some()
    }

    /// Returns `true` if charges can change after the admission.
    pub(crate) fn is_provisional(&self) -> bool {
        self.settles || self.charge_if.is_some()
    }
}

impl Charging {
    /// Returns the policies that apply to a request without consulting `policies_with`.
    #[inline]
    pub(crate) fn policies(&self, head: &RequestHead<'_>) -> Chosen<'_> {
        let set = self.sets.choose(|| self.options.tier(head));
        match &self.own {
            Some(own) => own.for_caller(set, head.extensions.get()),
            None => set,
        }
    }

    /// Returns the partition and the policies of a request for the methods of a handle.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<(StoreKey, Arc<PolicySet>)> {
        let set = self.policies(head);
        if set.policies().is_empty() {
            return None;
        }
        let partition = self.partition.key(head).ok()??;
        Some((partition, set.into_owned()))
    }
}
