//! What was taken ahead, and is spent here without asking the server.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    rate_limit::{Charge, Decision, Decisions, Mode, Policy, Receipt},
    store_key::StoreKey,
    time::Timestamp,
};

/// Of so many partitions at most something is taken ahead.
const PARTITIONS_MAX: usize = 10_000;

/// So long a lease may lie idle before it goes back.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(2);

/// What was taken ahead, of each partition and policy.
///
/// A charge that was made in a window is spent in that window or not at all: so no window admits
/// more than its limit.
#[derive(Debug, Default)]
pub(super) struct Leases {
    // Beside the map, so that nobody locks it where nothing is leased.
    count: AtomicUsize,
    held: Mutex<HashMap<StoreKey, SmallVec<[Lease; 1]>>>,
}

/// What was taken ahead of one policy.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) policy: Policy,
    pub(super) tokens: u64,
    /// What was left at the server besides.
    pub(super) left: u64,
    pub(super) receipt: Receipt,
    /// The server's time, and ours of before it was asked.
    pub(super) at: Timestamp,
    pub(super) asked_at: Timestamp,
    pub(super) used_at: Timestamp,
}

/// Returns by what to divide what is left, to take as much ahead; 0 to take nothing.
pub(super) fn divisor(charges: &[Charge<'_>]) -> u64 {
    let of = |charge: &Charge<'_>| match charge.policy.counting_mode() {
        Mode::Exact | Mode::Debt { .. } => 0,
        Mode::Lease { instances } => 2 * u64::from(instances.get()),
    };
    // All of a request's policies, or none: what one decides at the server, that decides all.
    match charges.iter().map(of).min() {
        Some(0) | None => 0,
        Some(_) => charges.iter().map(of).max().unwrap_or_default(),
    }
}

impl Lease {
    /// Returns the server's time: no earlier than it is there.
    fn server_now(&self, now: Timestamp) -> Timestamp {
        self.at + (now - self.asked_at)
    }

    /// Returns whether what was taken ahead is still of the window that it was taken from.
    fn is_good(&self, now: Timestamp) -> bool {
        let until = self.receipt.forgotten_at();
        let until = match self.policy.terms().letter() {
            // It is forgotten a window after the one that it belongs to.
            's' => until - Duration::from_micros(self.policy.terms().numbers()[1]),
            _ => until,
        };
        self.server_now(now) < until
    }
}

impl Leases {
    /// Spends what was taken ahead, if there is enough for all charges.
    pub(super) fn spend(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<Decisions> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut held = self.lock();
        let leases = held.get_mut(partition)?;
        let is_enough = |charge: &Charge<'_>| {
            let lease = leases.iter().find(|lease| is_for(lease, charge));
            lease.is_some_and(|lease| lease.tokens >= charge.cost && lease.is_good(now))
        };
        if !charges.iter().all(is_enough) {
            return None;
        }
        let at = leases.first()?.server_now(now);
        let mut each = SmallVec::<[Decision; 4]>::new();
        for charge in charges {
            let lease = leases.iter_mut().find(|lease| is_for(lease, charge))?;
            lease.tokens -= charge.cost;
            lease.used_at = now;
            let remaining = lease.left + lease.tokens;
            let reset_after = lease.receipt.forgotten_at() - lease.server_now(now);
            each.push(Decision::admitted(remaining, reset_after, lease.receipt));
        }
        Some(Decisions::new(true, at, each))
    }

    /// Keeps what was taken ahead, and returns what there is no place for: to be given back.
    pub(super) fn keep(&self, partition: StoreKey, lease: Lease, now: Timestamp) -> Option<Lease> {
        let mut held = self.lock();
        if held.len() >= PARTITIONS_MAX && !held.contains_key(&partition) {
            return Some(lease);
        }
        let leases = held.entry(partition).or_default();
        let same = |other: &&mut Lease| other.policy.id() == lease.policy.id();
        let surplus = match leases.iter_mut().find(same) {
            Some(other) if other.tokens > 0 && other.is_good(now) => Some(lease),
            Some(other) => {
                *other = lease;
                None
            }
            None => {
                leases.push(lease);
                None
            }
        };
        self.count.store(held.len(), Ordering::Relaxed);
        surplus
    }

    /// Takes out what has lain idle, or of some partition all.
    pub(super) fn take_idle(&self, now: Timestamp) -> Vec<(StoreKey, Lease)> {
        self.take(|_, lease| now >= lease.used_at + IDLE_MAX || !lease.is_good(now))
    }

    /// Takes out all.
    pub(super) fn take_all(&self) -> Vec<(StoreKey, Lease)> {
        self.take(|_, _| true)
    }

    /// Takes out what was taken ahead of a partition that is reset.
    pub(super) fn forget(&self, partition: &StoreKey, policies: &[&Policy]) {
        let is_reset = |lease: &Lease| policies.iter().any(|p| p.id() == lease.policy.id());
        self.take(|of, lease| of == partition && is_reset(lease));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn take(&self, is_meant: impl Fn(&StoreKey, &Lease) -> bool) -> Vec<(StoreKey, Lease)> {
        let mut taken = Vec::new();
        let mut held = self.lock();
        held.retain(|partition, leases| {
            leases.retain(|lease| {
                let meant = is_meant(partition, lease);
                if meant {
                    taken.push((*partition, lease.clone()));
                }
                !meant
            });
            !leases.is_empty()
        });
        self.count.store(held.len(), Ordering::Relaxed);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreKey, SmallVec<[Lease; 1]>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_for(lease: &Lease, charge: &Charge<'_>) -> bool {
    lease.policy.id() == charge.policy.id() && lease.policy.terms() == charge.policy.terms()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{rate_limit::Quota, store_key::StoreKeys};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn partition() -> StoreKey {
        StoreKeys::from_secret(&[7; 32])
            .unwrap()
            .space("leases")
            .short_of(b"x")
    }

    fn policy() -> Policy {
        let instances = NonZeroU32::new(4).unwrap();
        Policy::fixed_window("p", Quota::per_minute(1_000))
            .unwrap()
            .mode(Mode::Lease { instances })
    }

    fn lease(tokens: u64, until_millis: u64) -> Lease {
        Lease {
            policy: policy(),
            tokens,
            left: 100,
            receipt: Receipt::until(at(until_millis)),
            at: at(50_000),
            asked_at: at(0),
            used_at: at(0),
        }
    }

    #[test]
    fn what_was_taken_ahead_is_spent_and_no_more_and_not_after_its_window() {
        let (leases, policy) = (Leases::default(), policy());
        assert!(leases.keep(partition(), lease(3, 60_000), at(0)).is_none());
        let two = [Charge::new(&policy, 2)];
        let spent = leases.spend(&partition(), &two, at(1_000)).unwrap();
        assert_eq!(spent.at(), at(51_000));
        assert_eq!(spent.each()[0].remaining(), 101);
        assert_eq!(spent.each()[0].reset_after(), Duration::from_secs(9));
        assert!(leases.spend(&partition(), &two, at(1_000)).is_none());
        let one = [Charge::new(&policy, 1)];
        assert!(leases.spend(&partition(), &one, at(10_000)).is_none());
        assert!(leases.spend(&partition(), &one, at(9_999)).is_some());
    }

    #[test]
    fn an_instance_holds_one_lease_and_gives_back_the_second_and_what_lies_idle() {
        let leases = Leases::default();
        assert!(leases.keep(partition(), lease(3, 60_000), at(0)).is_none());
        let surplus = leases.keep(partition(), lease(2, 60_000), at(0)).unwrap();
        assert_eq!(surplus.tokens, 2);
        assert!(leases.take_idle(at(1_999)).is_empty());
        let idle = leases.take_idle(at(2_000));
        assert_eq!((idle.len(), idle[0].1.tokens), (1, 3));
        assert!(leases.is_empty());
    }

    #[test]
    fn one_policy_that_is_exact_makes_all_of_a_request_exact() {
        let (leased, quota) = (policy(), Quota::per_minute(1));
        let exact = Policy::token_bucket("exact", quota).unwrap();
        let charge = |policy| Charge::new(policy, 1);
        assert_eq!(divisor(&[charge(&leased)]), 8);
        assert_eq!(divisor(&[charge(&leased), charge(&exact)]), 0);
        assert_eq!(divisor(&[]), 0);
    }
}
