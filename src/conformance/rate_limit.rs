//! The conformance suite for rate-limit stores, which compares a store with the pure functions.

use std::{collections::HashMap, time::Duration};

use super::kit::{Random, join};
use crate::{
    core::{error::ConfigError, store_api::store_key::StoreKey},
    rate_limit::{
        Policy, Quota, RateLimitStore,
        backend::{Charge, Decisions, Refund, State, decide_all},
    },
};

/// Checks that a store meets the requirements of [`RateLimitStore`].
///
/// The suite replays random requests. It compares each decision with the decision that this crate's
/// functions make at the time that the store returns. It also checks concurrent requests, refunds,
/// resets and expiry. The windows are short. With a `pause` that sleeps, the suite takes about ten
/// seconds. The store can contain other partitions.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use portcullis::{ManualClock, conformance, store::MemoryStore};
///
/// let clock = ManualClock::default();
/// let store = MemoryStore::with_clock(clock.clone());
/// conformance::rate_limit(&store, async |time| clock.advance(time)).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics if the store violates a requirement. The message states the requirement.
pub async fn rate_limit<S, P>(store: &S, pause: P)
where
    S: RateLimitStore + ?Sized,
    P: AsyncFn(Duration),
{
    let suite = RateLimitSuite { store, pause };
    suite.replays().await;
    suite
        .concurrent_requests_are_admitted_up_to_the_limit()
        .await;
    suite.rejected_requests_are_not_charged().await;
    suite.peek_is_not_charged().await;
    suite.refund_affects_only_its_window().await;
    suite.charges_beyond_the_quota_delay_later_requests().await;
    suite.reset_affects_only_its_policies().await;
    suite.unsatisfiable_cost_is_not_charged().await;
    suite
        .policies_with_different_windows_are_independent()
        .await;
    suite.changed_quota_preserves_usage().await;
}

struct RateLimitSuite<'s, S: ?Sized, P> {
    store: &'s S,
    pause: P,
}

impl<S, P> RateLimitSuite<'_, S, P>
where
    S: RateLimitStore + ?Sized,
    P: AsyncFn(Duration),
{
    /// Replays random requests in a few partitions, under one policy and under several.
    async fn replays(&self) {
        let mut random = Random::new();
        let policies = each(5, Duration::from_millis(400));
        let partitions = [0, 1, 2].map(|number| self.partition(number));
        let mut model = HashMap::<(StoreKey, u64), State>::new();
        for step in 0..600 {
            let partition = partitions[random.below(3)];
            let first = random.below(policies.len());
            let count = 1 + random.below(policies.len() - first);
            let charges: Vec<Charge<'_>> = policies[first..first + count]
                .iter()
                .map(|policy| Charge::new(policy, random.below(4) as u64))
                .collect();
            let decisions = self.take(&partition, &charges).await;
            let key = |charge: &Charge<'_>| (partition, charge.policy.id());
            let known = |charge| model.get(&key(charge)).copied().unwrap_or_default();
            let mut states: Vec<State> = charges.iter().map(known).collect();
            let expected = decide_all(&charges, &mut states, decisions.at());
            assert_eq!(decisions, expected, "in step {step}, for {charges:?}");
            model.extend(charges.iter().map(key).zip(states));
            if random.below(3) == 0 {
                (self.pause)(Duration::from_millis(random.below(40) as u64)).await;
            }
        }
    }

    async fn concurrent_requests_are_admitted_up_to_the_limit(&self) {
        for (number, policy) in each(10, Duration::from_secs(3_600)).iter().enumerate() {
            let partition = self.partition(100 + number as u64);
            let charge = [Charge::new(policy, 1)];
            let outcomes = join((0..64).map(|_| self.take(&partition, &charge))).await;
            let admitted = outcomes
                .iter()
                .filter(|decisions| decisions.is_admitted())
                .count();
            assert_eq!(
                admitted,
                10,
                "64 concurrent requests, policy `{}`",
                policy.name()
            );
        }
    }

    async fn rejected_requests_are_not_charged(&self) {
        let partition = self.partition(200);
        let policies = each(9, Duration::from_secs(3_600));
        let strict = window("strict", 1);
        let all = || policies.iter().chain([&strict]);
        let charges: Vec<_> = all().map(|policy| Charge::new(policy, 1)).collect();
        assert!(self.take(&partition, &charges).await.is_admitted());
        for _ in 0..3 {
            let denied = self.take(&partition, &charges).await;
            assert!(
                !denied.is_admitted(),
                "the quota of the strictest policy is exhausted"
            );
            for (policy, decision) in policies.iter().zip(denied.each()) {
                let name = policy.name();
                assert_eq!(
                    decision.remaining(),
                    8,
                    "`{name}` was charged for a rejected request"
                );
            }
        }
    }

    async fn peek_is_not_charged(&self) {
        let (partition, policy) = (self.partition(300), window("peek", 3));
        for _ in 0..10 {
            let charge = [Charge::new(&policy, 2)];
            let peek = self.store.peek(&partition, &charge).await;
            let peek = peek.expect("the store call succeeds");
            assert!(peek.is_admitted(), "a peek was charged");
        }
        let taken = self.take(&partition, &[Charge::new(&policy, 3)]).await;
        assert!(taken.is_admitted(), "a peek was charged");
    }

    async fn refund_affects_only_its_window(&self) {
        for (number, policy) in each(10, Duration::from_millis(200)).iter().enumerate() {
            let partition = self.partition(400 + number as u64);
            let name = policy.name();
            // An aligned window can end at any time: the check is repeated until it fits into one
            // window.
            let mut tries = 0;
            let (paid, left) = loop {
                let taken = self.take(&partition, &[Charge::new(policy, 10)]).await;
                let paid = taken.each()[0].receipt();
                self.refund(&partition, &Refund::new(policy, paid, 4)).await;
                let left = self.take(&partition, &[Charge::new(policy, 0)]).await;
                if taken.is_admitted() && left.at() < paid.expires_at() {
                    break (paid, left.each()[0].remaining());
                }
                tries += 1;
                assert!(tries < 100, "`{name}` never admits its whole quota");
                (self.pause)(Duration::from_millis(450)).await;
            };
            assert!(left >= 4, "after a refund of 4, `{name}` has {left} left");
            (self.pause)(Duration::from_millis(450)).await;
            let spend = [Charge::new(policy, 10)];
            let spent = self.take(&partition, &spend).await;
            assert!(spent.is_admitted(), "the usage of `{name}` does not expire");
            self.refund(&partition, &Refund::new(policy, paid, 10))
                .await;
            let again = self.take(&partition, &spend).await;
            let is_over = again.at() >= spent.each()[0].receipt().expires_at();
            assert!(
                !again.is_admitted() || is_over,
                "a refund was credited to a later window of `{name}`"
            );
        }
    }

    async fn charges_beyond_the_quota_delay_later_requests(&self) {
        for (number, policy) in each(10, Duration::from_secs(3_600)).iter().enumerate() {
            let (partition, name) = (self.partition(700 + number as u64), policy.name());
            let look = [Charge::new(policy, 0)];
            self.charge(&partition, &Charge::new(policy, 4)).await;
            let left = self.take(&partition, &look).await.each()[0].remaining();
            assert_eq!(left, 6, "`{name}` was charged 4 of 10");
            self.charge(&partition, &Charge::new(policy, 11)).await;
            let exhausted = self.take(&partition, &look).await;
            assert!(
                exhausted.is_admitted(),
                "a request without cost is admitted"
            );
            assert_eq!(
                exhausted.each()[0].remaining(),
                0,
                "`{name}` has no quota left"
            );
            let denied = self.take(&partition, &[Charge::new(policy, 1)]).await;
            assert!(
                !denied.is_admitted(),
                "`{name}` admits a request beyond the quota"
            );
            let wait = denied.each()[0].retry_after();
            let longest = Duration::from_secs(2 * 3_600);
            assert!(wait.is_some_and(|wait| wait <= longest), "{wait:?}");
        }
    }

    async fn reset_affects_only_its_policies(&self) {
        let partition = self.partition(500);
        let (one, other) = (window("one", 2), window("other", 2));
        let charges = [Charge::new(&one, 2), Charge::new(&other, 2)];
        self.take(&partition, &charges).await;
        let reset = self.store.reset(&partition, &[&one]).await;
        reset.expect("the store call succeeds");
        assert!(self.take(&partition, &charges[..1]).await.is_admitted());
        assert!(!self.take(&partition, &charges[1..]).await.is_admitted());
    }

    async fn unsatisfiable_cost_is_not_charged(&self) {
        for (number, policy) in each(3, Duration::from_secs(3_600)).iter().enumerate() {
            let partition = self.partition(600 + number as u64);
            let never = self.take(&partition, &[Charge::new(policy, 4)]).await;
            assert!(never.each()[0].is_unsatisfiable() && !never.is_admitted());
            let all = self.take(&partition, &[Charge::new(policy, 3)]).await;
            assert!(
                all.is_admitted(),
                "`{}` was charged for a rejected request",
                policy.name()
            );
        }
    }

    async fn policies_with_different_windows_are_independent(&self) {
        let makes = all_of("calls");
        for (number, make) in makes.iter().enumerate() {
            let partition = self.partition(800 + number as u64);
            let long = make(Quota::per_day(5));
            let short = make(Quota::new(2, Duration::from_millis(100)));
            assert_ne!(long.id(), short.id(), "the id depends on the window");
            self.take(&partition, &[Charge::new(&long, 5)]).await;
            for _ in 0..3 {
                for _ in 0..4 {
                    self.take(&partition, &[Charge::new(&short, 2)]).await;
                }
                let look = self.take(&partition, &[Charge::new(&long, 0)]).await;
                let left = look.each()[0].remaining();
                assert_eq!(left, 0, "{long:?} was refilled by {short:?}");
                (self.pause)(Duration::from_millis(150)).await;
            }
        }
    }

    async fn changed_quota_preserves_usage(&self) {
        let quotas = [
            Quota::per_hour(10),
            Quota::per_hour(1_000),
            Quota::per_day(1_000),
            Quota::per_day(4),
        ];
        let pairs = quotas.iter().flat_map(|from| quotas.map(|to| (*from, to)));
        let pairs: Vec<(Quota, Quota)> = pairs.filter(|(from, to)| from != to).collect();
        let mut number = 900;
        for make in all_of("change") {
            for (from, to) in &pairs {
                for half in [false, true] {
                    number += 1;
                    let partition = self.partition(number);
                    self.change(&partition, &make(*from), &make(*to), half)
                        .await;
                }
            }
        }
    }

    /// Spends a policy, or half of it, and checks the remaining quota after the quota has changed.
    async fn change(&self, partition: &StoreKey, from: &Policy, to: &Policy, half: bool) {
        let held = from.capacity();
        let used = if half { held / 2 } else { held };
        let taken = self.take(partition, &[Charge::new(from, used)]).await;
        assert!(
            taken.is_admitted(),
            "{from:?} rejected a request within its quota"
        );
        let to = to
            .clone()
            .replacing(from)
            .expect("the algorithm is the same");
        let peek = self.store.peek(partition, &[Charge::new(&to, 0)]).await;
        let left = peek.expect("the store call succeeds").each()[0].remaining();
        let is_bucket = matches!(from.terms().letter(), 'b' | 'l' | 'q');
        let exact = match is_bucket {
            true => (held - used) * to.capacity() / held,
            false => to.capacity().saturating_sub(used),
        };
        // A bucket refills between the calls.
        let bounds = if is_bucket {
            exact..=exact + 2
        } else {
            exact..=exact
        };
        assert!(
            bounds.contains(&left),
            "{to:?} has {left} left after {used} were used of {from:?}"
        );
        let all = self.take(partition, &[Charge::new(&to, left)]).await;
        assert!(
            all.is_admitted(),
            "{to:?} rejected a request within its remaining quota"
        );
        if from.id() != to.id() {
            let look = self.take(partition, &[Charge::new(from, 0)]).await;
            let still = look.each()[0].remaining();
            let untouched = held - used..=held - used + 2;
            assert!(untouched.contains(&still), "a replacement changed {from:?}");
        }
    }

    async fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> Decisions {
        let result = self.store.take(partition, charges).await;
        result.expect("the store call succeeds")
    }

    async fn charge(&self, partition: &StoreKey, charge: &Charge<'_>) {
        let charges = std::slice::from_ref(charge);
        let result = self.store.charge(partition, charges).await;
        result.expect("the store call succeeds");
    }

    async fn refund(&self, partition: &StoreKey, refund: &Refund<'_>) {
        let refunds = std::slice::from_ref(refund);
        let result = self.store.refund(partition, refunds).await;
        result.expect("the store call succeeds");
    }

    /// Returns a partition that is unique to this run.
    fn partition(&self, number: u64) -> StoreKey {
        let mut run = [0; 16];
        getrandom::fill(&mut run).expect("the system has a source of randomness");
        let space = self.store.keys().space("conformance");
        let mut key = space.short();
        key.field(&run).field(&number.to_le_bytes());
        key.finish()
    }
}

fn window(name: &str, limit: u64) -> Policy {
    let quota = Quota::per_hour(limit);
    Policy::fixed_window(name, quota).expect("the quota is within bounds")
}

/// Returns a policy constructor for each algorithm. All policies have the same name.
fn all_of(name: &'static str) -> [impl Fn(Quota) -> Policy; 7] {
    type Make = fn(&str, Quota) -> Result<Policy, ConfigError>;
    let queue: Make = |name, quota| {
        let all_at_once = quota.burst(quota.limit());
        Policy::leaky_queue(name, all_at_once, Duration::from_micros(1))
    };
    let makes: [Make; 7] = [
        Policy::fixed_window,
        Policy::aligned_window,
        Policy::sliding_window,
        Policy::sliding_log,
        Policy::token_bucket,
        Policy::leaky_bucket,
        queue,
    ];
    makes.map(|make| move |quota| make(name, quota).expect("the quota is within bounds"))
}

/// Returns a policy for each algorithm whose state is three words.
fn each(limit: u64, window: Duration) -> [Policy; 6] {
    let quota = Quota::new(limit, window);
    // The first request is admitted immediately, and the others of the limit wait.
    let wait = window - window / u32::try_from(limit).expect("the limit is small");
    [
        Policy::fixed_window("anchored", quota),
        Policy::aligned_window("aligned", quota),
        Policy::sliding_window("sliding", quota),
        Policy::token_bucket("token", quota),
        Policy::leaky_bucket("leaky", quota),
        Policy::leaky_queue("queue", quota, wait),
    ]
    .map(|policy| policy.expect("the quota is within bounds"))
}
