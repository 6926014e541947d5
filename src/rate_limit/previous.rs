//! The policy that another one replaces, and what carries over from it.

use std::sync::{Arc, OnceLock};

use super::{
    algorithm::{Log, State},
    policy::Policy,
};
use crate::time::Timestamp;

/// The most changes of a window that are carried over one after the other.
const CHANGES_MAX: usize = 4;

/// A policy that was replaced.
#[derive(Debug)]
pub(super) struct Previous {
    policy: Policy,
    /// When the new policy was first used, by the store's clock.
    changed_at: OnceLock<Timestamp>,
}

impl Previous {
    /// Returns the policy to carry over from; none if it counts under the same id.
    pub(super) fn of(policy: &Policy, id: u64) -> Option<Arc<Self>> {
        (policy.id() != id).then(|| {
            Arc::new(Self {
                policy: limited(policy),
                changed_at: OnceLock::new(),
            })
        })
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn carry<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> Option<Carry<'a>> {
        let changed_at = *self.changed_at.get_or_init(|| now);
        let elapsed = (now - changed_at).as_micros();
        // A bucket may owe as much as it holds.
        (elapsed < 2 * u128::from(policy.algorithm().horizon_micros())).then_some(Carry {
            policy,
            previous: &self.policy,
            changed_at,
        })
    }
}

/// Returns the policy, without what it replaces if that is the end of too long a chain.
fn limited(policy: &Policy) -> Policy {
    match depth(policy) < CHANGES_MAX {
        true => policy.clone(),
        false => policy.without_previous(),
    }
}

/// Returns how many policies this one replaces, one after the other.
fn depth(policy: &Policy) -> usize {
    let previous = policy.previous();
    previous.map_or(0, |previous| 1 + depth(&previous.policy))
}

/// What a store carries over to a policy that [replaces](Policy::replacing) another.
///
/// Before a store decides by a policy, it asks [`Policy::carry`]. If there is something to carry over,
/// it first does the same for the [previous](Self::previous) policy, and then replaces the state of
/// the policy by what [`state`](Self::state) returns. Carrying over twice does no harm.
#[derive(Clone, Copy, Debug)]
pub struct Carry<'a> {
    policy: &'a Policy,
    previous: &'a Policy,
    changed_at: Timestamp,
}

impl<'a> Carry<'a> {
    /// Returns the policy that was replaced.
    pub fn previous(&self) -> &'a Policy {
        self.previous
    }

    /// Returns the moment at which it was replaced.
    pub fn changed_at(&self) -> Timestamp {
        self.changed_at
    }

    /// Returns the state to use for the policy, of its own state and that of the previous policy.
    pub fn state(&self, own: State, previous: State, now: Timestamp) -> State {
        let (to, from) = (self.policy.algorithm(), self.previous.algorithm());
        to.carry(own, from, previous, self.changed_at, now)
    }

    /// Charges the policy's own log what was used by the log of the previous policy.
    pub fn log(&self, own: &mut Log, mut previous: Log, now: Timestamp) {
        let (to, from) = (self.policy.algorithm(), self.previous.algorithm());
        to.carry_log(own, from, &mut previous, self.changed_at, now);
    }
}
