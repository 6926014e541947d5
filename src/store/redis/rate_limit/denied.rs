//! Known rejections, with which repeated requests are rejected locally until `retry_after` elapses.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp, ttl_map::TtlMap},
    rate_limit::backend::{
        Charge, Decisions, Log, State, StateRef, decide_all, decide_all_with_logs,
    },
};

/// The server's states for rejected partitions.
///
/// Charges by other instances cannot invalidate a rejection; only refunds can. A repeated request
/// is therefore decided locally with the known states, by the same functions as on the server.
/// Requests that these functions would admit are sent to the server. The size is limited, and
/// additional partitions are not remembered.
#[derive(Debug)]
pub(super) struct DenialMemory {
    // Outside of the lock, so that it is not taken while nothing is remembered.
    count: AtomicUsize,
    /// The number of refunds. Replies to calls that started before the last refund may be outdated.
    gifts: AtomicU64,
    /// The rejected partitions, each of which is held until its denial ends according to local
    /// time.
    held: Mutex<TtlMap<StoreKey, Known>>,
}

/// The server's states for a partition that it rejected.
#[derive(Debug)]
struct Known {
    /// The server's time for these states.
    at: Timestamp,
    /// The local time before the call, which is a lower bound for `at`.
    asked_at: Timestamp,
    states: SmallVec<[(u64, State); 4]>,
}

/// The maximum time for which a rejection is remembered while other instances can return leased
/// tokens or refund charges.
const BRIEF_MAX: Duration = Duration::from_millis(500);

impl DenialMemory {
    pub(super) fn new(max: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            gifts: AtomicU64::new(0),
            held: Mutex::new(TtlMap::new(max)),
        }
    }

    /// Returns the decision that the server would make if that decision would be a rejection.
    pub(super) fn decide(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<Decisions> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let held = self.lock();
        let known = held.get(partition, now)?;
        let state = |charge: &Charge<'_>| {
            let id = charge.policy.id();
            let found = known.states.iter().find(|(known, _)| *known == id);
            found.map(|(_, state)| *state)
        };
        let mut states = charges
            .iter()
            .map(state)
            .collect::<Option<SmallVec<[State; 4]>>>()?;
        // A lower bound of the server's time, so a rejection never lasts longer than `retry_after`.
        let at_the_server = known.at + (now - known.asked_at);
        let keep_logs = charges.iter().any(|charge| charge.policy.requires_log());
        let decisions = match keep_logs {
            true => decide_with_logs(charges, &mut states, at_the_server)?,
            false => decide_all(charges, &mut states, at_the_server),
        };
        is_firm(charges, &decisions).then_some(decisions)
    }

    /// Returns the number of refunds, for the [`CallContext`].
    pub(super) fn gifts(&self) -> u64 {
        self.gifts.load(Ordering::SeqCst)
    }

    /// Remembers a rejection, or removes the previous rejection if the server admitted a request.
    pub(super) fn learn(
        &self,
        partition: StoreKey,
        charges: impl IntoIterator<Item = (u64, State)>,
        decisions: &Decisions,
        asked: CallContext,
        now: Timestamp,
    ) {
        match decisions.is_admitted() {
            true => self.outdate(&partition),
            false => self.remember(partition, charges, decisions, asked, now),
        }
    }

    /// Remembers a rejection.
    fn remember(
        &self,
        partition: StoreKey,
        charges: impl IntoIterator<Item = (u64, State)>,
        decisions: &Decisions,
        asked: CallContext,
        now: Timestamp,
    ) {
        let waits = decisions
            .each()
            .iter()
            .filter_map(|each| each.retry_after());
        let Some(wait) = waits.max() else {
            return;
        };
        let wait = if asked.is_brief {
            wait.min(BRIEF_MAX)
        } else {
            wait
        };
        let over_at = asked.at + wait;
        let mut held = self.lock();
        if self.gifts() != asked.gifts || over_at <= now {
            return;
        }
        let known = Known {
            at: decisions.at(),
            asked_at: asked.at,
            states: charges.into_iter().collect(),
        };
        held.try_insert(partition, known, over_at, now);
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Removes a partition that was charged, because the states of its other policies have changed.
    fn outdate(&self, partition: &StoreKey) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut held = self.lock();
            held.remove(partition);
            self.count.store(held.len(), Ordering::Relaxed);
        }
    }

    /// Removes a partition that receives a refund.
    pub(super) fn forget(&self, partition: &StoreKey) {
        let mut held = self.lock();
        self.gifts.fetch_add(1, Ordering::SeqCst);
        held.remove(partition);
        self.count.store(held.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, TtlMap<StoreKey, Known>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The local state at the start of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallContext {
    pub(super) at: Timestamp,
    pub(super) gifts: u64,
    /// `true` if other instances can return leased tokens or refund charges. In that case, a
    /// rejection is remembered only briefly.
    pub(super) is_brief: bool,
}

/// Decides a request with policies that have logs. Only the expiry, the usage and the end of the
/// oldest entry are known for each log. Returns `None` if that is not enough to make the server's
/// decision.
fn decide_with_logs(
    charges: &[Charge<'_>],
    states: &mut [State],
    now: Timestamp,
) -> Option<Decisions> {
    let log_of = |(charge, state): (&Charge<'_>, &State)| match charge.policy.requires_log() {
        true => known_log(charge, *state, now).map(Some),
        false => Some(None),
    };
    let logs = charges.iter().zip(&*states).map(log_of);
    let mut logs: Vec<Option<Log>> = logs.collect::<Option<_>>()?;
    let memories = logs.iter_mut().zip(states).map(|(log, state)| match log {
        Some(log) => StateRef::Log(log),
        None => StateRef::State(state),
    });
    let mut memories: Vec<StateRef<'_>> = memories.collect();
    Some(decide_all_with_logs(charges, &mut memories, now))
}

/// Returns a log that decides this charge as the server's log does, or `None` if there is no such
/// log.
fn known_log(charge: &Charge<'_>, state: State, now: Timestamp) -> Option<Log> {
    let (mut log, policy) = (Log::default(), charge.policy);
    let [_, used, oldest_leaves] = state.to_words();
    if used == 0 {
        return Some(log);
    }
    let window = Duration::from_micros(policy.terms().numbers()[1]);
    let came_at = |leaves: Timestamp| leaves - window;
    let oldest_leaves = Timestamp::from_micros(oldest_leaves);
    // Once the oldest entry has left, or if several must leave, unknown entries matter.
    let is_unsatisfiable = charge.cost > policy.capacity();
    let is_known = is_unsatisfiable || used + charge.cost <= policy.capacity() + 1;
    (now < oldest_leaves && is_known).then(|| {
        policy.charge_log(&mut log, came_at(oldest_leaves), 1);
        policy.charge_log(&mut log, came_at(state.expires_at()), used - 1);
        log
    })
}

/// Returns `true` if a policy without a queue rejects the request. In a queue, waiting requests can
/// leave.
fn is_firm(charges: &[Charge<'_>], decisions: &Decisions) -> bool {
    charges
        .iter()
        .zip(decisions.each())
        .any(|(charge, decision)| {
            let policy = charge.policy;
            !decision.is_admitted() && !policy.is_shadow() && policy.max_wait().is_none()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::store_api::store_key::StoreKeys,
        rate_limit::{Policy, Quota},
    };

    const SERVER: u64 = 1_000_000_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn partition(number: u8) -> StoreKey {
        StoreKeys::from_secret(&[7; 32])
            .unwrap()
            .space("denied")
            .short_key(&[number])
    }

    fn bucket() -> Policy {
        Policy::token_bucket("b", Quota::per_second(1)).unwrap()
    }

    /// Remembers a rejection by the server of a call that started at this time.
    fn deny(denied: &DenialMemory, partition: StoreKey, policy: &Policy, millis: u64) {
        let charge = [Charge::new(policy, 1)];
        let mut state = [State::NONE];
        let now = at(SERVER + millis);
        decide_all(&charge, &mut state, now);
        let decisions = decide_all(&charge, &mut state, now);
        let asked = CallContext {
            at: at(millis),
            gifts: denied.gifts(),
            is_brief: false,
        };
        let known = [(policy.id(), state[0])];
        denied.remember(partition, known, &decisions, asked, at(millis));
    }

    #[test]
    fn denial_is_repeated_until_retry_after_and_no_longer() {
        let (denied, policy) = (DenialMemory::new(9), bucket());
        deny(&denied, partition(1), &policy, 100);
        let charge = [Charge::new(&policy, 1)];
        let said = denied.decide(&partition(1), &charge, at(700)).unwrap();
        assert!(!said.is_admitted());
        let wait = said.each()[0].retry_after();
        assert_eq!(wait, Some(Duration::from_millis(400)));
        assert_eq!(said.at(), at(SERVER + 700));
        assert!(denied.decide(&partition(1), &charge, at(1_100)).is_none());
        assert!(denied.decide(&partition(2), &charge, at(700)).is_none());
        let free = [Charge::new(&policy, 0)];
        assert!(denied.decide(&partition(1), &free, at(700)).is_none());
    }

    #[test]
    fn refund_clears_stored_and_in_flight_denials() {
        let (denied, policy) = (DenialMemory::new(9), bucket());
        deny(&denied, partition(1), &policy, 0);
        denied.forget(&partition(1));
        let charge = [Charge::new(&policy, 1)];
        assert!(denied.decide(&partition(1), &charge, at(1)).is_none());
        let before = CallContext {
            at: at(0),
            gifts: 0,
            is_brief: false,
        };
        let mut state = [State::NONE];
        decide_all(&charge, &mut state, at(SERVER));
        let decisions = decide_all(&charge, &mut state, at(SERVER));
        let known = [(policy.id(), state[0])];
        denied.remember(partition(1), known, &decisions, before, at(1));
        assert!(denied.decide(&partition(1), &charge, at(1)).is_none());
    }

    #[test]
    fn a_policy_that_only_watches_and_one_that_is_not_known_leave_it_to_the_server() {
        let (denied, policy) = (DenialMemory::new(9), bucket());
        deny(&denied, partition(1), &policy, 0);
        let watching = bucket().shadow();
        let charge = [Charge::new(&watching, 1)];
        assert!(denied.decide(&partition(1), &charge, at(1)).is_none());
        let other = Policy::fixed_window("other", Quota::per_second(1)).unwrap();
        let both = [Charge::new(&policy, 1), Charge::new(&other, 1)];
        assert!(denied.decide(&partition(1), &both, at(1)).is_none());
    }

    #[test]
    fn denial_memory_is_bounded_and_evicts_expired_denials() {
        let (denied, policy) = (DenialMemory::new(2), bucket());
        for number in 0..5 {
            deny(&denied, partition(number), &policy, 0);
        }
        let charge = [Charge::new(&policy, 1)];
        let known = |number| denied.decide(&partition(number), &charge, at(1));
        assert_eq!((0..5).filter(|number| known(*number).is_some()).count(), 2);
        deny(&denied, partition(9), &policy, 2_000);
        assert!(denied.decide(&partition(9), &charge, at(2_001)).is_some());
        assert_eq!(denied.lock().len(), 1);
    }
}
