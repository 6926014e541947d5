//! Joint decisions of all policies that apply to one request.

use smallvec::SmallVec;

use super::{
    algorithm::{Log, State},
    decision::{Decision, Decisions},
};
use crate::{core::time::Timestamp, rate_limit::policy::policy::Policy};

/// A charge of one request to one policy.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Charge<'a> {
    /// The policy that is charged.
    pub policy: &'a Policy,
    /// The cost of the request. A cost of zero charges nothing.
    pub cost: u64,
    /// `true` if the charge can be refunded when the response is known.
    #[cfg_attr(
        not(feature = "redis"),
        allow(dead_code, reason = "the store on Redis alone reads it")
    )]
    pub(crate) is_provisional: bool,
}

impl<'a> Charge<'a> {
    /// Creates a charge with this cost.
    pub fn new(policy: &'a Policy, cost: u64) -> Self {
        Self {
            policy,
            cost,
            is_provisional: false,
        }
    }

    /// Returns the charge, marked if it can be refunded when the response is known.
    #[inline]
    pub(crate) fn provisional(self, is_provisional: bool) -> Self {
        Self {
            is_provisional,
            ..self
        }
    }

    /// Returns `true` if this decision lets the request pass the policy.
    fn passes(&self, decision: &Decision) -> bool {
        decision.is_admitted() || self.policy.is_shadow()
    }
}

/// Decides one request under all its policies together and updates the states.
///
/// The states are in the order of the charges. If one policy denies, none is charged, and the
/// decisions of the other policies contain the remaining quota before the charge. A policy in
/// shadow mode never denies a request. Such a policy is charged if it would admit the request and
/// no other policy denies the request.
///
/// A store must read all states, call this function, and write all states back in one atomic step.
///
/// ```
/// use portcullis::{
///     Timestamp,
///     rate_limit::{Policy, Quota},
///     store::backend::{Charge, State, decide_all},
/// };
///
/// let two = Policy::fixed_window("two", Quota::per_minute(2))?;
/// let one = Policy::fixed_window("one", Quota::per_minute(1))?;
/// let charges = [Charge::new(&two, 1), Charge::new(&one, 1)];
/// let (now, mut states) = (Timestamp::EPOCH, [State::NONE; 2]);
///
/// assert!(decide_all(&charges, &mut states, now).is_admitted());
/// let denied = decide_all(&charges, &mut states, now);
/// assert!(!denied.is_admitted());
/// assert_eq!(denied.each()[0].remaining(), 1);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// # Panics
///
/// Panics if there are fewer states than charges.
#[inline]
pub fn decide_all(charges: &[Charge<'_>], states: &mut [State], now: Timestamp) -> Decisions {
    if let ([charge], [state, ..]) = (charges, &mut *states) {
        let (decision, next) = charge.policy.decide(*state, now, charge.cost);
        *state = next;
        return Decisions::one(charge.passes(&decision), now, decision);
    }
    settle(charges, states, now)
}

/// The stored usage of one partition under one policy.
#[derive(Debug)]
#[non_exhaustive]
pub enum StateRef<'a> {
    /// A state of three words. Every policy can decide with it.
    State(&'a mut State),
    /// A log, for a policy that [requires one](Policy::requires_log).
    Log(&'a mut Log),
}

/// Decides one request like [`decide_all`], for a store that also stores logs.
///
/// # Panics
///
/// Panics if there are fewer states than charges, or if a log is passed for a policy that does not
/// use one.
pub fn decide_all_with_logs(
    charges: &[Charge<'_>],
    states: &mut [StateRef<'_>],
    now: Timestamp,
) -> Decisions {
    settle(charges, states, now)
}

/// A stored state of any form.
trait Recall {
    /// The change that storing the charge would make.
    type Next;

    /// Decides a charge without storing it.
    fn decide(&mut self, charge: &Charge<'_>, now: Timestamp) -> (Decision, Self::Next);

    /// Stores the charge.
    fn store(&mut self, charge: &Charge<'_>, now: Timestamp, next: Self::Next);
}

fn settle<R: Recall>(charges: &[Charge<'_>], states: &mut [R], now: Timestamp) -> Decisions {
    assert!(charges.len() <= states.len(), "each charge has a state");
    let decided: SmallVec<[(Decision, R::Next); 4]> = charges
        .iter()
        .zip(&mut *states)
        .map(|(charge, state)| state.decide(charge, now))
        .collect();
    let admitted = charges
        .iter()
        .zip(&decided)
        .all(|(charge, (decision, _))| charge.passes(decision));
    let settled = charges.iter().zip(states).zip(decided);
    let each = settled.map(|((charge, state), (decision, next))| {
        if admitted || !decision.is_admitted() {
            state.store(charge, now, next);
            return decision;
        }
        // Another policy denied, so the remaining quota is the previous one.
        let peek = Charge { cost: 0, ..*charge };
        let (decision, unchanged) = state.decide(&peek, now);
        state.store(&peek, now, unchanged);
        decision
    });
    Decisions::new(admitted, now, each)
}

impl Recall for State {
    type Next = State;

    fn decide(&mut self, charge: &Charge<'_>, now: Timestamp) -> (Decision, State) {
        charge.policy.decide(*self, now, charge.cost)
    }

    fn store(&mut self, _: &Charge<'_>, _: Timestamp, next: State) {
        *self = next;
    }
}

impl Recall for StateRef<'_> {
    /// The next state or, for a log, `true` if the charge is to be recorded.
    type Next = Result<State, bool>;

    fn decide(&mut self, charge: &Charge<'_>, now: Timestamp) -> (Decision, Self::Next) {
        match self {
            Self::State(state) => {
                let (decision, next) = charge.policy.decide(**state, now, charge.cost);
                (decision, Ok(next))
            }
            Self::Log(log) => {
                let algorithm = charge.policy.algorithm();
                let decision = algorithm
                    .decide_log(log, now, charge.cost)
                    .expect("a log is only passed to a policy that uses one");
                (decision, Err(decision.is_admitted()))
            }
        }
    }

    fn store(&mut self, charge: &Charge<'_>, now: Timestamp, next: Self::Next) {
        match (self, next) {
            (Self::State(state), Ok(next)) => **state = next,
            (Self::Log(log), Err(true)) => {
                charge.policy.algorithm().record(log, now, charge.cost);
            }
            (Self::State(_), Err(_)) | (Self::Log(_), Ok(_) | Err(false)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::rate_limit::policy::quota::Quota;

    fn policies(limits: [u64; 3]) -> [Policy; 3] {
        let quota = |limit| Quota::new(limit, Duration::from_secs(1));
        [
            Policy::token_bucket("bucket", quota(limits[0])).unwrap(),
            Policy::fixed_window("anchored", quota(limits[1])).unwrap(),
            Policy::aligned_window("aligned", quota(limits[2])).unwrap(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn denied_by_one_is_charged_to_none_and_admitted_is_charged_to_all(
            limits in [1_u64..6, 1_u64..6, 1_u64..6],
            steps in vec((0_u64..300_000, [0_u64..4, 0_u64..4, 0_u64..4]), 1..60),
        ) {
            let policies = policies(limits);
            let (mut now, mut states) = (0, [State::NONE; 3]);
            for (pause, costs) in steps {
                now += pause;
                let at = Timestamp::from_micros(now);
                let charges = [0, 1, 2].map(|i| Charge::new(&policies[i], costs[i]));
                let alone = [0, 1, 2].map(|i| policies[i].decide(states[i], at, costs[i]));
                let before = [0, 1, 2].map(|i| policies[i].decide(states[i], at, 0).0.remaining());
                let together = decide_all(&charges, &mut states, at);
                let admitted = alone.iter().all(|(decision, _)| decision.is_admitted());
                prop_assert_eq!(together.is_admitted(), admitted);
                for i in 0..3 {
                    let left = policies[i].decide(states[i], at, 0).0.remaining();
                    let spent = if admitted { costs[i] } else { 0 };
                    prop_assert_eq!(left, before[i] - spent);
                    prop_assert_eq!(together.each()[i].remaining(), left);
                    prop_assert!(left <= limits[i]);
                }
            }
        }
    }
}
