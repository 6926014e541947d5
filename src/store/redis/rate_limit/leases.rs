//! Tokens that this instance has leased from the server and spends locally.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::question::{Ahead, Unspent};
use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    rate_limit::{
        Policy, SyncMode,
        backend::{Charge, Decision, Decisions, Receipt},
    },
};

/// The maximum number of partitions with leases. For other partitions, the server decides requests.
const PARTITIONS_MAX: usize = 10_000;

/// The idle time after which unused tokens are returned.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(2);

/// The leases for each partition and policy.
///
/// A window's tokens are spent only in that window, so no window admits more than its limit. Each
/// token is held either by the server or by one instance. Tokens that a call in flight is returning
/// cannot be spent.
#[derive(Debug)]
pub(super) struct Leases {
    // Outside of the lock, so that a limiter without leases never takes it.
    count: AtomicUsize,
    held: Mutex<HashMap<StoreKey, SmallVec<[Lease; 1]>>>,
    /// Identifies this instance. If no random numbers are available, nothing is leased.
    instance: Option<u64>,
    /// The number of the latest call.
    number: AtomicU64,
}

/// The tokens of one policy.
#[derive(Clone, Debug)]
struct Lease {
    policy: Policy,
    phase: LeasePhase,
    unspent: Unspent,
    granted: Option<Granted>,
    used_at: Timestamp,
}

/// The state of a lease. At most one call for a lease is in flight.
///
/// ```text
///            ┌───────── reply, or not sent ──────────┐
///            v                                       │
///         Holding ──call──> Asking ──────────────────┘
///                             ^ │ no reply, or not sent again
///                        call │ v
///                           Doubtful
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeasePhase {
    /// The tokens of the lease can be spent.
    Holding,
    /// A call is returning the tokens and requesting new ones.
    Asking { number: u64, was: Resting },
    /// The reply to a call was lost, so only the server has a record of the granted tokens.
    Doubtful(Timestamp),
}

/// The phase that is restored if a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resting {
    Holding,
    Doubtful(Timestamp),
}

/// The server's grant of tokens for one policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) tokens: u64,
    /// The tokens that remain on the server.
    pub(super) left: u64,
    pub(super) receipt: Receipt,
    /// The server's time when it replied, and the local time before the call.
    pub(super) at: Timestamp,
    pub(super) asked_at: Timestamp,
}

/// A call that returns tokens.
#[derive(Debug)]
pub(super) struct Return {
    pub(super) partition: StoreKey,
    pub(super) policies: SmallVec<[Policy; 1]>,
    pub(super) ahead: Ahead,
}

/// Returns the divisor that yields the size of a lease from the remaining tokens. Returns 0 if
/// nothing is to be leased.
pub(super) fn divisor(charges: &[Charge<'_>]) -> u64 {
    let of = |charge: &Charge<'_>| match charge.policy.sync_mode() {
        SyncMode::Exact | SyncMode::Deferred { .. } => 0,
        SyncMode::Leased { instances } => 2 * u64::from(instances.get()),
    };
    // If the server must decide one policy of a request, it decides all.
    match charges.iter().map(of).min() {
        Some(0) | None => 0,
        Some(_) => charges.iter().map(of).max().unwrap_or_default(),
    }
}

impl Granted {
    /// Returns a lower bound for the server's current time.
    fn server_now(&self, now: Timestamp) -> Timestamp {
        self.at + (now - self.asked_at)
    }
}

impl Lease {
    fn new(policy: &Policy, number: u64, now: Timestamp) -> Self {
        Self {
            policy: policy.clone(),
            phase: LeasePhase::Holding,
            // The grants of this call and later ones are unknown until a reply arrives.
            unspent: Unspent {
                received: number - 1,
                tokens: 0,
            },
            granted: None,
            used_at: now,
        }
    }

    fn is_for(&self, policy: &Policy) -> bool {
        self.policy.id() == policy.id() && self.policy.terms() == policy.terms()
    }

    /// Returns the grant whose tokens can be spent.
    fn spendable(&self, now: Timestamp) -> Option<&Granted> {
        let is_held = self.phase == LeasePhase::Holding;
        self.granted
            .as_ref()
            .filter(|it| is_held && self.is_good(it, now))
    }

    /// Returns `true` if the tokens belong to the current window.
    fn is_good(&self, granted: &Granted, now: Timestamp) -> bool {
        let until = granted.receipt.expires_at();
        let until = match self.policy.terms().letter() {
            // The state of a sliding window expires one window after its own has ended.
            's' => until - Duration::from_micros(self.policy.terms().numbers()[1]),
            _ => until,
        };
        granted.server_now(now) < until
    }

    /// Returns the current phase if no call is in flight.
    fn resting(&self) -> Option<Resting> {
        match self.phase {
            LeasePhase::Holding => Some(Resting::Holding),
            LeasePhase::Doubtful(since) => Some(Resting::Doubtful(since)),
            LeasePhase::Asking { .. } => None,
        }
    }

    fn ask(&mut self, number: u64) {
        if let Some(was) = self.resting() {
            self.phase = LeasePhase::Asking { number, was };
        }
    }

    fn asks(&self, asked: u64) -> Option<Resting> {
        match self.phase {
            LeasePhase::Asking { number, was } if number == asked => Some(was),
            LeasePhase::Asking { .. } | LeasePhase::Holding | LeasePhase::Doubtful(_) => None,
        }
    }

    /// Returns `true` if no tokens are left to spend or return.
    fn is_over(&self, now: Timestamp) -> bool {
        match self.phase {
            LeasePhase::Asking { .. } => false,
            LeasePhase::Holding => {
                self.unspent.tokens == 0 || self.granted.is_none_or(|it| !self.is_good(&it, now))
            }
            LeasePhase::Doubtful(since) => {
                now >= since + self.policy.quota().window().saturating_mul(2)
            }
        }
    }
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            held: Mutex::default(),
            instance: getrandom::u64().ok(),
            number: AtomicU64::new(0),
        }
    }

    /// Spends leased tokens if they cover all charges.
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
            let lease = leases.iter().find(|lease| lease.is_for(charge.policy));
            lease.is_some_and(|lease| {
                lease.unspent.tokens >= charge.cost && lease.spendable(now).is_some()
            })
        };
        if !charges.iter().all(is_enough) {
            return None;
        }
        let (mut at, mut each) = (None, SmallVec::<[Decision; 4]>::new());
        for charge in charges {
            let lease = leases.iter_mut().find(|it| it.is_for(charge.policy))?;
            let granted = *lease.spendable(now)?;
            lease.unspent.tokens -= charge.cost;
            lease.used_at = now;
            let server_now = granted.server_now(now);
            at.get_or_insert(server_now);
            let remaining = granted.left + lease.unspent.tokens;
            let reset_after = granted.receipt.expires_at() - server_now;
            each.push(Decision::admitted(remaining, reset_after, granted.receipt));
        }
        Some(Decisions::new(true, at?, each))
    }

    /// Starts a call that leases tokens and returns the tokens that are held.
    ///
    /// Returns `None` if a call for these policies is already in flight, or if there are too many
    /// partitions. The server then decides the request without a lease.
    pub(super) fn ask(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        divisor: u64,
        now: Timestamp,
    ) -> Option<Ahead> {
        let instance = self.instance?;
        let mut held = self.lock();
        if held.len() >= PARTITIONS_MAX && !held.contains_key(partition) {
            return None;
        }
        let leases = held.entry(*partition).or_default();
        let is_asking = |charge: &Charge<'_>| {
            let lease = leases
                .iter()
                .find(|it| it.policy.id() == charge.policy.id());
            lease.is_some_and(|lease| lease.resting().is_none())
        };
        if charges.iter().any(is_asking) {
            return None;
        }
        let number = self.next_number();
        let unspent = charges
            .iter()
            .map(|charge| ask_for(leases, charge.policy, number, now));
        let unspent = unspent.collect();
        self.count.store(held.len(), Ordering::Relaxed);
        Some(Ahead {
            divisor,
            instance,
            number,
            unspent,
        })
    }

    /// Stores the tokens that the reply to a call grants. The tokens are in the order of the
    /// policies in the call.
    pub(super) fn receive(
        &self,
        partition: &StoreKey,
        number: u64,
        granted: impl IntoIterator<Item = (u64, Granted)>,
        now: Timestamp,
    ) {
        let mut held = self.lock();
        let Some(leases) = held.get_mut(partition) else {
            return;
        };
        for (policy, granted) in granted {
            let lease = leases
                .iter_mut()
                .find(|it| it.policy.id() == policy && it.asks(number).is_some());
            if let Some(lease) = lease {
                (lease.phase, lease.used_at) = (LeasePhase::Holding, now);
                lease.unspent = Unspent {
                    received: number,
                    tokens: granted.tokens,
                };
                lease.granted = Some(granted);
            }
        }
        leases.retain(|lease| !lease.is_over(now));
        if leases.is_empty() {
            held.remove(partition);
        }
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Ends a call that was not sent and restores its tokens.
    pub(super) fn restore(&self, partition: &StoreKey, number: u64, now: Timestamp) {
        self.settle(partition, number, now, |was| match was {
            Resting::Holding => LeasePhase::Holding,
            Resting::Doubtful(since) => LeasePhase::Doubtful(since),
        });
    }

    /// Ends a call whose reply was lost. The next call recovers the granted tokens.
    pub(super) fn doubt(&self, partition: &StoreKey, number: u64, now: Timestamp) {
        self.settle(partition, number, now, |was| match was {
            Resting::Holding => LeasePhase::Doubtful(now),
            Resting::Doubtful(since) => LeasePhase::Doubtful(since),
        });
    }

    fn settle(
        &self,
        partition: &StoreKey,
        number: u64,
        now: Timestamp,
        to: impl Fn(Resting) -> LeasePhase,
    ) {
        let mut held = self.lock();
        let Some(leases) = held.get_mut(partition) else {
            return;
        };
        for lease in leases.iter_mut() {
            if let Some(was) = lease.asks(number) {
                (lease.phase, lease.used_at) = (to(was), now);
            }
        }
        leases.retain(|lease| !lease.is_over(now));
        if leases.is_empty() {
            held.remove(partition);
        }
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Returns calls that return the tokens of idle partitions.
    pub(super) fn idle(&self, now: Timestamp) -> Vec<Return> {
        self.returns(now, |lease| now >= lease.used_at + IDLE_MAX)
    }

    /// Returns calls that return all tokens.
    pub(super) fn all(&self, now: Timestamp) -> Vec<Return> {
        self.returns(now, |_| true)
    }

    fn returns(&self, now: Timestamp, is_meant: impl Fn(&Lease) -> bool) -> Vec<Return> {
        let Some(instance) = self.instance else {
            return Vec::new();
        };
        let mut returns = Vec::new();
        let mut held = self.lock();
        held.retain(|partition, leases| {
            leases.retain(|lease| !lease.is_over(now));
            let number = self.next_number();
            let (mut policies, mut unspent) = (SmallVec::new(), SmallVec::new());
            for lease in leases.iter_mut() {
                if lease.resting().is_some() && is_meant(lease) {
                    lease.ask(number);
                    policies.push(lease.policy.clone());
                    unspent.push(lease.unspent);
                }
            }
            if !policies.is_empty() {
                returns.push(Return {
                    partition: *partition,
                    policies,
                    ahead: Ahead {
                        divisor: Ahead::NOTHING,
                        instance,
                        number,
                        unspent,
                    },
                });
            }
            !leases.is_empty()
        });
        self.count.store(held.len(), Ordering::Relaxed);
        returns
    }

    /// Discards the tokens of a partition that is being reset.
    pub(super) fn forget(&self, partition: &StoreKey, policies: &[&Policy]) {
        let mut held = self.lock();
        let Some(leases) = held.get_mut(partition) else {
            return;
        };
        let is_reset = |lease: &Lease| policies.iter().any(|it| it.id() == lease.policy.id());
        leases.retain(|lease| !is_reset(lease) || lease.resting().is_none());
        for lease in leases.iter_mut().filter(|lease| is_reset(lease)) {
            // The server discards its charges too, so a reply lost from now on leaves nothing to
            // recover.
            if let LeasePhase::Asking { number, .. } = lease.phase {
                lease.unspent = Unspent {
                    received: number,
                    tokens: 0,
                };
            }
        }
        if leases.is_empty() {
            held.remove(partition);
        }
        self.count.store(held.len(), Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreKey, SmallVec<[Lease; 1]>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a policy to a call. Returns the policy's tokens that the call gives back.
fn ask_for(
    leases: &mut SmallVec<[Lease; 1]>,
    policy: &Policy,
    number: u64,
    now: Timestamp,
) -> Unspent {
    // Tokens under other terms of the policy are useless and must not be returned.
    leases.retain(|it| it.policy.id() != policy.id() || it.is_for(policy));
    let place = leases.iter().position(|it| it.is_for(policy));
    let place = place.unwrap_or_else(|| {
        leases.push(Lease::new(policy, number, now));
        leases.len() - 1
    });
    leases[place].ask(number);
    leases[place].unspent
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{core::store_api::store_key::StoreKeys, rate_limit::Quota};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn partition() -> StoreKey {
        StoreKeys::from_secret(&[7; 32])
            .unwrap()
            .space("leases")
            .short_key(b"x")
    }

    fn policy() -> Policy {
        let instances = NonZeroU32::new(4).unwrap();
        Policy::fixed_window("p", Quota::per_minute(1_000))
            .unwrap()
            .with_sync_mode(SyncMode::Leased { instances })
    }

    fn granted(tokens: u64, until_millis: u64) -> Granted {
        Granted {
            tokens,
            left: 100,
            receipt: Receipt::new(at(until_millis)),
            at: at(50_000),
            asked_at: at(0),
        }
    }

    fn ask(leases: &Leases, policy: &Policy, millis: u64) -> Option<Ahead> {
        leases.ask(&partition(), &[Charge::new(policy, 1)], 8, at(millis))
    }

    fn receive(leases: &Leases, ahead: &Ahead, tokens: u64, millis: u64) {
        let granted = [(policy().id(), granted(tokens, 60_000))];
        leases.receive(&partition(), ahead.number, granted, at(millis));
    }

    fn unspent(ahead: &Ahead) -> (u64, u64) {
        (ahead.unspent[0].received, ahead.unspent[0].tokens)
    }

    fn spends(leases: &Leases, policy: &Policy, cost: u64, millis: u64) -> bool {
        let charge = [Charge::new(policy, cost)];
        leases.spend(&partition(), &charge, at(millis)).is_some()
    }

    #[test]
    fn leased_tokens_are_spent_once_and_only_in_their_window() {
        let (leases, policy) = (Leases::new(), policy());
        let ahead = ask(&leases, &policy, 0).unwrap();
        receive(&leases, &ahead, 3, 0);
        let two = [Charge::new(&policy, 2)];
        let spent = leases.spend(&partition(), &two, at(1_000)).unwrap();
        assert_eq!(spent.at(), at(51_000));
        assert_eq!(spent.each()[0].remaining(), 101);
        assert_eq!(spent.each()[0].reset_after(), Duration::from_secs(9));
        assert!(!spends(&leases, &policy, 2, 1_000));
        assert!(!spends(&leases, &policy, 1, 10_000));
        assert!(spends(&leases, &policy, 1, 9_999));
    }

    #[test]
    fn one_lease_call_is_in_flight_and_returns_unspent_tokens() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        // No tokens of earlier calls are held.
        assert_eq!(unspent(&first), (first.number - 1, 0));
        assert!(ask(&leases, &policy, 0).is_none());
        receive(&leases, &first, 3, 0);
        let second = ask(&leases, &policy, 1).unwrap();
        assert_eq!(unspent(&second), (first.number, 3));
        // The tokens are being returned.
        assert!(!spends(&leases, &policy, 1, 1));
        receive(&leases, &second, 5, 2);
        assert!(spends(&leases, &policy, 5, 2));
    }

    #[test]
    fn lost_reply_is_asked_for_by_each_next_question() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        receive(&leases, &first, 3, 0);
        for millis in 1..4 {
            let lost = ask(&leases, &policy, millis).unwrap();
            assert_eq!(unspent(&lost), (first.number, 3));
            leases.doubt(&partition(), lost.number, at(millis));
            assert!(!spends(&leases, &policy, 1, millis));
        }
        // A call that was not sent changes nothing.
        let unsent = ask(&leases, &policy, 5).unwrap();
        leases.restore(&partition(), unsent.number, at(5));
        assert!(!spends(&leases, &policy, 1, 5));
        let last = ask(&leases, &policy, 6).unwrap();
        receive(&leases, &last, 4, 6);
        assert!(spends(&leases, &policy, 4, 6));
    }

    #[test]
    fn lost_first_reply_is_asked_for_too() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        leases.doubt(&partition(), first.number, at(0));
        let second = ask(&leases, &policy, 1).unwrap();
        assert!(second.number > first.number);
        assert_eq!(unspent(&second), (first.number - 1, 0));
    }

    #[test]
    fn question_that_was_not_sent_leaves_its_tokens_spendable() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        receive(&leases, &first, 3, 0);
        let unsent = ask(&leases, &policy, 1).unwrap();
        leases.restore(&partition(), unsent.number, at(1));
        assert!(spends(&leases, &policy, 3, 1));
    }

    #[test]
    fn idle_and_doubtful_tokens_are_returned_until_the_reply_is_received() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        receive(&leases, &first, 3, 0);
        assert!(leases.idle(at(1_999)).is_empty());
        let idle = leases.idle(at(2_000));
        assert_eq!(unspent(&idle[0].ahead), (first.number, 3));
        assert_eq!(idle[0].ahead.divisor, Ahead::NOTHING);
        leases.doubt(&partition(), idle[0].ahead.number, at(2_000));
        assert!(leases.idle(at(3_999)).is_empty());
        let again = leases.idle(at(4_000));
        assert_eq!(unspent(&again[0].ahead), (first.number, 3));
        receive(&leases, &again[0].ahead, 0, 4_000);
        assert!(leases.is_empty());
    }

    #[test]
    fn reset_discards_tokens_and_uncertain_calls() {
        let (leases, policy) = (Leases::new(), policy());
        let first = ask(&leases, &policy, 0).unwrap();
        receive(&leases, &first, 3, 0);
        leases.forget(&partition(), &[&policy]);
        assert!(leases.is_empty());
        let lost = ask(&leases, &policy, 1).unwrap();
        leases.forget(&partition(), &[&policy]);
        leases.doubt(&partition(), lost.number, at(2));
        assert_eq!(
            unspent(&ask(&leases, &policy, 3).unwrap()),
            (lost.number, 0)
        );
    }

    #[test]
    fn doubt_ends_after_two_windows() {
        let (leases, policy) = (Leases::new(), policy());
        let lost = ask(&leases, &policy, 0).unwrap();
        leases.doubt(&partition(), lost.number, at(0));
        assert!(leases.idle(at(120_000)).is_empty());
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
