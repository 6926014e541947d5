//! Policies of one name, and quotas that change.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ConfigError, Identity, ManualClock, RequestHead, ResponseBody,
    rate_limit::{
        Partition, Penalty, Policy, Quota, RateLimitHandle, RateLimitLayer, RateLimitLayerBuilder,
        Tiers,
    },
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, hands::let_all_run};

type Make = fn(&str, Quota) -> Result<Policy, ConfigError>;

const WINDOWS: [Make; 4] = [
    Policy::fixed_window,
    Policy::aligned_window,
    Policy::sliding_window,
    Policy::sliding_log,
];

const BUCKETS: [Make; 3] = [Policy::token_bucket, Policy::leaky_bucket, |name, quota| {
    let burst = quota.burst(quota.burst_size());
    Policy::leaky_queue(name, burst, Duration::from_micros(1))
}];

fn limiter(store: &MemoryStore) -> RateLimitLayerBuilder {
    RateLimitLayer::builder(store.clone(), Partition::identity())
}

fn layer(store: &MemoryStore, policy: Policy) -> RateLimitLayer {
    limiter(store).policy(policy).build().unwrap()
}

fn by(tier: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let caller = Identity::builder("caller").tier(tier).build();
    request.extensions_mut().insert(caller);
    request
}

async fn send(
    layer: &RateLimitLayer,
    tier: &str,
    status: StatusCode,
) -> Response<ResponseBody<Full<Bytes>>> {
    let inner = service_fn(move |_: Request<Full<Bytes>>| async move {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    let response = layer.layer(inner).oneshot(by(tier)).await.unwrap();
    let_all_run().await;
    response
}

async fn admitted(layer: &RateLimitLayer, tier: &str, requests: u32) -> u32 {
    let mut admitted = 0;
    for _ in 0..requests {
        admitted += u32::from(send(layer, tier, StatusCode::OK).await.status() == StatusCode::OK);
    }
    admitted
}

async fn take(limits: &RateLimitHandle, cost: u64) -> bool {
    let request = by("any");
    let taken = limits.take(&RequestHead::from(&request), cost).await;
    taken.unwrap().unwrap().is_admitted()
}

async fn left(limits: &RateLimitHandle) -> u64 {
    let request = by("any");
    let outcome = limits.peek(&RequestHead::from(&request)).await.unwrap();
    outcome.unwrap().policies()[0].remaining
}

#[tokio::test]
async fn two_layers_with_different_windows_never_refill_one_another() {
    for make in WINDOWS.iter().chain(&BUCKETS) {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let daily = layer(&store, make("calls", Quota::per_day(100)).unwrap());
        let fast = layer(&store, make("calls", Quota::per_second(10)).unwrap());
        assert_eq!(admitted(&daily, "any", 120).await, 100);
        for _ in 0..5 {
            assert_eq!(admitted(&fast, "any", 12).await, 10);
            clock.advance(Duration::from_secs(2));
            assert_eq!(admitted(&daily, "any", 3).await, 0);
        }
    }
}

#[tokio::test]
async fn tiers_with_different_windows_never_refill_one_another() {
    for make in WINDOWS.iter().chain(&BUCKETS) {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let tiers = Tiers::new("daily")
            .tier("daily", [make("calls", Quota::per_day(20)).unwrap()])
            .tier("fast", [make("calls", Quota::per_second(5)).unwrap()]);
        let layer = limiter(&store).tiers(tiers).build().unwrap();
        assert_eq!(admitted(&layer, "daily", 30).await, 20);
        for _ in 0..3 {
            assert_eq!(admitted(&layer, "fast", 8).await, 5);
            clock.advance(Duration::from_secs(2));
            assert_eq!(admitted(&layer, "daily", 3).await, 0);
        }
    }
}

#[tokio::test]
async fn equal_policies_share_a_count_and_a_scope_counts_apart() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let calls = || Policy::token_bucket("calls", Quota::per_minute(5)).unwrap();
    let (one, other) = (layer(&store, calls()), layer(&store, calls()));
    let scoped = layer(&store, calls().scope("search"));
    assert_eq!(admitted(&one, "any", 3).await, 3);
    assert_eq!(admitted(&other, "any", 3).await, 2);
    assert_eq!(admitted(&scoped, "any", 9).await, 5);
    assert_eq!(admitted(&one, "any", 1).await, 0);
}

#[tokio::test]
async fn bans_of_different_length_never_lift_one_another() {
    const DENY: StatusCode = StatusCode::UNAUTHORIZED;
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let with_ban = |ban: Duration| {
        let many = Policy::token_bucket("many", Quota::per_second(1_000)).unwrap();
        let penalty = Penalty::after(3).denials_within(Duration::from_secs(60));
        limiter(&store)
            .policy(many)
            .penalty(penalty.ban_for(ban).failed_auth())
            .build()
            .unwrap()
    };
    let login = with_ban(Duration::from_secs(86_400));
    let api = with_ban(Duration::from_secs(10));
    for _ in 0..3 {
        assert_eq!(send(&login, "any", DENY).await.status(), DENY);
    }
    assert_eq!(send(&login, "any", DENY).await.status(), 429);
    for _ in 0..5 {
        assert_eq!(send(&api, "any", StatusCode::OK).await.status(), 200);
        clock.advance(Duration::from_secs(11));
        assert_eq!(send(&login, "any", DENY).await.status(), 429);
    }
    // Neither are the failures of the one counted by the other.
    for _ in 0..2 {
        assert_eq!(send(&api, "any", DENY).await.status(), DENY);
    }
    assert_eq!(send(&api, "any", StatusCode::OK).await.status(), 200);
}

/// Quotas small and large, short and long.
fn quotas() -> [Quota; 6] {
    [
        Quota::per_second(10),
        Quota::per_second(1_000),
        Quota::per_hour(1_000),
        Quota::per_hour(10),
        Quota::per_day(3),
        Quota::per_minute(7),
    ]
}

#[tokio::test]
async fn replaced_window_keeps_the_count_that_was_used() {
    for make in WINDOWS {
        for (from, to) in quotas()
            .into_iter()
            .flat_map(|from| quotas().map(|to| (from, to)))
        {
            for used in [0, 1, from.limit() / 2, from.limit()] {
                let store = MemoryStore::with_clock(ManualClock::default());
                let limits = layer(&store, make("calls", from).unwrap()).handle();
                assert!(take(&limits, used).await);
                limits
                    .replace_policies([make("calls", to).unwrap()], None)
                    .unwrap();
                let expected = to.limit().saturating_sub(used);
                assert_eq!(left(&limits).await, expected, "{used} of {from} to {to}");
            }
        }
    }
}

#[tokio::test]
async fn replaced_bucket_keeps_the_share_that_is_left() {
    for make in BUCKETS {
        for (from, to) in quotas()
            .into_iter()
            .flat_map(|from| quotas().map(|to| (from, to)))
        {
            for used in [0, 1, from.limit() / 2, from.limit()] {
                let store = MemoryStore::with_clock(ManualClock::default());
                let limits = layer(&store, make("calls", from).unwrap()).handle();
                assert!(take(&limits, used).await);
                limits
                    .replace_policies([make("calls", to).unwrap()], None)
                    .unwrap();
                let exact = to.limit() * (from.limit() - used) / from.limit();
                let said = left(&limits).await;
                // A share that is no whole microsecond may be rounded.
                assert!(
                    said.abs_diff(exact) <= 1,
                    "{said} of {exact}: {used} of {from} to {to}"
                );
                if used == from.limit() {
                    assert_eq!(said, 0, "a spent bucket of {from} gained by {to}");
                }
            }
        }
    }
}

#[tokio::test]
async fn changed_burst_keeps_the_share_that_is_left() {
    let bucket = |burst| {
        let quota = Quota::per_second(5).burst(burst);
        Policy::token_bucket("calls", quota).unwrap()
    };
    for (from, used, to, expected) in [
        (5, 5, 60, 0),
        (60, 60, 5, 0),
        (4, 2, 60, 30),
        (60, 30, 4, 2),
    ] {
        let store = MemoryStore::with_clock(ManualClock::default());
        assert!(take(&layer(&store, bucket(from)).handle(), used).await);
        // By a replacement, and by a deployment on the same store.
        assert_eq!(left(&layer(&store, bucket(to)).handle()).await, expected);
    }
}

#[tokio::test]
async fn replacing_back_and_forth_refills_nothing() {
    for make in WINDOWS.iter().chain(&BUCKETS) {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let policy = |quota| [make("calls", quota).unwrap()];
        let limits = layer(&store, make("calls", Quota::per_hour(10)).unwrap()).handle();
        assert!(take(&limits, 5).await);
        for quota in [Quota::per_day(10), Quota::per_hour(10), Quota::per_day(10)] {
            limits.replace_policies(policy(quota), None).unwrap();
            // A queue's places are no whole microseconds: each change may round one away.
            assert!((4..=5).contains(&left(&limits).await));
        }
        let rest = left(&limits).await;
        assert!(take(&limits, rest).await);
        // No request arrives while the second of three policies is active.
        limits
            .replace_policies(policy(Quota::per_minute(10)), None)
            .unwrap();
        limits
            .replace_policies(policy(Quota::per_hour(10)), None)
            .unwrap();
        assert_eq!(left(&limits).await, 0);
        assert!(!take(&limits, 1).await);
        // A sliding window still counts a share of the previous hour.
        clock.advance(Duration::from_secs(2 * 3_600));
        assert_eq!(left(&limits).await, 10, "no longer than the window");
    }
}

#[tokio::test]
async fn spent_bucket_fills_at_the_rate_that_replaced_it() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let bucket = |quota| Policy::token_bucket("calls", quota).unwrap();
    let limits = layer(&store, bucket(Quota::per_second(10))).handle();
    assert!(take(&limits, 10).await);
    limits
        .replace_policies([bucket(Quota::per_hour(1_000))], None)
        .unwrap();
    for gained in 0..5 {
        assert_eq!(left(&limits).await, gained);
        clock.advance(Duration::from_millis(3_600));
    }
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(left(&limits).await, 1_000);
}

#[tokio::test]
async fn deployment_with_another_window_carries_over_and_leaves_the_previous_count_alone() {
    for make in WINDOWS.iter().chain(&BUCKETS) {
        let store = MemoryStore::with_clock(ManualClock::default());
        let previous = make("calls", Quota::per_day(10)).unwrap();
        let next = make("calls", Quota::per_hour(10)).unwrap();
        let old = layer(&store, previous.clone()).handle();
        assert!(take(&old, 10).await);
        let new = layer(&store, next.replacing(&previous).unwrap()).handle();
        assert_eq!(left(&new).await, 0);
        assert!(!take(&new, 1).await && !take(&old, 1).await);
    }
}

#[tokio::test]
async fn replaced_tier_keeps_the_counts_of_its_callers() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let tiers = |quota| {
        let calls = Policy::fixed_window("calls", quota).unwrap();
        Tiers::new("free").tier("free", []).tier("any", [calls])
    };
    let limits = limiter(&store)
        .tiers(tiers(Quota::per_second(10)))
        .build()
        .unwrap()
        .handle();
    assert!(take(&limits, 10).await);
    limits
        .replace_policies([], Some(tiers(Quota::per_hour(1_000))))
        .unwrap();
    assert_eq!(left(&limits).await, 990);
}

#[tokio::test]
async fn reset_discards_usage_that_would_carry_over() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let window = |quota| Policy::fixed_window("calls", quota).unwrap();
    let limits = layer(&store, window(Quota::per_minute(10))).handle();
    assert!(take(&limits, 10).await);
    limits
        .replace_policies([window(Quota::per_hour(10))], None)
        .unwrap();
    let request = by("any");
    limits.reset(&RequestHead::from(&request)).await.unwrap();
    assert_eq!(left(&limits).await, 10);
}
