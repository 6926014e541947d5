//! The settlement of a request's cost after its response.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Extensions, Request, Response};
use smallvec::SmallVec;

use super::{charged::Paid, charging::ChargingOptions, response_head::ChargeCondition};
use crate::rate_limit::policy::policy_set::PolicySet;

/// A handle that sets the actual cost of a request. A limiter that
/// [settles](crate::rate_limit::RateLimitLayerBuilder::settle_after_response) inserts a settlement
/// into the extensions of each request that it admits.
///
/// A request is charged an estimate before it reaches the inner service. The charge is settled when
/// the response body ends, the client disconnects, or the handler panics. The limiter then charges
/// or refunds the difference between the estimate and the most recently set cost. If no cost was
/// set, the estimate remains charged. A refund applies only to the window in which the estimate was
/// charged. A charge can exceed the remaining quota; see
/// [`Policy::charge`](crate::rate_limit::Policy::charge).
///
/// Clones refer to the same request. If several limiters settle the same request, a single
/// settlement sets the cost in all of them.
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

/// The charges of an admitted request that can still change. The head of the response can change
/// them, and so can the [`Settlement`] when the bill is dropped.
///
/// A request without a response remains charged, because the client could otherwise avoid charges
/// by disconnecting.
pub(super) struct Bill {
    paid: Paid,
    /// Taken when the head of the response is known.
    condition: Option<ChargeCondition>,
    /// The actual costs, if the limiter settles.
    tab: Option<Arc<Tab>>,
}

impl Bill {
    /// Creates a bill. If the limiter settles, inserts a [`Settlement`] into the extensions of the
    /// request.
    pub(crate) fn open<B>(paid: Paid, options: &ChargingOptions, request: &mut Request<B>) -> Self {
        let version = request.version();
        let charge_if = options.charge_if.as_ref();
        let tab = || Tab::open(paid.set(), request.extensions_mut());
        Self {
            condition: charge_if.map(|charge_if| ChargeCondition::new(charge_if, version)),
            tab: options.settles.then(tab),
            paid,
        }
    }

    /// Refunds the policies that this response is not charged to. Returns the bill if it is to be
    /// settled at the end of the body.
    pub(super) fn judge<B>(mut self, response: &Response<B>) -> Option<Self> {
        if let Some(condition) = self.condition.take() {
            self.paid.keep_if(condition.on(response));
        }
        self.tab.is_some().then_some(self)
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        if let Some(tab) = &self.tab {
            let costs = tab.costs.iter().map(|cost| cost.load(Ordering::Relaxed));
            self.paid
                .settle(costs.map(|cost| (cost != UNKNOWN).then_some(cost)));
        }
    }
}

impl Tab {
    /// Creates a tab, and inserts its [`Settlement`] into the extensions of the request.
    fn open(set: &Arc<PolicySet>, extensions: &mut Extensions) -> Arc<Self> {
        let unknown = |_: &_| AtomicU64::new(UNKNOWN);
        let tab = Arc::new(Self {
            costs: set.policies().iter().map(unknown).collect(),
            set: Arc::clone(set),
        });
        let outer = extensions.remove::<Settlement>();
        let outer = outer.into_iter().flat_map(|outer| outer.tabs);
        let tabs = outer.chain([Arc::clone(&tab)]).collect();
        extensions.insert(Settlement { tabs });
        tab
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.tabs).finish()
    }
}

impl fmt::Debug for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bill")
            .field("paid", &self.paid)
            .field("tab", &self.tab)
            .finish_non_exhaustive()
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
