//! The states and logs of all partitions, and the decisions that use them.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use smallvec::SmallVec;

use super::{
    logs::Logs,
    table::{Held, Key, Table},
};
use crate::{
    core::{
        error::StoreErrorKind,
        store_api::{
            store_future::StoreFuture,
            store_key::{StoreKey, StoreKeys},
        },
        time::{Clock, Timestamp},
    },
    rate_limit::{
        Policy,
        backend::{
            Charge, Decision, Decisions, Log, State, StateRef, decide_all, decide_all_with_logs,
        },
    },
    store::memory::context::MemoryContext,
};

/// The usage of quotas: one state for each partition and policy.
pub(crate) struct RateLimitTable {
    clock: Arc<dyn Clock>,
    pub(super) keys: StoreKeys,
    max_states: usize,
    // Allocated at the first request, so that a store without rate limits takes no memory for it.
    table: OnceLock<Table>,
    pub(super) logs: Logs,
}

impl RateLimitTable {
    pub(crate) fn new(context: &MemoryContext) -> Self {
        Self {
            clock: Arc::clone(&context.clock),
            keys: context.keys.clone(),
            max_states: context.limits.max_rate_limit_partitions,
            table: OnceLock::new(),
            logs: Logs::new(context.limits.max_rate_limit_partitions),
        }
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::new(self.max_states))
    }

    /// Decides the most common kind of request: one policy, and a known client with remaining
    /// quota.
    // Inlined, so that the result is not passed through memory.
    #[inline(always)]
    pub(super) fn admit_known(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        if !charge.policy.tolerates_coarse_clock() || charge.policy.has_previous() {
            return None;
        }
        let now = self.clock.coarse();
        let table = self.table.get()?;
        let mut held = table.hold_at_home(key(partition, charge.policy))?;
        let algorithm = charge.policy.algorithm();
        // Apart from the general case, whose result and state would have to be in memory.
        if let Some((decision, next)) = algorithm.admit_whole(held.state, now, charge.cost) {
            held.state = next;
            return Some((now, decision));
        }
        admit_held(held, charge, now)
    }

    /// Decides with the coarse time if the policies tolerate it. If the request is rejected,
    /// decides again with the precise time, so that no client waits longer than `retry_after`.
    #[inline(never)]
    pub(super) fn take_at_length(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
    ) -> StoreFuture<Decisions> {
        self.carry_all(partition, charges.iter().map(|charge| charge.policy));
        if charges
            .iter()
            .all(|charge| charge.policy.tolerates_coarse_clock())
        {
            match self.take_at(partition, charges, self.clock.coarse()) {
                Some(decisions) if decisions.is_admitted() => return StoreFuture::ready(decisions),
                Some(_) | None => {}
            }
        }
        match self.take_at(partition, charges, self.clock.now()) {
            Some(decisions) => StoreFuture::ready(decisions),
            None => StoreFuture::failed(StoreErrorKind::Full),
        }
    }

    fn take_at(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<Decisions> {
        if charges.iter().any(|charge| charge.policy.requires_log()) {
            return self.take_with_logs(partition, charges, now);
        }
        let keys = keys(partition, charges.iter().map(|charge| charge.policy));
        self.table()
            .change_all(&keys, now, |states| decide_all(charges, states, now))
    }

    /// Decides while holding the logs of the partition.
    fn take_with_logs(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<Decisions> {
        let words = charges
            .iter()
            .filter(|charge| !charge.policy.requires_log());
        let keys = keys(partition, words.map(|charge| charge.policy));
        let logged = charges.iter().filter(|charge| charge.policy.requires_log());
        let ids: SmallVec<[u64; 4]> = logged.map(|charge| charge.policy.id()).collect();
        self.logs.change(partition, &ids, now, |logs| {
            let mut decide = |states: &mut [State]| {
                decide_all_with_logs(charges, &mut memories(charges, states, logs), now)
            };
            if keys.is_empty() {
                Some(decide(&mut []))
            } else {
                self.table().change_all(&keys, now, decide)
            }
        })?
    }

    pub(super) fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> Decisions {
        self.carry_all(partition, charges.iter().map(|charge| charge.policy));
        let now = self.time_for(charges.iter().map(|charge| charge.policy));
        let (mut states, mut logs) = (SmallVec::<[State; 4]>::new(), Vec::new());
        for charge in charges {
            if charge.policy.requires_log() {
                logs.push(self.logs.read(partition, charge.policy.id()));
            } else {
                states.push(self.table().read(key(partition, charge.policy)));
            }
        }
        decide_all_with_logs(charges, &mut memories(charges, &mut states, &mut logs), now)
    }

    /// Charges one policy. Returns `true` if there was room for its state.
    pub(super) fn charge(&self, partition: &StoreKey, charge: &Charge<'_>) -> bool {
        let Charge { policy, cost, .. } = *charge;
        self.carry_all(partition, [policy]);
        let now = self.time_for([policy]);
        if policy.requires_log() {
            let charge = |logs: &mut [Log]| policy.charge_log(&mut logs[0], now, cost);
            let charged = self.logs.change(partition, &[policy.id()], now, charge);
            return charged.is_some();
        }
        let charge = |states: &mut [State]| states[0] = policy.charge(states[0], now, cost);
        let keys = [key(partition, policy)];
        self.table().change_all(&keys, now, charge).is_some()
    }

    pub(super) fn change_known(
        &self,
        partition: &StoreKey,
        policy: &Policy,
        change: impl FnOnce(State, Timestamp) -> State,
    ) {
        let now = self.time_for([policy]);
        if let Some(mut held) = self.table().hold(key(partition, policy)) {
            held.state = change(held.state, now);
        }
    }

    /// Carries over the usage of previous policies.
    fn carry_all<'a>(&self, partition: &StoreKey, policies: impl IntoIterator<Item = &'a Policy>) {
        for policy in policies {
            if policy.has_previous() {
                self.carry(partition, policy);
            }
        }
    }

    #[cold]
    fn carry(&self, partition: &StoreKey, policy: &Policy) {
        let now = self.time_for([policy]);
        let Some(carry) = policy.carry(now) else {
            return;
        };
        self.carry_all(partition, [carry.previous()]);
        let (own, previous) = (policy.id(), carry.previous().id());
        if policy.requires_log() {
            let previous = self.logs.read(partition, previous);
            if previous.is_empty() {
                return;
            }
            let change = |logs: &mut [Log]| carry.log(&mut logs[0], previous, now);
            // Without room, no request is admitted either.
            let _ = self.logs.change(partition, &[own], now, change);
            return;
        }
        let previous = self.table().read(Key::new(partition, previous));
        if previous.is_alive(carry.changed_at()) {
            let change = |states: &mut [State]| states[0] = carry.state(states[0], previous, now);
            let _ = self
                .table()
                .change_all(&[Key::new(partition, own)], now, change);
        }
    }

    /// Returns the time of the first decision with these policies. All calls use that time, so a
    /// window that has ended for one call is not still open for the next.
    fn time_for<'a>(&self, policies: impl IntoIterator<Item = &'a Policy>) -> Timestamp {
        if policies.into_iter().all(Policy::tolerates_coarse_clock) {
            self.clock.coarse()
        } else {
            self.clock.now()
        }
    }
}

/// Arranges the states and the logs in the order of the charges.
#[inline(never)]
fn admit_held(
    mut held: Held<'_>,
    charge: &Charge<'_>,
    now: Timestamp,
) -> Option<(Timestamp, Decision)> {
    let (decision, next) = charge.policy.decide(held.state, now, charge.cost);
    if !decision.is_admitted() {
        return None;
    }
    held.state = next;
    Some((now, decision))
}

/// Arranges the states and the logs in the order of the charges.
fn memories<'a>(
    charges: &[Charge<'_>],
    states: &'a mut [State],
    logs: &'a mut [Log],
) -> SmallVec<[StateRef<'a>; 4]> {
    let (mut states, mut logs) = (states.iter_mut(), logs.iter_mut());
    let memory = |charge: &Charge<'_>| {
        if charge.policy.requires_log() {
            logs.next().map(StateRef::Log)
        } else {
            states.next().map(StateRef::State)
        }
    };
    charges.iter().filter_map(memory).collect()
}

fn keys<'a>(
    partition: &StoreKey,
    policies: impl Iterator<Item = &'a Policy>,
) -> SmallVec<[Key; 4]> {
    policies.map(|policy| key(partition, policy)).collect()
}

fn key(partition: &StoreKey, policy: &Policy) -> Key {
    Key::new(partition, policy.id())
}

impl fmt::Debug for RateLimitTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitTable")
            .field("max_states", &self.max_states)
            .finish_non_exhaustive()
    }
}
