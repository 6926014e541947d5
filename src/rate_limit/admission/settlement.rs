//! What a request truly cost, once that is known.

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

/// Says what a request truly cost; in the extensions of each request that a limiter admits which
/// [settles](crate::rate_limit::RateLimitLayerBuilder::settle).
///
/// A request is charged an estimate before it goes on. Once the response's body has ended, or the
/// client has gone away, or the handler has panicked, the difference to what was said here last is
/// charged or given back; if nothing was said, the estimate stands. What is given back reaches the
/// estimate's own window, and no later one. What is charged beyond what is left is owed: see
/// [`Policy::charge`](crate::rate_limit::Policy::charge).
///
/// A clone speaks of the same request. Where several limiters settle, it speaks to all of them.
///
/// ```
/// use portcullis::rate_limit::Settlement;
///
/// // In a handler, or in what makes the response's body.
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

/// What one limiter was told.
struct Tab {
    set: Arc<PolicySet>,
    costs: Box<[AtomicU64]>,
}

/// Nothing was said yet.
const UNKNOWN: u64 = u64::MAX;

impl Settlement {
    /// Returns the one in a request's extensions, if a limiter put one there.
    pub fn from_extensions(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Says what the request truly cost each policy, in the place of what was said before.
    pub fn set(&self, cost: u64) {
        self.each(
            |_| true,
            |place| place.store(cost.min(UNKNOWN - 1), Ordering::Relaxed),
        );
    }

    /// Says what the request truly cost the policy of this name.
    pub fn set_for(&self, policy: &str, cost: u64) {
        let named = |name: &str| name == policy;
        self.each(named, |place| {
            place.store(cost.min(UNKNOWN - 1), Ordering::Relaxed)
        });
    }

    /// Adds to what the request truly cost the policy of this name: for who counts as it goes.
    pub fn add_for(&self, policy: &str, cost: u64) {
        let more = |said: u64| {
            let said = if said == UNKNOWN { 0 } else { said };
            Some(said.saturating_add(cost).min(UNKNOWN - 1))
        };
        let named = |name: &str| name == policy;
        self.each(named, |place| {
            let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        });
    }

    fn each(&self, which: impl Fn(&str) -> bool, tell: impl Fn(&AtomicU64)) {
        for tab in &self.tabs {
            let policies = tab.set.policies().iter().zip(&tab.costs);
            policies
                .filter(|(policy, _)| which(policy.name()))
                .for_each(|(_, place)| tell(place));
        }
    }
}

/// Settles when it is dropped.
#[derive(Debug)]
pub(super) struct Bill {
    paid: Paid,
    tab: Arc<Tab>,
}

impl Bill {
    /// Opens a bill, and puts what may be said of it into the request's extensions.
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
        let said = self
            .tab
            .costs
            .iter()
            .map(|cost| cost.load(Ordering::Relaxed));
        self.paid
            .settle(said.map(|cost| (cost != UNKNOWN).then_some(cost)));
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
