//! What a local store has admitted while the other was away, and that one is yet to be charged.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use smallvec::SmallVec;

use super::{charge::Charge, decision::Decisions, policy::Policy, store::RateLimitStore};
use crate::store_key::StoreKey;

/// Whether a local store has admitted anything that the other does not know of.
///
/// What that is, the local store itself remembers, for as long as it counts, and no longer than its
/// own bound lets it. So what is charged later is never more than still counts.
#[derive(Debug, Default)]
pub(super) struct Arrears {
    /// Until then by the local store's clock, in microseconds, something may still count. Zero if
    /// nothing does.
    until: AtomicU64,
    // Two who ask for one partition's at once must not both be told.
    one_by_one: Mutex<()>,
}

impl Arrears {
    #[inline]
    pub(super) fn are_some(&self) -> bool {
        self.until.load(Ordering::Relaxed) > 0
    }

    /// Notes that a local store has admitted.
    pub(super) fn note(&self, decisions: &Decisions) {
        let lasts = decisions.each().iter().map(|said| said.reset_after());
        let until = decisions.at() + lasts.max().unwrap_or_default();
        self.until.fetch_max(until.as_micros(), Ordering::Relaxed);
    }

    /// Returns how much of each policy the local store has still counted for a partition, and makes
    /// it forget that; nothing if there is none of it, or if it does not answer at once.
    pub(super) fn take(
        &self,
        local: &dyn RateLimitStore,
        partition: &StoreKey,
        policies: &[Policy],
    ) -> Option<SmallVec<[u64; 4]>> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let look: SmallVec<[Charge<'_>; 4]> = policies
            .iter()
            .map(|policy| Charge::new(policy, 0))
            .collect();
        let _alone = self
            .one_by_one
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let counted = local.peek(partition, &look).into_ready().ok()?.ok()?;
        if counted.at().as_micros() >= until {
            let now_none = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = self
                .until
                .compare_exchange(until, 0, now_none.0, now_none.1);
            return None;
        }
        let used = policies.iter().zip(counted.each());
        let used: SmallVec<[u64; 4]> = used
            .map(|(policy, said)| policy.capacity().saturating_sub(said.remaining()))
            .collect();
        if used.iter().all(|used| *used == 0) {
            return None;
        }
        let all: SmallVec<[&Policy; 4]> = policies.iter().collect();
        local.reset(partition, &all).into_ready().ok()?.ok()?;
        Some(used)
    }
}
