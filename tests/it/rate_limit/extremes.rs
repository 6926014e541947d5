//! No number that a caller of the crate may give makes a limiter panic.

use std::{num::NonZeroU32, time::Duration};

use portcullis::{
    Identity, ManualClock, RequestHead, Timestamp,
    rate_limit::{OnStoreError, Partition, Penalty, Policy, Quota, RateLimitLayer, SyncMode},
    store::{
        MemoryStore,
        backend::{
            Charge, Decision, Log, Receipt, State, StateRef, decide_all, decide_all_with_logs,
        },
    },
};
use proptest::{collection::vec, prelude::*};

use crate::support::get;

/// Numbers around each bound that the crate knows, and any others.
fn number() -> impl Strategy<Value = u64> {
    let near = |power: u32| {
        let bound = 1_u64.checked_shl(power).unwrap_or(u64::MAX);
        [bound.saturating_sub(1), bound, bound.saturating_add(1)]
    };
    let bounds: Vec<u64> = [0, 1, 20, 32, 51, 52, 53, 62, 63, 64]
        .into_iter()
        .flat_map(near)
        .chain([0, u64::MAX - 1])
        .collect();
    prop_oneof![4 => prop::sample::select(bounds), 2 => 0_u64..30, 1 => any::<u64>()]
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        number().prop_map(Duration::from_micros),
        number().prop_map(Duration::from_secs),
        (number(), 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
    ]
}

fn quota() -> impl Strategy<Value = Quota> {
    (number(), duration(), prop::option::of(number()), 0_u8..8).prop_map(
        |(limit, window, burst, which)| {
            let quota = match which {
                0 => Quota::per_second(limit),
                1 => Quota::per_minute(limit),
                2 => Quota::per_hour(limit),
                3 => Quota::per_day(limit),
                4 => Quota::per_month(limit),
                5 => Quota::per_year(limit),
                _ => Quota::new(limit, window),
            };
            burst.map_or(quota, |burst| quota.burst(burst))
        },
    )
}

fn policies(quota: Quota, wait: Duration) -> Vec<Policy> {
    let makes = [
        Policy::fixed_window("p", quota),
        Policy::aligned_window("p", quota),
        Policy::calendar_month("p", quota.limit()),
        Policy::sliding_window("p", quota),
        Policy::sliding_log("p", quota),
        Policy::token_bucket("p", quota),
        Policy::leaky_bucket("p", quota),
        Policy::leaky_queue("p", quota, wait),
    ];
    makes.into_iter().flatten().collect()
}

/// Does everything with a policy that takes a number.
fn exercise(policy: &Policy, words: [u64; 3], [now, later, cost, paid]: [u64; 4]) {
    let at = Timestamp::from_micros;
    let receipt = Receipt::new(at(paid));
    let (decision, state) = policy.decide(State::from_words(words), at(now), cost);
    policy.delay(&decision);
    let state = policy.charge(state, at(later), cost);
    let state = policy.refund(state, at(now), receipt, cost);
    let state = policy.refund(state, at(later), decision.receipt(), cost);
    state.is_alive(at(paid));
    let charges = [Charge::new(policy, cost)];
    decide_all(&charges, &mut [state], at(later));

    let mut log = Log::default();
    for (now, cost) in [(now, 1), (later, cost), (paid, cost), (now, u64::MAX)] {
        let mut memory = match policy.requires_log() {
            true => [StateRef::Log(&mut log)],
            false => continue,
        };
        let charges = [Charge::new(policy, cost)];
        decide_all_with_logs(&charges, &mut memory, at(now));
        policy.charge_log(&mut log, at(now), cost);
        policy.refund_log(&mut log, receipt, cost);
    }
    policy.max_over_admission(u32::MAX);
    policy.max_per_window();
}

/// Carries over from a policy to another of the same algorithm.
fn carry(from: &Policy, to: &Policy, words: [u64; 3], [changed, now]: [u64; 2]) {
    let at = Timestamp::from_micros;
    let Ok(to) = to.clone().scope("new").replacing(from) else {
        return;
    };
    let Some(carry) = to.carry(at(changed)) else {
        return;
    };
    let state = State::from_words(words);
    let state = carry.state(state, state, at(now));
    to.decide(state, at(now), 1);
    let mut log = Log::default();
    from.charge_log(&mut log, at(changed), words[0]);
    carry.log(&mut Log::default(), log, at(now));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_number_makes_a_policy_panic(
        [one, other] in [quota(), quota()],
        wait in duration(),
        words in [number(), number(), number()],
        numbers in [number(), number(), number(), number()],
    ) {
        let _ = one.to_string().parse::<Quota>();
        let (one, other) = (policies(one, wait), policies(other, wait));
        for policy in one.iter().chain(&other) {
            exercise(policy, words, numbers);
        }
        for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (from, to))) {
            carry(from, to, words, [numbers[0], numbers[1]]);
        }
    }

    #[test]
    fn no_number_makes_a_decision_or_a_mode_panic(
        [left, limit, at] in [number(), number(), number()],
        [reset, wait] in [duration(), duration()],
        instances in 1_u32..,
    ) {
        let at = Timestamp::from_micros(at);
        let admitted = Decision::admitted(left, reset, Receipt::new(at));
        let denied = Decision::denied(left, reset, Some(wait));
        let _ = format!("{admitted:?} {denied:?} {:?} {:?}", at + reset, at - wait);
        let _ = SyncMode::auto(limit, NonZeroU32::new(instances).unwrap());
    }

    #[test]
    fn no_number_makes_a_limiter_panic(
        quota in quota(),
        [wait, ban, within, jitter] in [duration(), duration(), duration(), duration()],
        [denials, start] in [number(), number()],
        steps in vec((number(), number()), 1..6),
        share in any::<u32>(),
    ) {
        let clock = ManualClock::new(Timestamp::from_micros(start));
        let store = MemoryStore::with_clock(clock.clone());
        let penalty = Penalty::after(denials).denials_within(within).ban_for(ban);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for policy in policies(quota, wait) {
            let local = OnStoreError::local(MemoryStore::with_clock(clock.clone()), share);
            let builder = RateLimitLayer::builder(store.clone(), Partition::identity());
            let built = builder
                .policy(policy)
                .penalty(penalty.clone())
                .retry_jitter(jitter)
                .store_timeout(jitter)
                .max_waiters(usize::MAX)
                .on_store_error(local)
                .build();
            let Ok(layer) = built else { continue };
            let mut request = get("/");
            request.extensions_mut().insert(Identity::builder("caller").build());
            let (limits, head) = (layer.handle(), RequestHead::from(&request));
            for (cost, pause) in &steps {
                runtime.block_on(async {
                    let _ = limits.charge(&head, *cost).await;
                    if let Ok(Some(taken)) = limits.take(&head, *cost).await {
                        let _ = limits.refund(taken, *pause).await;
                    }
                    let _ = limits.peek(&head).await;
                });
                clock.advance(Duration::from_micros(*pause));
            }
        }
    }
}
