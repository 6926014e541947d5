//! The settlement of a request's cost after its response.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::Extensions;
use smallvec::SmallVec;

use super::charged::Paid;
use crate::rate_limit::policy::policy_set::PolicySet;

/// A handle that sets the actual cost of a request. A limiter that
/// [settles](crate::rate_limit::RateLimitLayerBuilder::settle_after_response) inserts one into the
/// extensions of each request that it admits.
///
/// A request is charged an estimate before it reaches the inner service. The charge is settled when
/// the response body ends, the client disconnects, or the handler panics: the difference between
/// the estimate and the most recently set cost is charged or refunded. If no cost was set, the
/// estimate remains charged. A refund applies only to the window of the estimate, never to a later
/// window. A charge can exceed the remaining quota: see
/// [`Policy::charge`](crate::rate_limit::Policy::charge).
///
/// Clones refer to the same request. If several limiters settle the same request, one settlement
/// sets the cost in all of them.
///
/// ```
/// use portcullis::rate_limit::Settlement;
///
/// // In a handler, or in the stream that produces the response body.
/// fn answered(extensions: &http::Extensions, tokens_in: u64, tokens_out: u64) {
///     if let Some(settlement) = Settlement::from_extensions(extensions) {
///         settlement.set_for("tokens", tokens_in + tokens_out);
///     }
/// }
/// # answered(&http::Extensions::new(), 1, 2);
/// ```
#[derive(Clone)]
pub struct Settlement {
    tabs: SmallVec<[Arc<Tab>; 1]>,
}

/// The actual costs of a request in one limiter.
struct Tab {
    set: Arc<PolicySet>,
    costs: Box<[AtomicU64]>,
}

/// A placeholder for a cost that is not set.
const UNKNOWN: u64 = u64::MAX;

impl Settlement {
    /// Returns the settlement in a request's extensions, if a limiter inserted one.
    pub fn from_extensions(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Sets the actual cost of the request for every policy. Replaces any previously set cost.
    pub fn set(&self, cost: u64) {
        self.each(
            |_| true,
            |known| known.store(cost.min(UNKNOWN - 1), Ordering::Relaxed),
        );
    }

    /// Sets the actual cost of the request for the policy with this name. Replaces any previously
    /// set cost.
    pub fn set_for(&self, policy: &str, cost: u64) {
        let named = |name: &str| name == policy;
        self.each(named, |known| {
            known.store(cost.min(UNKNOWN - 1), Ordering::Relaxed)
        });
    }

    /// Adds an amount to the actual cost of the request for the policy with this name. The first
    /// call adds to zero.
    pub fn add_for(&self, policy: &str, cost: u64) {
        let more = |known: u64| {
            let known = if known == UNKNOWN { 0 } else { known };
            Some(known.saturating_add(cost).min(UNKNOWN - 1))
        };
        let named = |name: &str| name == policy;
        self.each(named, |known| {
            let _ = known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        });
    }

    fn each(&self, is_meant: impl Fn(&str) -> bool, update: impl Fn(&AtomicU64)) {
        for tab in &self.tabs {
            let policies = tab.set.policies().iter().zip(&tab.costs);
            policies
                .filter(|(policy, _)| is_meant(policy.name()))
                .for_each(|(_, cost)| update(cost));
        }
    }
}

/// A charge that is settled when the bill is dropped.
#[derive(Debug)]
pub(super) struct Bill {
    paid: Paid,
    tab: Arc<Tab>,
}

impl Bill {
    /// Creates a bill and inserts its [`Settlement`] into the request's extensions.
    pub(crate) fn open(paid: Paid, extensions: &mut Extensions) -> Self {
        let unknown = |_: &_| AtomicU64::new(UNKNOWN);
        let tab = Arc::new(Tab {
            costs: paid.set().policies().iter().map(unknown).collect(),
            set: Arc::clone(paid.set()),
        });
        let outer = extensions.remove::<Settlement>();
        let outer = outer.into_iter().flat_map(|outer| outer.tabs);
        let tabs = outer.chain([Arc::clone(&tab)]).collect();
        extensions.insert(Settlement { tabs });
        Self { paid, tab }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let costs = self
            .tab
            .costs
            .iter()
            .map(|cost| cost.load(Ordering::Relaxed));
        self.paid
            .settle(costs.map(|cost| (cost != UNKNOWN).then_some(cost)));
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.tabs).finish()
    }
}

impl fmt::Debug for Tab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = self.set.policies().iter().zip(&self.costs);
        f.debug_map()
            .entries(policies.map(|(policy, cost)| (policy.name(), cost)))
            .finish()
    }
}
